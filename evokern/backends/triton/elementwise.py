"""What is done element by element: activations, sums, affine layers, bytes to floats.

Arrays are [slots, samples, features]. A program has a tile of the rows (samples, or channels of
samples) x columns (features, or those of a channel) of one slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from evokern.backends.triton.activation import activate
from evokern.backends.triton.dense import parameter, parameter_arguments, widened
from evokern.backends.triton.launch import BIG_TILES, Parameter, Samples, launch

# Elements of a tile. Threads have four of the bytes, and so four floats to store together.
ELEMENTS = 1 << 16 if BIG_TILES else 1024
BYTES = 1 << 16 if BIG_TILES else 512

COLUMNS = (1024, 256, 64, 16, 4, 1)
"""How wide tiles are."""

RUN = 32
"""So many neighbours of a row, where it has them, are read by one warp."""


@dataclass(frozen=True, slots=True)
class ElementTile:
    """Of a program."""

    rows: int
    columns: int

    def programs(self, rows: int, columns: int) -> int:
        """How many tiles cover a slot."""
        return -(-rows // self.rows) * -(-columns // self.columns)


def element_tile(rows: int, columns: int, elements: int) -> ElementTile:
    """The tile of so many elements that does least for nothing; of equals the wider one."""
    if BIG_TILES:
        wide = min(triton.next_power_of_2(columns), elements)
        return ElementTile(min(triton.next_power_of_2(rows), elements // wide), wide)
    narrowest = min(columns, RUN)
    tiles = [
        ElementTile(elements // wide, wide) for wide in COLUMNS if narrowest <= wide <= elements
    ]
    return min(tiles, key=lambda tile: tile.programs(rows, columns))


def with_slots_merged(
    arrays: Sequence[Samples], slots: int, samples: int
) -> tuple[list[Samples], int, int]:
    """The same arrays, and slots and samples, as samples of one slot where strides allow that."""
    if samples == 1:
        arrays = [Samples(a.pointer, 0, a.slot_stride) for a in arrays]
    elif slots == 1 or all(a.slot_stride == samples * a.sample_stride for a in arrays):
        arrays = [Samples(a.pointer, 0, a.sample_stride) for a in arrays]
    else:
        return list(arrays), slots, samples
    return list(arrays), 1, slots * samples


@triton.jit
def tile_at(rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of this program: slot, first row and column, numbers in the tile, and their mask."""
    across = tl.cdiv(columns, COLUMNS)
    down = tl.cdiv(rows, ROWS).to(tl.int32)
    program = tl.program_id(0)
    slot = (program // (across * down)).to(tl.int64)
    row = (program // across % down).to(tl.int64) * ROWS
    column = (program % across).to(tl.int64) * COLUMNS
    m = tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    mask = (row + m < rows)[:, None] & (column + n < columns)[None, :]
    return slot, row, column, m, n, mask


@triton.jit
def divided(row, m, inner):
    """Quotients and remainders of row + m; in 64 bits only ``row`` is divided, for all at once."""
    m += (row % inner).to(tl.int32)
    return row // inner + m // inner, m % inner


@triton.jit
def places(x, slot, slot_stride, row, m, row_stride, column, n):
    """Pointers to the tile [m, n]."""
    return x + (slot * slot_stride + column) + ((row + m)[:, None] * row_stride + n[None, :])


@triton.jit(do_not_specialize=["samples", "slope"])
def activation_kernel(
    x,
    x_slot,
    x_sample,
    out,
    out_slot,
    out_sample,
    samples,
    features,
    slope,
    CODE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    slot, row, column, m, n, mask = tile_at(samples, features, ROWS, COLUMNS)
    values = tl.load(places(x, slot, x_slot, row, m, x_sample, column, n), mask=mask, other=0.0)
    y = activate(values, CODE, slope)
    tl.store(places(out, slot, out_slot, row, m, out_sample, column, n), y, mask=mask)


@triton.jit(do_not_specialize=["samples", "slope"])
def add_kernel(
    x,
    x_slot,
    x_sample,
    y,
    y_slot,
    y_sample,
    out,
    out_slot,
    out_sample,
    samples,
    features,
    slope,
    CODE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    slot, row, column, m, n, mask = tile_at(samples, features, ROWS, COLUMNS)
    first = tl.load(places(x, slot, x_slot, row, m, x_sample, column, n), mask=mask, other=0.0)
    second = tl.load(places(y, slot, y_slot, row, m, y_sample, column, n), mask=mask, other=0.0)
    total = activate(first + second, CODE, slope)
    tl.store(places(out, slot, out_slot, row, m, out_sample, column, n), total, mask=mask)


@triton.jit(do_not_specialize=["samples", "scale"])
def widen_bytes_kernel(
    x,
    x_slot,
    x_sample,
    out,
    out_slot,
    out_sample,
    samples,
    features,
    scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    slot, row, column, m, n, mask = tile_at(samples, features, ROWS, COLUMNS)
    values = tl.load(places(x, slot, x_slot, row, m, x_sample, column, n), mask=mask, other=0)
    y = values.to(tl.float32) * scale
    tl.store(places(out, slot, out_slot, row, m, out_sample, column, n), y, mask=mask)


@triton.jit(do_not_specialize=["samples", "slope"])
def affine_kernel(
    x,
    x_slot,
    x_sample,
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
    slope,
    CODE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Channels are columns."""
    slot, row, column, m, n, mask = tile_at(samples, channels, ROWS, COLUMNS)
    gains = parameter(scale, scale_stride, scale_rows, slot) + column + n
    offsets = parameter(shift, shift_stride, shift_rows, slot) + column + n
    known = column + n < channels
    gain = widened(tl.load(gains, mask=known, other=0))
    offset = widened(tl.load(offsets, mask=known, other=0))
    values = tl.load(places(x, slot, x_slot, row, m, x_sample, column, n), mask=mask, other=0.0)
    y = activate(values * gain[None, :] + offset[None, :], CODE, slope)
    tl.store(places(out, slot, out_slot, row, m, out_sample, column, n), y, mask=mask)


@triton.jit(do_not_specialize=["samples", "slope"])
def affine_images_kernel(
    x,
    x_slot,
    x_sample,
    x_channel,
    scale,
    scale_stride,
    scale_rows,
    shift,
    shift_stride,
    shift_rows,
    out,
    out_slot,
    out_sample,
    out_channel,
    samples,
    channels,
    length,
    slope,
    CODE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Rows are the channels of all samples."""
    rows = tl.cast(samples, tl.int64) * channels
    slot, row, column, m, n, mask = tile_at(rows, length, ROWS, COLUMNS)
    sample, channel = divided(row, m, channels)
    known = row + m < rows
    gains = parameter(scale, scale_stride, scale_rows, slot) + channel
    offsets = parameter(shift, shift_stride, shift_rows, slot) + channel
    gain = widened(tl.load(gains, mask=known, other=0))
    offset = widened(tl.load(offsets, mask=known, other=0))
    wide = channel.to(tl.int64)
    x += slot * x_slot + column
    x_places = (sample * x_sample + wide * x_channel)[:, None] + n[None, :]
    values = tl.load(x + x_places, mask=mask, other=0.0)
    y = activate(values * gain[:, None] + offset[:, None], CODE, slope)
    out += slot * out_slot + column
    out_places = (sample * out_sample + wide * out_channel)[:, None] + n[None, :]
    tl.store(out + out_places, y, mask=mask)


def activation(
    x: Samples,
    out: Samples,
    *,
    slots: int,
    samples: int,
    features: int,
    code: int,
    slope: float,
) -> None:
    """out = activation(x); with the code of identity a copy."""
    _launch_flat(
        activation_kernel, (x, out), slots, samples, features, slope, ELEMENTS, {"CODE": code}
    )


def add(
    x: Samples,
    y: Samples,
    out: Samples,
    *,
    slots: int,
    samples: int,
    features: int,
    code: int,
    slope: float,
) -> None:
    """out = activation(x + y)."""
    _launch_flat(add_kernel, (x, y, out), slots, samples, features, slope, ELEMENTS, {"CODE": code})


def widen_bytes(
    x: Samples, out: Samples, *, slots: int, samples: int, features: int, scale: float
) -> None:
    """out = x * scale for uint8 x, one rounding."""
    _launch_flat(widen_bytes_kernel, (x, out), slots, samples, features, scale, BYTES, {})


def _launch_flat(
    kernel: Any,
    arrays: tuple[Samples, ...],
    slots: int,
    samples: int,
    features: int,
    number: float,
    elements: int,
    constants: dict[str, Any],
) -> None:
    """Axes that follow each other without gaps in all arrays are one."""
    merged, slots, samples = with_slots_merged(arrays, slots, samples)
    if samples == 1 or all(a.sample_stride == features for a in merged):
        # Strides of 0 leave the alignment of the pointers to Triton.
        merged = [Samples(a.pointer, a.slot_stride, 0) for a in merged]
        samples, features = 1, samples * features
    tile = element_tile(samples, features, elements)
    launch(
        kernel,
        slots * tile.programs(samples, features),
        *(part for a in merged for part in (a.pointer, a.slot_stride, a.sample_stride)),
        samples,
        features,
        number,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        **constants,
    )


def affine(
    x: Samples,
    scale: Parameter,
    shift: Parameter,
    out: Samples,
    *,
    slots: int,
    samples: int,
    channels: int,
    length: int,
    code: int,
    slope: float,
    x_channel: int | None = None,
    out_channel: int | None = None,
) -> None:
    """out = activation(x * scale + shift), the product rounded, too.

    Args:
        length: consecutive features of a channel.
        x_channel, out_channel: from one channel to the next; None: ``length``.
    """
    banks = *parameter_arguments(scale), *parameter_arguments(shift)
    if length == 1 and x_channel in (None, 1) and out_channel in (None, 1):
        tile = element_tile(samples, channels, ELEMENTS)
        launch(
            affine_kernel,
            slots * tile.programs(samples, channels),
            *(x.pointer, x.slot_stride, x.sample_stride),
            *banks,
            *(out.pointer, out.slot_stride, out.sample_stride),
            samples,
            channels,
            slope,
            CODE=code,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
        )
        return
    tile = element_tile(samples * channels, length, ELEMENTS)
    launch(
        affine_images_kernel,
        slots * tile.programs(samples * channels, length),
        *(x.pointer, x.slot_stride, x.sample_stride, length if x_channel is None else x_channel),
        *banks,
        *(out.pointer, out.slot_stride, out.sample_stride),
        length if out_channel is None else out_channel,
        samples,
        channels,
        length,
        slope,
        CODE=code,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
    )
