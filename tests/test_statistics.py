"""The laws that the C++ kernels draw from, at fixed seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import F

from evokern import ops
from evokern.layout import DenseGenes, GenomeLayout

stats = pytest.importorskip("scipy.stats")

PLACE = {"seed": 20240229, "generation": 5, "backend": "cpu"}
GENES = 100_000


def assert_likely(p: float, what: str) -> None:
    assert p > 1e-3, f"{what}: p = {p:.3g}"


def noise(distribution: Any, mutation_rate: float = 1.0, slots: int = 2) -> np.ndarray:
    """Mutations of genomes that are all 0: float32 [slots, GENES]."""
    genomes, parents = np.zeros((1, GENES), F), np.zeros((1, slots), np.int32)
    return ops.crossover_mutate(
        genomes,
        parents,
        np.ones(slots, F),
        distribution=distribution,
        mutation_rate=mutation_rate,
        **PLACE,
    )


def origins(parents: int, rate: float, kind: Any = "uniform", **options: Any) -> np.ndarray:
    """The parent that every gene comes from: [4, GENES]."""
    genomes = np.repeat(np.arange(parents, dtype=F)[:, None], GENES, axis=1)
    rows = np.repeat(np.arange(parents, dtype=np.int32)[:, None], 4, axis=1)
    child = ops.crossover_mutate(
        genomes, rows, np.zeros(4, F), kind=kind, rate=rate, **options, **PLACE
    )
    return child.astype(int)


@pytest.mark.parametrize(
    ("distribution", "law", "arguments"),
    [("normal", "norm", ()), ("uniform", "uniform", (-1, 2)), ("cauchy", "cauchy", ())],
)
def test_mutations_pass_kolmogorov_smirnov(
    distribution: str, law: str, arguments: tuple[float, ...]
) -> None:
    for slot, sample in enumerate(noise(distribution)):
        p = stats.kstest(sample.astype(float), law, arguments).pvalue
        assert_likely(p, f"{distribution}, slot {slot}")


@pytest.mark.parametrize(
    ("scheme", "law", "arguments"),
    [
        ("glorot_uniform", "uniform", (-((6 / 600) ** 0.5), 2 * (6 / 600) ** 0.5)),
        ("he_uniform", "uniform", (-((6 / 400) ** 0.5), 2 * (6 / 400) ** 0.5)),
        ("torch", "uniform", (-0.05, 0.1)),
        ("lecun_normal", "norm", (0, 0.05)),
    ],
)
def test_initial_weights_pass_kolmogorov_smirnov(
    scheme: Any, law: str, arguments: tuple[float, ...]
) -> None:
    layout = GenomeLayout((DenseGenes(400, 200),))
    genomes = ops.init_genomes(layout, 2, scheme=scheme, seed=77, backend="cpu")
    for slot, genome in enumerate(genomes):
        p = stats.kstest(genome[: 400 * 200].astype(float), law, arguments).pvalue
        assert_likely(p, f"{scheme}, individual {slot}")


def test_unit_rows_are_points_on_a_sphere() -> None:
    layout = GenomeLayout((DenseGenes(50, 4000),))
    genome = ops.init_genomes(layout, 1, scheme="unit_rows", seed=78, backend="cpu")[0]
    weights = genome[: 50 * 4000].reshape(50, 4000).astype(float)
    np.testing.assert_allclose((weights**2).sum(axis=0), 1, atol=1e-5)
    # A coordinate x of a random point in n dimensions: (x + 1) / 2 is Beta((n-1)/2, (n-1)/2).
    for row in (0, 49):
        p = stats.kstest((weights[row] + 1) / 2, "beta", (24.5, 24.5)).pvalue
        assert_likely(p, f"input {row}")


@pytest.mark.parametrize("rate", [0.001, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("parents", [2, 3, 5])
def test_crossover_takes_each_parent_as_often_as_it_should(parents: int, rate: float) -> None:
    shares = np.array([1 - rate, *[rate / (parents - 1)] * (parents - 1)])
    for slot, child in enumerate(origins(parents, rate)):
        counts = np.bincount(child, minlength=parents)
        p = stats.chisquare(counts, shares * GENES).pvalue
        assert_likely(p, f"{parents} parents, rate {rate}, slot {slot}: {counts}")


def test_units_take_each_parent_as_often_as_they_should() -> None:
    layout = GenomeLayout((DenseGenes(1, GENES // 2),))
    children = origins(3, 0.5, kind="rows", layout=layout)
    for slot, child in enumerate(children[:, : GENES // 2]):
        counts = np.bincount(child, minlength=3)
        p = stats.chisquare(counts, np.array([0.5, 0.25, 0.25]) * (GENES // 2)).pvalue
        assert_likely(p, f"slot {slot}: {counts}")


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.99])
def test_mutation_changes_as_many_genes_as_it_should(rate: float) -> None:
    for slot, sample in enumerate(noise("cauchy", mutation_rate=rate)):
        mutated = np.count_nonzero(sample)
        p = stats.binomtest(mutated, GENES, rate).pvalue
        assert_likely(p, f"rate {rate}, slot {slot}: {mutated} of {GENES}")


def test_neighbours_in_genes_slots_and_generations_are_independent() -> None:
    sample = noise("uniform")
    other = ops.crossover_mutate(
        np.zeros((1, GENES), F),
        np.zeros((1, 1), np.int32),
        np.ones(1, F),
        distribution="uniform",
        **(PLACE | {"generation": PLACE["generation"] + 1}),
    )[0]
    pairs = [(sample[0][1:], sample[0][:-1]), sample, (sample[0], other)]
    for name, (a, b) in zip(("gene", "slot", "generation"), pairs, strict=True):
        cells = ((a + 1) * 8).astype(int) * 16 + ((b + 1) * 8).astype(int)
        p = stats.chisquare(np.bincount(cells, minlength=256)).pvalue
        assert_likely(p, f"neighbouring {name}")


def test_crossover_and_mutation_draw_different_numbers() -> None:
    from_other = origins(2, 0.5)[0]
    signs = noise("uniform")[0] > 0
    where = noise("cauchy", mutation_rate=0.5)[0] != 0
    for name, other in (("mutation", signs), ("mask", where)):
        table = np.bincount(from_other * 2 + other, minlength=4)
        p = stats.chisquare(table).pvalue
        assert_likely(p, f"crossover and {name}: {table}")


def test_adapted_sigma_is_log_normal() -> None:
    place = {"seed": 9, "generation": 4, "backend": "cpu"}
    adapted = ops.mutate_sigma(np.ones(20_000, F), tau=0.25, **place)
    p = stats.kstest(np.log(adapted.astype(float)), "norm", (0, 0.25)).pvalue
    assert_likely(p, "sigma")
