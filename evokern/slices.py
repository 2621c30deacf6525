"""Genes of a layer in equal slices of output units, and individuals that differ in one slice.

A parameter block is a matrix with a column per output unit. Some of its columns, row by row, are
the genes of a narrower layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evokern.errors import ArgumentError, message
from evokern.layout import GenomeLayout, rows_of

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Slices:
    """``count`` slices of the genes from ``first`` on, a matrix [rows, outputs].

    Slice k has the ``units`` columns from k * units on. ``block`` is the parameter block that the
    genes are; None where they are all genes.
    """

    block: int | None
    first: int
    rows: int
    outputs: int
    units: int

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.outputs // self.units

    @property
    def genes(self) -> int:
        """Genes of a slice."""
        return self.rows * self.units

    def read(self, genome: F32, out: F32) -> None:
        """Copies the slices of a genome [1, G] to ``out`` [count, genes]."""
        matrix = genome[0, self._own].reshape(self.rows, self.count, self.units)
        out[:] = matrix.swapaxes(0, 1).reshape(self.count, self.genes)

    def write(self, slices: F32, genome: F32) -> None:
        """Copies slices [count, genes] to where they belong in a genome [1, G]."""
        cube = slices.reshape(self.count, self.rows, self.units)
        genome[0, self._own] = cube.swapaxes(0, 1).reshape(self.rows * self.outputs)

    def write_one(self, number: int, genes: F32, genome: F32) -> None:
        """Copies one slice's genes [genes] to where they belong in a genome [G]."""
        matrix = genome[self._own].reshape(self.rows, self.outputs)
        columns = slice(number * self.units, (number + 1) * self.units)
        matrix[:, columns] = genes.reshape(self.rows, self.units)

    @property
    def _own(self) -> slice:
        return slice(self.first, self.first + self.rows * self.outputs)


def all_genes(layout: GenomeLayout) -> Slices:
    """A genome as one slice."""
    return Slices(None, 0, layout.size, 1, 1)


def slices_of(layout: GenomeLayout, block: int, units: int) -> Slices:
    """A block's slices of so many units. Raises ArgumentError where they leave a rest."""
    genes = layout.blocks[block]
    if units < 1 or genes.outputs % units:
        wanted = (
            f"a divisor of the {genes.outputs} outputs of layer {block + 1} of those with genes"
        )
        raise ArgumentError(message("units", wanted, str(units), f"{genes.outputs} is all of them"))
    return Slices(block, layout.offsets[block], rows_of(genes), genes.outputs, units)


@dataclass(frozen=True, eq=False)
class Mutants:
    """Individuals that are a centre but for one slice each.

    ``index`` int32 [n] says which, ``genes`` float32 [n, slices.genes] what is there instead.
    """

    slices: Slices
    index: I32
    genes: F32

    def __len__(self) -> int:
        return len(self.index)
