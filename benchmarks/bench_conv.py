"""Frames that networks play Atari games on: `ops.network_forward` of the network of Mnih et al.

1,693,362 genes, convolutions 32 @ 8x8/4, 64 @ 4x4/2, 64 @ 3x3/1, dense layers 512 and 18. With one
observation each, networks take as long as it takes to read their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import rivals, rivals_conv
from benchmarks.bench_network import TOLERANCE
from benchmarks.harness import Cases, Contest, Contestant, MismatchError
from benchmarks.limits import NO_BF16_DOT, has_bf16_dot, limits
from benchmarks.workload import F32
from benchmarks.workload_conv import Slots, multiply_adds
from evokern import Network, ops
from evokern.backends.reference.arithmetic import round_to_bf16
from evokern.population import allocate_genomes
from evokern.rules import Precision

NETWORK = Network.nature_cnn(4, 18)

X_SCALE = 1 / 255

Numbers = Literal["fp32", "bf16 weights", "bf16"]
"""What is bf16: nothing, genomes as they are stored, or inputs and weights of all products."""

_PASSES = 10  # of a run: one pass over a few networks takes milliseconds
_CHUNK = 4  # networks whose activations stay in the caches, for a rival
_BF16_NETWORKS = (
    4  # of a rival that multiplies bf16 without hardware, several times slower than fp32
)


class Case(NamedTuple):
    """How many networks see how many observations each, and whether a cache holds them all."""

    numbers: Numbers
    networks: int
    observations: int
    resident: bool = False

    @property
    def title(self) -> str:
        """The contest's name."""
        frames = f"{self.observations} observation{'s' * (self.observations > 1)} each"
        where = " in cache" * self.resident
        return f"conv {self.numbers}, {self.networks} networks{where}, {frames}"


def cases(quick: bool) -> Cases:
    """Bound by memory, by the cache, by arithmetic."""
    many, few, observations = (3, 2, 2) if quick else (16, 4, 8)
    chosen = (
        Case("fp32", many, 1),
        Case("bf16 weights", many, 1),
        Case("fp32", few, 1, resident=True),
        Case("fp32", many, observations),
        Case("bf16", many, observations),
    )
    return {case.title: partial(_contest, case, quick) for case in chosen}


def test_conv(hand_over: Callable[[], None]) -> None:
    """One contest with one number of threads (conftest.py)."""
    hand_over()


@contextmanager
def _contest(case: Case, quick: bool) -> Iterator[Contest]:
    genomes = allocate_genomes(case.networks, NETWORK.layout.size)
    ops.init_genomes(NETWORK.layout, case.networks, seed=0, scheme="torch", out=genomes)
    rng = np.random.default_rng(case.networks)
    shape = (case.networks, case.observations, *NETWORK.input_shape)
    frames = rng.integers(0, 256, shape, dtype=np.uint8)
    x = frames * np.float32(X_SCALE)
    passes = 1 if quick else _PASSES
    ours = {
        name: _repeated(run, passes)
        for name, run in _evokern(case.numbers, genomes, x, frames).items()
    }
    work = passes * case.networks * case.observations
    contestants = [Contestant(name, run, work, "frames/s") for name, run in ours.items()]
    expected = contestants[0].run(1).copy()
    precision: Precision = "fp32" if case.numbers == "fp32" else "bf16"
    check = partial(check_outputs, expected, TOLERANCE[precision])

    why = rivals.missing("torch")
    absent = {"torch": why} if why else {}
    reads = case.observations == 1 and not case.resident
    dots = case.numbers == "bf16" and has_bf16_dot()
    if case.numbers == "bf16" and not dots:
        absent["limit: bf16 dot"] = NO_BF16_DOT
    found = limits(["read" if reads else "bf16 dot" if dots else "multiply-add"], quick)
    gene_bytes = 2 if case.numbers == "bf16 weights" else 4
    needed = NETWORK.layout.size * gene_bytes if reads else 2 * multiply_adds(NETWORK)
    with rivals_conv.thread_pools() as pools:
        if not why:
            ends = (*NETWORK.layout.offsets[1:], NETWORK.layout.size)
            banks = [genomes[:, a:b] for a, b in zip(NETWORK.layout.offsets, ends, strict=True)]
            slots = Slots(NETWORK, banks, x)
            contestants += _torch_rivals(case.numbers, slots, passes, pools)
        yield Contest(tuple(contestants), found, check, contestants[0].name, needed, absent)


def _evokern(
    numbers: Numbers, genomes: F32, x: F32, frames: npt.NDArray[np.uint8]
) -> dict[str, rivals.Run]:
    out = np.empty((*x.shape[:2], *NETWORK.output_shape), np.float32)

    def forward(weights: Any, precision: Precision, images: Any, scale: float | None) -> rivals.Run:
        def run(threads: int) -> F32:
            ops.network_forward(
                weights, NETWORK, images, precision=precision, x_scale=scale, out=out
            )
            return out

        return run

    if numbers == "fp32":
        return {
            "evokern": forward(genomes, "fp32", x, None),
            "evokern, uint8 frames": forward(genomes, "fp32", frames, X_SCALE),
        }
    halves = _bf16_bits(genomes)
    if numbers == "bf16 weights":
        return {
            "evokern, bf16 weights": forward(halves, "fp32", x, None),
            "evokern, bf16 weights, uint8 frames": forward(halves, "fp32", frames, X_SCALE),
        }
    return {
        "evokern bf16": forward(genomes, "bf16", x, None),
        "evokern bf16, bf16 weights": forward(halves, "bf16", x, None),
        "evokern fp32": forward(genomes, "fp32", x, None),
    }


def _bf16_bits(genomes: F32) -> npt.NDArray[np.uint16]:
    """The genomes as bf16, in rows that are aligned too."""
    count, genes = genomes.shape
    bits = allocate_genomes(count, -(-genes // 2)).view(np.uint16)[:, :genes]
    for row, genome in zip(bits, genomes, strict=True):
        row[:] = round_to_bf16(genome).view(np.uint32) >> 16
    return bits


def _torch_rivals(
    numbers: Numbers, work: Slots, passes: int, pools: rivals_conv.Pools
) -> list[Contestant]:
    element: rivals_conv.Element = "float32" if numbers == "fp32" else "bfloat16"
    plain = rivals_conv.torch_slots(work, element)
    last = rivals_conv.torch_slots(work, element, channels_last=True)
    frames = passes * work.frames
    networks, library, scaled, share = len(work), "torch", "", 1.0
    if element == "bfloat16":
        library = "torch bfloat16"
        if not has_bf16_dot():
            networks = min(networks, _BF16_NETWORKS)
            share = networks / (len(work) * passes)
            scaled = f" (of {networks}, scaled)"
            passes = 1
    over = partial(rivals_conv.over_slots, slots=networks)
    runs = {
        "loop": over(rivals_conv.loop(plain), chunk=1),
        "loop, channels last": over(rivals_conv.loop(last), chunk=1),
        "loop, side by side": over(rivals_conv.loop(plain), pools=pools),
        "loop, channels last, side by side": over(rivals_conv.loop(last), pools=pools),
        "grouped": over(rivals_conv.grouped(plain), chunk=networks),
        "grouped, channels last": over(rivals_conv.grouped(last), chunk=networks),
        f"grouped by {_CHUNK}, channels last, side by side": over(
            rivals_conv.grouped(last), chunk=_CHUNK, pools=pools
        ),
        "vmap": over(rivals_conv.vmap(plain), chunk=networks),
    }
    return [
        Contestant(f"{library} {name}{scaled}", _repeated(run, passes), frames, "frames/s", share)
        for name, run in runs.items()
    ]


def _repeated(run: rivals.Run, passes: int) -> rivals.Run:
    def repeated(threads: int) -> F32:
        for _ in range(passes):
            outputs = run(threads)
        return np.asarray(outputs)

    return repeated


def check_outputs(expected: F32, tolerance: float, contestant: Contestant, outputs: F32) -> None:
    """Raises MismatchError unless outputs [n, B, O] are those of the first n networks [S, B, O].

    ``tolerance`` is relative to each network's largest output.
    """
    if outputs.shape[1:] != expected.shape[1:] or not 0 < len(outputs) <= len(expected):
        raise MismatchError(f"{contestant.name}: expected {expected.shape}, got {outputs.shape}")
    wanted = expected[: len(outputs)]
    error = np.abs(outputs - wanted).max((1, 2)) / np.abs(wanted).max((1, 2))
    # Not `error > tolerance`, which NaN would pass.
    if not (error <= tolerance).all():
        raise MismatchError(
            f"{contestant.name}: outputs differ by up to {error.max():.1e}, allowed {tolerance:.0e}"
        )
