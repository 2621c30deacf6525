"""From outputs to losses: of every sample, then their means (docs/bits.md)."""

from __future__ import annotations

import triton
import triton.language as tl

from evokern.backends.triton.activation import exp, log
from evokern.backends.triton.launch import BIG_TILES, Pointer, Samples, launch
from evokern.backends.triton.pool import larger

# Of a program: a thread has a sample, a warp a slot.
SAMPLES = 1 << 12 if BIG_TILES else 128
SLOTS = 64 if BIG_TILES else 4

BLOCK = tl.constexpr(32)
"""Samples that are added by halves before the block sums are added in order."""


@triton.jit
def samples_of(slots, samples, N: tl.constexpr):
    """Of this program: their numbers, slot, number in the slot, and their mask."""
    i = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    mask = i < tl.cast(slots, tl.int64) * samples
    return i, i // samples, i % samples, mask


@triton.jit
def counted_outputs(classes, slot, mask, outputs):
    """How many outputs of each sample count, int32, and of any."""
    if classes is None:
        count = tl.full(slot.shape, outputs, tl.int32)
        most = outputs
    else:
        count = tl.load(classes + slot, mask=mask, other=0)
        most = tl.max(count, axis=0)
    return count, most


@triton.jit(do_not_specialize=["slots", "samples", "outputs"])
def cross_entropy_kernel(
    z,
    z_slot,
    z_sample,
    labels,
    labels_slot,
    labels_sample,
    losses,
    correct,
    classes,
    slots,
    samples,
    outputs,
    N: tl.constexpr,
):
    """Programs: parts of the samples of all slots; logits z [slots, samples, outputs].

    The loss is NaN where a label is none of the outputs that count.
    """
    i, slot, sample, mask = samples_of(slots, samples, N)
    count, most_count = counted_outputs(classes, slot, mask, outputs)
    z += slot * z_slot + sample * z_sample
    most = tl.load(z, mask=mask, other=0.0)
    prediction = tl.zeros([N], tl.int32)
    for c in range(1, most_count):
        logit = tl.load(z + c, mask=mask & (c < count), other=float("-inf"))
        prediction = tl.where(logit > most, c, prediction)
        most = larger(most, logit)
    total = tl.zeros([N], tl.float32)
    for c in range(0, most_count):
        # exp(-inf) is +0, which changes no bit of a sum that starts at +0; inf - inf would be NaN.
        logit = tl.load(z + c, mask=mask & (c < count), other=0.0)
        total = tl.where(c < count, total + exp(logit - most), total)
    label = tl.load(labels + slot * labels_slot + sample * labels_sample, mask=mask, other=0)
    known = mask & (label >= 0) & (label < count)
    loss = (log(total) + most) - tl.load(z + label, mask=known, other=float("nan"))
    right = (most == most) & (prediction == label)
    tl.store(losses + i, loss, mask=mask)
    tl.store(correct + i, right.to(tl.int32), mask=mask)


@triton.jit(do_not_specialize=["slots", "samples", "outputs"])
def squared_error_kernel(
    z,
    z_slot,
    z_sample,
    targets,
    targets_slot,
    targets_sample,
    losses,
    correct,
    classes,
    slots,
    samples,
    outputs,
    N: tl.constexpr,
):
    """Programs: parts of the samples of all slots; z [slots, samples, outputs]."""
    i, slot, sample, mask = samples_of(slots, samples, N)
    count, most_count = counted_outputs(classes, slot, mask, outputs)
    z += slot * z_slot + sample * z_sample
    targets += slot * targets_slot + sample * targets_sample
    total = tl.zeros([N], tl.float32)
    for o in range(0, most_count):
        counts = mask & (o < count)
        error = tl.load(z + o, mask=counts, other=0.0) - tl.load(
            targets + o, mask=counts, other=0.0
        )
        total += error * error
    tl.store(losses + i, tl.div_rn(total, count.to(tl.float32)), mask=mask)
    tl.store(correct + i, tl.zeros([N], tl.int32), mask=mask)


@triton.jit
def block_sum(x):
    """x [N, 32] by halves: float32 [N]."""
    for _ in tl.static_range(5):
        halves = tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2))
        x = tl.sum(halves, axis=1)  # of two: one addition
    return tl.reshape(x, [x.shape[0]])


@triton.jit(do_not_specialize=["slots", "samples"])
def mean_losses_kernel(
    losses,
    correct,
    weights,
    weights_slot,
    out_loss,
    out_correct,
    slots,
    samples,
    N: tl.constexpr,
):
    """Programs: parts of the slots; weights [slots, samples], of all slots, or None."""
    slot = tl.program_id(0) * N + tl.arange(0, N)
    mask = slot < slots
    lane = tl.arange(0, BLOCK)
    start = slot.to(tl.int64)[:, None] * samples + lane[None, :]
    total = tl.zeros([N], tl.float32)
    right = tl.zeros([N, BLOCK], tl.int32)
    for first in range(0, samples, BLOCK):
        known = mask[:, None] & (first + lane < samples)[None, :]
        loss = tl.load(losses + start + first, mask=known, other=0.0)
        if weights is not None:
            place = slot.to(tl.int64)[:, None] * weights_slot + first + lane[None, :]
            loss = loss * tl.load(weights + place, mask=known, other=0.0)
        total += block_sum(loss)
        right += tl.load(correct + start + first, mask=known, other=0)
    mean = tl.div_rn(total, tl.cast(samples, tl.float32))
    tl.store(out_loss + slot, mean, mask=mask)
    tl.store(out_correct + slot, tl.sum(right, axis=1), mask=mask)


def sample_losses(
    outputs: Samples,
    y: Pointer,
    losses: Pointer,
    correct: Pointer,
    *,
    slots: int,
    samples: int,
    outputs_count: int,
    y_slot_stride: int,
    y_sample_stride: int,
    classes: Pointer | None,
    mse: bool,
) -> None:
    """The loss of every sample, float32 [slots, samples], and whether it is right, int32.

    Args:
        y: labels, int64, or with ``mse`` targets, float32; right is 0 then.
        classes: int32 [slots], how many outputs count; None: all.
    """
    launch(
        squared_error_kernel if mse else cross_entropy_kernel,
        triton.cdiv(slots * samples, SAMPLES),
        *(outputs.pointer, outputs.slot_stride, outputs.sample_stride),
        *(y, y_slot_stride, y_sample_stride),
        losses,
        correct,
        classes,
        slots,
        samples,
        outputs_count,
        N=SAMPLES,
    )


def mean_losses(
    losses: Pointer,
    correct: Pointer,
    out_loss: Pointer,
    out_correct: Pointer,
    *,
    slots: int,
    samples: int,
    weights: Pointer | None = None,
    weights_slot_stride: int = 0,
) -> None:
    """Mean weighted loss, float32 [slots], and how many are right, int32 [slots]."""
    launch(
        mean_losses_kernel,
        triton.cdiv(slots, SLOTS),
        losses,
        correct,
        weights,
        weights_slot_stride,
        out_loss,
        out_correct,
        slots,
        samples,
        N=SLOTS,
    )
