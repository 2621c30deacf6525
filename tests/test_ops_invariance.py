"""How an op is launched does not show in its bits: threads, shards, the caller's arithmetic."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cases_categorical
import cases_lineage
import cases_mutants
import cases_network
import cases_variation
import numpy as np
import pytest
from cases import INSTRUCTION_SETS, SEED, Case, F, instruction_set, numbers, threads
from cases_variation import ROWS

import evokern
from evokern import ops
from evokern.network import Dense, Network
from evokern.testing import assert_same_bits, fill_outputs_with_nan

pytestmark = pytest.mark.cpp

CASES = (
    cases_variation.CASES
    | cases_lineage.CASES
    | cases_network.CASES
    | cases_mutants.CASES
    | cases_categorical.CASES
)
LARGE = ("long", "streamed", "130", "257", "wide", "4096", "one slot")


def some_cases() -> Iterator[Case]:
    """Every tenth case of every op, and those that are cut into many tasks."""
    for cases in CASES.values():
        for number, case in enumerate(cases):
            if number % 10 == 0 or any(word in case.name for word in LARGE):
                yield case


@pytest.fixture(params=INSTRUCTION_SETS, scope="module", autouse=True)
def _instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    with instruction_set(request.param):
        yield


def assert_same_results(actual: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("case", list(some_cases()), ids=str)
def test_the_number_of_threads_does_not_show(case: Case) -> None:
    with threads(1):
        expected = case.run("cpu")
    for count in (2, 7):
        with threads(count), fill_outputs_with_nan():
            assert_same_results(case.run("cpu"), expected)


def test_set_threads_sets_the_number_of_threads() -> None:
    with threads(1):
        evokern.set_threads(3)
        assert evokern._cpu.threads() == 3


def test_python_threads_may_call_ops_at_once() -> None:
    chosen = [cases[i] for cases in CASES.values() for i in (3, 7, 11)]
    with threads(1):
        expected = [case.run("cpu") for case in chosen]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for actual, reference in zip(
                pool.map(lambda case: case.run("cpu"), chosen), expected, strict=True
            ):
                assert_same_results(actual, reference)


def test_ops_release_the_interpreter_lock() -> None:
    network = Network(tuple(Dense(512, "relu") for _ in range(4)), (512,))
    genomes, x = numbers(1, network.layout.size), numbers(64, 512)
    started = threading.Event()

    def work() -> None:
        started.set()
        began = time.perf_counter()
        while time.perf_counter() - began < 0.3:
            ops.network_forward(genomes, network, x, index=np.zeros(4, np.int32))

    worker = threading.Thread(target=work)
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)  # nothing but the op itself may let another thread run
    try:
        worker.start()
        started.wait()
        ticks = 0
        while worker.is_alive():
            time.sleep(0.001)
            ticks += 1
    finally:
        sys.setswitchinterval(before)
    assert ticks >= 5


@pytest.mark.parametrize("first", [0, 2**32 - 5])
def test_shards_draw_what_the_whole_draws(first: int) -> None:
    genomes = numbers(6, ROWS.size)
    parents = np.random.default_rng(0).integers(0, 6, (3, 11), np.int32)
    sigma = np.linspace(0, 1, 11, dtype=F)
    place = {"seed": SEED, "generation": 9}
    vary = {"kind": "rows", "layout": ROWS, "mutation_rate": 0.5}
    whole = (
        ops.init_genomes(ROWS, 11, seed=SEED, first=first),
        ops.crossover_mutate(genomes, parents, sigma, first=first, **vary, **place),
        ops.mutate_sigma(sigma, tau=0.5, first=first, **place),
    )
    for start, end in ((0, 1), (1, 4), (4, 11)):
        part, number = slice(start, end), (first + start) % 2**32
        shard = (
            ops.init_genomes(ROWS, end - start, seed=SEED, first=number),
            ops.crossover_mutate(
                genomes, parents[:, part], sigma[part], first=number, **vary, **place
            ),
            ops.mutate_sigma(sigma[part], tau=0.5, first=number, **place),
        )
        assert_same_results(shard, tuple(array[part] for array in whole))


FLUSH_TO_ZERO, DENORMALS_ARE_ZERO = 0x8000, 0x0040
SETTINGS = 0xFFC0 | DENORMALS_ARE_ZERO  # the rest of MXCSR are flags that arithmetic raises
MXCSR = slice(28, 32)  # its place in glibc's fenv_t


def environment(libm: ctypes.CDLL) -> ctypes.Array[ctypes.c_char]:
    buffer = ctypes.create_string_buffer(32)
    assert libm.fegetenv(buffer) == 0
    return buffer


def settings(libm: ctypes.CDLL) -> int:
    return int.from_bytes(environment(libm).raw[MXCSR], "little") & SETTINGS


@contextmanager
def flushed_subnormals() -> Iterator[ctypes.CDLL]:
    """Subnormal inputs and results of this thread count as 0."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    before, changed = environment(libm), environment(libm)
    register = int.from_bytes(changed.raw[MXCSR], "little") | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO
    changed[MXCSR] = register.to_bytes(4, "little")
    libm.fesetenv(changed)
    try:
        yield libm
    finally:
        libm.fesetenv(before)


on_x86_linux = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux",
    reason="MXCSR is reached through glibc on x86-64",
)


@on_x86_linux
def test_subnormals_can_be_flushed_here() -> None:
    tiny = np.full(8, 2.0**-130, F)
    with flushed_subnormals() as libm:
        assert not (tiny * F(1)).any()
        assert settings(libm) & (FLUSH_TO_ZERO | DENORMALS_ARE_ZERO) == 0x8040
    assert (tiny * F(1)).all()


@on_x86_linux
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "case",
    [
        case
        for cases in CASES.values()
        for case in cases
        if any(word in case.name for word in ("small", "subnormal", "special"))
    ],
    ids=str,
)
def test_the_callers_flushing_of_subnormals_does_not_show(case: Case, count: int) -> None:
    with threads(1):
        expected = case.run("cpu")
    call = case.make()
    with threads(count), flushed_subnormals() as libm:
        before = settings(libm)
        actual = case.run("cpu", call)
        after = settings(libm)
    assert after == before
    assert_same_results(actual, expected)
