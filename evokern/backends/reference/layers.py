"""Layers of many individuals in NumPy: what each computes, number by number (docs/bits.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from evokern.backends.reference.activation import activate
from evokern.backends.reference.arithmetic import add_product, round_to_bf16
from evokern.backends.reference.pool import Geometry, window_elements

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Accumulators per step over the input axis: enough to hide NumPy's cost per call, few enough
# to stay in the cache.
_STEP_ELEMENTS = 16384
_STEP_WEIGHTS = 1 << 22


def dense_forward(
    x: F32,
    w: F32,
    b: F32 | None,
    *,
    index: NDArray[np.int32],
    activation: str,
    negative_slope: float,
    precision: str,
    out: F32,
) -> None:
    """``activation(x w + b)`` of every slot's individual.

    Args:
        x: float32 [S, B, I], or [B, I] for a batch that all slots share.
        w: float32 [P, I, O].
        b: float32 [P, O]; None: sums start at +0.
        index: int32 [S], the individual that each slot runs.
        activation: name from `evokern.layers.ACTIVATIONS`.
        negative_slope: of ``leaky_relu``.
        precision: "fp32", or "bf16": inputs and weights rounded to bf16, sums in fp32.
        out: float32 [S, B, O].
    """
    for slots in slot_chunks(len(index), out[0].size, w[0].size):
        inputs = x[None] if x.ndim == 2 else x[slots]
        chosen = index[slots]
        sums = dense_sums(inputs, w[chosen], None if b is None else b[chosen], precision)
        out[slots] = activate(activation, sums, negative_slope)


def conv2d_forward(
    x: F32 | NDArray[np.uint8],
    w: F32,
    b: F32 | None,
    *,
    index: NDArray[np.int32],
    geometry: Geometry,
    activation: str,
    negative_slope: float,
    precision: str,
    x_scale: float | None,
    out: F32,
) -> None:
    """Convolution of images with every slot's individual, then the activation.

    Args:
        x: float32 or uint8 [S, B, C, H, W], or [B, C, H, W] for a batch that all slots share.
        w: float32 [P, C*K*K, O], rows ordered by channel, kernel row, kernel column.
        b, index, activation, negative_slope, precision: as in `dense_forward`.
        geometry: kernel, stride and padding, each height and width.
        x_scale: of uint8, else None.
        out: float32 [S, B, O, H', W'].
    """
    for slots in slot_chunks(len(index), out[0].size, w[0].size):
        inputs = scaled(x[None] if x.ndim == 4 else x[slots], x_scale)
        chosen = index[slots]
        bias = None if b is None else b[chosen]
        sums = conv2d_sums(inputs, w[chosen], bias, geometry, precision)
        out[slots] = activate(activation, sums, negative_slope)


def affine(x: F32, scale: F32, shift: F32, *, index: NDArray[np.int32], out: F32) -> None:
    """``x * scale + shift`` per channel, each operation rounded.

    Args:
        x: float32 [S, B, C, L].
        scale: float32 [P, C].
        shift: float32 [P, C].
        index: int32 [S], the individual that each slot runs.
        out: float32 [S, B, C, L].
    """
    with np.errstate(all="ignore"):
        np.multiply(x, scale[index][:, None, :, None], out=out)
        out += shift[index][:, None, :, None]


def residual(x: F32, y: F32, *, activation: str, negative_slope: float, out: F32) -> None:
    """``activation(x + y)``, element by element.

    Args:
        x, y: float32 [...].
        activation: name from `evokern.layers.ACTIVATIONS`.
        negative_slope: of ``leaky_relu``.
        out: float32 [...].
    """
    with np.errstate(all="ignore"):
        out[...] = activate(activation, np.add(x, y), negative_slope)


def slot_chunks(slots: int, elements_per_slot: int, weights_per_slot: int) -> Iterator[slice]:
    """Runs of slots that share one pass over the input axis, so that memory stays small."""
    step = min(_STEP_ELEMENTS // elements_per_slot, _STEP_WEIGHTS // max(weights_per_slot, 1))
    for start in range(0, slots, max(1, step)):
        yield slice(start, min(start + max(1, step), slots))


def dense_sums(x: F32, w: F32, b: F32 | None, precision: str) -> F32:
    """x [S or 1, B, I], w [S, I, O], b [S, O] -> [S, B, O]: one fma per input, ascending."""
    total = np.zeros((1, 1, 1), np.float32) if b is None else b[:, None]
    return _add_products(total, x, w, precision)


def conv2d_sums(x: F32, w: F32, b: F32 | None, geometry: Geometry, precision: str) -> F32:
    """x [S or 1, B, C, H, W], w [S, C*K*K, O], b [S, O] -> [S, B, O, H', W'].

    One fma per channel, kernel row and kernel column, ascending; padding takes part as +0.
    """
    kh, kw, sh, sw, ph, pw = geometry
    slots, _, outputs = w.shape
    batch, channels, height, width = x.shape[1:]
    size = ((height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1)
    if precision == "bf16":
        x, w = round_to_bf16(x), round_to_bf16(w)
    start = np.zeros((1, 1, 1, 1, 1), np.float32) if b is None else b[:, None, :, None, None]
    rows = w.astype(np.float64)[..., None, None]
    out = np.empty((slots, batch, outputs, *size), np.float32)
    step = max(1, _STEP_ELEMENTS // out[:, 0].size)
    for first in range(0, batch, step):
        images = x[:, first : first + step].astype(np.float64)
        columns = (
            element[:, :, None]
            for channel in range(channels)
            for element in window_elements(images[:, :, channel], geometry, size, 0.0)
        )
        part = _fused_sums(start, columns, (rows[:, None, k] for k in range(w.shape[1])))
        out[:, first : first + step] = part
    return out


def elman_states(
    x: F32,
    w_in: F32,
    w_rec: F32,
    b: F32,
    activation: str,
    negative_slope: float,
    precision: str,
) -> F32:
    """h_1 ... h_T of ``h_t = activation(b + x_t w_in + h_(t-1) w_rec)``, h_0 = +0.

    x [S or 1, B, T, I], w_in [S, I, O], w_rec [S, O, O], b [S, O] -> [S, B, T, O]. One fma per
    entry of x_t, then of h_(t-1), ascending.
    """
    states = []
    h: F32 = np.zeros((*x.shape[:2], w_rec.shape[2]), np.float32)
    for step in range(x.shape[2]):
        sums = _add_products(b[:, None], x[:, :, step], w_in, precision)
        sums = _add_products(sums, h, w_rec, precision)
        h = activate(activation, sums, negative_slope)
        states.append(h)
    return np.stack(states, axis=2)


def _add_products(total: F32, x: F32, w: F32, precision: str) -> F32:
    """total [S, B, O] + x [S or 1, B, I] w [S, I, O]: one fma per input, ascending."""
    if precision == "bf16":
        x, w = round_to_bf16(x), round_to_bf16(w)
    columns = x.astype(np.float64)[..., None]
    rows = w.astype(np.float64)[:, None]
    inputs = range(w.shape[1])
    return _fused_sums(total, (columns[:, :, k] for k in inputs), (rows[:, :, k] for k in inputs))


def _fused_sums(total: F32, columns: Iterable[F64], rows: Iterable[F64]) -> F32:
    """total = fma(column, row, total) for every pair; all broadcast to the sums' shape."""
    with np.errstate(all="ignore"):
        for column, row in zip(columns, rows, strict=True):
            total = add_product(column * row, total)
    return total


def scaled(x: F32 | NDArray[np.uint8], x_scale: float | None) -> F32:
    """uint8 times x_scale, one rounding; float32 (x_scale None) as it is."""
    values = x.astype(np.float32, copy=False)
    with np.errstate(all="ignore"):
        return values if x_scale is None else values * np.float32(x_scale)
