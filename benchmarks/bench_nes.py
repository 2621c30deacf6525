"""A step of NES on categorical distributions: `ops.nes_sample`, then `ops.nes_update`.

Losses are given: what is timed is the search itself, with all its checks, as a driver calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import rivals
from benchmarks.harness import Cases, Contest, Contestant, MismatchError
from benchmarks.limits import COPIES, limits
from benchmarks.workload import F32
from evokern import ops

SHAPES = ((12, 3), (100, 10), (400, 20))
"""Rows (tasks x layers) and choices; 12 x 3 is the thesis' DKL-MNIST (8.5.1)."""

SAMPLES = 8
RATE = 0.01
LEAST = 0.001

_TOLERANCE = 1e-5  # of the rivals' probabilities, which sum in another order


class Step(NamedTuple):
    """The last step that a contestant did: what it drew, and the probabilities after."""

    assignments: npt.NDArray[np.integer]  # [S, N]
    after: F32  # [N, K]


class Work(NamedTuple):
    """Where each step starts; all steps are alike."""

    probabilities: F32  # [N, K]
    losses: F32  # [S]
    steps: int


def cases(quick: bool) -> Cases:
    """One contest per shape."""
    return {
        f"nes, {rows} x {choices}, {SAMPLES} samples": partial(_contest, rows, choices, quick)
        for rows, choices in SHAPES
    }


def test_nes(hand_over: Callable[[], None]) -> None:
    """One contest with one number of threads (conftest.py)."""
    hand_over()


@contextmanager
def _contest(rows: int, choices: int, quick: bool) -> Iterator[Contest]:
    rng = np.random.default_rng([rows, choices])
    values = rng.random((rows, choices), np.float32) + np.float32(0.1)
    table = values / values.sum(axis=1, keepdims=True)
    work = Work(table, rng.random(SAMPLES, np.float32), 3 if quick else 2000)
    runs = {"evokern": _evokern(work), "NumPy": _numpy(work)}
    why = rivals.missing("torch")
    if not why:
        runs["evokern, tensors"] = _evokern_tensors(work)
        runs["torch"] = _torch(work)
    # Probabilities are read twice and written once, assignments written and read.
    moved_bytes = 4 * (3 * table.size + 2 * SAMPLES * rows)
    yield Contest(
        tuple(Contestant(name, run, work.steps, "us/step") for name, run in runs.items()),
        limits(COPIES, quick),
        lambda contestant, step: check_step(work, contestant.name, step),
        "evokern",
        moved_bytes,
        {"torch": why} if why else {},
    )


def _evokern(work: Work) -> rivals.Run:
    def run(threads: int) -> Step:
        for number in range(work.steps):
            drawn = ops.nes_sample(work.probabilities, SAMPLES, seed=1, step=number)
            after = ops.nes_update(work.probabilities, drawn, work.losses, learning_rate=RATE)
        return Step(drawn, after)

    return run


def _evokern_tensors(work: Work) -> rivals.Run:
    import torch

    table, losses = torch.from_numpy(work.probabilities), torch.from_numpy(work.losses)

    def run(threads: int) -> Step:
        for number in range(work.steps):
            drawn = ops.nes_sample(table, SAMPLES, seed=1, step=number)
            after = ops.nes_update(table, drawn, losses, learning_rate=RATE)
        return Step(drawn.numpy(), after.numpy())

    return run


def _numpy(work: Work) -> rivals.Run:
    """Inverse transform sampling; the mean over samples as one product of a vector and a matrix."""
    table, losses = work.probabilities, work.losses
    rng = np.random.Generator(np.random.SFC64(1))
    units = np.eye(table.shape[1], dtype=np.float32)

    def run(threads: int) -> Step:
        for _ in range(work.steps):
            sums = table.cumsum(axis=1)
            targets = rng.random((SAMPLES, len(table)), np.float32) * sums[:, -1]
            drawn = (sums[:, :-1] <= targets[..., None]).sum(axis=2)
            u = np.empty(SAMPLES, np.float32)
            u[(-losses).argsort()] = np.linspace(-1, 1, SAMPLES, dtype=np.float32)
            hits = (u @ units[drawn].reshape(SAMPLES, -1)).reshape(table.shape)
            stepped = table + np.float32(RATE / SAMPLES) * (hits - u.sum() * table)
            np.maximum(stepped, np.float32(LEAST), out=stepped)
            after = stepped / stepped.sum(axis=1, keepdims=True)
        return Step(drawn, after)

    return run


def _torch(work: Work) -> rivals.Run:
    """``multinomial``; the sum over samples by ``scatter_add_``."""
    import torch

    table, losses = torch.from_numpy(work.probabilities), torch.from_numpy(work.losses)
    places = torch.linspace(-1, 1, SAMPLES)

    def run(threads: int) -> Step:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _ in range(work.steps):
                drawn = torch.multinomial(table, SAMPLES, replacement=True, generator=generator)
                u = torch.empty(SAMPLES)
                u[losses.argsort(descending=True)] = places
                hits = torch.zeros_like(table).scatter_add_(1, drawn, u.expand(drawn.shape))
                stepped = (table + (RATE / SAMPLES) * (hits - u.sum() * table)).clamp_(min=LEAST)
                after = stepped / stepped.sum(1, keepdim=True)
        return Step(drawn.T.numpy(), after.numpy())

    return run


def check_step(work: Work, name: str, step: Step) -> None:
    """Raises MismatchError unless ``step`` follows Eq. 8.19 and 8.44 from what it drew."""
    p = work.probabilities.astype(np.float64)
    rows, choices = p.shape
    drawn = step.assignments
    if drawn.shape != (SAMPLES, rows) or drawn.min() < 0 or drawn.max() >= choices:
        raise MismatchError(f"{name}: expected {SAMPLES} x {rows} entries below {choices}")
    ranks = (work.losses[:, None] <= work.losses).sum(axis=1)
    u = 2 * (ranks - 1) / (SAMPLES - 1) - 1
    hits = np.arange(choices) == drawn[..., None]
    stepped = np.maximum(p + RATE * np.einsum("s,snk->nk", u / SAMPLES, hits - p), LEAST)
    error = abs(step.after - stepped / stepped.sum(axis=1, keepdims=True)).max()
    if not error <= _TOLERANCE:
        raise MismatchError(f"{name}: off by up to {error:.1e}, allowed {_TOLERANCE:.0e}")
