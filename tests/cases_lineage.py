"""Calls of `replay`: chains, forests and DAGs of ancestors, odd in size, memory or options."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from cases import MEMORY, ODD_SIZES, SEED, Call, Case, F, case_maker
from cases_variation import LAYOUTS, ROWS

from evokern.layout import DenseGenes, GenomeLayout
from evokern.lineage import Lineages, founders
from evokern.rules import CROSSOVER_KINDS, DISTRIBUTIONS, INIT_SCHEMES

LONG = GenomeLayout((DenseGenes(70, 61), DenseGenes(3, 61)))  # 4575 genes, two segments
STREAMED = GenomeLayout((DenseGenes(999, 62),))


def bred(
    generations: int,
    individuals: int = 5,
    parents: int = 2,
    *,
    seed: int = SEED,
    start: int = 0,
    first: int = 2**32 - 2,
    crossed: float = 0.5,
    mutated: float = 0.7,
    chains: bool = False,
    **options: Any,
) -> Lineages:
    """Lineages of a small evolution from generation ``start`` on; slot 0 is an elite.

    ``crossed`` and ``mutated`` are shares of the offspring. ``chains``: everybody has one child.
    """
    rng = np.random.default_rng([generations, individuals, parents])
    lineages = founders(individuals, seed=seed, first=first, **options)
    for generation in range(start, start + generations):
        rows = rng.integers(0, max(individuals, 1), (parents, individuals), np.int32)
        alike = rng.random(individuals) >= crossed
        sigma = rng.random(individuals, F) * (rng.random(individuals) < mutated)
        alike[:1], sigma[:1] = True, 0
        if chains:
            rows[0], alike[:] = np.arange(individuals), True
        rows[:, alike] = rows[0, alike]
        sigma = sigma.astype(F)
        lineages = lineages.offspring(rows, sigma, generation=generation, first=first)
    return lineages


def _replayed(
    layout: GenomeLayout, generations: int = 4, *arguments: Any, out: str = "", **options: Any
) -> Call:
    lineages = bred(generations, *arguments, **options)
    if not out:
        return (lineages, layout), {}
    return (lineages, layout), {"out": MEMORY[out](np.zeros((len(lineages), layout.size), F))}


def _streamed() -> Call:
    """Genomes too many for the caches; most are copies, so that the reference is quick."""
    two = bred(2, 2, crossed=0)
    return (two.take((np.arange(69) % 2).astype(np.int32)), STREAMED), {}


def replay_cases() -> Iterator[Case]:
    case = case_maker("replay", _replayed)
    names = ("kind", "distribution", "parents", "rate", "mutation_rate")
    for choice in itertools.product(
        CROSSOVER_KINDS, DISTRIBUTIONS, (1, 2, 3), (0.0, 0.3), (0.0, 0.3, 1.0)
    ):
        yield case(", ".join(map(str, choice)), ROWS, **dict(zip(names, choice, strict=True)))
    for kind, scheme in itertools.product(CROSSOVER_KINDS, INIT_SCHEMES):
        yield case(f"{kind}, {scheme}", LAYOUTS["many units"], kind=kind, scheme=scheme)
        yield case(f"long, {kind}, {scheme}", LONG, 2, 3, kind=kind, scheme=scheme)
    for (name, layout), scheme in itertools.product(LAYOUTS.items(), ("torch", "unit_rows")):
        yield case(f"{name}, {scheme}", layout, scheme=scheme, kind="rows", parents=3)
        yield case(f"{name}, {scheme}, chains", layout, 7, chains=True, scheme=scheme)
    for individuals in (0, *ODD_SIZES):
        yield case(f"{individuals} individuals", LAYOUTS["17 genes"], 3, individuals)
    for generations in (0, 1, 40):
        yield case(f"{generations} generations", LAYOUTS["17 genes"], generations)
        yield case(
            f"{generations} generations, forest", LAYOUTS["17 genes"], generations, crossed=0
        )
    # So many ancestors are needed at once that only short segments fit the cache.
    for kind in ("uniform", "rows"):
        options = {"crossed": 1.0, "kind": kind, "scheme": "unit_rows"}
        yield case(f"many rows, {kind}", LAYOUTS["many units"], 2, 400, **options)
    for memory in MEMORY:
        yield case(f"out {memory}", LONG, 2, out=memory)
    weights = np.array([0.5, 0.25, 0.25], F)
    yield case("3 weights", ROWS, kind="arithmetic", parents=3, weights=weights)
    yield case("late", ROWS, start=2**32 - 4)
    for seed in (0, 2**32, 2**64 - 1):
        yield case(f"seed {seed}", ROWS, seed=seed)
    yield case_maker("replay", _streamed)("streamed")


CASES = {"replay": list(replay_cases())}
