"""Categorical search distributions: samples, and the step of NES.

The element rules are those of ``csrc/core/categorical.h``. Sums over entries and samples are
ascending, each in one thread; those of integers may have any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl

from evokern.backends.device import Block, add_fault, current_device, fault_found
from evokern.backends.triton.launch import BIG_TILES, Pointer, launch, strides
from evokern.backends.triton.random import NES, draw_words

_ROW_SUM_TOLERANCE = tl.constexpr(1e-3)
_WHOLE = tl.constexpr(8388608.0)  # floats from here on are integers


@dataclass(frozen=True, slots=True)
class _Tiles:
    """The largest tiles; all are powers of two, and rows of samples a multiple of four."""

    sample_rows: int
    samples: int
    update: int  # entries of an update's tile, at most
    choices: int  # of these in a row
    ranked: int
    others: int


_TILES = (
    _Tiles(1 << 13, 1 << 9, 1 << 17, 1 << 9, 1 << 9, 1 << 9)
    if BIG_TILES
    else _Tiles(128, 4, 256, 32, 128, 16)
)


def nes_sample(probabilities: Any, *, mask: Any | None, seed: int, step: int, out: Any) -> int:
    """See ``ops.nes_sample``; returns what ``fault_found`` does, rows being distributions."""
    device, block = current_device(), Block()
    fault = add_fault(block, probabilities.shape[0])
    base = block.upload(device)
    (count, choices), samples = probabilities.shape, out.shape[0]
    rows = max(4, min(triton.next_power_of_2(count), _TILES.sample_rows))
    height = min(triton.next_power_of_2(max(samples, 1)), _TILES.samples)
    # Without samples the rows are checked all the same.
    launch(
        nes_sample_kernel,
        -(-count // rows) * -(-max(samples, 1) // height),
        *(probabilities, strides(probabilities)[0], *_mask_arguments(mask)),
        *(out, strides(out)[0], Pointer(base + fault, "int64")),
        *(count, choices, samples, seed, step),
        ROWS=rows,
        SAMPLES=height,
    )
    return fault_found(device, base + fault, probabilities.shape[0])


@triton.jit(do_not_specialize=["samples", "seed", "step"])
def nes_sample_kernel(
    probabilities,
    stride,
    mask,
    mask_stride,
    out,
    out_stride,
    fault,
    count,
    choices,
    samples,
    seed: tl.uint64,
    step: tl.uint32,
    ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """A program has some rows and some of their samples. Wrong rows give 0."""
    row_tiles = tl.cdiv(count, ROWS)
    row_tile = tl.program_id(0) % row_tiles
    sample_tile = tl.program_id(0) // row_tiles
    row = row_tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [rows]
    there = row < count
    entries = probabilities + row * stride
    masks = mask
    if mask is not None:
        masks += row * mask_stride

    wrong = there & _is_wrong(entries, masks, choices, there)
    if sample_tile == 0:
        _report(fault, tl.min(tl.where(wrong, row, count)), count)
    right = there & (wrong == 0)
    total = tl.zeros((ROWS,), tl.int32)
    for k in range(0, choices):
        total += _sampling_weight(_entry(entries, masks, k, right))

    sample = sample_tile * SAMPLES + tl.arange(0, SAMPLES)  # [samples]
    block = (row_tile * (ROWS // 4)).to(tl.uint32) + tl.arange(0, ROWS // 4).to(tl.uint32)
    individual = sample.to(tl.uint32)[:, None]
    words = draw_words(seed, block[None, :], individual, step.to(tl.uint32), NES)
    words = tl.reshape(words, (SAMPLES, ROWS))
    target = tl.umulhi(words, total.to(tl.uint32)[None, :]).to(tl.int32)
    # The first entry whose ascending sum is above the target, which the last one's is.
    chosen = tl.zeros((SAMPLES, ROWS), tl.int32)
    ascending = tl.zeros((ROWS,), tl.int32)
    for k in range(0, choices - 1):
        ascending += _sampling_weight(_entry(entries, masks, k, right))
        chosen += (ascending[None, :] <= target).to(tl.int32)
    chosen = tl.where(right[None, :], chosen, 0)
    places = out + sample.to(tl.int64)[:, None] * out_stride + row[None, :]
    tl.store(places, chosen, mask=(sample < samples)[:, None] & there[None, :])


def nes_update(
    probabilities: Any,
    assignments: Any,
    losses: Any,
    *,
    learning_rate: float,
    min_probability: float,
    keep_minimum: bool,
    mask: Any | None,
    out: Any,
) -> int:
    """See ``ops.nes_update``; returns what ``nes_sample`` does."""
    device, block = current_device(), Block()
    fault = add_fault(block, probabilities.shape[0])
    (count, choices), samples = probabilities.shape, losses.shape[0]
    room = block.room(samples * 4)
    base = block.upload(device)
    utilities = Pointer(base + room, "float32")
    ranked = min(triton.next_power_of_2(samples), _TILES.ranked)
    launch(
        nes_utilities_kernel,
        -(-samples // ranked),
        *(losses, strides(losses)[0], utilities, samples),
        RANKED=ranked,
        OTHERS=min(triton.next_power_of_2(samples), _TILES.others),
    )
    width = min(triton.next_power_of_2(choices), _TILES.choices)
    rows = min(triton.next_power_of_2(max(count, 1)), _TILES.update // width)
    launch(
        nes_update_kernel,
        -(-count // rows),
        *(probabilities, strides(probabilities)[0], *_mask_arguments(mask)),
        *(assignments, strides(assignments)[0], utilities, out, strides(out)[0]),
        *(Pointer(base + fault, "int64"), count, choices, samples),
        *(np.float32(learning_rate), np.float32(min_probability)),
        KEEP_MINIMUM=keep_minimum,
        ROWS=rows,
        CHOICES=width,
        registers=64,
    )
    return fault_found(device, base + fault, probabilities.shape[0])


@triton.jit(do_not_specialize=["samples"])
def nes_utilities_kernel(
    losses, stride, utilities, samples, RANKED: tl.constexpr, OTHERS: tl.constexpr
):
    """From -1 (highest loss) to 1 (lowest loss); +0 for a single sample.

    Ranks count from 1 for the highest loss, NaN is higher than all, and ties share the mean rank,
    so that 2 rank - 2 is an integer (Eq. 8.19).
    """
    own = tl.program_id(0) * RANKED + tl.arange(0, RANKED)
    loss = tl.load(losses + own.to(tl.int64) * stride, mask=own < samples, other=0.0)[:, None]
    is_nan = loss != loss
    place = tl.zeros((RANKED,), tl.int32) - 1
    for first in range(0, samples, OTHERS):
        s = first + tl.arange(0, OTHERS)
        other = tl.load(losses + s.to(tl.int64) * stride, mask=s < samples, other=0.0)[None, :]
        other_is_nan = other != other
        higher = (other > loss) | (other_is_nan & (loss == loss))
        tie = (other == loss) | (other_is_nan & is_nan)
        counts = 2 * higher.to(tl.int32) + tie.to(tl.int32)
        place += tl.sum(tl.where((s < samples)[None, :], counts, 0), 1)
    steps = tl.maximum(samples - 1, 1).to(tl.float32)
    utility = tl.div_rn(place.to(tl.float32), steps) - 1.0
    utility = tl.where(samples == 1, 0.0, utility)
    tl.store(utilities + own, utility, mask=own < samples)


@triton.jit(do_not_specialize=["samples", "learning_rate", "least"])
def nes_update_kernel(
    probabilities,
    stride,
    mask,
    mask_stride,
    assignments,
    assignments_stride,
    utilities,
    out,
    out_stride,
    fault,
    count,
    choices,
    samples,
    learning_rate,
    least,
    KEEP_MINIMUM: tl.constexpr,
    ROWS: tl.constexpr,
    CHOICES: tl.constexpr,
):
    """A program has some rows, whose entries pass by twice. A wrong row gives anything.

    Nothing of an entry is read from ``probabilities`` after ``out``, which may be the same memory,
    was written.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [rows]
    there = row < count
    entries = probabilities + row * stride
    masks = mask
    if mask is not None:
        masks += row * mask_stride
    wrong = there & _is_wrong(entries, masks, choices, there)
    _report(fault, tl.min(tl.where(wrong, row, count)), count)

    chosen_wrongly = tl.zeros((ROWS,), tl.int1)
    for s in range(0, samples):
        chosen = _assignment(assignments, assignments_stride, s, row, there)
        inside = (chosen >= 0) & (chosen < choices)
        chosen_wrongly |= inside == 0
        if mask is not None:
            chosen_wrongly |= tl.load(masks + chosen, mask=there & inside, other=0) != 0
    if tl.max((chosen_wrongly & there).to(tl.int32)) > 0:
        tl.atomic_min(fault, tl.cast(count, tl.int64))  # a constant where it is 1

    base = 0.0
    if KEEP_MINIMUM:
        base = least
    results = out + row * out_stride
    present = tl.zeros((ROWS,), tl.int32)
    tl.debug_barrier()  # other threads' checks read what is written now
    for first in range(0, choices, CHOICES):
        k = first + tl.arange(0, CHOICES)[None, :]  # [1, choices]
        inside = there[:, None] & (k < choices)
        absent = _is_absent(masks, k, inside)
        q = _entry(entries[:, None], masks, k, inside)  # [rows, choices]
        if_chosen, if_not = 1.0 - q, 0.0 - q
        gradient = tl.zeros((ROWS, CHOICES), tl.float32)
        for s in range(0, samples):
            chosen = _assignment(assignments, assignments_stride, s, row, there)
            hit = chosen[:, None] == k
            gradient = gradient + tl.load(utilities + s) * tl.where(hit, if_chosen, if_not)
        stepped = q + learning_rate * tl.div_rn(gradient, samples.to(tl.float32))
        amount = tl.where(stepped > least, stepped, least) - base
        tl.store(results[:, None] + k, tl.where(absent, 0.0, amount), mask=inside)
        present += tl.sum((inside & (absent == 0)).to(tl.int32), 1)
    tl.debug_barrier()

    total = tl.zeros((ROWS,), tl.float32)
    for choice in range(0, choices):
        total = total + tl.load(results + choice, mask=there, other=0.0)
    tl.debug_barrier()
    number = present.to(tl.float32)
    equal = tl.div_rn(1.0, number)[:, None]
    left = 1.0 - number * base
    left = tl.where(left > 0.0, left, 0.0)[:, None]
    total = total[:, None]
    for first in range(0, choices, CHOICES):
        k = first + tl.arange(0, CHOICES)[None, :]
        inside = there[:, None] & (k < choices)
        amount = tl.load(results[:, None] + k, mask=inside, other=0.0)
        entry = base + tl.where(total > 0.0, tl.div_rn(amount, total), equal) * left
        absent = _is_absent(masks, k, inside)
        tl.store(results[:, None] + k, tl.where(absent, 0.0, entry), mask=inside)


@triton.jit
def _is_absent(masks, k, there):
    absent = there == 0
    if masks is not None:
        absent |= tl.load(masks[:, None] + k, mask=there, other=1) != 0
    return absent


@triton.jit
def _entry(entries, masks, k, there):
    """Probability k of rows, +0 where there is none."""
    if masks is not None:
        pointers = masks
        if len(entries.shape) == 2:
            pointers = masks[:, None]
        there = there & (tl.load(pointers + k, mask=there, other=1) == 0)
    return tl.load(entries + k, mask=there, other=0.0)


@triton.jit
def _assignment(assignments, stride, s, row, there):
    s = tl.zeros_like(row) + s
    return tl.load(assignments + s * stride + row, mask=there, other=0)


@triton.jit
def _is_wrong(entries, masks, choices, there):
    """Whether rows are no distributions, by their ascending sum in double and their least entry."""
    total = tl.zeros(there.shape, tl.float64)
    least = tl.zeros(there.shape, tl.float32)
    for k in range(0, choices):
        p = _entry(entries, masks, k, there)
        total = total + p.to(tl.float64)
        least = tl.where(p < least, p, least)
    excess = total - 1.0
    near = (excess <= _ROW_SUM_TOLERANCE) & (excess >= -_ROW_SUM_TOLERANCE)  # not NaN
    return (near == 0) | (least < 0.0)


@triton.jit
def _report(fault, first, count):
    """Tells of the first wrong row; count for none."""
    if first < count:
        tl.atomic_min(fault, first.to(tl.int64))


@triton.jit
def _sampling_weight(p):
    """rint(p 2^24) of a probability, at most 2^25."""
    scaled = p * 16777216.0
    # Below 2^23 the sum has no fraction bits; above, numbers are integers anyway.
    rounded = (scaled + _WHOLE) - _WHOLE
    return tl.where(scaled < _WHOLE, rounded, scaled).to(tl.int32)


def _mask_arguments(mask: Any | None) -> tuple[Any, int]:
    return (None, 0) if mask is None else (mask, strides(mask)[0])
