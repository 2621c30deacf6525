"""Every back end of the table against the NumPy reference, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import cases_network
import cases_variation
import numpy as np
import pytest
from cases import INSTRUCTION_SETS, Case, instruction_set

from evokern import _cpu
from evokern._table import TABLE
from evokern.testing import (
    assert_same_bits,
    fill_outputs_with_nan,
)

pytestmark = pytest.mark.cpp

CASES = {
    "init_genomes": list(cases_variation.init_genomes_cases()),
    "crossover_mutate": list(cases_variation.crossover_mutate_cases()),
    "mutate_sigma": list(cases_variation.mutate_sigma_cases()),
    "dense_forward": list(cases_network.dense_forward_cases()),
    "max_pool2d": list(cases_network.pool_cases("max_pool2d", [{}])),
    "avg_pool2d": list(cases_network.pool_cases("avg_pool2d", [{}, {"count_include_pad": False}])),
    "affine": list(cases_network.affine_cases()),
    "network_forward": list(cases_network.network_forward_cases()),
    "network_loss": list(cases_network.network_loss_cases()),
}
CALLS = [
    pytest.param(case, backend, id=f"{case}-{backend}")
    for op, row in TABLE.items()
    for case in CASES[op]
    for backend in row.functions
    if backend != "reference"
]


@pytest.fixture(params=INSTRUCTION_SETS, scope="module", autouse=True)
def _instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    with instruction_set(request.param):
        yield


def run(case: Case, backend: str) -> tuple[np.ndarray, ...]:
    with fill_outputs_with_nan():
        return case.run(backend)


@cache
def expected(case: Case) -> tuple[np.ndarray, ...]:
    return run(case, "reference")


def is_bf16(case: Case) -> bool:
    return case.make.keywords.get("precision") == "bf16"


def promises_bits(case: Case, backend: str) -> bool:
    if is_bf16(case):
        return backend == "cpu" and not _cpu.native_bf16()
    return TABLE[case.op].promise == "bits"


def test_every_op_has_cases() -> None:
    assert {op for op, cases in CASES.items() if cases} == set(TABLE)


@pytest.mark.parametrize(("case", "backend"), CALLS)
def test_same_bits_as_the_reference(case: Case, backend: str) -> None:
    if not promises_bits(case, backend):
        pytest.skip("not promised")
    for actual, reference in zip(run(case, backend), expected(case), strict=True):
        assert_same_bits(actual, reference)
