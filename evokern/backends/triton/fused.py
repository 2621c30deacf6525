"""Dense layers one after the other, and the loss, in one kernel.

A program has one slot and a tile of samples. It computes some outputs of the first layer at a time,
which are inputs of the second at once: what lies between layers stays in registers and shared
memory. Later layers take their inputs in as few pieces as registers hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from evokern.backends.triton.activation import activate, exp, log
from evokern.backends.triton.dense import (
    FEW_SAMPLES,
    LEAST_DOT,
    MatmulTile,
    add_dot,
    add_products,
    interpreted_tile,
    parameter,
    parameter_arguments,
    power_of_two,
    slots_of,
    slots_of_a_program,
    widened,
    zeros,
)
from evokern.backends.triton.launch import BIG_TILES, Parameter, Pointer, Samples, launch

MOST_LAYERS = 4

WIDEST = (128, 64, 64)
"""Outputs of the second layer, and of those after it: of more, registers do not hold them."""


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """Weights [inputs, outputs] and behind them, if ``bias``, the bias."""

    parameters: Parameter
    outputs: int
    bias: bool
    code: int
    slope: float


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels int64 [slots, samples], or for ``mse`` targets float32 [slots, samples, outputs]."""

    y: Pointer
    slot_stride: int
    sample_stride: int
    classes: Pointer | None  # int32 [slots], outputs that count
    mse: bool
    losses: Pointer  # float32 [slots, samples]
    correct: Pointer  # int32 [slots, samples]


def fused_tile(stack: tuple[int, ...], samples: int, precision: str) -> MatmulTile | None:
    """Tile of the first layer for features between layers; None where layers run one by one.

    Its ``m`` samples are those of all layers.
    """
    layers = len(stack) - 1
    if samples <= FEW_SAMPLES or not 2 <= layers <= MOST_LAYERS:
        return None
    if any(outputs > widest for outputs, widest in zip(stack[2:], WIDEST, strict=False)):
        return None
    if BIG_TILES:
        return interpreted_tile(samples, 128, stack[1], 32, stack[0], 512)
    m = 16 if samples <= 16 else 32 if samples <= 32 else 64
    warps = m // 8
    n = min(power_of_two(stack[1]), 64)
    if precision == "fp32":
        return MatmulTile(m, min(n, 32), 16, warps, 3)
    return MatmulTile(m, n, 32, warps, 3)


def _most_inputs(width: int, precision: str) -> int:
    """Of a dot with so many outputs: of more, registers do not hold what a thread multiplies."""
    if BIG_TILES:
        return 1 << 30
    return 64 if width <= 64 and precision != "fp32" else max(LEAST_DOT, 2048 // width)


@triton.jit
def _halves(z):
    """The first and the second half of the columns of z [..., M, K]."""
    pairs = tl.reshape(z, z.shape[:-1] + (2, z.shape[-1] // 2))
    if len(z.shape) == 2:
        first, second = tl.split(tl.permute(pairs, (0, 2, 1)))
    else:
        first, second = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
    return first, second


@triton.jit
def _add_layer(total, z, w, k, n, inputs, outputs, MOST: tl.constexpr, PRECISION: tl.constexpr):
    """total + z w in dots of at most MOST inputs; the first column of z is input k."""
    if z.shape[-1] <= MOST:
        rows = k + tl.arange(0, z.shape[-1])
        mask = (rows < inputs)[:, None] & (n < outputs)[None, :]
        b = tl.load(w + rows[:, None] * outputs + n[None, :], mask=mask, other=0)
        total = add_dot(total, z, b, PRECISION)
    else:
        first, second = _halves(z)
        half: tl.constexpr = z.shape[-1] // 2
        total = _add_layer(total, first, w, k, n, inputs, outputs, MOST, PRECISION)
        total = _add_layer(total, second, w, k + half, n, inputs, outputs, MOST, PRECISION)
    return total


@triton.jit
def _nothing_behind(z, n, OUTPUTS: tl.constexpr, WIDTH: tl.constexpr):
    """z [BM, n] with 0 in columns that are no output: an infinite input makes them NaN."""
    if OUTPUTS % WIDTH != 0:
        z = tl.where(n[None, :] < OUTPUTS, z, 0.0)
    return z


@triton.jit
def _bias_of(w, first, n, OUTPUTS: tl.constexpr, BIAS: tl.constexpr):
    """Where sums start: float32 [1, n]."""
    n = n[None, :]
    if BIAS:
        b = widened(tl.load(w + first + n, mask=n < OUTPUTS, other=0))
    else:
        b = tl.zeros(n.shape, tl.float32)
    return b


@triton.jit
def _two_layers(
    x,
    x_sample,
    x_scale,
    w,
    v,
    m,
    samples,
    FEATURES: tl.constexpr,
    WIDTHS: tl.constexpr,
    BIASES: tl.constexpr,
    CODES: tl.constexpr,
    SLOPES: tl.constexpr,
    MOST: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOTS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Layers of weights w and v on x [samples, FEATURES[0]]: [BM, WIDTHS[2]]."""
    INPUTS: tl.constexpr = FEATURES[0]
    HIDDEN: tl.constexpr = FEATURES[1]
    OUTPUTS: tl.constexpr = FEATURES[2]
    o = tl.arange(0, WIDTHS[2])
    total = zeros(SLOTS, m.shape[0], WIDTHS[2])
    total += _bias_of(v, HIDDEN * OUTPUTS, o, OUTPUTS, BIASES[1])
    for part in range(0, HIDDEN, BN):
        n = part + tl.arange(0, BN)
        h = zeros(SLOTS, m.shape[0], BN)
        h += _bias_of(w, INPUTS * HIDDEN, n, HIDDEN, BIASES[0])
        h = add_products(h, x, x_sample, x_scale, samples, w, HIDDEN, INPUTS, m, n, PRECISION, BK)
        h = _nothing_behind(activate(h, CODES[0], SLOPES[0]), n, HIDDEN, BN)
        total = _add_layer(total, h, v, part, o, HIDDEN, OUTPUTS, MOST, PRECISION)
    return _nothing_behind(activate(total, CODES[1], SLOPES[1]), o, OUTPUTS, WIDTHS[2])


@triton.jit
def _layer(
    z,
    w,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BIAS: tl.constexpr,
    CODE: tl.constexpr,
    SLOPE: tl.constexpr,
    MOST: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """A layer on z [BM, at least INPUTS], 0 behind them: [BM, WIDTH], 0 behind OUTPUTS."""
    n = tl.arange(0, WIDTH)
    total = zeros(SLOTS, z.shape[-2], WIDTH)
    total += _bias_of(w, INPUTS * OUTPUTS, n, OUTPUTS, BIAS)
    total = _add_layer(total, z, w, 0, n, INPUTS, OUTPUTS, MOST, PRECISION)
    return _nothing_behind(activate(total, CODE, SLOPE), n, OUTPUTS, WIDTH)


@triton.jit
def _cross_entropy(z, n, label, count):
    """Losses of z [BM, n], float32 [BM, 1], and whether they are right, int32.

    ``label`` is [BM, 1], n is [1, BN], and ``count`` outputs count. NaN where the label is none
    of them.
    """
    counted = n < count
    largest = tl.max(tl.where(counted, z, float("-inf")), axis=-1, keep_dims=True)
    broken = tl.max((counted & (z != z)).to(tl.int32), axis=-1, keep_dims=True)
    total = tl.sum(tl.where(counted, exp(z - largest), 0.0), axis=-1, keep_dims=True)
    wanted = tl.sum(tl.where(n == label, z, 0.0), axis=-1, keep_dims=True)
    wanted = tl.where((label >= 0) & (label < count), wanted, float("nan"))
    # The first of equals.
    places = tl.where(counted & (z == largest), n, n.shape[-1])
    best = tl.min(places, axis=-1, keep_dims=True)
    right = (best == label).to(tl.int32) * (1 - broken)
    return (log(total) + largest) - wanted, right


@triton.jit(do_not_specialize=["x_scale", "samples", "slots"])
def fused_kernel(
    x,
    x_slot,
    x_sample,
    x_scale,
    w0,
    w0_stride,
    w0_rows,
    w1,
    w1_stride,
    w1_rows,
    w2,
    w2_stride,
    w2_rows,
    w3,
    w3_stride,
    w3_rows,
    out,
    out_slot,
    out_sample,
    y,
    y_slot,
    y_sample,
    classes,
    losses,
    correct,
    samples,
    slots,
    FEATURES: tl.constexpr,
    WIDTHS: tl.constexpr,
    BIASES: tl.constexpr,
    CODES: tl.constexpr,
    SLOPES: tl.constexpr,
    MOST: tl.constexpr,
    MSE: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Programs: slots x tiles of samples. Writes ``out``, or where that is None, the losses."""
    LAYERS: tl.constexpr = len(FEATURES) - 1
    OUTPUTS: tl.constexpr = FEATURES[LAYERS]
    down = tl.cdiv(samples, BM)
    slot = slots_of(tl.program_id(0) // down, slots, SLOTS)
    m = tl.program_id(0) % down * BM + tl.arange(0, BM)
    n = tl.arange(0, WIDTHS[LAYERS])
    z = _two_layers(
        x + slot * x_slot,
        x_sample,
        x_scale,
        parameter(w0, w0_stride, w0_rows, slot),
        parameter(w1, w1_stride, w1_rows, slot),
        m,
        samples,
        FEATURES,
        WIDTHS,
        BIASES,
        CODES,
        SLOPES,
        MOST[1],
        PRECISION,
        SLOTS,
        BN,
        BK,
    )
    if w2 is not None:
        w = parameter(w2, w2_stride, w2_rows, slot)
        z = _layer(
            z,
            w,
            FEATURES[2],
            FEATURES[3],
            WIDTHS[3],
            BIASES[2],
            CODES[2],
            SLOPES[2],
            MOST[2],
            PRECISION,
            SLOTS,
        )
    if w3 is not None:
        w = parameter(w3, w3_stride, w3_rows, slot)
        z = _layer(
            z,
            w,
            FEATURES[3],
            FEATURES[4],
            WIDTHS[4],
            BIASES[3],
            CODES[3],
            SLOPES[3],
            MOST[3],
            PRECISION,
            SLOTS,
        )
    n, m = n[None, :], m[:, None]
    wide = m.to(tl.int64)
    if out is not None:
        to = out + slot * out_slot + wide * out_sample + n
        tl.store(to, z, mask=(m < samples) & (n < OUTPUTS))
    else:
        count = OUTPUTS
        if classes is not None:
            count = tl.load(classes + slot)
        y += slot * y_slot
        if MSE:
            counted = n < count
            target = tl.load(y + wide * y_sample + n, mask=(m < samples) & counted, other=0.0)
            error = tl.where(counted, z - target, 0.0)
            total = tl.sum(error * error, axis=-1, keep_dims=True)
            loss = tl.div_rn(total, tl.cast(count, tl.float32))
            right = tl.zeros(total.shape, tl.int32)
        else:
            label = tl.load(y + wide * y_sample, mask=m < samples, other=0)
            loss, right = _cross_entropy(z, n, label, count)
        tl.store(losses + slot * samples + m, loss, mask=m < samples)
        tl.store(correct + slot * samples + m, right, mask=m < samples)


def fused_layers(
    x: Samples,
    layers: list[FusedLayer],
    out: Samples | None,
    labels: Labels | None,
    *,
    slots: int,
    samples: int,
    inputs: int,
    tile: MatmulTile,
    precision: str,
    x_scale: float,
) -> None:
    """Outputs of the layers to ``out``, or their losses as ``labels`` say; one of both is None."""
    features = (inputs, *(layer.outputs for layer in layers))
    widths = tuple(power_of_two(count) for count in features)
    missing = [None] * (3 * (MOST_LAYERS - len(layers)))
    side_by_side = slots_of_a_program(slots)
    launch(
        fused_kernel,
        triton.cdiv(slots, side_by_side) * triton.cdiv(samples, tile.m),
        *(x.pointer, x.slot_stride, x.sample_stride),
        x_scale,
        *(part for layer in layers for part in parameter_arguments(layer.parameters)),
        *missing,
        *((out.pointer, out.slot_stride, out.sample_stride) if out else (None,) * 3),
        *((labels.y, labels.slot_stride, labels.sample_stride) if labels else (None,) * 3),
        *((labels.classes, labels.losses, labels.correct) if labels else (None,) * 3),
        samples,
        slots,
        FEATURES=features,
        WIDTHS=widths,
        BIASES=tuple(layer.bias for layer in layers),
        CODES=tuple(layer.code for layer in layers),
        SLOPES=tuple(layer.slope for layer in layers),
        MOST=tuple(_most_inputs(width, precision) for width in widths[1:]),
        MSE=labels is not None and labels.mse,
        PRECISION=precision,
        SLOTS=side_by_side,
        BM=tile.m,
        BN=tile.n,
        BK=tile.k,
        warps=tile.warps,
        stages=tile.stages,
        fusion=True,
    )
