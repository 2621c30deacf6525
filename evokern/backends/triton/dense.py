"""Dense layers of many slots: activation(x W + b), and with a second pair of factors recurrence.

Tiles: a program has a tile of samples x outputs of one slot, and ``tl.dot`` adds up chunks of
inputs, of which the next are on their way meanwhile.

Few samples: a program has some outputs of all samples, so that every weight is read once and from
memory straight to registers. There tf32 is computed as fp32, which is no slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from evokern.backends import plan
from evokern.backends.triton.activation import activate
from evokern.backends.triton.launch import (
    BIG_TILES,
    INTERPRETED_BF16,
    Parameter,
    Samples,
    launch,
)

FEW_SAMPLES = 3 if BIG_TILES else plan.FEW_SAMPLES
"""In the interpreter the number of programs is what costs."""

FEW_SLOTS = 16 if BIG_TILES else 1 << 31
"""Of more slots, tiles of slots do it: see ``slots_of``."""

LEAST_DOT = 16
"""What each dimension of a ``tl.dot`` must have."""


@dataclass(frozen=True, slots=True)
class MatmulTile:
    """Of a program: ``m`` x ``n`` sums, ``k`` products of each at a time."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Product:
    """x [slots, samples, depth] and weights [depth, outputs]; x is +0 unless it is ``there``."""

    x: Samples
    weights: Parameter
    depth: int
    there: bool = True


# By precision: up to 16 outputs; else up to 32 samples, up to 64, and more. fp32 multiplies from
# registers, which hold all the depth, and so takes no larger tile.
TILES = {
    "fp32": (
        MatmulTile(128, 16, 16, 4, 3),
        MatmulTile(32, 64, 16, 4, 3),
        MatmulTile(64, 64, 16, 4, 3),
    ),
    "tf32": (
        MatmulTile(128, 16, 32, 4, 3),
        MatmulTile(32, 64, 32, 4, 3),
        MatmulTile(64, 64, 32, 4, 3),
        MatmulTile(128, 64, 32, 8, 3),
    ),
    "bf16": (
        MatmulTile(128, 16, 32, 4, 3),
        MatmulTile(32, 64, 32, 4, 3),
        MatmulTile(64, 64, 32, 4, 3),
        MatmulTile(128, 64, 32, 8, 3),
    ),
}


def dense_tile(samples: int, outputs: int, inputs: int, precision: str) -> MatmulTile:
    """The tile for a layer of this shape."""
    if BIG_TILES:
        return interpreted_tile(samples, 128, outputs, 256, inputs, 512)
    tiles = TILES[precision]
    if outputs <= 16:
        return tiles[0]
    if samples <= 32:
        return tiles[1]
    if samples <= 64:
        return tiles[2]
    return tiles[-1]


def interpreted_tile(m: int, most_m: int, n: int, most_n: int, k: int, most_k: int) -> MatmulTile:
    """The smallest tile that covers everything, within these limits."""
    return MatmulTile(
        min(power_of_two(m), most_m),
        min(power_of_two(n), most_n),
        min(power_of_two(k), most_k),
        1,
        1,
    )


def slots_of_a_program(slots: int) -> int:
    """See ``slots_of``."""
    return min(triton.next_power_of_2(slots), 16) if BIG_TILES else 1


def few_samples_tile(samples: int, outputs: int, inputs: int) -> MatmulTile:
    """The same for few samples, all of them in it: one warp with so many weights at a time.

    Where a row of weights is a warp's, sums over the inputs are within threads.
    """
    m = triton.next_power_of_2(samples)
    if BIG_TILES:
        return MatmulTile(m, min(power_of_two(outputs), 512), min(power_of_two(inputs), 512), 1, 1)
    n = min(power_of_two(outputs), 128)
    return MatmulTile(m, n, (2048 if m <= 4 else 1024) // n, 1, 1)


def power_of_two(count: int) -> int:
    """The least one that is neither below ``count`` nor too small for a ``tl.dot``."""
    return max(LEAST_DOT, 1 << (count - 1).bit_length())


@triton.jit
def widened(w):
    """Float32 of what a bank holds: float32, or the bits of bf16."""
    if w.dtype == tl.uint16:
        w = (w.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return w


@triton.jit
def scaled(x, scale):
    """Inputs as float32; bytes times ``scale``."""
    if x.dtype == tl.uint8:
        x = x.to(tl.float32) * scale
    return x


@triton.jit
def factor(x, PRECISION: tl.constexpr):
    """x, float32 or the bits of bf16, as ``tl.dot`` takes it."""
    if PRECISION == "bf16":
        if INTERPRETED_BF16:
            y = rounded(widened(x))
        elif x.dtype == tl.uint16:
            y = x.to(tl.bfloat16, bitcast=True)
        else:
            y = x.to(tl.bfloat16)
    else:
        y = widened(x)
    return y


@triton.jit
def rounded(x):
    """Float32 x to the nearest even bf16."""
    bits = x.to(tl.uint32, bitcast=True)
    even = (bits + (((bits >> 16) & 1) + 0x7FFF)) & 0xFFFF0000
    even = tl.where(x == x, even, (bits | 0x00400000) & 0xFFFF0000)
    return even.to(tl.float32, bitcast=True)


@triton.jit
def few_factor(x, PRECISION: tl.constexpr):
    """The same for a product of float32."""
    x = widened(x)
    if PRECISION == "bf16":
        x = rounded(x)
    return x


@triton.jit
def add_dot(total, a, b, PRECISION: tl.constexpr):
    """total + a b."""
    INPUTS: tl.constexpr = "tf32" if PRECISION == "tf32" else "ieee"
    a, b = factor(a, PRECISION), factor(b, PRECISION)
    return tl.dot(a, b, total, input_precision=INPUTS)


@triton.jit
def parameter(bank, stride, rows, slot):
    """A slot's parameters."""
    return bank + tl.load(rows + slot).to(tl.int64) * stride


@triton.jit
def slots_of(number, slots, SLOTS: tl.constexpr):
    """The slot of a program, or a tile [SLOTS, 1, 1]; the last slot stands in for those behind it.

    Tiles are for the interpreter, where the number of programs is what costs.
    """
    slot = number.to(tl.int64)
    if SLOTS > 1:
        slot = tl.minimum(slot * SLOTS + tl.arange(0, SLOTS), slots - 1)[:, None, None]
    return slot


@triton.jit
def zeros(SLOTS: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """[M, N] of a slot, or [SLOTS, M, N]."""
    if SLOTS > 1:
        z = tl.zeros([SLOTS, M, N], tl.float32)
    else:
        z = tl.zeros([M, N], tl.float32)
    return z


@triton.jit
def bias_of(bias, stride, rows, slot, n, outputs):
    """Where sums start: float32 of n's shape, with tiles of slots [SLOTS, 1, BN]."""
    if bias is None:
        b = tl.zeros(n.shape, tl.float32)
    else:
        b = widened(tl.load(parameter(bias, stride, rows, slot) + n, mask=n < outputs, other=0))
    return b


@triton.jit
def add_products(
    total,
    x,
    x_sample,
    x_scale,
    there,
    w,
    outputs,
    depth,
    m,
    n,
    PRECISION: tl.constexpr,
    BK: tl.constexpr,
):
    """total [BM, BN] + x [there, depth] w [depth, outputs], of rows m and columns n."""
    k = tl.arange(0, BK)
    x += m.to(tl.int64)[:, None] * x_sample + k[None, :]
    w += k.to(tl.int64)[:, None] * outputs + n[None, :]
    step = tl.cast(outputs, tl.int64) * BK
    for first in range(0, depth, BK):
        deep = first + k < depth
        a = scaled(tl.load(x, mask=(m < there)[:, None] & deep[None, :], other=0), x_scale)
        b = tl.load(w, mask=deep[:, None] & (n < outputs)[None, :], other=0)
        total = add_dot(total, a, b, PRECISION)
        x += BK
        w += step
    return total


@triton.jit(do_not_specialize=["first_there", "second_there", "samples", "slope", "slots"])
def dense_kernel(
    x,
    x_slot,
    x_sample,
    first_there,
    w,
    w_stride,
    w_rows,
    inputs,
    h,
    h_slot,
    h_sample,
    second_there,
    u,
    u_stride,
    u_rows,
    states,
    bias,
    bias_stride,
    bias_rows,
    out,
    out_slot,
    out_sample,
    samples,
    outputs,
    slope,
    slots,
    CODE: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Programs: slots x tiles of samples x tiles of outputs."""
    across = tl.cdiv(outputs, BN)
    down = tl.cdiv(samples, BM)
    program = tl.program_id(0)
    slot = slots_of(program // (across * down), slots, SLOTS)
    m = program // across % down * BM + tl.arange(0, BM)
    n = program % across * BN + tl.arange(0, BN)
    total = zeros(SLOTS, BM, BN)
    total += bias_of(bias, bias_stride, bias_rows, slot, n[None, :], outputs)
    weights = parameter(w, w_stride, w_rows, slot)
    total = add_products(
        total,
        x + slot * x_slot,
        x_sample,
        None,
        first_there,
        weights,
        outputs,
        inputs,
        m,
        n,
        PRECISION,
        BK,
    )
    if h is not None:
        weights = parameter(u, u_stride, u_rows, slot)
        total = add_products(
            total,
            h + slot * h_slot,
            h_sample,
            None,
            second_there,
            weights,
            outputs,
            states,
            m,
            n,
            PRECISION,
            BK,
        )
    y = activate(total, CODE, slope)
    to = out + slot * out_slot + m.to(tl.int64)[:, None] * out_sample + n[None, :]
    tl.store(to, y, mask=(m < samples)[:, None] & (n < outputs)[None, :])


@triton.jit
def _add_few_products(
    totals, x, x_sample, there, w, outputs, depth, n, PRECISION: tl.constexpr, BK: tl.constexpr
):
    """Each of totals [BN] + x [there, depth] w [depth, outputs]."""
    k = tl.arange(0, BK)
    w += k.to(tl.int64)[:, None] * outputs + n[None, :]
    step = tl.cast(outputs, tl.int64) * BK
    for first in range(0, depth, BK):
        deep = first + k < depth
        b = tl.load(w, mask=deep[:, None] & (n < outputs)[None, :], other=0)
        b = few_factor(b, PRECISION)
        sums = ()
        for m in tl.static_range(len(totals)):
            row = x + m * tl.cast(x_sample, tl.int64) + k
            a = tl.load(row, mask=first + k < tl.where(m < there, depth, 0), other=0.0)
            total = totals[m] + tl.sum(few_factor(a, PRECISION)[:, None] * b, axis=0)
            sums += (total,)  # type: ignore[assignment]
        totals = sums
        x += BK
        w += step
    return totals


@triton.jit(do_not_specialize=["first_there", "second_there", "samples", "slope"])
def dense_few_kernel(
    x,
    x_slot,
    x_sample,
    first_there,
    w,
    w_stride,
    w_rows,
    inputs,
    h,
    h_slot,
    h_sample,
    second_there,
    u,
    u_stride,
    u_rows,
    states,
    bias,
    bias_stride,
    bias_rows,
    out,
    out_slot,
    out_sample,
    samples,
    outputs,
    slope,
    CODE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Programs: slots x parts of the outputs; BM is a power of two from ``samples`` on."""
    across = tl.cdiv(outputs, BN)
    program = tl.program_id(0)
    slot = (program // across).to(tl.int64)
    n = program % across * BN + tl.arange(0, BN)
    start = bias_of(bias, bias_stride, bias_rows, slot, n, outputs)
    totals = (start,) * BM
    weights = parameter(w, w_stride, w_rows, slot)
    totals = _add_few_products(
        totals, x + slot * x_slot, x_sample, first_there, weights, outputs, inputs, n, PRECISION, BK
    )
    if h is not None:
        weights = parameter(u, u_stride, u_rows, slot)
        totals = _add_few_products(
            totals,
            h + slot * h_slot,
            h_sample,
            second_there,
            weights,
            outputs,
            states,
            n,
            PRECISION,
            BK,
        )
    out += slot * out_slot
    for m in tl.static_range(BM):
        y = activate(totals[m], CODE, slope)
        to = out + m * tl.cast(out_sample, tl.int64) + n
        tl.store(to, y, mask=n < tl.where(m < samples, outputs, 0))


def dense(
    first: Product,
    second: Product | None,
    bias: Parameter | None,
    out: Samples,
    *,
    slots: int,
    samples: int,
    outputs: int,
    code: int,
    slope: float,
    precision: str,
) -> None:
    """out = activation(bias + first + second), in this order."""
    few = samples <= FEW_SAMPLES and slots <= FEW_SLOTS
    if few:
        tile = few_samples_tile(samples, outputs, first.depth)
    else:
        tile = dense_tile(samples, outputs, first.depth, precision)
    side_by_side = 1 if few else slots_of_a_program(slots)
    constants = {} if few else {"SLOTS": side_by_side}
    parts = triton.cdiv(samples, tile.m) * triton.cdiv(outputs, tile.n)
    launch(
        dense_few_kernel if few else dense_kernel,
        triton.cdiv(slots, side_by_side) * parts,
        *_product(first, samples),
        *_product(second, samples),
        *parameter_arguments(bias),
        out.pointer,
        out.slot_stride,
        out.sample_stride,
        samples,
        outputs,
        slope,
        *(() if few else (slots,)),
        CODE=code,
        PRECISION=precision,
        BM=tile.m,
        BN=tile.n,
        BK=tile.k,
        warps=tile.warps,
        stages=tile.stages,
        fusion=True,
        **constants,
    )


def parameter_arguments(parameter: Parameter | None) -> tuple[Any, ...]:
    """As kernels take it: bank, stride, rows."""
    if parameter is None:
        return None, None, None
    return parameter.pointer, parameter.stride, parameter.rows


def _product(product: Product | None, samples: int) -> tuple[Any, ...]:
    if product is None:
        return (None,) * 8
    x = product.x
    return (
        x.pointer,
        x.slot_stride,
        x.sample_stride,
        samples if product.there else 0,
        *parameter_arguments(product.weights),
        product.depth,
    )
