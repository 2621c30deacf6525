"""Slots that each run a network of their own on samples of their own, with convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.workload import F32
from evokern import Network, ops
from evokern.layers import Conv2d, Dense
from evokern.layout import AffineGenes, GenomeLayout
from evokern.population import allocate_genomes


@dataclass(frozen=True)
class Slots:
    """Slot s applies row ``index[l, s]`` of ``banks[l]`` [K_l, G_l] to x[s] [B, *input_shape].

    Without ``index`` (int32 [layers, S]) slot s runs row s of every bank.
    """

    network: Network
    banks: list[F32]
    x: F32
    index: npt.NDArray[np.int32] | None = None

    @property
    def rows(self) -> npt.NDArray[np.int32]:
        """int32 [layers, S]: ``index``, or every slot's own number."""
        if self.index is not None:
            return self.index
        return np.tile(np.arange(len(self.x), dtype=np.int32), (len(self.banks), 1))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def frames(self) -> int:
        """Samples of all slots."""
        return len(self.x) * int(self.x.shape[1])


def multiply_adds(network: Network) -> int:
    """Of the network's convolutions and dense layers, on one sample."""
    total = 0
    shapes = zip(network.shapes, network.shapes[1:], strict=False)
    for layer, (before, after) in zip(network.layers, shapes, strict=True):
        if isinstance(layer, Conv2d):
            total += before[0] * math.prod(layer.geometry()[:2]) * math.prod(after)
        elif isinstance(layer, Dense):
            total += before[0] * after[0]
    return total


def random_banks(network: Network, heights: Sequence[int]) -> list[F32]:
    """float32 [K_l, G_l] per layer with parameters: He-uniform weights, batch norms near 1."""
    rng = np.random.default_rng(len(heights))
    banks = []
    for number, (block, height) in enumerate(zip(network.layout.blocks, heights, strict=True)):
        layout = GenomeLayout((block,))
        bank = allocate_genomes(height, layout.size)
        ops.init_genomes(layout, height, seed=number, scheme="he_uniform", out=bank)
        if isinstance(block, AffineGenes):
            bank += rng.normal(0, 0.1, bank.shape).astype(np.float32)
        banks.append(bank)
    return banks
