"""Every back end of the table against the NumPy reference, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import cases_categorical
import cases_lineage
import cases_mutants
import cases_network
import cases_variation
import numpy as np
import pytest
from bounds import assert_within_bounds, with_columns
from cases import (
    INSTRUCTION_SETS,
    Case,
    F,
    column_of,
    instruction_set,
    numbers,
    threads,
)
from cases_variation import ROWS

from evokern import ops
from evokern._table import TABLE
from evokern.layout import DenseGenes, GenomeLayout
from evokern.rules import CROSSOVER_KINDS
from evokern.testing import assert_same_bits, fill_outputs_with_nan

CASES = (
    cases_variation.CASES
    | cases_lineage.CASES
    | cases_network.CASES
    | cases_mutants.CASES
    | cases_categorical.CASES
)
ALL_CASES = [case for cases in CASES.values() for case in cases]

on_every_instruction_set = pytest.mark.usefixtures("isa")


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    with instruction_set(request.param), threads(1):
        yield


def run(case: Case, column: str) -> tuple[np.ndarray, ...]:
    with fill_outputs_with_nan(), column_of(column) as backend:
        return case.run(backend)


@cache
def expected(case: Case) -> tuple[np.ndarray, ...]:
    return run(case, "reference")


def test_every_op_has_cases() -> None:
    assert {op for op, cases in CASES.items() if cases} == set(TABLE)


@pytest.mark.parametrize(("case", "column"), with_columns(ALL_CASES, bits=True))
def test_same_bits_as_the_reference(case: Case, column: str) -> None:
    for actual, reference in zip(run(case, column), expected(case), strict=True):
        assert_same_bits(actual, reference)


@pytest.mark.parametrize(("case", "column"), with_columns(ALL_CASES, bits=False))
def test_within_the_error_bound(case: Case, column: str) -> None:
    assert_within_bounds(case, run(case, column))


INFINITIES = [case for case in ALL_CASES if case.name.startswith("few infinities")]


@pytest.mark.parametrize(("case", "column"), with_columns(INFINITIES, bits=False))
def test_nan_comes_only_where_the_reference_has_it(case: Case, column: str) -> None:
    assert_same_bits(*(np.isnan(run(case, where)[0]) for where in (column, "reference")))


@pytest.mark.cpp
@on_every_instruction_set
def test_out_is_written_and_nothing_beside_it() -> None:
    memory = np.full((7, 29), 5, F)
    layout = GenomeLayout((DenseGenes(2, 8),))
    out = memory[1:6, 3:27]
    assert ops.init_genomes(layout, 5, seed=1, out=out) is out
    genomes = out.copy()
    assert_same_bits(genomes, ops.init_genomes(layout, 5, seed=1))
    parents = np.array([[4, 3, 2, 1, 0]], np.int32)
    result = ops.crossover_mutate(genomes, parents, np.zeros(5, F), seed=1, generation=0, out=out)
    assert result is out
    assert_same_bits(out, genomes[::-1])
    out[...] = 5
    assert (memory == 5).all()


@pytest.mark.cpp
@on_every_instruction_set
@pytest.mark.parametrize("sigma", [0, 0.5])
def test_rows_of_out_that_no_slot_names_are_left_alone(sigma: float) -> None:
    genomes, out = numbers(3, 257), np.full((9, 257), 5, F)
    slots = {"parents": np.array([[0, 1], [2, 0]], np.int32), "sigma": np.full(2, sigma, F)}
    place = {"seed": 1, "generation": 2}
    rows = np.array([7, 2], np.int32)
    for kind in ("uniform", "rows"):
        options = {"kind": kind, "layout": ROWS, **slots, **place}
        assert ops.crossover_mutate(genomes, out=out, out_rows=rows, **options) is out
        assert_same_bits(out[rows], ops.crossover_mutate(genomes, **options))
        assert (np.delete(out, rows, axis=0) == 5).all()


@pytest.mark.cpp
@on_every_instruction_set
def test_copies_keep_every_bit_of_nan() -> None:
    payloads = np.arange(0x7F800001, 0x7F800001 + 257, dtype=np.uint32)
    genomes = np.stack([payloads, payloads | 0x80400000]).view(F)
    parents, sigma = np.array([[0, 1, 0], [1, 1, 0]], np.int32), np.zeros(3, F)
    for kind in CROSSOVER_KINDS:
        child = ops.crossover_mutate(
            genomes, parents, sigma, kind=kind, layout=ROWS, seed=1, generation=0
        )
        slots = [1, 2] if kind == "arithmetic" else [0, 1, 2]
        bits, pool = child.view(np.uint32), genomes.view(np.uint32)
        assert (bits[1:] == pool[[1, 0]]).all()
        assert ((bits[slots] == pool[0]) | (bits[slots] == pool[1])).all()
