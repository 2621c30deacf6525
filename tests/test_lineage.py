"""Genomes as seeds: `replay` gives what evolution made, from 16 bytes per ancestor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import interpreter
import numpy as np
import pytest
from backends import host_backends
from cases import INSTRUCTION_SETS, F, instruction_set, threads
from cases_lineage import bred
from hypothesis import given, settings
from hypothesis import strategies as st

import evokern
from evokern import ops
from evokern._replay_program import compile_replay
from evokern.errors import ArgumentError, DtypeError, EvokernError, ShapeError
from evokern.layout import DenseGenes, GenomeLayout
from evokern.lineage import Lineages, Recipe, founders
from evokern.rules import CROSSOVER_KINDS, DISTRIBUTIONS, INIT_SCHEMES
from evokern.testing import assert_same_bits

pytestmark = pytest.mark.cpp

SMALL = GenomeLayout((DenseGenes(3, 5), DenseGenes(5, 2)))


@pytest.fixture(params=INSTRUCTION_SETS, scope="module", autouse=True)
def _instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    with instruction_set(request.param), threads(1):
        yield


def i32(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def f32(*values: float) -> np.ndarray:
    return np.array(values, F)


def assert_replayed(lineages: Lineages, layout: GenomeLayout, genomes: np.ndarray) -> None:
    for backend in host_backends("replay"):
        if backend == interpreter.NAME:
            continue  # has its own share of time in test_ops_parity.py
        assert_same_bits(ops.replay(lineages, layout, backend=backend), genomes)


def columns(lineages: Lineages) -> dict[str, list[Any]]:
    return {name: array.tolist() for name, array in lineages.to_arrays()[0].items()}


# Founders 7, 8, 9. Generation 4 from number 2 on: an elite, 7 and 8 crossed, a mutant of 9.
# Generation 5 from number 0 on: the crossed one mutated, the mutant and the elite crossed, mutated.
def small_dag(**options: Any) -> Lineages:
    first = founders(3, seed=11, first=7, **options)
    second = first.offspring(i32([0, 0, 2], [0, 1, 2]), f32(0, 0, 0.5), generation=4, first=2)
    return second.offspring(i32([1, 2], [1, 0]), f32(0.25, 2), generation=5)


def test_the_nodes_of_a_small_dag() -> None:
    assert columns(small_dag()) == {
        "generation": [0, 0, 0, 4, 4, 5, 5],
        "number": [7, 8, 9, 3, 4, 0, 1],
        "sigma": [0, 0, 0, 0, 0.5, 0.25, 2],
        "parent": [-1, -1, -1, -2, 2, 3, -3],
        "crossed": [[0, 1], [4, 0]],
        "nodes": [5, 6],
    }


@pytest.mark.parametrize("kind", CROSSOVER_KINDS)
def test_a_small_dag_is_replayed_step_by_step(kind: Any) -> None:
    def child(*parents: np.ndarray, sigma: float, generation: int, first: int) -> np.ndarray:
        rows = np.arange(len(parents), dtype=np.int32)[:, None]
        return ops.crossover_mutate(
            np.stack(parents),
            rows,
            f32(sigma),
            kind=kind,
            layout=SMALL,
            seed=11,
            generation=generation,
            first=first,
        )[0]

    a, b, c = ops.init_genomes(SMALL, 3, seed=11, first=7)
    crossed = child(a, b, sigma=0, generation=4, first=3)
    mutant = child(c, sigma=0.5, generation=4, first=4)
    expected = [
        child(crossed, sigma=0.25, generation=5, first=0),
        child(mutant, a, sigma=2, generation=5, first=1),
    ]
    assert_replayed(small_dag(kind=kind), SMALL, np.stack(expected))


def test_the_program_of_a_small_dag() -> None:
    """What is stored: founder 7 (crossed twice), 8, the mutant of 9, and the outputs."""
    program = compile_replay(small_dag())
    assert program.start.tolist() == [0, 0, 0, 2, 2]
    assert program.source.tolist() == [0, 1, 2, 0, 1]
    assert program.target.tolist() == [2, 3, 4, 0, 1]
    assert program.final.tolist() == [False, False, False, True, True]
    assert program.first_step.tolist() == [0, 1, 2, 4, 6, 7]
    assert program.number.tolist() == [7, 8, 9, 4, 3, 0, 1]
    assert program.crossed.tolist() == [[2, 3], [4, 2]]
    assert (program.outputs, program.scratch_rows, program.founders) == (2, 3, 3)


def test_scratch_rows_are_used_again() -> None:
    lineages = founders(6, seed=1)
    for generation in range(30):
        lineages = lineages.offspring(
            i32([0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]), np.ones(6, F), generation=generation
        )
    program = compile_replay(lineages)
    assert lineages.ancestors == 186
    assert len(program.target) == 186
    assert program.scratch_rows <= 12


def test_a_chain_of_mutations_is_one_run_that_reads_nothing() -> None:
    program = compile_replay(bred(50, 4, crossed=0, mutated=1, chains=True))
    assert program.first_step.tolist() == [0, 1, 52, 103, 154]  # slot 0 is an elite
    assert (program.scratch_rows, program.independent) == (0, True)


layouts = st.builds(
    GenomeLayout,
    st.lists(st.builds(DenseGenes, st.integers(1, 9), st.integers(1, 40)), max_size=3).map(tuple),
)


@st.composite
def evolutions(draw: st.DrawFn) -> dict[str, Any]:
    parents = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(CROSSOVER_KINDS))
    weights = None
    if kind == "arithmetic" and draw(st.booleans()):
        weights = np.full(parents, 1 / parents, F)
    return {
        "layout": draw(layouts),
        "individuals": draw(st.integers(1, 12)),
        "generations": draw(st.integers(0, 9)),
        "parents": parents,
        "first": draw(st.sampled_from([0, 5, 2**32 - 3])),
        "rng": np.random.default_rng(draw(st.integers(0, 2**32))),
        "options": {
            "seed": draw(st.integers(0, 2**64 - 1)),
            "scheme": draw(st.sampled_from(INIT_SCHEMES)),
            "kind": kind,
            "rate": draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])),
            "weights": weights,
            "mutation_rate": draw(st.sampled_from([0.0, 0.4, 1.0])),
            "distribution": draw(st.sampled_from(DISTRIBUTIONS)),
        },
    }


def evolved(case: dict[str, Any], prune: bool = False) -> tuple[Lineages, np.ndarray]:
    """Lineages and genomes of one evolution, in which some of the parents survive."""
    layout, rng, options = case["layout"], case["rng"], dict(case["options"])
    n, first = case["individuals"], case["first"]
    lineages = founders(n, first=first, **options)
    seed, scheme, weights = (options.pop(name) for name in ("seed", "scheme", "weights"))
    genomes = ops.init_genomes(layout, n, seed=seed, scheme=scheme, first=first)
    for generation in range(1, case["generations"] + 1):
        slots = int(rng.integers(1, 12))
        parents = rng.integers(0, n, (case["parents"], slots), np.int32)
        alike = rng.random(slots) < 0.5
        parents[:, alike] = parents[0, alike]
        sigma = rng.random(slots, F) * rng.integers(0, 2, slots).astype(F)
        children = ops.crossover_mutate(
            genomes,
            parents,
            sigma,
            **options,
            weights=None if weights is None else np.tile(weights[:, None], (1, slots)),
            layout=layout,
            seed=seed,
            generation=generation,
            first=first,
        )
        old = rng.permutation(n)[: int(rng.integers(0, n + 1))].astype(np.int32)
        offspring = lineages.offspring(parents, sigma, generation=generation, first=first)
        offspring = offspring.pruned() if prune else offspring
        lineages = offspring.joined_by(lineages.take(old))
        genomes = np.concatenate([children, genomes[old]])
        n = len(genomes)
    return lineages, genomes


@given(evolutions(), st.booleans())
@settings(max_examples=100)
def test_replay_gives_the_genomes_of_an_evolution(case: dict[str, Any], prune: bool) -> None:
    lineages, genomes = evolved(case, prune)
    assert len(lineages) == len(genomes)
    assert_replayed(lineages, case["layout"], genomes)
    assert_replayed(lineages.pruned(), case["layout"], genomes)


@given(evolutions())
def test_arrays_and_header_come_back(case: dict[str, Any]) -> None:
    lineages, genomes = evolved(case)
    arrays, header = lineages.to_arrays()
    again = Lineages.from_arrays(arrays, json.loads(json.dumps(header)))
    assert again.recipe == lineages.recipe
    assert columns(again) == columns(lineages)
    assert_replayed(again, case["layout"], genomes)


@given(evolutions(), st.data())
def test_some_of_them(case: dict[str, Any], data: st.DataObject) -> None:
    lineages, genomes = evolved(case)
    chosen = data.draw(st.lists(st.integers(0, len(genomes) - 1), max_size=20))
    some = lineages.take(np.array(chosen, np.int32))
    assert_replayed(some, case["layout"], genomes[np.array(chosen, np.int32)])
    assert some.pruned().ancestors <= lineages.pruned().ancestors


def test_the_number_of_threads_and_the_segments_do_not_show() -> None:
    """One task per gene segment, or per individual and segment."""
    layout = GenomeLayout((DenseGenes(99, 120),))
    for lineages in (bred(3, 40, crossed=1), bred(5, 40, chains=True)):
        expected = ops.replay(lineages, layout, backend="reference")
        for count in (1, 2, 7):
            with threads(count):
                assert_same_bits(ops.replay(lineages, layout), expected)
        assert_same_bits(ops.replay(lineages.take(i32(3)), layout), expected[3:4])


def test_a_mutation_only_ancestor_takes_16_bytes() -> None:
    lineages = bred(50, 100, crossed=0, mutated=1).pruned()
    table = lineages.table()
    assert len(table) == lineages.ancestors > 300
    assert table.nbytes == 16 * len(table)
    assert {array.dtype.itemsize for array in table.arrays().values()} == {4}
    assert lineages.nbytes == 16 * len(table) + 4 * 100
    crossed = bred(1, 100, crossed=1).pruned()
    assert crossed.table().nbytes == 16 * crossed.ancestors + 8 * len(crossed.table().crossed)


def test_copies_cost_nothing() -> None:
    lineages = founders(3, seed=1)
    same = lineages.offspring(i32([2, 0, 1], [2, 0, 1]), np.zeros(3, F), generation=1)
    assert same.ancestors == 3
    assert same.nodes.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        ({"kind": "none"}, 0),
        ({"rate": 0.0}, 0),
        ({"kind": "rows", "rate": 2.0**-34}, 0),
        ({"kind": "arithmetic", "rate": 0.0}, 1),
        ({"rate": 2.0**-33}, 1),
    ],
)
def test_a_crossover_that_cannot_change_a_gene_is_none(options: Any, nodes: int) -> None:
    lineages = founders(2, seed=1, **options)
    assert lineages.offspring(i32([0], [1]), f32(0), generation=1).ancestors == 2 + nodes


def test_a_mutation_that_cannot_change_a_gene_is_none() -> None:
    lineages = founders(2, seed=1, mutation_rate=0.0)
    assert lineages.offspring(i32([0]), f32(1), generation=1).ancestors == 2


def test_the_mean_of_two_copies_is_not_a_copy() -> None:
    """Two individuals are two parents: (x / 2) + (x / 2) may lose the last bit of a subnormal."""
    for kind, nodes in (("arithmetic", 1), ("uniform", 0)):
        lineages = founders(1, seed=1, kind=kind).take(i32(0, 0))
        child = lineages.offspring(i32([0], [1]), f32(0), generation=1)
        assert child.ancestors == 1 + nodes


def test_lineages_keep_what_they_were() -> None:
    """Siblings share the nodes before them; nobody's change is seen by another."""
    before = founders(4, seed=1)
    left = before.offspring(i32([0, 1]), f32(1, 1), generation=1)
    right = before.offspring(i32([2, 3]), f32(1, 1), generation=1)
    genomes = ops.init_genomes(SMALL, 4, seed=1)
    assert_replayed(before, SMALL, genomes)
    expected = [
        ops.crossover_mutate(genomes, parents, f32(1, 1), seed=1, generation=1)
        for parents in (i32([0, 1]), i32([2, 3]))
    ]
    assert_replayed(left, SMALL, expected[0])
    assert_replayed(right, SMALL, expected[1])
    # Both are slots 0 and 1 of generation 1, so that nodes are not known by their names.
    assert_replayed(left.joined_by(right), SMALL, np.concatenate(expected))
    with pytest.raises(ValueError, match="read-only"):
        left.nodes[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        left.table().sigma[0] = 1


def test_a_common_history_is_kept_once() -> None:
    lineages = bred(20, 10, crossed=1, mutated=1)
    older = lineages.take(np.arange(10, dtype=np.int32))
    younger = lineages.offspring(i32([0, 1], [2, 3]), f32(1, 1), generation=99)
    assert younger.joined_by(older).ancestors == younger.ancestors
    merged = younger.pruned().joined_by(older.pruned())
    assert merged.ancestors == younger.joined_by(older).pruned().ancestors
    assert_replayed(merged, SMALL, ops.replay(younger.joined_by(older), SMALL))


@pytest.mark.parametrize("crossed", [0, 0.5])
def test_ancestors_without_descendants_are_dropped(crossed: float) -> None:
    """With truncation to 20 of 2000, few lines survive; without pruning there were 400 000."""
    n, generations = 2000, 200
    rng = np.random.default_rng(1)
    lineages = founders(n, seed=5)
    genomes = ops.init_genomes(SMALL, n, seed=5)
    most = 0
    for generation in range(1, generations + 1):
        parents = rng.integers(0, 20, (2, n), np.int32)
        alike = rng.random(n) >= crossed
        parents[1, alike] = parents[0, alike]
        sigma = np.full(n, 0.1, F)
        genomes = ops.crossover_mutate(
            genomes, parents, sigma, seed=5, generation=generation, backend="cpu"
        )
        lineages = lineages.offspring(parents, sigma, generation=generation)
        most = max(most, lineages.ancestors)
    assert most < 140_000
    kept = lineages.pruned()
    assert kept.ancestors < n + 25 * generations
    assert_same_bits(ops.replay(lineages, SMALL), genomes)
    assert_same_bits(ops.replay(kept, SMALL), genomes)


def test_of_nobody_there_is_nothing() -> None:
    nobody = founders(0, seed=1)
    for lineages in (
        nobody,
        nobody.offspring(np.zeros((2, 0), np.int32), f32(), generation=1),
        bred(3).take(i32()),
        bred(3).take(i32()).pruned(),
    ):
        assert len(lineages) == 0
        assert ops.replay(lineages, SMALL).shape == (0, SMALL.size)
    assert bred(3).take(i32()).pruned().ancestors == 0
    assert len(nobody.joined_by(founders(2, seed=1))) == 2


def test_the_package_offers_them() -> None:
    assert evokern.founders is founders
    assert evokern.Lineages is Lineages


def offspring(**changes: Any) -> Lineages:
    options = {"parents": i32([0, 1, 2], [3, 2, 1]), "sigma": f32(0, 1, 2), "generation": 1}
    return bred(2, 4).offspring(**(options | changes))


def loaded(**changes: Any) -> Lineages:
    arrays, header = small_dag().to_arrays()
    for name, value in changes.items():
        (header if name in header else arrays)[name] = value
    return Lineages.from_arrays(arrays, header)


WRONG: list[tuple[Any, dict[str, Any], type[EvokernError], str]] = [
    (founders, {"n": -1, "seed": 1}, ArgumentError, "n: expected an int in"),
    (founders, {"n": 2.0, "seed": 1}, DtypeError, "n: expected an int"),
    (founders, {"n": 2, "seed": -1}, ArgumentError, "seed: "),
    (founders, {"n": 2, "seed": 1, "first": 2**32}, ArgumentError, "first: "),
    (founders, {"n": 2, "seed": 1, "scheme": "zeros"}, ArgumentError, "scheme: "),
    (founders, {"n": 2, "seed": 1, "kind": "mean"}, ArgumentError, "kind: "),
    (founders, {"n": 2, "seed": 1, "rate": 2}, ArgumentError, "rate: "),
    (founders, {"n": 2, "seed": 1, "mutation_rate": "1"}, DtypeError, "mutation_rate: "),
    (founders, {"n": 2, "seed": 1, "distribution": "beta"}, ArgumentError, "distribution: "),
    (founders, {"n": 2, "seed": 1, "weights": f32(1)}, ArgumentError, "weights: expected None"),
    (
        founders,
        {"n": 2, "seed": 1, "kind": "arithmetic", "weights": f32(0.5, 0.6)},
        ArgumentError,
        r"weights: expected finite float32 \[R\] that sum to 1",
    ),
    (
        founders,
        {"n": 2, "seed": 1, "kind": "arithmetic", "weights": [0.5, 0.5]},
        DtypeError,
        "weights: expected a NumPy array",
    ),
    (offspring, {"parents": [[0]]}, DtypeError, "parents: expected a NumPy array int32"),
    (offspring, {"parents": np.zeros((2, 3), np.int64)}, DtypeError, "parents: expected int32"),
    (offspring, {"parents": i32(0, 1, 2)}, ShapeError, "parents: "),
    (offspring, {"parents": i32([0, 1, 4], [3, 2, 1])}, ArgumentError, "parents: expected entries"),
    (offspring, {"parents": i32([0, 1, -1], [3, 2, 1])}, ArgumentError, "parents: .* entry -1"),
    (offspring, {"parents": i32([0, 1, 2], [3, 2, 1], [0, 0, 0])}, ShapeError, "parents: .*R = 2"),
    (offspring, {"parents": np.zeros((0, 3), np.int32)}, ShapeError, "parents: "),
    (offspring, {"sigma": f32(0, 1)}, ShapeError, r"sigma: expected \[S=3\], got \[2\]"),
    (offspring, {"sigma": f32(0, 1, -1)}, ArgumentError, "sigma: expected finite numbers >= 0"),
    (offspring, {"sigma": f32(0, 1, np.inf)}, ArgumentError, "sigma: "),
    (offspring, {"sigma": np.zeros(3)}, DtypeError, "sigma: "),
    (offspring, {"generation": 2**32}, ArgumentError, "generation: "),
    (offspring, {"first": -1}, ArgumentError, "first: "),
    (loaded, {"format": 2}, ArgumentError, "header: expected format 1, got 2"),
    (loaded, {"seed": "1"}, DtypeError, "seed: "),
    (loaded, {"kind": "none"}, ArgumentError, "crossed: expected no crossovers"),
    (loaded, {"number": np.zeros(6, np.uint32)}, ShapeError, r"number: expected \[n=7\]"),
    (loaded, {"sigma": np.zeros(7)}, DtypeError, "sigma: "),
    (loaded, {"sigma": np.full(7, np.nan, F)}, ArgumentError, "sigma: "),
    (loaded, {"nodes": i32(5, 7)}, ArgumentError, r"nodes: expected entries in \[0, 6\]"),
    (loaded, {"nodes": i32(-1)}, ArgumentError, "nodes: "),
    (loaded, {"parent": i32(-1, -1, -1, -2, 4, 3, -3)}, ArgumentError, "parent: "),
    (loaded, {"parent": i32(-1, -1, -1, -2, 2, 3, -4)}, ArgumentError, "crossed: expected one row"),
    (loaded, {"parent": i32(-1, -1, -1, -2, 2, 3, -2)}, ArgumentError, "crossed: expected one row"),
    (loaded, {"parent": i32(-1, -1, -1, -2, 2, 3, 3)}, ArgumentError, "crossed: expected one row"),
    (loaded, {"crossed": i32([0, 3], [4, 0])}, ArgumentError, "parent: expected parents that"),
    (loaded, {"crossed": i32([0, -1], [4, 0])}, ArgumentError, "parent: "),
    (loaded, {"crossed": i32([0], [4])}, ShapeError, "crossed: "),
]


@pytest.mark.parametrize(("call", "options", "error", "words"), WRONG)
def test_bad_input_is_named(
    call: Any, options: dict[str, Any], error: type[EvokernError], words: str
) -> None:
    with pytest.raises(error, match=f"^{words}"):
        call(**options)


def test_the_plain_calls_are_right() -> None:
    assert len(founders(n=2, seed=1)) == 2
    assert len(offspring()) == 3
    assert len(loaded()) == 2


def test_arrays_and_headers_that_lack_something() -> None:
    arrays, header = small_dag().to_arrays()
    for name in arrays:
        with pytest.raises(ArgumentError, match=f"^arrays: expected an array {name}, got"):
            Lineages.from_arrays({n: a for n, a in arrays.items() if n != name}, header)
    for name in header:
        with pytest.raises(ArgumentError, match=r"^header: expected"):
            Lineages.from_arrays(arrays, {n: v for n, v in header.items() if n != name})


def test_only_lineages_of_one_run_are_joined() -> None:
    lineages = founders(2, seed=1)
    with pytest.raises(ArgumentError, match=r"^others: expected lineages of Recipe"):
        lineages.joined_by(founders(2, seed=2))
    with pytest.raises(DtypeError, match=r"^others: expected Lineages, got int"):
        lineages.joined_by(2)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^others: expected as many parents per crossover"):
        bred(1, parents=2, crossed=1).joined_by(bred(1, parents=3, crossed=1))


def test_what_replay_takes() -> None:
    lineages = bred(2)
    with pytest.raises(DtypeError, match=r"^lineages: expected Lineages, got Recipe; begin with"):
        ops.replay(Recipe(seed=1), SMALL)  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match=r"^layout: expected a GenomeLayout, got int"):
        ops.replay(lineages, SMALL.size)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"^out: "):
        ops.replay(lineages, SMALL, out=np.zeros((5, SMALL.size + 1), F))
    out = np.zeros((5, SMALL.size), F)
    assert ops.replay(lineages, SMALL, out=out) is out
    assert_same_bits(out, ops.replay(lineages, SMALL, backend="reference"))
