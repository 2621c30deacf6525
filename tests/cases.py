"""What the tests of the ops share: odd numbers, odd memory, instruction sets, calls as data."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

from evokern import _cpu, ops
from evokern._table import BACKENDS
from evokern.backends.cpu import use_instruction_set

F = np.float32
SEED = (3 << 40) + 7
INSTRUCTION_SETS = (
    [os.environ["EVOKERN_ISA"]]
    if os.environ.get("EVOKERN_ISA")
    else _cpu.supported_instruction_sets()
)
ODD_SIZES = (1, 2, 3, 17, 255, 257)

COLUMNS = [
    *(pytest.param(f"cpu-{isa}", marks=pytest.mark.cpp) for isa in INSTRUCTION_SETS),
    *(
        pytest.param(name, marks=mark)
        for name, mark in (("simt", pytest.mark.simt), ("triton-interpreter", pytest.mark.triton))
        if name in BACKENDS
    ),
]
"""What is compared with the reference: the CPU's instruction sets, and where conftest.py has them
the CUDA kernels on the harness and the Triton kernels in its interpreter."""


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Runs the block with the CPU kernels of one instruction set."""
    before = _cpu.instruction_set()
    use_instruction_set(name)
    try:
        yield
    finally:
        use_instruction_set(before)


@contextmanager
def column_of(column: str) -> Iterator[str]:
    """The back end of a column; of the CPU's, on its instruction set and one thread.

    OpenMP's wait for each other is long when others use the processor too. That the number of
    threads does not show is for test_ops_invariance.py.
    """
    if not column.startswith("cpu-"):
        yield column
        return
    with instruction_set(column.removeprefix("cpu-")), threads(1):
        yield "cpu"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs the block with this number of threads."""
    before = _cpu.threads()
    _cpu.set_threads(count)
    try:
        yield
    finally:
        _cpu.set_threads(before)


Values = Callable[..., np.ndarray]
"""A function of this module that makes float32 [...] of a given shape."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


@dataclass(frozen=True, eq=False)
class Case:
    """One call of an op; ``make`` gives its positional and keyword arguments, new each time."""

    op: str
    name: str
    make: partial[Call]

    @property
    def options(self) -> dict[str, Any]:
        """What `make` was told."""
        return self.make.keywords

    def run(self, backend: str, call: Call | None = None) -> tuple[np.ndarray, ...]:
        """The op's results; ``call`` stands in for what `make` would give."""
        arguments, options = self.make() if call is None else call
        result = getattr(ops, self.op)(*arguments, backend=backend, **options)
        return result if isinstance(result, tuple) else (result,)

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normals, float32 [...]."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=F)


_SPECIAL = np.array(
    [
        *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x80400000, 0x00800000),
        *(0x80800001, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345),
    ],
    np.uint32,
).view(F)


def special_numbers(*shape: int, share: float = 0.3) -> np.ndarray:
    """Normals among zeros of both signs, subnormals, the largest numbers, infinities and NaN."""
    rng = np.random.default_rng([1, *shape])
    return np.where(rng.random(shape) < share, rng.choice(_SPECIAL, shape), numbers(*shape))


def small_numbers(*shape: int) -> np.ndarray:
    """Numbers whose products lie among the subnormals."""
    return numbers(*shape) * F(2.0**-72)


def subnormal_numbers(*shape: int) -> np.ndarray:
    """Numbers of at most 2^-127."""
    return np.clip(numbers(*shape), -4, 4) * F(2.0**-129)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """NaN in memory that starts at a multiple of 128 bytes."""
    memory = np.full(int(np.prod(shape)) + 32, np.nan, F)
    start = -(memory.ctypes.data // 4) % 32
    return memory[start : start + int(np.prod(shape))].reshape(shape)


def padded(values: np.ndarray, pad: int, offset: int) -> np.ndarray:
    """The same values with ``pad`` NaN after each row, ``offset`` floats into an aligned array."""
    shape = (*values.shape[:-1], values.shape[-1] + pad)
    memory = _aligned((int(np.prod(shape)) + offset,))
    result = memory[offset:].reshape(shape)[..., : values.shape[-1]]
    result[...] = values
    return result


def _reversed(values: np.ndarray) -> np.ndarray:
    return values[::-1].copy()[::-1]


def _swapped(values: np.ndarray) -> np.ndarray:
    """Outer axes (0, 1) the other way round in memory."""
    return values.swapaxes(0, 1).copy().swapaxes(0, 1) if values.ndim > 2 else values


def _aligned_rows(values: np.ndarray) -> np.ndarray:
    return padded(values, -values.shape[-1] % 32, 0)


MEMORY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "aligned rows": _aligned_rows,
    "gaps": lambda values: padded(values, 4, 0),
    "odd rows": lambda values: padded(values, 1 + values.shape[-1] % 2, 0),
    "one float off": lambda values: padded(values, -values.shape[-1] % 32, 1),
    "reversed rows": _reversed,
    "swapped axes": _swapped,
}
"""Ways to lay the same values into memory; the last axis stays contiguous."""


def in_rows(values: np.ndarray, axes: int, memory: str) -> np.ndarray:
    """The last ``axes`` axes in one piece, the others laid out as ``memory`` says."""
    outer = values.shape[: values.ndim - axes]
    rows = MEMORY[memory](values.reshape(*outer, math.prod(values.shape[values.ndim - axes :])))
    return rows.reshape(values.shape)


def case_maker(op: str, make: Callable[..., Call]) -> Callable[..., Case]:
    def case(name: str, *arguments: Any, **options: Any) -> Case:
        return Case(op, name, partial(make, *arguments, **options))

    return case
