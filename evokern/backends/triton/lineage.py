"""Genomes from their lineages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import triton
import triton.language as tl

from evokern._replay_program import START_COPY, START_CROSSOVER, START_INIT, ReplayProgram
from evokern.backends.device import Block, current_device
from evokern.backends.triton.genes import (
    CERTAIN,
    NONE,
    ROWS,
    PartTable,
    TileShape,
    crossover_code,
    genome_of,
    init_distribution,
    init_genes,
    last_word,
    load_genes,
    mutate,
    parts_of_tile,
    recombine,
    store_genes,
    tile_of,
    tile_shape,
    units_of_tile,
)
from evokern.backends.triton.launch import BIG_TILES, Pointer, launch, pointer, strides
from evokern.backends.triton.lengths import unit_lengths, unit_lengths_room
from evokern.layout import GenomeLayout
from evokern.rules import DISTRIBUTIONS, bernoulli_threshold

_INIT = tl.constexpr(START_INIT)
_COPY = tl.constexpr(START_COPY)
_CROSSOVER = tl.constexpr(START_CROSSOVER)

_LONG = 128  # genes


def replay(program: ReplayProgram, layout: GenomeLayout, *, out: Any) -> None:
    """See ``ops.replay``."""
    recipe = program.recipe
    outputs, genes = out.shape
    shape = _shape(program, genes)
    tiles = _tiles_of_runs(program, shape.slots)
    parents = program.crossed.shape[1]
    crossed, mutated = bernoulli_threshold(recipe.rate), bernoulli_threshold(recipe.mutation_rate)
    stride = program.scratch_stride(genes)
    initial = program.start == START_INIT
    founders = program.number[program.first_step[:-1][initial]]

    block = Block()
    arrays = {
        "tiles": tiles,
        "start": program.start,
        "source": program.source,
        "target": program.target,
        "first_step": program.first_step,
        "crossed": program.crossed,
        "generation": program.generation,
        "number": program.number,
        "sigma": program.sigma,
        "weights": program.weights,
        "founders": founders,
    }
    offsets = {name: block.add(array) for name, array in arrays.items()}
    parts = PartTable(block, layout, shape.genes, recipe.scheme)
    columns = 0
    if recipe.scheme == "unit_rows":
        units, lengths, columns = unit_lengths_room(block, layout, len(founders))
    scratch = block.room(program.scratch_rows * stride * 4)
    base = block.upload(current_device())
    at = {name: Pointer(base + offsets[name], arrays[name].dtype.name) for name in arrays}
    scratch_after = (base + scratch - pointer(out).address) // 4
    lengths_at = None
    if recipe.scheme == "unit_rows":
        lengths_at = Pointer(base + lengths, "float32")
        size = {"founders": len(founders), "columns": columns, "seed": recipe.seed}
        unit_lengths(Pointer(base + units, "int64"), lengths_at, at["founders"], **size)
    launch(
        replay_kernel,
        -(-genes // shape.genes) * (len(tiles) - 1 if program.independent else 1),
        *(out, strides(out)[0], outputs, scratch_after, stride, genes),
        *(at["tiles"], len(tiles) - 1, at["start"], at["source"], at["target"], at["first_step"]),
        *(at["crossed"], at["weights"], at["generation"], at["number"], at["sigma"]),
        *(*parts.at(base), lengths_at, columns),
        *(recipe.seed, last_word(crossed), last_word(mutated)),
        KIND=crossover_code(recipe.kind, parents, crossed),
        PARENTS=parents,
        INIT_DISTRIBUTION=init_distribution(recipe.scheme),
        DISTRIBUTION=DISTRIBUTIONS.index(recipe.distribution),
        MUTATES=mutated != 0,
        ALL_GENES=mutated == CERTAIN,
        INDEPENDENT=program.independent,
        **shape.constants,
        registers=96,
    )


def _shape(program: ReplayProgram, genes: int) -> TileShape:
    """Of runs after each other, a warp has few genes of one genome: their number is what overlaps.

    Short genomes go side by side.
    """
    runs = len(program.start)
    if BIG_TILES or program.independent or genes < _LONG:
        return tile_shape(runs, genes)
    return tile_shape(1, genes, _LONG)


def _tiles_of_runs(program: ReplayProgram, slots: int) -> npt.NDArray[np.int32]:
    """Where tiles of runs begin, and the end: up to ``slots`` runs that read nothing of each other.

    Scratch that one run reads last and another one of the tile writes is no matter: tiles load
    before they store.
    """
    runs = len(program.start)
    if slots == 1 or program.independent:
        return np.append(np.arange(0, runs, slots), runs).astype(np.int32)
    starts, sources = program.start.tolist(), program.source.tolist()
    crossed = program.crossed.tolist()
    written: dict[int, int] = {}  # row -> the last run that wrote it
    tiles = [0]
    for run, target in enumerate(program.target.tolist()):
        read = []
        if starts[run] == START_COPY:
            read = [sources[run]]
        elif starts[run] == START_CROSSOVER:
            read = crossed[sources[run]]
        if run - tiles[-1] == slots or any(written[row] >= tiles[-1] for row in read):
            tiles.append(run)
        written[target] = run
    return np.array([*tiles, runs], np.int32)


@triton.jit(do_not_specialize=["outputs", "run_tiles", "seed", "crossed_word", "mutated_word"])
def replay_kernel(
    out,
    out_stride,
    outputs,
    scratch_after: tl.int64,
    segment,
    genes,
    tiles,
    run_tiles,
    start,
    source,
    target,
    first_step,
    crossed,
    weights,
    generation,
    number,
    sigma,
    entries,
    tiles_of_parts,
    lengths,
    columns,
    seed: tl.uint64,
    crossed_word: tl.uint32,
    mutated_word: tl.uint32,
    KIND: tl.constexpr,
    PARENTS: tl.constexpr,
    INIT_DISTRIBUTION: tl.constexpr,
    DISTRIBUTION: tl.constexpr,
    MUTATES: tl.constexpr,
    ALL_GENES: tl.constexpr,
    INDEPENDENT: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """A program takes a tile of genes through all tiles of runs, or through an independent one."""
    gene_tiles = tl.cdiv(genes, 4 * BLOCKS)
    gene_tile = tl.program_id(0) % gene_tiles
    tile = tile_of(gene_tile, genes, BLOCKS)
    bank = (out, out_stride, outputs, scratch_after, segment)
    parts = parts_of_tile(entries, tiles_of_parts, gene_tile)
    units = None
    if KIND == ROWS:
        units = units_of_tile(parts, tile, BLOCKS)
    first_tile, end_tile = 0, run_tiles
    if INDEPENDENT:
        first_tile = tl.program_id(0) // gene_tiles
        end_tile = first_tile + 1
    for run_tile in range(first_tile, end_tile):
        run = tl.load(tiles + run_tile) + tl.arange(0, SLOTS)[:, None]  # [slots, 1]
        mask = run < tl.load(tiles + run_tile + 1)
        begins = tl.load(start + run, mask=mask, other=_COPY)
        origin = tl.load(source + run, mask=mask, other=0)
        step = tl.load(first_step + run, mask=mask, other=0)
        end = tl.load(first_step + run + 1, mask=mask, other=0)

        child = tl.zeros((SLOTS, BLOCKS, 4), tl.float32)
        copies = mask & (begins == _COPY)
        if tl.max(copies.to(tl.int32)) > 0:
            child = load_genes(
                genome_of(bank, origin)[:, :, None], copies[:, :, None], tile, BLOCKS
            )
        starts = mask & (begins == _INIT)
        if tl.max(starts.to(tl.int32)) > 0:
            individual = tl.load(number + step, mask=starts, other=0)
            founder_lengths = lengths
            if lengths is not None:
                founder_lengths += tl.where(starts, origin, 0).to(tl.int64) * columns
            place = (seed, individual, 0)
            fresh = init_genes(place, parts, founder_lengths, tile, INIT_DISTRIBUTION, BLOCKS)
            child = tl.where(starts[:, :, None], fresh, child)
        crosses = mask & (begins == _CROSSOVER)
        if PARENTS > 0 and tl.max(crosses.to(tl.int32)) > 0:
            family = (
                (crossed + origin.to(tl.int64) * PARENTS)[:, :, None],
                (weights + 0 * origin)[:, :, None],
                1,
            )
            if KIND == NONE:
                row = tl.load(family[0], mask=crosses[:, :, None], other=0)
                mixed = load_genes(genome_of(bank, row), crosses[:, :, None], tile, BLOCKS)
            else:
                place = (
                    seed,
                    tl.load(number + step, mask=crosses, other=0),
                    tl.load(generation + step, mask=crosses, other=0),
                )
                mixed = recombine(
                    place,
                    bank,
                    family,
                    units,
                    crosses[:, :, None],
                    crossed_word.to(tl.uint32),
                    tile,
                    KIND,
                    PARENTS,
                    SLOTS,
                    BLOCKS,
                )
            child = tl.where(crosses[:, :, None], mixed, child)

        if MUTATES:
            # Of a founder's node sigma is 0, a crossover's is that of its mutation.
            for i in range(0, tl.max(end - step).to(tl.int32)):
                node = step + i
                strength = tl.load(sigma + node, mask=node < end, other=0.0)
                if tl.max((strength != 0.0).to(tl.int32)) > 0:
                    place = (
                        seed,
                        tl.load(number + node, mask=node < end, other=0),
                        tl.load(generation + node, mask=node < end, other=0),
                    )
                    child = mutate(
                        place,
                        child,
                        strength[:, :, None],
                        mutated_word.to(tl.uint32),
                        tile,
                        DISTRIBUTION,
                        ALL_GENES,
                        BLOCKS,
                    )
        row = tl.load(target + run, mask=mask, other=0)
        # Other threads may have loaded genes from where these go, and will load them.
        if not INDEPENDENT:
            tl.debug_barrier()
        store_genes(genome_of(bank, row)[:, :, None], mask[:, :, None], tile, child, BLOCKS)
        if not INDEPENDENT:
            tl.debug_barrier()
