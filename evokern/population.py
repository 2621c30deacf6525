"""A population as a structure of arrays, and rows that kernels like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evokern.memory import check_fits

F32 = npt.NDArray[np.float32]

_ROW_GENES = 32  # rows start at multiples of 128 bytes: full cache lines, full vectors
_BASE_BYTES = 128


def allocate_genomes(n: int, genes: int) -> F32:
    """Uninitialised float32 [n, G] with 128-byte aligned rows (a view of a wider array).

    Raises MemoryLimitError (GB asked, GB there, how many would fit) when memory lacks.
    """
    stride = -(-genes // _ROW_GENES) * _ROW_GENES
    check_fits(n * stride * 4, f"a population of {n} x {genes} genes", rows=n)
    raw = np.empty(n * stride * 4 + _BASE_BYTES, np.uint8)
    start = -raw.ctypes.data % _BASE_BYTES
    rows = raw[start : start + n * stride * 4].view(np.float32).reshape(n, stride)
    return rows[:, :genes]


@dataclass(frozen=True)
class Population:
    """Individuals and what is known of them.

    ``genomes`` float32 [P, G]; ``fitness`` float32 [P], higher is better, NaN ranks last;
    ``correct`` int32 [P], right predictions on the batch that fitness comes from.
    """

    genomes: F32
    fitness: F32
    correct: npt.NDArray[np.int32]
