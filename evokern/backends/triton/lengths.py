"""Lengths of units for the init scheme unit_rows: the norms of their weights as they are drawn.

A founder's genes may exist in registers only, so that all are drawn once more here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import triton
import triton.language as tl

from evokern.backends.device import Block
from evokern.backends.parts import gene_parts
from evokern.backends.triton.launch import BIG_TILES, Pointer, launch
from evokern.backends.triton.random import INIT, normal_pair
from evokern.layout import GENE_CONTENTS, GenomeLayout

_TILE = (1 << 17, 1 << 10) if BIG_TILES else (512, 128)  # genes, columns, at most
_ROWS = 4


def unit_lengths_room(block: Block, layout: GenomeLayout, founders: int) -> tuple[int, int, int]:
    """Offsets of the table of units and of their lengths, float32 [founders, columns]; columns."""
    table = _weight_columns(layout)
    return block.add(table), block.room(founders * table.shape[1] * 4), table.shape[1]


@lru_cache(maxsize=64)
def _weight_columns(layout: GenomeLayout) -> npt.NDArray[np.int64]:
    """Of every unit's weights in a part: first gene, genes from row to row, rows. [3, columns]"""
    parts = gene_parts(layout)
    parts = parts[parts["content"] == GENE_CONTENTS.index("weights")]
    outputs = parts["outputs"]
    unit = np.arange(outputs.sum()) - np.repeat(parts["first_column"], outputs)
    first = np.repeat(parts["first_gene"], outputs) + unit
    return np.stack([first, np.repeat(outputs, outputs), np.repeat(parts["rows"], outputs)])


def unit_lengths(
    table: Pointer,
    lengths: Pointer,
    numbers: Pointer | None,
    *,
    founders: int,
    columns: int,
    seed: int,
    first: int = 0,
) -> None:
    """The lengths of founders' units, for which they are drawn once more.

    Founder f is individual ``numbers[f]``, uint32, or ``first + f``.
    """
    if columns == 0:
        return
    most, width = _TILE
    width = min(width, triton.next_power_of_2(columns))
    height = min(triton.next_power_of_2(founders), most // (_ROWS * width))
    few = BIG_TILES and height * width < 1 << 10
    rows = 8 * _ROWS if few else _ROWS
    launch(
        unit_lengths_kernel,
        -(-founders // height) * -(-columns // width),
        *(table, lengths, numbers, founders, columns, seed, first),
        SLOTS=height,
        ROWS=rows,
        COLUMNS=width,
    )


@triton.jit(do_not_specialize=["founders", "seed", "first"])
def unit_lengths_kernel(
    table,
    lengths,
    numbers,
    founders,
    columns,
    seed: tl.uint64,
    first: tl.uint32,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    tiles = tl.cdiv(columns, COLUMNS)
    founder = tl.program_id(0) // tiles * SLOTS + tl.arange(0, SLOTS)  # [slots]
    column = tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS)  # [columns]
    first_gene = tl.load(table + column, mask=column < columns, other=0)
    step = tl.load(table + columns + column, mask=column < columns, other=0)
    rows = tl.load(table + 2 * columns + column, mask=column < columns, other=0)
    if numbers is None:
        individual = first.to(tl.uint32) + founder.to(tl.uint32)
    else:
        individual = tl.load(numbers + founder, mask=founder < founders, other=0)
    total = tl.zeros((SLOTS, COLUMNS), tl.float32)
    for first_row in range(0, tl.max(rows).to(tl.int32), ROWS):
        row = first_row + tl.arange(0, ROWS)[:, None]
        gene = first_gene + row * step  # [rows, columns]
        weight = _normals(seed, gene[None, :, :], individual[:, None, None])
        square = tl.where(row < rows, weight * weight, 0.0)
        for r in tl.static_range(ROWS):
            # The others are 0, so that this sum is exact and those of rows are in order.
            this = tl.arange(0, ROWS)[None, :, None] == r
            total += tl.sum(tl.where(this, square, 0.0), 1)
    length = tl.where(total == 0.0, 1.0, tl.sqrt_rn(total))
    mask = (founder < founders)[:, None] & (column < columns)[None, :]
    tl.store(lengths + founder.to(tl.int64)[:, None] * columns + column[None, :], length, mask)


@triton.jit
def _normals(seed, gene, individual):
    """Founders' deviates of genes, each by itself."""
    w0, w1, w2, w3 = tl.philox(seed, (gene >> 2).to(tl.uint32), individual, 0, INIT)
    later = (gene & 2) != 0
    first, second = normal_pair(tl.where(later, w2, w0), tl.where(later, w3, w1))
    return tl.where((gene & 1) != 0, second, first)
