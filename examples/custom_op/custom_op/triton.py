"""The Triton kernel, and its launch."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from evokern.backends.reference.random import Stream
from evokern.backends.triton.activation import copy_sign, from_bits, log
from evokern.backends.triton.launch import INTERPRETED, Pointer, launch, strides
from evokern.backends.triton.random import draw_words
from evokern.extension import Block, current_device

USER = tl.constexpr(int(Stream.USER))

# Philox blocks of four genes in a program: one for each thread, or many for the interpreter, which
# takes the same time for any number.
_BLOCKS = 1 << 15 if INTERPRETED else 128


def laplace_mutate(
    genomes: Any, sigma: Any, *, seed: int, generation: int, first: int, out: Any
) -> None:
    """See ``custom_op.laplace_mutate``; genomes and out are on the device."""
    slots, genes = genomes.shape
    block = Block()
    offset = block.add(sigma)
    strength = Pointer(block.upload(current_device()) + offset, "float32")
    blocks = min(triton.next_power_of_2(-(-genes // 4)), _BLOCKS)
    height = min(triton.next_power_of_2(slots), _BLOCKS // blocks)
    launch(
        laplace_kernel,
        -(-slots // height) * -(-genes // (4 * blocks)),
        *(genomes, strides(genomes)[0], out, strides(out)[0], strength, slots, genes),
        *(seed, generation, first),
        SLOTS=height,
        BLOCKS=blocks,
    )


@triton.jit
def laplace(word):
    """Laplace with mean 0 and scale 1, by the rule of ``reference.laplace_deviates``."""
    u = ((word >> 8) | 1).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    return copy_sign(log(u), from_bits(word << 31))


@triton.jit(do_not_specialize=["slots", "seed", "generation", "first"])
def laplace_kernel(
    genomes,
    genomes_stride,
    out,
    out_stride,
    sigma,
    slots,
    genes,
    seed: tl.uint64,
    generation: tl.uint32,
    first: tl.uint32,
    SLOTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """A program has a part of a genome, or several short genomes: [slots, blocks, 4]."""
    parts = tl.cdiv(genes, 4 * BLOCKS)
    slot = (tl.program_id(0) // parts).to(tl.int64) * SLOTS + tl.arange(0, SLOTS)  # [slots]
    block = (tl.program_id(0) % parts).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)  # [blocks]
    gene = 4 * block[:, None] + tl.arange(0, 4)[None, :]  # [blocks, 4]
    there = (slot < slots)[:, None, None] & (gene < genes)[None, :, :]
    place = slot[:, None, None] * genomes_stride + gene[None, :, :]
    child = tl.load(genomes + place, mask=there, other=0.0)
    strength = tl.load(sigma + slot, mask=slot < slots, other=0.0)[:, None, None]
    individual = first.to(tl.uint32) + slot.to(tl.uint32)
    words = draw_words(
        seed, block.to(tl.uint32)[None, :], individual[:, None], generation.to(tl.uint32), USER
    )
    # A copy keeps every bit, of NaN too.
    child = tl.where(strength != 0.0, child + strength * laplace(words), child)
    place = slot[:, None, None] * out_stride + gene[None, :, :]
    tl.store(out + place, child, mask=there)
