"""Where each gene of a genome belongs. A gene's number is its place in the random stream.

The order is a public contract (it decides which random number a gene draws): layer after
layer, the weights ``[I, O]`` row-major with the outputs fastest, then the bias ``[O]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evokern.errors import ArgumentError, message


@dataclass(frozen=True)
class DenseGenes:
    """The genes of one dense layer: weights ``[fan_in, outputs]``, then bias ``[outputs]``."""

    fan_in: int
    outputs: int

    @property
    def size(self) -> int:
        """Genes of the layer: ``fan_in * outputs + outputs``."""
        return self.fan_in * self.outputs + self.outputs

    @property
    def fan_out(self) -> int:
        """Units a weight's input feeds: the layer's outputs (init schemes use it)."""
        return self.outputs


@dataclass(frozen=True)
class GenomeLayout:
    """The parameter blocks of a genome, in genome order.

    ``blocks`` holds one entry per layer with parameters. ``offsets[i]`` is the first gene of
    block i and ``size`` the number of genes G.
    """

    blocks: tuple[DenseGenes, ...]

    def __post_init__(self) -> None:
        for number, block in enumerate(self.blocks):
            if block.fan_in < 1 or block.outputs < 1:
                raise ArgumentError(
                    message(
                        f"blocks[{number}]",
                        "fan_in >= 1 and outputs >= 1",
                        f"fan_in={block.fan_in}, outputs={block.outputs}",
                    )
                )

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First gene of every block."""
        sizes = [block.size for block in self.blocks]
        return tuple(sum(sizes[:i]) for i in range(len(sizes)))

    @cached_property
    def size(self) -> int:
        """Number of genes G of one genome."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def units(self) -> int:
        """Number of output units over all blocks (row-wise crossover draws once per unit)."""
        return sum(block.outputs for block in self.blocks)

    @cached_property
    def unit_of_gene(self) -> np.ndarray:
        """int32 [G]: the output unit a gene belongs to, numbered through in genome order.

        A unit owns its incoming weights and its bias (row-wise crossover, design section 5).
        """
        parts: list[np.ndarray] = []
        first_unit = 0
        for block in self.blocks:
            units = np.arange(first_unit, first_unit + block.outputs, dtype=np.int32)
            parts += [np.tile(units, block.fan_in), units]
            first_unit += block.outputs
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def split(self, genome: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Views ``(weights [..., I, O], bias [..., O])`` of every block of genomes ``[..., G]``."""
        if genome.shape[-1] != self.size:
            raise ArgumentError(
                message("genome", f"[..., G={self.size}]", f"shape {list(genome.shape)}")
            )
        views = []
        for offset, block in zip(self.offsets, self.blocks, strict=True):
            end = offset + block.fan_in * block.outputs
            weights = genome[..., offset:end]
            weights = weights.reshape(*weights.shape[:-1], block.fan_in, block.outputs)
            views.append((weights, genome[..., end : end + block.outputs]))
        return views
