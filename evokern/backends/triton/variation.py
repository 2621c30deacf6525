"""Initialisation, crossover and mutation, sigma."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import triton
import triton.language as tl

from evokern.backends.device import Block, current_device
from evokern.backends.triton.activation import exp
from evokern.backends.triton.genes import (
    ARITHMETIC,
    CERTAIN,
    NONE,
    ROWS,
    PartTable,
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
from evokern.backends.triton.launch import BIG_TILES, Pointer, launch, strides
from evokern.backends.triton.lengths import unit_lengths, unit_lengths_room
from evokern.backends.triton.random import SIGMA, normal_pair
from evokern.layout import GenomeLayout
from evokern.rules import DISTRIBUTIONS, bernoulli_threshold

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

_SIGMAS = 1 << 14 if BIG_TILES else 128


def init_genomes(layout: GenomeLayout, *, seed: int, scheme: str, first: int, out: Any) -> None:
    """See ``ops.init_genomes``."""
    individuals, genes = out.shape
    shape = tile_shape(individuals, genes)
    block = Block()
    parts = PartTable(block, layout, shape.genes, scheme)
    lengths, columns = None, 0
    if scheme == "unit_rows":
        table, room, columns = unit_lengths_room(block, layout, individuals)
    base = block.upload(current_device())
    if scheme == "unit_rows":
        lengths = Pointer(base + room, "float32")
        place = {"founders": individuals, "columns": columns, "seed": seed, "first": first}
        unit_lengths(Pointer(base + table, "int64"), lengths, None, **place)
    launch(
        init_genomes_kernel,
        -(-individuals // shape.slots) * -(-genes // shape.genes),
        *(out, strides(out)[0], individuals, genes, *parts.at(base), lengths, columns, seed, first),
        DISTRIBUTION=init_distribution(scheme),
        **shape.constants,
        registers=64,
    )


@triton.jit(do_not_specialize=["individuals", "seed", "first"])
def init_genomes_kernel(
    out,
    out_stride,
    individuals,
    genes,
    entries,
    tiles_of_parts,
    lengths,
    columns,
    seed: tl.uint64,
    first: tl.uint32,
    DISTRIBUTION: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    tiles = tl.cdiv(genes, 4 * BLOCKS)
    number = tl.program_id(0) % tiles
    slot = (tl.program_id(0) // tiles).to(tl.int64) * SLOTS + tl.arange(0, SLOTS)  # [slots]
    wanted = (slot < individuals)[:, None, None]
    tile = tile_of(number, genes, BLOCKS)
    parts = parts_of_tile(entries, tiles_of_parts, number)
    if lengths is not None:
        # Slots that are not there read the last one's.
        lengths += tl.minimum(slot, individuals - 1)[:, None] * columns
    individual = first.to(tl.uint32) + slot.to(tl.uint32)
    source = (seed, individual[:, None], 0)
    fresh = init_genes(source, parts, lengths, tile, DISTRIBUTION, BLOCKS)
    store_genes(out + slot[:, None, None] * out_stride, wanted, tile, fresh, BLOCKS)


def crossover_mutate(
    genomes: Any,
    parents: I32,
    sigma: F32,
    *,
    kind: str,
    rate: float,
    weights: F32 | None,
    mutation_rate: float,
    distribution: str,
    layout: GenomeLayout | None,
    seed: int,
    generation: int,
    first: int,
    out: Any,
    out_rows: I32 | None,
) -> None:
    """See ``ops.crossover_mutate``; genomes and out are on the device."""
    (count, slots), genes = parents.shape, genomes.shape[1]
    shape = tile_shape(slots, genes)
    block = Block()
    arrays = [parents, sigma, weights, out_rows]
    offsets = [None if array is None else block.add(array) for array in arrays]
    parts = None if layout is None else PartTable(block, layout, shape.genes)
    base = block.upload(current_device())
    types = ("int32", "float32", "float32", "int32")
    pairs = zip(offsets, types, strict=True)
    crossed, mutated = bernoulli_threshold(rate), bernoulli_threshold(mutation_rate)
    code = crossover_code(kind, count, crossed)
    launch(
        crossover_mutate_kernel,
        -(-slots // shape.slots) * -(-genes // shape.genes),
        *(genomes, strides(genomes)[0], out, strides(out)[0], slots, genes),
        *(_pointer(base, offset, dtype) for offset, dtype in pairs),
        *((None, None) if parts is None else parts.at(base)),
        *(seed, generation, first, last_word(crossed), last_word(mutated)),
        KIND=code,
        PARENTS=1 if code == NONE.value else count,
        DISTRIBUTION=DISTRIBUTIONS.index(distribution),
        MUTATES=mutated != 0,
        ALL_GENES=mutated == CERTAIN,
        **shape.constants,
    )


def _pointer(base: int, offset: int | None, dtype: str) -> Pointer | None:
    return None if offset is None else Pointer(base + offset, dtype)


@triton.jit(do_not_specialize=["slots", "seed", "generation", "first", "crossed", "mutated"])
def crossover_mutate_kernel(
    genomes,
    genomes_stride,
    out,
    out_stride,
    slots,
    genes,
    parents,
    sigma,
    weights,
    out_rows,
    entries,
    tiles_of_parts,
    seed: tl.uint64,
    generation: tl.uint32,
    first: tl.uint32,
    crossed: tl.uint32,
    mutated: tl.uint32,
    KIND: tl.constexpr,
    PARENTS: tl.constexpr,
    DISTRIBUTION: tl.constexpr,
    MUTATES: tl.constexpr,
    ALL_GENES: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    tiles = tl.cdiv(genes, 4 * BLOCKS)
    number = tl.program_id(0) % tiles
    slot = (tl.program_id(0) // tiles).to(tl.int64) * SLOTS + tl.arange(0, SLOTS)  # [slots]
    slot = slot[:, None, None]
    mask = slot < slots
    tile = tile_of(number, genes, BLOCKS)
    bank = (genomes, genomes_stride, 0, None, 0)
    individual = first.to(tl.uint32) + slot.to(tl.uint32)
    source = (seed, tl.reshape(individual, (SLOTS, 1)), generation.to(tl.uint32))

    # Copies first: what no crossover makes are the first parents with every bit kept.
    row = tl.load(parents + slot, mask=mask, other=0)
    differ = tl.zeros((SLOTS, 1, 1), tl.int1)
    if KIND != NONE:
        for r in range(1, PARENTS):
            differ |= tl.load(parents + r * slots + slot, mask=mask, other=0) != row
    if KIND != NONE and tl.max(differ.to(tl.int32)) > 0:
        units = None
        if KIND == ROWS:
            units = units_of_tile(parts_of_tile(entries, tiles_of_parts, number), tile, BLOCKS)
        family = (parents + slot, None if weights is None else weights + slot, slots)
        child = recombine(
            source,
            bank,
            family,
            units,
            mask,
            crossed.to(tl.uint32),
            tile,
            KIND,
            PARENTS,
            SLOTS,
            BLOCKS,
        )
        if KIND == ARITHMETIC:
            first_parent = load_genes(genome_of(bank, row), mask & (differ == 0), tile, BLOCKS)
            child = tl.where(differ, child, first_parent)
    else:
        child = load_genes(genome_of(bank, row), mask, tile, BLOCKS)

    if MUTATES:
        strength = tl.load(sigma + slot, mask=mask, other=0.0)
        if tl.max((strength != 0.0).to(tl.int32)) > 0:
            child = mutate(
                source,
                child,
                strength,
                mutated.to(tl.uint32),
                tile,
                DISTRIBUTION,
                ALL_GENES,
                BLOCKS,
            )
    target = slot
    if out_rows is not None:
        target = tl.load(out_rows + slot, mask=mask, other=0).to(tl.int64)
    store_genes(out + target * out_stride, mask, tile, child, BLOCKS)


def mutate_sigma(
    sigma: Any, *, tau: float, seed: int, generation: int, first: int, out: Any
) -> None:
    """See ``ops.mutate_sigma``."""
    individuals = sigma.shape[0]
    size = min(triton.next_power_of_2(individuals), _SIGMAS)
    launch(
        mutate_sigma_kernel,
        -(-individuals // size),
        *(sigma, strides(sigma)[0], out, strides(out)[0], individuals),
        *(np.float32(tau), seed, generation, first),
        SIZE=size,
    )


@triton.jit(do_not_specialize=["individuals", "tau", "seed", "generation", "first"])
def mutate_sigma_kernel(
    sigma,
    sigma_stride,
    out,
    out_stride,
    individuals,
    tau,
    seed: tl.uint64,
    generation: tl.uint32,
    first: tl.uint32,
    SIZE: tl.constexpr,
):
    """Self-adaptive mutation strengths, clamped to [2^-40, 2^10]; NaN becomes the least."""
    i = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    individual = first.to(tl.uint32) + i.to(tl.uint32)
    w0, w1, _, _ = tl.philox(seed, 0, individual, generation.to(tl.uint32), SIGMA)
    deviate, _ = normal_pair(w0, w1)
    adapted = tl.load(sigma + i * sigma_stride, mask=i < individuals) * exp(tau * deviate)
    adapted = tl.where(adapted > 9.094947017729282e-13, adapted, 9.094947017729282e-13)
    adapted = tl.where(adapted < 1024.0, adapted, 1024.0)
    tl.store(out + i * out_stride, adapted, mask=i < individuals)
