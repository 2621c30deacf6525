"""Convolutions of many slots as products: weights^T [channels out, depth] x windows [depth, place].

A column is a place of a sample's output, and the depth runs by channel, kernel row and kernel
column. Images are channels first, so that lanes next to each other read and write places next to
each other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from evokern.backends.triton.activation import activate
from evokern.backends.triton.dense import (
    MatmulTile,
    add_dot,
    bias_of,
    interpreted_tile,
    parameter,
    parameter_arguments,
    scaled,
    slots_of,
    slots_of_a_program,
    widened,
    zeros,
)
from evokern.backends.triton.launch import BIG_TILES, Parameter, Samples, launch

# By precision: up to 16 channels out, up to 32, and more.
TILES = {
    "fp32": (
        MatmulTile(128, 16, 16, 4, 3),
        MatmulTile(128, 32, 16, 4, 3),
        MatmulTile(64, 64, 16, 4, 3),
    ),
    "tf32": (
        MatmulTile(128, 16, 32, 4, 3),
        MatmulTile(128, 32, 32, 4, 3),
        MatmulTile(128, 64, 32, 8, 3),
    ),
    "bf16": (
        MatmulTile(128, 16, 32, 4, 3),
        MatmulTile(128, 32, 32, 4, 3),
        MatmulTile(128, 64, 32, 8, 3),
    ),
}


def conv_tile(places: int, channels: int, depth: int, precision: str) -> MatmulTile:
    """The tile for a product of this shape: places in m, channels out in n."""
    if BIG_TILES:
        return interpreted_tile(places, 1024, channels, 128, depth, 128)
    tiles = TILES[precision]
    if channels <= 16:
        return tiles[0]
    if channels <= 32:
        return tiles[1]
    return tiles[2]


@triton.jit
def per_channel(bank, stride, rows, slot, n, channels):
    """A parameter of each channel, as ``bias_of``."""
    return widened(tl.load(parameter(bank, stride, rows, slot) + n, mask=n < channels, other=0))


@triton.jit(
    do_not_specialize=[
        "samples",
        "x_scale",
        "slope",
        "height",
        "width",
        "out_width",
        "stride_height",
        "stride_width",
        "pad_height",
        "pad_width",
        "slots",
    ]
)
def conv_kernel(
    x,
    x_slot,
    x_sample,
    x_scale,
    w,
    w_stride,
    w_rows,
    bias,
    bias_stride,
    bias_rows,
    scale,
    scale_stride,
    scale_rows,
    shift,
    shift_stride,
    shift_rows,
    out,
    out_slot,
    out_sample,
    samples,
    channels,
    height,
    width,
    stride_height,
    stride_width,
    pad_height,
    pad_width,
    out_channels,
    places,
    out_width,
    slope,
    slots,
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    CODE: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOTS: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    """Programs: slots x tiles of places of all samples x tiles of channels out."""
    AREA: tl.constexpr = KERNEL_HEIGHT * KERNEL_WIDTH
    across = tl.cdiv(out_channels, BN)
    down = tl.cdiv(tl.cast(samples, tl.int64) * places, BM)
    program = tl.program_id(0)
    slot = slots_of(program // (across * down), slots, SLOTS)
    n = program % across * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)

    begin = (program // across % down).to(tl.int64) * BM
    m = (begin % places).to(tl.int32) + tl.arange(0, BM)
    sample, place = begin // places + m // places, m % places
    real = sample < samples
    row = place // out_width * stride_height - pad_height
    column = place % out_width * stride_width - pad_width
    images = x + slot * x_slot + (sample * x_sample)[None, :]
    depth = channels * AREA
    filters = parameter(w, w_stride, w_rows, slot) + k.to(tl.int64)[None, :] * out_channels
    filters += n[:, None]
    step = tl.cast(out_channels, tl.int64) * BK
    total = zeros(SLOTS, BN, BM)
    total += bias_of(bias, bias_stride, bias_rows, slot, n[:, None], out_channels)
    for first in range(0, depth, BK):
        number = first + k
        channel, tap = number // AREA, number % AREA
        tap_row = (tap // KERNEL_WIDTH)[:, None] + row[None, :]
        tap_column = (tap % KERNEL_WIDTH)[:, None] + column[None, :]
        mask = (tap_row >= 0) & (tap_row < height) & (tap_column >= 0) & (tap_column < width)
        mask &= (number < depth)[:, None] & real[None, :]
        offsets = (channel[:, None] * height + tap_row) * width + tap_column
        b = scaled(tl.load(images + offsets, mask=mask, other=0), x_scale)
        a = tl.load(filters, mask=(n < out_channels)[:, None] & (number < depth)[None, :], other=0)
        total = add_dot(total, a, b, PRECISION)
        filters += step
    if scale is not None:
        gain = per_channel(scale, scale_stride, scale_rows, slot, n[:, None], out_channels)
        offset = per_channel(shift, shift_stride, shift_rows, slot, n[:, None], out_channels)
        total = total * gain + offset
    y = activate(total, CODE, slope)
    to = out + slot * out_slot + (sample * out_sample + place)[None, :]
    to += n.to(tl.int64)[:, None] * places
    tl.store(to, y, mask=(n < out_channels)[:, None] & real[None, :])


def conv2d(
    x: Samples,
    weights: Parameter,
    bias: Parameter | None,
    out: Samples,
    *,
    slots: int,
    samples: int,
    image: tuple[int, ...],
    out_image: tuple[int, ...],
    geometry: tuple[int, ...],
    affine: tuple[Parameter, Parameter] | None,
    code: int,
    slope: float,
    precision: str,
    x_scale: float,
) -> None:
    """out = activation(affine(x * weights + bias)); uint8 x are multiplied with ``x_scale``."""
    channels, height, width = image
    out_channels, out_height, out_width = out_image
    kernel_height, kernel_width, *window = geometry
    places = out_height * out_width
    tile = conv_tile(
        samples * places, out_channels, channels * kernel_height * kernel_width, precision
    )
    scale, shift = affine or (None, None)
    side_by_side = slots_of_a_program(slots)
    parts = triton.cdiv(samples * places, tile.m) * triton.cdiv(out_channels, tile.n)
    launch(
        conv_kernel,
        triton.cdiv(slots, side_by_side) * parts,
        x.pointer,
        x.slot_stride,
        x.sample_stride,
        x_scale,
        *parameter_arguments(weights),
        *parameter_arguments(bias),
        *parameter_arguments(scale),
        *parameter_arguments(shift),
        out.pointer,
        out.slot_stride,
        out.sample_stride,
        samples,
        channels,
        height,
        width,
        *window,
        out_channels,
        places,
        out_width,
        slope,
        slots,
        KERNEL_HEIGHT=kernel_height,
        KERNEL_WIDTH=kernel_width,
        CODE=code,
        PRECISION=precision,
        SLOTS=side_by_side,
        BM=tile.m,
        BN=tile.n,
        BK=tile.k,
        warps=tile.warps,
        stages=tile.stages,
        fusion=True,
    )
