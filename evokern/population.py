"""A population as a structure of arrays, and rows that kernels like."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evokern import _devices
from evokern.lineage import Lineages
from evokern.memory import check_fits

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

_ROW_GENES = 32  # rows start at multiples of 128 bytes: full cache lines, full vectors
_BASE_BYTES = 128


def allocate_genomes(n: int, genes: int, device: str = "cpu") -> F32:
    """Uninitialised float32 [n, G] with 128-byte aligned rows (a view of a wider array).

    On ``device`` ``cuda`` (``cuda:1``, ...) it is an array of torch, or of CuPy without torch.
    Raises MemoryLimitError (GB asked, GB there, how many would fit) when memory lacks.
    """
    stride = -(-genes // _ROW_GENES) * _ROW_GENES
    if device != "cpu":
        wide: F32 = _devices.allocate(device, (n, stride), np.float32)
        return wide[:, :genes]
    check_fits(n * stride * 4, f"a population of {n} x {genes} genes", rows=n)
    raw = np.empty(n * stride * 4 + _BASE_BYTES, np.uint8)
    start = -raw.ctypes.data % _BASE_BYTES
    rows = raw[start : start + n * stride * 4].view(np.float32).reshape(n, stride)
    return rows[:, :genes]


@dataclass(frozen=True)
class Population:
    """P individuals that live in rows of a bank, and what is known of them.

    The bank ``genomes`` float32 [Q, G] has more rows than individuals: offspring are written to
    rows that hold nobody who is still needed, elites stay where they are. Individual i lives in
    row ``rows[i]`` (int32 [P]).

    ``fitness`` float32 [P]: higher is better, NaN ranks last; ``sigma`` float32 [P]: the mutation
    strength in the individual's own genotype. ``lineages`` is None unless they are recorded.
    """

    genomes: F32
    rows: I32
    fitness: F32
    sigma: F32
    lineages: Lineages | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def genome(self, individual: int) -> F32:
        """The genome [G] of one individual, a view into the bank."""
        genome: F32 = self.genomes[self.rows[individual]]
        return genome

    def take(self, individuals: I32) -> Population:
        """The population of these individuals [n], in this order, in the same bank."""
        return replace(
            self,
            rows=self.rows[individuals],
            fitness=self.fitness[individuals],
            sigma=self.sigma[individuals],
            lineages=None if self.lineages is None else self.lineages.take(individuals),
        )

    def joined_by(self, others: Population) -> Population:
        """Both populations, these individuals first; they share a bank."""
        lineages = self.lineages
        if lineages is not None and others.lineages is not None:
            lineages = lineages.joined_by(others.lineages)
        return Population(
            self.genomes,
            rows=np.concatenate([self.rows, others.rows]),
            fitness=np.concatenate([self.fitness, others.fitness]),
            sigma=np.concatenate([self.sigma, others.sigma]),
            lineages=lineages,
        )
