"""Loss and correct predictions of a population on one shared batch: `ops.network_loss`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from benchmarks import rivals, workload
from benchmarks.harness import Cases, Contest, Contestant, MismatchError
from benchmarks.limits import NO_BF16_DOT, has_bf16_dot, limits
from benchmarks.workload import NETWORK, Evaluation
from evokern import ops
from evokern.rules import Precision

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 5e-2}
"""Of a rival's losses, relative to evokern's; as many of its predictions may differ, but one may
always."""

_CHUNK = 16  # networks whose weights and activations stay in the caches
_BF16_NETWORKS = 64  # of a rival that multiplies bf16 without hardware: it takes minutes for all


def cases(quick: bool) -> Cases:
    """One contest per precision and batch size."""
    population, batches = (20, (40,)) if quick else (1000, (512, 64))
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    return {
        f"network {precision}, population {population}, batch {batch}": partial(
            _contest, precision, population, batch, quick
        )
        for precision in precisions
        for batch in batches
    }


def test_network(hand_over: Callable[[], None]) -> None:
    """One contest with one number of threads (conftest.py)."""
    hand_over()


@contextmanager
def _contest(precision: Precision, population: int, batch: int, quick: bool) -> Iterator[Contest]:
    work = Evaluation.of(workload.genomes(population), batch)
    ours = Contestant(
        f"evokern {precision}",
        lambda threads: ops.network_loss(
            work.genomes, NETWORK, work.x, work.y, precision=precision
        ),
        work.operations,
        "GFLOP/s",
    )
    expected = ops.network_loss(work.genomes, NETWORK, work.x, work.y, precision=precision)
    check = partial(check_evaluation, expected, TOLERANCE[precision], batch)
    dots = precision == "bf16" and has_bf16_dot()
    found = limits(["bf16 dot" if dots else "multiply-add"], quick)
    libraries = ("torch", "jax") if precision == "fp32" else ("torch",)
    absent = {library: why for library in libraries if (why := rivals.missing(library))}
    if precision == "bf16" and not dots:
        absent["limit: bf16 dot"] = NO_BF16_DOT
    others: list[Contestant] = []
    if "torch" not in absent:
        others = [_bf16_rival(work)] if precision == "bf16" else _torch_rivals(work)
    with rivals.JaxMap(population, batch) as jax_map:
        if precision == "fp32" and "jax" not in absent:
            jax = Contestant(
                "jax.lax.map, jit (own process)",
                jax_map.run,
                work.operations,
                "GFLOP/s",
                cpu_clock=jax_map.cpu_clock,
            )
            others.append(jax)
        yield Contest((ours, *others), found, check, ours.name, missing=absent)


def _torch_rivals(work: Evaluation) -> list[Contestant]:
    population = len(work.genomes)
    runs = {
        "torch baddbmm, whole population": rivals.torch_chunks(work, population, population),
        f"torch baddbmm, {_CHUNK} networks": rivals.torch_chunks(work, population, _CHUNK),
        f"torch.func.vmap, {_CHUNK} networks": rivals.torch_vmap(work, _CHUNK),
    }
    return [Contestant(name, run, work.operations, "GFLOP/s") for name, run in runs.items()]


def _bf16_rival(work: Evaluation) -> Contestant:
    population = len(work.genomes)
    networks = population if has_bf16_dot() else min(population, _BF16_NETWORKS)
    name = f"torch bfloat16 baddbmm, {_CHUNK} networks"
    if networks < population:
        name += f" (of {networks}, scaled)"
    run = rivals.torch_chunks(work, networks, _CHUNK, "bfloat16")
    return Contestant(name, run, work.operations, "GFLOP/s", part=networks / population)


def check_evaluation(
    expected: tuple[Any, Any],
    tolerance: float,
    batch: int,
    contestant: Contestant,
    result: tuple[Any, Any],
) -> None:
    """Raises MismatchError unless losses and correct predictions [P] agree."""
    count = round(contestant.part * len(expected[0]))
    wanted_loss, wanted_correct = (np.asarray(part)[:count] for part in expected)
    loss, correct = (np.asarray(part) for part in result)
    if loss.shape != wanted_loss.shape or correct.shape != wanted_correct.shape:
        raise MismatchError(f"{contestant.name}: expected {count} networks, got {len(loss)}")
    error = np.abs(loss - wanted_loss) / np.abs(wanted_loss)
    # Not `error > tolerance`, which NaN would pass.
    if not (error <= tolerance).all():
        raise MismatchError(
            f"{contestant.name}: losses differ by up to {error.max():.1e}, allowed {tolerance:.0e}"
        )
    flips = np.abs(correct - wanted_correct).max()
    if flips > max(1, tolerance * batch):
        raise MismatchError(f"{contestant.name}: {flips} predictions of {batch} differ")
