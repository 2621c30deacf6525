"""What init_genomes, crossover_mutate and replay have in common: tiles of genomes.

A tile is float32 [slots, blocks, 4]: some genomes' parts from gene ``start`` on, by the blocks of
four genes that Philox draws for. Its genes' places, counted from ``start``, are those below
``left``. The last axis lies in one thread, which loads and stores it as 16 bytes where rows begin
at multiples of that.

Tuples that helpers take:
``source``: seed, individuals [slots, 1], generation or generations [slots, 1], for Philox;
``tile``: start and left;
``bank``: genomes by row number: pointer and stride of the first ``rows``, and of the others, if not
None, how far from that pointer they begin and their stride;
``parents``: pointers [slots, 1, 1] to the first parent's row number and, or None, its weight, and
how far the next parent's are;
``parts``: entries of a `PartTable`, and where the tile's begin and end;
``units``: four int32 [1, blocks], for crossover by rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import triton
import triton.language as tl

from evokern.backends.device import Block
from evokern.backends.parts import gene_parts
from evokern.backends.triton.launch import BIG_TILES, Pointer
from evokern.backends.triton.random import (
    CROSSOVER,
    CROSSOVER_PARENT,
    INIT,
    MUTATION,
    MUTATION_MASK,
    draw_below,
    draw_deviates,
    draw_four,
    draw_words,
    happens,
    in_order,
)
from evokern.layout import GENE_CONTENTS, GenomeLayout
from evokern.rules import CROSSOVER_KINDS, DISTRIBUTIONS

ARITHMETIC = tl.constexpr(CROSSOVER_KINDS.index("arithmetic"))
ROWS = tl.constexpr(CROSSOVER_KINDS.index("rows"))
NONE = tl.constexpr(CROSSOVER_KINDS.index("none"))

# Columns of `PartTable`.
BEGIN = tl.constexpr(0)
END = tl.constexpr(1)
SHIFT = tl.constexpr(2)
OUTPUTS = tl.constexpr(3)
FIRST_UNIT = tl.constexpr(4)
FIRST_COLUMN = tl.constexpr(5)
SCALE = tl.constexpr(6)
CONSTANT = tl.constexpr(7)
COLUMNS = tl.constexpr(8)

CERTAIN = 1 << 32  # the threshold of what happens whatever the word
TILE_GENES = 1 << 19 if BIG_TILES else 512  # a Philox block for each of 128 threads


@dataclass(frozen=True, slots=True)
class TileShape:
    slots: int
    blocks: int
    warps: int

    @property
    def genes(self) -> int:
        return 4 * self.blocks

    @property
    def constants(self) -> dict[str, Any]:
        return {"SLOTS": self.slots, "BLOCKS": self.blocks, "warps": self.warps}


def tile_shape(slots: int, genes: int, most: int = TILE_GENES) -> TileShape:
    """One genome's part of a tile of at most ``most`` genes, or several short genomes."""
    blocks = min(triton.next_power_of_2(-(-genes // 4)), most // 4)
    height = min(triton.next_power_of_2(slots), most // (4 * blocks))
    return TileShape(height, blocks, max(1, min(4, height * blocks // 32)))


def init_distribution(scheme: str) -> int:
    """The code of what an init scheme draws from."""
    name = "normal" if scheme in ("lecun_normal", "unit_rows") else "uniform"
    return DISTRIBUTIONS.index(name)


def crossover_code(kind: str, parents: int, crossed: int) -> int:
    """The kind, or none where every gene is the first parent's."""
    if parents < 2 or (crossed == 0 and kind != "arithmetic"):
        kind = "none"
    return CROSSOVER_KINDS.index(kind)


def last_word(threshold: int) -> int:
    """The largest word for which an event happens; of one that never does, nobody asks."""
    return max(threshold, 1) - 1


class PartTable:
    """What kernels need to know of a layout's parts, tile by tile of a genome.

    int32 [entries, COLUMNS], one entry for a part in a tile: the first of its genes there and the
    one after its last, counted from the tile's start; what to add to a gene's number so that the
    remainder by the part's outputs is its unit in the part; these outputs; the units and the
    weight columns before the part; bits of the factor that deviates are multiplied with, 0 where
    none are drawn, and of the genes' value there. int32 [tiles + 1]: entries before each tile's.
    """

    def __init__(
        self, block: Block, layout: GenomeLayout, tile_genes: int, scheme: str | None = None
    ) -> None:
        self._offsets = [block.add(array) for array in _part_table(layout, tile_genes, scheme)]

    def at(self, base: int) -> tuple[Pointer, Pointer]:
        """Entries and tiles, once the block is at this address."""
        entries, tiles = (Pointer(base + offset, "int32") for offset in self._offsets)
        return entries, tiles


@lru_cache(maxsize=64)
def _part_table(
    layout: GenomeLayout, tile_genes: int, scheme: str | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    parts = gene_parts(layout, scheme)
    begins = parts["first_gene"]
    ends = begins + parts["rows"] * parts["outputs"]
    starts = np.arange(0, layout.size, tile_genes)
    first = np.searchsorted(ends, starts, side="right")
    counts = np.searchsorted(begins, starts + tile_genes, side="left") - first
    tiles = np.append(0, np.cumsum(counts))
    part = np.arange(tiles[-1]) - np.repeat(tiles[:-1] - first, counts)
    start = np.repeat(starts, counts)

    parts, begins, ends = parts[part], begins[part], ends[part]
    contents = np.array(GENE_CONTENTS)[parts["content"]]
    drawn = (contents == "weights") | ((contents == "bias") & (scheme == "torch"))
    entries = np.empty((len(part), COLUMNS.value), np.int32)
    entries[:, BEGIN.value] = np.maximum(begins - start, 0)
    entries[:, END.value] = np.minimum(ends - start, tile_genes)
    shift = np.maximum(start - begins, 0) % parts["outputs"]
    entries[:, SHIFT.value] = shift - entries[:, BEGIN.value]
    entries[:, OUTPUTS.value] = parts["outputs"]
    entries[:, FIRST_UNIT.value] = parts["first_unit"]
    entries[:, FIRST_COLUMN.value] = parts["first_column"]
    entries[:, SCALE.value] = np.where(drawn, parts["scale"], np.float32(0)).view(np.int32)
    entries[:, CONSTANT.value] = (contents == "ones").astype(np.float32).view(np.int32)
    return entries, tiles.astype(np.int32)


@triton.jit
def parts_of_tile(entries, tiles, number):
    """The ``parts`` of a tile."""
    first, end = tl.load(tiles + number), tl.load(tiles + number + 1)
    return entries, first, end


@triton.jit
def tile_of(number, genes, BLOCKS: tl.constexpr):
    """The tile with this number along a genome."""
    start = number.to(tl.int64) * (4 * BLOCKS)
    return start, tl.minimum(genes - start, 4 * BLOCKS).to(tl.int32)


@triton.jit
def _places(BLOCKS: tl.constexpr):
    """[1, blocks, 4]"""
    return (4 * tl.arange(0, BLOCKS)[:, None] + tl.arange(0, 4)[None, :])[None, :, :]


@triton.jit
def _philox_blocks(tile, BLOCKS: tl.constexpr):
    """[1, blocks]"""
    start, _ = tile
    return ((start >> 2).to(tl.uint32) + tl.arange(0, BLOCKS).to(tl.uint32))[None, :]


@triton.jit
def load_genes(genomes, wanted, tile, BLOCKS: tl.constexpr):
    """Of genomes that begin at pointers [slots, 1, 1], where ``wanted`` [slots, 1 or blocks, 1]."""
    start, left = tile
    place = _places(BLOCKS)
    if left % 4 == 0:
        # The same for all four genes of a thread, which one instruction then loads.
        mask = (4 * tl.arange(0, BLOCKS) < left)[None, :, None]
        genes = tl.load(genomes + start + place, mask=wanted & mask, other=0.0)
    else:
        genes = tl.load(genomes + start + place, mask=wanted & (place < left), other=0.0)
    return genes


@triton.jit
def store_genes(genomes, wanted, tile, genes, BLOCKS: tl.constexpr):
    """To genomes that begin at pointers [slots, 1, 1], where ``wanted`` [slots, 1, 1]."""
    start, left = tile
    place = _places(BLOCKS)
    if left % 4 == 0:
        mask = (4 * tl.arange(0, BLOCKS) < left)[None, :, None]
        tl.store(genomes + start + place, genes, mask=wanted & mask)
    else:
        tl.store(genomes + start + place, genes, mask=wanted & (place < left))


@triton.jit
def genome_of(bank, row):
    """Pointers to the first genes of genomes."""
    genomes, stride, rows, others, others_stride = bank
    row = row.to(tl.int64)
    if others is None:
        genome = genomes + row * stride
    else:
        # After a choice of one or the other, Triton knows of no alignment; after products it does.
        other = (row >= rows).to(tl.int64)
        genome = genomes + (1 - other) * row * stride
        genome += other * others + other * (row - rows) * others_stride
    return genome


@triton.jit
def _genes_of_part(entry, place):
    """Which of a tile's genes at these places a part has, bool, and the unit of each in it."""
    inside = (tl.load(entry + BEGIN) <= place) & (place < tl.load(entry + END))
    number = (place + tl.load(entry + SHIFT)).to(tl.uint32)
    return inside, (number % tl.load(entry + OUTPUTS).to(tl.uint32)).to(tl.int32)


@triton.jit
def init_genes(source, parts, lengths, tile, DISTRIBUTION: tl.constexpr, BLOCKS: tl.constexpr):
    """Fresh genes [slots, blocks, 4].

    ``lengths``: pointers [slots, 1] to those of unit_rows' units, by which weights are divided, or
    None.
    """
    seed, individual, generation = source
    block = _philox_blocks(tile, BLOCKS)
    d0, d1, d2, d3 = draw_four(seed, block, individual, generation, INIT, DISTRIBUTION)
    # One by one: this loop over [slots, blocks, 4] would change the layout, by shared memory.
    g0 = _init_gene(0, d0, parts, lengths, BLOCKS)
    g1 = _init_gene(1, d1, parts, lengths, BLOCKS)
    g2 = _init_gene(2, d2, parts, lengths, BLOCKS)
    g3 = _init_gene(3, d3, parts, lengths, BLOCKS)
    return in_order(g0, g1, g2, g3)


@triton.jit
def _init_gene(j: tl.constexpr, deviates, parts, lengths, BLOCKS: tl.constexpr):
    """Genes j of all blocks [slots, blocks] from their deviates."""
    entries, first, end = parts
    place = 4 * tl.arange(0, BLOCKS)[None, :] + j
    genes = tl.zeros_like(deviates)
    for number in range(first, end):
        entry = entries + number * COLUMNS
        inside, unit = _genes_of_part(entry, place)
        scale = tl.load(entry + SCALE).to(tl.float32, bitcast=True)
        drawn = tl.zeros_like(place) < tl.load(entry + SCALE)
        fresh = deviates * scale
        if lengths is not None:
            column = tl.load(entry + FIRST_COLUMN) + unit
            fresh = tl.div_rn(fresh, tl.load(lengths + column, mask=inside & drawn, other=1.0))
        constant = tl.load(entry + CONSTANT).to(tl.float32, bitcast=True)
        genes = tl.where(inside, tl.where(drawn, fresh, constant), genes)
    return genes


@triton.jit
def _draw_choice(source, block, crossed, PARENTS: tl.constexpr):
    """Numbers of the parents that the genes of Philox blocks come from: four [slots, blocks].

    With two parents there is nothing that a second word could decide.
    """
    seed, individual, generation = source
    w0, w1, w2, w3 = tl.philox(seed, block, individual, generation, CROSSOVER)
    c0 = happens(w0, crossed).to(tl.int32)
    c1 = happens(w1, crossed).to(tl.int32)
    c2 = happens(w2, crossed).to(tl.int32)
    c3 = happens(w3, crossed).to(tl.int32)
    if PARENTS > 2:
        w0, w1, w2, w3 = tl.philox(seed, block, individual, generation, CROSSOVER_PARENT)
        c0 += c0 * draw_below(w0, PARENTS - 1)
        c1 += c1 * draw_below(w1, PARENTS - 1)
        c2 += c2 * draw_below(w2, PARENTS - 1)
        c3 += c3 * draw_below(w3, PARENTS - 1)
    return c0, c1, c2, c3


@triton.jit
def units_of_tile(parts, tile, BLOCKS: tl.constexpr):
    """Output units of a tile's genes: four of int32 [1, blocks]. Past the end, the last one's."""
    u0 = _units_of_genes(0, parts, tile, BLOCKS)
    u1 = _units_of_genes(1, parts, tile, BLOCKS)
    u2 = _units_of_genes(2, parts, tile, BLOCKS)
    u3 = _units_of_genes(3, parts, tile, BLOCKS)
    return u0, u1, u2, u3


@triton.jit
def _units_of_genes(j: tl.constexpr, parts, tile, BLOCKS: tl.constexpr):
    entries, first, end = parts
    _, left = tile
    place = tl.minimum(4 * tl.arange(0, BLOCKS)[None, :] + j, left - 1)
    units = tl.zeros((1, BLOCKS), tl.int32)
    for number in range(first, end):
        entry = entries + number * COLUMNS
        inside, unit = _genes_of_part(entry, place)
        units = tl.where(inside, tl.load(entry + FIRST_UNIT) + unit, units)
    return units


@triton.jit
def _draw_choice_of_units(
    source, units, crossed, SLOTS: tl.constexpr, PARENTS: tl.constexpr, BLOCKS: tl.constexpr
):
    """Of the output units that the genes belong to: a draw for every Philox block of units.

    Four [slots, blocks]. Most often the four genes of a thread need one or two of these blocks.
    """
    u0, u1, u2, u3 = units
    c0 = tl.full((SLOTS, BLOCKS), -1, tl.int32)  # not drawn yet
    c1, c2, c3 = c0, c0, c0
    while tl.min(tl.minimum(tl.minimum(c0, c1), tl.minimum(c2, c3))) < 0:
        block = tl.where(c2 < 0, u2, u3)
        block = tl.where(c1 < 0, u1, block)
        block = tl.where(c0 < 0, u0, block) >> 2
        drawn = _draw_choice(source, block.to(tl.uint32), crossed, PARENTS)
        c0 = _choice_of_unit(u0, block, drawn, c0)
        c1 = _choice_of_unit(u1, block, drawn, c1)
        c2 = _choice_of_unit(u2, block, drawn, c2)
        c3 = _choice_of_unit(u3, block, drawn, c3)
    return c0, c1, c2, c3


@triton.jit
def _choice_of_unit(unit, block, drawn, choice):
    """What was drawn for the unit, if that was its block; else what it was."""
    d0, d1, d2, d3 = drawn
    odd = (unit & 1) != 0
    of_unit = tl.where((unit & 2) != 0, tl.where(odd, d3, d2), tl.where(odd, d1, d0))
    return tl.where(unit >> 2 == block, of_unit, choice)


@triton.jit
def _choose_genes(choice, bank, parents, wanted, tile, PARENTS: tl.constexpr, BLOCKS: tl.constexpr):
    """Every gene from the parent of its choice. Of two, blocks that nobody takes are not read."""
    start, left = tile
    rows, _, step = parents
    if PARENTS == 2:
        others = tl.sum(choice, 2, keep_dims=True)  # [slots, blocks, 1]
        genome = genome_of(bank, tl.load(rows, mask=wanted, other=0))
        child = load_genes(genome, wanted & (others < 4), tile, BLOCKS)
        genome = genome_of(bank, tl.load(rows + step, mask=wanted, other=0))
        other = load_genes(genome, wanted & (others > 0), tile, BLOCKS)
        child = tl.where(choice == 0, child, other)
    else:
        place = _places(BLOCKS)
        mask = wanted & (place < left)
        row = tl.load(rows + choice * step, mask=mask, other=0)
        child = tl.load(genome_of(bank, row) + start + place, mask=mask, other=0.0)
    return child


@triton.jit
def _weighted_sum(bank, parents, wanted, tile, PARENTS: tl.constexpr, BLOCKS: tl.constexpr):
    rows, weights, step = parents
    genome = genome_of(bank, tl.load(rows, mask=wanted, other=0))
    weight = tl.load(weights, mask=wanted, other=0.0)
    child = weight * load_genes(genome, wanted, tile, BLOCKS)
    for r in range(1, PARENTS):
        genome = genome_of(bank, tl.load(rows + r * step, mask=wanted, other=0))
        weight = tl.load(weights + r * step, mask=wanted, other=0.0)
        child = child + weight * load_genes(genome, wanted, tile, BLOCKS)
    return child


@triton.jit
def recombine(
    source,
    bank,
    parents,
    units,
    wanted,
    crossed,
    tile,
    KIND: tl.constexpr,
    PARENTS: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """A crossover's genes [slots, blocks, 4] where ``wanted`` [slots, 1, 1].

    ``crossed``: the last word at which a gene or unit comes from a parent other than the first.
    """
    if KIND == ARITHMETIC:
        child = _weighted_sum(bank, parents, wanted, tile, PARENTS, BLOCKS)
    elif KIND == ROWS:
        c0, c1, c2, c3 = _draw_choice_of_units(source, units, crossed, SLOTS, PARENTS, BLOCKS)
        choice = in_order(c0, c1, c2, c3)
        child = _choose_genes(choice, bank, parents, wanted, tile, PARENTS, BLOCKS)
    else:
        c0, c1, c2, c3 = _draw_choice(source, _philox_blocks(tile, BLOCKS), crossed, PARENTS)
        choice = in_order(c0, c1, c2, c3)
        child = _choose_genes(choice, bank, parents, wanted, tile, PARENTS, BLOCKS)
    return child


@triton.jit
def mutate(
    source,
    genes,
    sigma,
    mutated,
    tile,
    DISTRIBUTION: tl.constexpr,
    ALWAYS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Mutated genes where ``sigma`` [slots, 1, 1] is not 0, the others with every bit kept.

    ``mutated``: the last word at which a gene is mutated, unless all are: ``ALWAYS``.
    """
    seed, individual, generation = source
    block = _philox_blocks(tile, BLOCKS)
    noise = draw_deviates(seed, block, individual, generation, MUTATION, DISTRIBUTION)
    changes = sigma != 0.0
    if not ALWAYS:
        words = draw_words(seed, block, individual, generation, MUTATION_MASK)
        changes = changes & happens(words, mutated)
    return tl.where(changes, genes + sigma * noise, genes)
