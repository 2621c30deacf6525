"""Where each gene of a genome belongs. A gene's number is its place in the random stream.

The order is a public contract (it decides which random number a gene draws): layer after layer,
the weights ``[I, O]`` (convolution ``[C*K*K, O]``) row-major with the outputs fastest, then the
bias ``[O]``; Affine: scale ``[C]``, shift ``[C]``; Elman: W_in ``[I, O]``, W_rec ``[O, O]``, bias
``[O]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from evokern.errors import ArgumentError, message

GeneContent = Literal["weights", "bias", "ones", "zeros"]
GENE_CONTENTS: tuple[str, ...] = get_args(GeneContent)
"""What init schemes make of a part, in the order of the codes in ``csrc/core/params.h``."""


@dataclass(frozen=True)
class GenePart:
    """Consecutive genes ``[rows, outputs]`` of a block; init schemes read the fans."""

    rows: int
    content: GeneContent
    fan_in: int = 1
    fan_out: int = 1


@dataclass(frozen=True)
class DenseGenes:
    """A dense layer or convolution: weights ``[fan_in, outputs]``, then ``bias`` ``[outputs]``."""

    fan_in: int
    outputs: int
    bias: bool = True
    kernel_area: int = 1
    """Elements of a convolution's kernel: each input feeds ``outputs * kernel_area`` units."""

    @property
    def fan_out(self) -> int:
        """Units a weight's input feeds (init schemes use it)."""
        return self.outputs * self.kernel_area

    @property
    def parts(self) -> tuple[GenePart, ...]:
        """Weights and bias."""
        weights = GenePart(self.fan_in, "weights", self.fan_in, self.fan_out)
        return (weights, GenePart(1, "bias", self.fan_in)) if self.bias else (weights,)


@dataclass(frozen=True)
class AffineGenes:
    """Batch norm at inference: scale ``[channels]``, then shift ``[channels]``."""

    outputs: int

    @property
    def parts(self) -> tuple[GenePart, ...]:
        """Scale and shift."""
        return (GenePart(1, "ones"), GenePart(1, "zeros"))


@dataclass(frozen=True)
class ElmanGenes:
    """A recurrent layer: W_in ``[inputs, outputs]``, W_rec ``[outputs, outputs]``, bias."""

    inputs: int
    outputs: int

    @property
    def parts(self) -> tuple[GenePart, ...]:
        """Input weights, recurrent weights, bias."""
        return (
            GenePart(self.inputs, "weights", self.inputs, self.outputs),
            GenePart(self.outputs, "weights", self.outputs, self.outputs),
            GenePart(1, "bias", self.outputs),
        )


Genes = DenseGenes | AffineGenes | ElmanGenes
"""The parameters of one layer. Each of ``outputs`` units owns one gene of every row."""


def rows_of(block: Genes) -> int:
    """Genes that each unit of ``block`` owns."""
    return sum(part.rows for part in block.parts)


def size_of(block: Genes) -> int:
    """Number of genes of ``block``."""
    return rows_of(block) * block.outputs


@dataclass(frozen=True)
class GenomeLayout:
    """The parameter blocks of a genome, in genome order.

    ``blocks`` holds one entry per layer with parameters. ``offsets[i]`` is the first gene of
    block i and ``size`` the number of genes G.
    """

    blocks: tuple[Genes, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        for number, block in enumerate(self.blocks):
            if block.outputs < 1 or any(part.rows < 1 for part in block.parts):
                wanted = "at least one input and one output"
                raise ArgumentError(message(f"blocks[{number}]", wanted, repr(block)))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First gene of every block."""
        sizes = [size_of(block) for block in self.blocks]
        return tuple(sum(sizes[:i]) for i in range(len(sizes)))

    @cached_property
    def size(self) -> int:
        """Number of genes G of one genome."""
        return sum(size_of(block) for block in self.blocks)

    @cached_property
    def units(self) -> int:
        """Number of output units over all blocks (row-wise crossover draws once per unit)."""
        return sum(block.outputs for block in self.blocks)

    @cached_property
    def unit_of_gene(self) -> np.ndarray:
        """int32 [G]: the output unit a gene belongs to, numbered through in genome order.

        A unit owns its incoming weights and its bias, a channel its scale and shift (row-wise
        crossover, docs/bits.md).
        """
        parts: list[np.ndarray] = []
        first_unit = 0
        for block in self.blocks:
            units = np.arange(first_unit, first_unit + block.outputs, dtype=np.int32)
            parts.append(np.tile(units, rows_of(block)))
            first_unit += block.outputs
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def split(self, genome: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """Views of the parts of every block of genomes ``[..., G]``.

        Weights are ``[..., rows, outputs]``, the other parts ``[..., outputs]``: (weights, bias) of
        a dense layer, (weights,) of one without bias, (scale, shift), (W_in, W_rec, bias).
        """
        if genome.shape[-1] != self.size:
            raise ArgumentError(
                message("genome", f"[..., G={self.size}]", f"shape {list(genome.shape)}")
            )
        views = []
        at = 0
        for block in self.blocks:
            parts = []
            for part in block.parts:
                values = genome[..., at : at + part.rows * block.outputs]
                if part.content == "weights":
                    values = values.reshape(*values.shape[:-1], part.rows, block.outputs)
                parts.append(values)
                at += part.rows * block.outputs
            views.append(tuple(parts))
        return views
