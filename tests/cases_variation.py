"""Calls of the ops of variation, odd in size, memory or value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from cases import (
    MEMORY,
    ODD_SIZES,
    SEED,
    Call,
    Case,
    F,
    Values,
    case_maker,
    numbers,
    padded,
    special_numbers,
    subnormal_numbers,
)

from evokern.layout import AffineGenes, DenseGenes, ElmanGenes, GenomeLayout
from evokern.rules import CROSSOVER_KINDS, DISTRIBUTIONS, INIT_SCHEMES

LAYOUTS = {
    "no genes": GenomeLayout(()),
    "two genes": GenomeLayout((DenseGenes(1, 1),)),
    "three genes": GenomeLayout((DenseGenes(2, 1),)),
    "17 genes": GenomeLayout((DenseGenes(16, 1),)),
    "255 genes": GenomeLayout((DenseGenes(254, 1),)),
    "257 genes": GenomeLayout((DenseGenes(2, 3), DenseGenes(3, 62))),
    "one input": GenomeLayout((DenseGenes(1, 75),)),
    "many units": GenomeLayout((DenseGenes(3, 7), DenseGenes(7, 130), DenseGenes(130, 2))),
    "no bias": GenomeLayout((DenseGenes(5, 3, False), DenseGenes(1, 1, False), DenseGenes(3, 2))),
    "convolution": GenomeLayout((DenseGenes(18, 5, False, 9), DenseGenes(5, 7, True, 1))),
    "affine": GenomeLayout((AffineGenes(1), AffineGenes(7))),
    "elman": GenomeLayout((ElmanGenes(1, 1), ElmanGenes(3, 5))),
    "all kinds": GenomeLayout(
        (
            *(DenseGenes(9, 17, False, 9), AffineGenes(17), ElmanGenes(5, 33), AffineGenes(3)),
            *(DenseGenes(33, 2), ElmanGenes(2, 3), DenseGenes(3, 1, False)),
        )
    ),
}
ROWS = LAYOUTS["257 genes"]


def _init(layout: GenomeLayout, n: int, pad: tuple[int, int] | None = None, **options: Any) -> Call:
    if pad is not None:
        options["out"] = padded(np.zeros((n, layout.size), F), *pad)
    return (layout, n), {"seed": SEED} | options


def init_genomes_cases() -> Iterator[Case]:
    case = case_maker("init_genomes", _init)
    for scheme, (name, layout) in itertools.product(INIT_SCHEMES, LAYOUTS.items()):
        yield case(f"{scheme}, {name}", layout, 3, scheme=scheme)
    for n in (0, *ODD_SIZES):
        yield case(f"n={n}", LAYOUTS["three genes"], n, scheme="torch")
    for seed in (0, 1, 2**32, 2**64 - 1):
        yield case(f"seed {seed}", ROWS, 2, scheme="lecun_normal", seed=seed)
    for scheme, pad in itertools.product(INIT_SCHEMES, ((0, 1), (5, 2))):
        layout = LAYOUTS["all kinds"]
        yield case(f"all kinds, {scheme}, pad {pad}", layout, 2, pad, scheme=scheme)
    for first in (1, 2**32 - 2, 2**32 - 1):
        yield case(f"first {first}", ROWS, 4, first=first)
    for pad in ((0, 1), (1, 0), (7, 3)):
        yield case(f"row pad, offset {pad}", ROWS, 5, pad, scheme="unit_rows")


def _offspring(
    genes: int = 70,
    slots: int = 9,
    parents: int = 2,
    *,
    layout: GenomeLayout | None = None,
    values: Values = numbers,
    strength: float = 0.1,
    memory: str = "aligned rows",
    out_memory: str | None = None,
    in_bank: bool = False,
    weighted: bool = False,
    away: bool = False,
    **options: Any,
) -> Call:
    """Slot 1 has equal parents, slots 3, 7, ... have sigma 0; ``in_bank``: out holds genomes.

    ``weighted``: weights of all sizes, with ``away`` of both signs.
    """
    rng = np.random.default_rng([genes, slots, parents])
    genes = genes if layout is None else layout.size
    genomes = values(6, genes)
    if memory == "one row":
        genomes = np.broadcast_to(genomes[:1], genomes.shape)
    else:
        genomes = MEMORY[memory](genomes)
    rows = rng.integers(0, 6, (parents, slots), np.int32)
    rows[:, 1:2] = 4
    sigma = rng.random(slots, F) * F(strength)
    sigma[3::4] = 0
    options = {"layout": layout, "seed": SEED, "generation": 77} | options
    if weighted:
        weights = rng.random((parents, slots), F)
        weights[:-1, 2:3] = 0
        if away:
            weights[1:] *= rng.choice(np.array([-0.5, 1], F), weights[1:].shape)
            weights[0] = weights.shape[0]
        options["weights"] = padded(weights / weights.sum(axis=0), 3, 1)
    if out_memory is not None:
        options["out"] = MEMORY[out_memory](np.zeros((slots, genes), F))
    if in_bank:
        bank = MEMORY[memory](np.concatenate([genomes, np.zeros((slots + 3, genes), F)]))
        genomes = bank[:6]
        options["out"] = bank
        options["out_rows"] = (6 + rng.permutation(slots + 3)[:slots]).astype(np.int32)
    return (genomes, rows, sigma), options


def _streamed() -> Call:
    """Offspring too many for the caches; most are copies, so that the reference is quick."""
    slots, genes = 68, 62000
    genomes = MEMORY["aligned rows"](numbers(3, genes))
    rows = np.zeros((2, slots), np.int32)
    rows[:, 5] = 1, 2
    sigma = np.zeros(slots, F)
    sigma[[5, 66]] = 0.5
    out = MEMORY["aligned rows"](np.zeros((slots, genes), F))
    return (genomes, rows, sigma), {"seed": SEED, "generation": 1, "out": out}


def crossover_mutate_cases() -> Iterator[Case]:
    case = case_maker("crossover_mutate", _offspring)
    names = ("kind", "distribution", "parents", "rate", "mutation_rate")
    shares = (0.0, 0.3, 1.0)
    for choice in itertools.product(CROSSOVER_KINDS, DISTRIBUTIONS, (1, 2, 3, 5), shares, shares):
        options = dict(zip(names, choice, strict=True))
        yield case(", ".join(map(str, choice)), layout=ROWS, **options)
    for genes, kind in itertools.product((0, *ODD_SIZES), ("uniform", "arithmetic", "none")):
        yield case(f"{genes} genes, {kind}", genes, kind=kind)
    for name, layout in LAYOUTS.items():
        yield case(f"{name}, rows", layout=layout, kind="rows", parents=3, rate=0.7)
        yield case(f"{name}, rows, two parents", layout=layout, kind="rows", mutation_rate=0.4)
    for slots in (0, *ODD_SIZES):
        yield case(f"{slots} slots", 6, slots)
    for kind in ("uniform", "arithmetic"):
        yield case(f"long genomes, {kind}", 70001, 2, 3, kind=kind, mutation_rate=0.5)
    layout = GenomeLayout((DenseGenes(600, 70),))
    yield case("long genomes, rows", slots=2, kind="rows", layout=layout)
    for kind, memory in itertools.product(CROSSOVER_KINDS, MEMORY):
        options = {"kind": kind, "layout": ROWS, "parents": 3}
        yield case(f"{memory}, {kind}", memory=memory, **options)
        yield case(f"all genomes one row, {kind}", memory="one row", **options)
        yield case(f"out {memory}, {kind}", out_memory=memory, **options)
        yield case(f"out_rows {memory}, {kind}", memory=memory, in_bank=True, **options)
    for kind in CROSSOVER_KINDS:
        options = {"kind": kind, "layout": ROWS, "parents": 3}
        yield case(f"special, {kind}", values=special_numbers, **options)
        yield case(f"subnormal, {kind}", values=subnormal_numbers, strength=2.0**-129, **options)
    for parents in (1, 2, 3, 5):
        yield case(f"{parents} weights", parents=parents, kind="arithmetic", weighted=True)
    many = {"kind": "arithmetic", "weighted": True, "away": True}
    for parents, genes in itertools.product((2, 5, 6, 33), (1, 70, 2049)):
        yield case(f"{parents} weights of both signs, {genes} genes", genes, 4, parents, **many)
    for parents in (8, 9):
        yield case(f"{parents} weights, one slot", 4113, 1, parents, strength=0, **many)
    for place in ({"first": 2**32 - 4}, {"first": 2**32 - 1}, {"generation": 2**32 - 1}):
        yield case(f"{place}", kind="rows", layout=ROWS, **place)
    for seed in (0, 2**32 - 1, 2**32, 2**64 - 1):
        yield case(f"seed {seed}", seed=seed, mutation_rate=0.5)
    for share in (2.0**-33, 2.0**-34, 1e-7, 1 - 2.0**-33, 1 - 2.0**-34):
        yield case(f"share {share}", rate=share, mutation_rate=share)
    yield case_maker("crossover_mutate", _streamed)("streamed")


def _sigma(size: int, in_place: bool = False, **options: Any) -> Call:
    sigma = np.abs(special_numbers(size))
    sigma[~np.isfinite(sigma)] = 2000
    options = {"tau": 0.25, "seed": SEED, "generation": 3} | options
    return (sigma,), options | ({"out": sigma} if in_place else {})


def mutate_sigma_cases() -> Iterator[Case]:
    case = case_maker("mutate_sigma", _sigma)
    for size in (0, *ODD_SIZES):
        yield case(f"{size}", size)
    for tau in (0.0, 1e-45, 0.01, 1.0, 1e6, 3.4e38):
        yield case(f"tau {tau}", 50, tau=tau)
    for place in ({"first": 2**32 - 9}, {"generation": 2**32 - 1}, {"seed": 2**64 - 1}):
        yield case(f"{place}", 17, **place)
    yield case("in place", 17, in_place=True)


CASES = {
    "init_genomes": list(init_genomes_cases()),
    "crossover_mutate": list(crossover_mutate_cases()),
    "mutate_sigma": list(mutate_sigma_cases()),
}
