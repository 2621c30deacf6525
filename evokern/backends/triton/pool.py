"""Pools of images: a program has a tile of images (channels of samples) x windows of one slot."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from evokern.backends.triton.elementwise import divided, element_tile, tile_at, with_slots_merged
from evokern.backends.triton.launch import BIG_TILES, Samples, launch, pointer, strides

WINDOWS = 1 << 16 if BIG_TILES else 512
"""Of a program."""


@triton.jit
def larger(most, x):
    """NaN wins, the first of equals stays."""
    return tl.where((x > most) | (x != x), x, most)


# Nothing of an image is specialised: neighbouring threads have neighbouring windows.
@triton.jit(
    do_not_specialize=[
        "samples",
        "channels",
        "height",
        "width",
        "out_height",
        "out_width",
        "kernel_height",
        "kernel_width",
        "stride_height",
        "stride_width",
        "pad_height",
        "pad_width",
    ]
)
def pool_kernel(
    x,
    x_slot,
    x_sample,
    x_channel,
    x_row,
    out,
    out_slot,
    out_sample,
    out_channel,
    out_row,
    samples,
    channels,
    height,
    width,
    out_height,
    out_width,
    kernel_height,
    kernel_width,
    stride_height,
    stride_width,
    pad_height,
    pad_width,
    LARGEST: tl.constexpr,
    COUNT_INCLUDE_PAD: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    images, windows = tl.cast(samples, tl.int64) * channels, out_height * out_width
    slot, image, first, m, n, mask = tile_at(images, windows, ROWS, COLUMNS)
    sample, channel = divided(image, m, channels)
    window = first.to(tl.int32) + n
    out_y, out_x = window // out_width, window % out_width
    top, left = out_y * stride_height - pad_height, out_x * stride_width - pad_width

    x += slot * x_slot + sample * x_sample + channel.to(tl.int64) * x_channel
    corner = x[:, None] + (top.to(tl.int64) * x_row + left)[None, :]
    # -inf neither beats a real element nor differs from one that it ties with. A sum that starts at
    # +0 is never -0, so that adding +0 changes no bit of it.
    nothing: tl.constexpr = float("-inf") if LARGEST else 0.0
    y = tl.full([ROWS, COLUMNS], nothing, tl.float32)
    for i in range(kernel_height):
        at = corner + tl.cast(i, tl.int64) * x_row
        row_there = (top + i >= 0) & (top + i < height)
        for j in range(kernel_width):
            inside = mask
            if PADDED:
                inside &= (row_there & (left + j >= 0) & (left + j < width))[None, :]
            value = tl.load(at + j, mask=inside, other=nothing)
            y = larger(y, value) if LARGEST else y + value
    if not LARGEST:
        if COUNT_INCLUDE_PAD:
            count = tl.cast(kernel_height * kernel_width, tl.float32)
        else:
            tall = tl.minimum(top + kernel_height, height) - tl.maximum(top, 0)
            wide = tl.minimum(left + kernel_width, width) - tl.maximum(left, 0)
            count = (tall * wide).to(tl.float32)[None, :]
        y = tl.div_rn(y, count)

    out += slot * out_slot + sample * out_sample + channel.to(tl.int64) * out_channel
    to = out[:, None] + (out_y.to(tl.int64) * out_row + out_x)[None, :]
    tl.store(to, y, mask=mask)


def pool(
    x: Samples,
    out: Samples,
    *,
    slots: int,
    samples: int,
    channels: int,
    geometry: tuple[int, ...],
    image: tuple[int, ...],
    out_image: tuple[int, ...],
    largest: bool,
    count_include_pad: bool,
    x_channel: int | None = None,
    x_row: int | None = None,
    out_channel: int | None = None,
    out_row: int | None = None,
) -> None:
    """Maximum or mean of every window.

    Args:
        geometry: kernel, stride and padding, each height and width.
        image, out_image: height and width.
        x_channel, x_row, out_channel, out_row: from one to the next; None: no gaps.
    """
    (x, out), slots, samples = with_slots_merged((x, out), slots, samples)
    images, windows = samples * channels, out_image[0] * out_image[1]
    tile = element_tile(images, windows, WINDOWS)
    launch(
        pool_kernel,
        slots * tile.programs(images, windows),
        *(x.pointer, x.slot_stride, x.sample_stride),
        image[0] * image[1] if x_channel is None else x_channel,
        image[1] if x_row is None else x_row,
        *(out.pointer, out.slot_stride, out.sample_stride),
        windows if out_channel is None else out_channel,
        out_image[1] if out_row is None else out_row,
        samples,
        channels,
        *image,
        *out_image,
        *geometry,
        LARGEST=largest,
        COUNT_INCLUDE_PAD=count_include_pad,
        PADDED=any(geometry[4:]),
        ROWS=tile.rows,
        COLUMNS=tile.columns,
    )


def max_pool2d(x: Any, *, geometry: tuple[int, ...], out: Any) -> None:
    """See ``ops.max_pool2d``."""
    _pool_arrays(x, out, geometry, largest=True, count_include_pad=True)


def avg_pool2d(x: Any, *, geometry: tuple[int, ...], count_include_pad: bool, out: Any) -> None:
    """See ``ops.avg_pool2d``."""
    _pool_arrays(x, out, geometry, largest=False, count_include_pad=count_include_pad)


def global_avg_pool(x: Any, *, out: Any) -> None:
    """See ``ops.global_avg_pool``."""
    whole = (*x.shape[-2:], 1, 1, 0, 0)
    _pool_arrays(x, out, whole, largest=False, count_include_pad=True)


def _pool_arrays(
    x: Any, out: Any, geometry: tuple[int, ...], *, largest: bool, count_include_pad: bool
) -> None:
    """x [images, channels, height, width], out the same or, of one window, [images, channels]."""
    x_image, x_channel, x_row, _ = strides(x)
    out_image, out_channel, out_row = (*strides(out), 0)[:3]
    pool(
        Samples(pointer(x), 0, x_image),
        Samples(pointer(out), 0, out_image),
        slots=1,
        samples=x.shape[0],
        channels=x.shape[1],
        geometry=geometry,
        image=x.shape[2:],
        out_image=out.shape[2:] or (1, 1),
        largest=largest,
        count_include_pad=count_include_pad,
        x_channel=x_channel,
        x_row=x_row,
        out_channel=out_channel,
        out_row=out_row,
    )
