"""One generation's offspring in one call: `ops.crossover_mutate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from benchmarks import rivals, workload
from benchmarks.harness import Cases, Contest, Contestant, MismatchError
from benchmarks.limits import COPIES, limits
from benchmarks.workload import F32, Variation
from evokern import ops
from evokern.population import allocate_genomes

SHARES = {
    "variation, 5 % copied, 75 % crossover, 20 % mutation": (0.05, 0.75),
    "variation, copies only": (1.0, 0.0),
    "variation, crossover only": (0.0, 1.0),
    "variation, mutation only": (0.0, 0.0),
}
"""Shares of elites and of crossover children; mutants are the rest."""

_DEVIATIONS = 6.0  # standard deviations that a statistic may be off

# A gene is read once and written once, if every parent had one child.
_BYTES_PER_GENE = 8


def cases(quick: bool) -> Cases:
    """The thesis' mix, then each kind alone."""
    population = 20 if quick else 1000
    offspring = 20 if quick else 256
    contests: Cases = {
        f"{name}, population {population}": partial(_contest, population, *shares, quick)
        for name, shares in SHARES.items()
    }
    name = f"variation, weighted sum of {offspring} offspring"
    return {**contests, name: partial(_sum_contest, offspring, quick)}


def test_variation(hand_over: Callable[[], None]) -> None:
    """One contest with one number of threads (conftest.py)."""
    hand_over()


@contextmanager
def _contest(population: int, elites: float, crossover: float, quick: bool) -> Iterator[Contest]:
    work = Variation.of(workload.genomes(population), elites, crossover)
    runs = {"evokern": _evokern(work), "NumPy, one child at a time": rivals.numpy_children(work)}
    why = rivals.missing("torch")
    if not why:
        runs["torch, one child at a time"] = rivals.torch_children(work)
        runs["torch, whole population"] = rivals.torch_population(work)
    yield Contest(
        tuple(Contestant(name, run, work.genes, "ns/gene") for name, run in runs.items()),
        limits(COPIES, quick),
        lambda contestant, offspring: check_offspring(work, contestant.name, offspring),
        "evokern",
        _BYTES_PER_GENE,
        {"torch": why} if why else {},
    )


@contextmanager
def _sum_contest(offspring: int, quick: bool) -> Iterator[Contest]:
    """What moves the centre of the evolution strategy: weights of both signs, one sum of all."""
    genomes = workload.genomes(offspring)
    weights = np.linspace(-1, 1, offspring, dtype=np.float32)
    weights += np.float32(1 / offspring)
    weights[-1] += np.float32(1 - math.fsum(weights))
    expected = weights.astype(np.float64) @ genomes
    # A rounding of 2^-24 per product and per sum, of which a sum has as many as it has parents.
    allowed = offspring * 2.0**-23 * (np.abs(weights).astype(np.float64) @ np.abs(genomes))

    def check(contestant: Contestant, result: F32) -> None:
        if not (np.abs(np.ravel(result) - expected) <= allowed).all():
            raise MismatchError(f"{contestant.name}: not the weighted sum")

    runs = {"evokern": _evokern_sum(genomes, weights), "NumPy": lambda threads: weights @ genomes}
    why = rivals.missing("torch")
    if not why:
        runs["torch"] = rivals.torch_sum(genomes, weights)
    yield Contest(
        tuple(Contestant(name, run, genomes.size, "ns/gene") for name, run in runs.items()),
        limits(("read",), quick),
        check,
        "evokern",
        genomes.itemsize,
        {"torch": why} if why else {},
    )


def _evokern_sum(genomes: F32, weights: F32) -> rivals.Run:
    out = allocate_genomes(1, genomes.shape[1])
    parents = np.arange(len(genomes), dtype=np.int32)[:, None]
    sigma, shares = np.zeros(1, np.float32), weights[:, None]

    def run(threads: int) -> F32:
        ops.crossover_mutate(
            genomes,
            parents,
            sigma,
            kind="arithmetic",
            weights=shares,
            seed=1,
            generation=1,
            out=out,
        )
        return out

    return run


def _evokern(work: Variation) -> rivals.Run:
    out = allocate_genomes(*work.genomes.shape)

    def run(threads: int) -> F32:
        ops.crossover_mutate(work.genomes, work.parents, work.sigma, seed=1, generation=1, out=out)
        return out

    return run


def check_offspring(work: Variation, name: str, offspring: F32) -> None:
    """Raises MismatchError unless ``offspring`` [P, G] could be what ``work`` asks for.

    Copies are equal. A crossover child has every gene from one of its parents, as many from the
    one as from the other; a mutant's noise has mean 0 and standard deviation sigma; the draws of
    one child are not those of the child before.
    """
    if offspring.shape != work.genomes.shape:
        raise MismatchError(f"{name}: expected {work.genomes.shape}, got {offspring.shape}")
    before: F32 | None = None
    for slot, child in enumerate(offspring):
        first, second = work.genomes[work.parents[:, slot]]
        if slot < work.elites:
            if not np.array_equal(child, first):
                raise MismatchError(f"{name}: offspring {slot} is no copy of its parent")
            continue
        if slot < work.elites + work.crossed:
            if not ((child == first) | (child == second)).all():
                raise MismatchError(f"{name}: offspring {slot} has genes of neither parent")
            draws = (child == first).astype(np.float32) - (child == second)
        else:
            draws = (child - first) / work.sigma[slot]
            _expect_zero(f"{name}: offspring {slot}: variance", (draws * draws - 1) / math.sqrt(2))
        _expect_zero(f"{name}: offspring {slot}: mean", draws)
        if before is not None:
            _expect_zero(f"{name}: offspring {slot}: draws of the one before", draws * before)
        before = draws


def _expect_zero(what: str, values: F32) -> None:
    """Raises MismatchError unless the mean of values of variance <= 1 could be 0."""
    mean = float(values.mean())
    allowed = _DEVIATIONS / math.sqrt(len(values))
    if not abs(mean) <= allowed:
        raise MismatchError(f"{what}: {mean:.4f} from what it should be, allowed {allowed:.4f}")
