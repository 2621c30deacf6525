"""Networks put together from banks of weights, a row per layer and task: `ops.network_loss`.

What a step of NES evaluates in the thesis (8.5): 8 assignments of 3 tasks' layers, 16 images each.
Each slot has images of its own, so that no two compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import rivals, rivals_conv
from benchmarks.bench_network import TOLERANCE, check_evaluation
from benchmarks.harness import Cases, Contest, Contestant
from benchmarks.limits import limits
from benchmarks.workload_conv import Slots, multiply_adds, random_banks
from evokern import Network, ops
from evokern.layers import Affine, Conv2d, Dense, Flatten, Layer, MaxPool2d

I32 = npt.NDArray[np.int32]

SLOTS, IMAGES = 24, 16

_STAGE: tuple[Layer, ...] = (
    Conv2d(32, 3, padding=1, bias=False),
    Affine("relu"),
    MaxPool2d(2),
)
_CHUNK = 4  # slots whose activations stay in the caches, for a rival


class Case(NamedTuple):
    """A multi-task network of the thesis.

    ``convolutions`` stages, ``hidden`` dense layers of 128 and a head, whose row is the task's;
    ``rows`` in each bank, or one in those of convolutions that are ``shared``. ``classes`` of each
    task; slots take the tasks in turn.
    """

    input_shape: tuple[int, int, int]
    convolutions: int
    hidden: int
    rows: int
    classes: tuple[int, ...]
    shared: bool = False

    @property
    def network(self) -> Network:
        """Its layers; BN is the affine function that it is at inference."""
        hidden = (Dense(128, "relu"),) * self.hidden
        head = Dense(max(self.classes))
        layers = (*_STAGE * self.convolutions, Flatten(), *hidden, head)
        return Network(layers, self.input_shape)


CASES = {
    "DKL-MNIST": Case((1, 28, 28), 3, 1, 3, (10, 26, 10)),
    "CIFAR-100": Case((3, 32, 32), 4, 3, 20, (5,) * 20),
    "CIFAR-100, shared convolutions": Case((3, 32, 32), 4, 3, 20, (5,) * 20, shared=True),
}
"""8.5.1 and 8.5.2 of the thesis, where CIFAR's convolutions are shared and the rest is routed."""


def cases(quick: bool) -> Cases:
    """One contest per network."""
    slots, images = (4, 2) if quick else (SLOTS, IMAGES)
    return {
        f"routing, {name}, {slots} slots of {images} images": partial(
            _contest, case, slots, images, quick
        )
        for name, case in CASES.items()
    }


def test_routing(hand_over: Callable[[], None]) -> None:
    """One contest with one number of threads (conftest.py)."""
    hand_over()


@contextmanager
def _contest(case: Case, slots: int, images: int, quick: bool) -> Iterator[Contest]:
    rng = np.random.default_rng(case.rows)
    classes = np.resize(np.array(case.classes, np.int32), slots)
    x = rng.random((slots, images, *case.input_shape), np.float32)
    heights, index = routes(case, slots, rng)
    work = Slots(case.network, random_banks(case.network, heights), x, index)
    y = rng.integers(0, classes[:, None], (slots, images))

    def evokern(threads: int) -> tuple[Any, Any]:
        return ops.network_loss(work.banks, work.network, x, y, index=index, classes=classes)

    why = rivals.missing("torch")
    with rivals_conv.thread_pools() as pools:
        runs: dict[str, rivals.Run] = {"evokern": evokern}
        if not why:
            runs |= _torch_rivals(work, y, classes, pools)
        yield Contest(
            tuple(Contestant(name, run, work.frames, "frames/s") for name, run in runs.items()),
            limits(["multiply-add"], quick),
            partial(check_evaluation, evokern(1), TOLERANCE["fp32"], images),
            "evokern",
            2 * multiply_adds(work.network),
            {"torch": why} if why else {},
        )


def routes(case: Case, slots: int, rng: np.random.Generator) -> tuple[list[int], I32]:
    """Rows of each bank, and the index [layers, S]; a convolution and its BN are one layer."""
    rows = 1 if case.shared else case.rows
    convolutions = rng.integers(0, rows, (case.convolutions, slots))
    index = list(convolutions.repeat(2, axis=0))
    index += [rng.integers(0, case.rows, slots) for _ in range(case.hidden)]
    index.append(np.arange(slots) % len(case.classes))
    heights = [rows] * (2 * case.convolutions) + [case.rows] * case.hidden + [len(case.classes)]
    return heights, np.array(index, np.int32)


def _torch_rivals(
    work: Slots, y: npt.NDArray[np.int64], classes: I32, pools: rivals_conv.Pools
) -> dict[str, rivals.Run]:
    plain = rivals_conv.torch_slots(work)
    last = rivals_conv.torch_slots(work, channels_last=True)
    over = partial(rivals_conv.over_slots, slots=len(work))
    runs = {
        "torch loop": over(rivals_conv.loop(plain), chunk=1),
        "torch loop, channels last": over(rivals_conv.loop(last), chunk=1),
        "torch loop, channels last, side by side": over(rivals_conv.loop(last), pools=pools),
        "torch by row, channels last": over(rivals_conv.by_row(last), chunk=len(work)),
        "torch by row, channels last, side by side": over(rivals_conv.by_row(last), pools=pools),
        f"torch grouped by {_CHUNK}, channels last": over(rivals_conv.grouped(last), chunk=_CHUNK),
        f"torch grouped by {_CHUNK}, channels last, side by side": over(
            rivals_conv.grouped(last), chunk=_CHUNK, pools=pools
        ),
        f"torch vmap by {_CHUNK}, side by side": over(
            rivals_conv.vmap(plain), chunk=_CHUNK, pools=pools
        ),
    }
    return {name: rivals_conv.loss_of(run, y, classes) for name, run in runs.items()}
