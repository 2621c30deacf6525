"""The work all contestants do: the thesis' network on random samples, and its variation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evokern import Network, ops
from evokern.population import allocate_genomes

F32 = npt.NDArray[np.float32]

NETWORK = Network.mlp(196, [256, 128, 64], 10)
"""Images already pooled to 14 x 14: 92,234 genes (the thesis, 5.2)."""

SIGMA = 0.01

MULTIPLY_ADDS = sum(block.parts[0].fan_in * block.outputs for block in NETWORK.layout.blocks)
"""Of one network on one sample."""


def genomes(population: int) -> F32:
    """Glorot-uniform float32 [P, G] with aligned rows."""
    rows = allocate_genomes(population, NETWORK.layout.size)
    ops.init_genomes(NETWORK.layout, population, seed=0, out=rows)
    return rows


@dataclass(frozen=True)
class Evaluation:
    """Loss and correct predictions of all ``genomes`` [P, G] on one batch x [B, 196], y [B]."""

    genomes: F32
    x: F32
    y: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: F32, batch: int) -> Evaluation:
        """Random samples and labels for these genomes."""
        rng = np.random.default_rng(batch)
        x = rng.random((batch, *NETWORK.input_shape), dtype=np.float32)
        return cls(rows, x, rng.integers(0, NETWORK.output_shape[0], batch))

    @property
    def operations(self) -> int:
        """Floating-point operations: the multiplications and additions of the dense layers."""
        return 2 * MULTIPLY_ADDS * len(self.genomes) * len(self.x)


@dataclass(frozen=True)
class Variation:
    """Offspring of ``genomes`` [P, G]: elites, then crossover children, then mutants.

    ``parents`` int32 [2, P] are rows of the better half (truncation 0.5); a child of twice the
    same parent is a copy of it, which ``sigma`` [P] > 0 mutates.
    """

    genomes: F32
    parents: npt.NDArray[np.int32]
    sigma: F32
    elites: int
    crossed: int

    @classmethod
    def of(cls, rows: F32, elites: float, crossover: float) -> Variation:
        """Shares of elites and crossover children; mutants are the rest."""
        population = len(rows)
        better = population // 2
        counts = round(elites * population), round(crossover * population)
        rng = np.random.default_rng(population)
        first = rng.integers(0, better, population)
        crossed = slice(counts[0], sum(counts))
        second = first.copy()
        others = rng.integers(1, better, counts[1])
        second[crossed] = (first[crossed] + others) % better
        sigma = np.zeros(population, np.float32)
        sigma[sum(counts) :] = SIGMA
        return cls(rows, np.array([first, second], np.int32), sigma, *counts)

    @property
    def genes(self) -> int:
        """Genes of all offspring."""
        return self.genomes.size
