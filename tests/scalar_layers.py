"""Layers and whole networks one number at a time (docs/bits.md), for tests of the reference.

Genes are taken from the front of a flat genome, so that the genome layout is followed too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scalar_rules import F, exact_fma

from evokern.backends.reference.activation import activate
from evokern.backends.reference.arithmetic import round_to_bf16
from evokern.layers import (
    Activation,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool2d,
    Residual,
)

Genes = Iterator[np.float32]


def any_fma(a, b, c):
    """a * b + c of fp32 numbers, infinities and NaN too, rounded once."""
    if all(math.isfinite(v) for v in (a, b, c)):
        return F(exact_fma(a, b, c))
    return F(float(a) * float(b) + float(c))


def scalar_windows(image, geometry, padding=None):
    """The elements of every window of [H, W] in row order: [[window, ...], ...].

    Padding is left out, or given as ``padding``.
    """
    kh, kw, sh, sw, ph, pw = geometry
    height, width = image.shape

    def window(top, left):
        for i in range(top, top + kh):
            for j in range(left, left + kw):
                if 0 <= i < height and 0 <= j < width:
                    yield image[i, j]
                elif padding is not None:
                    yield padding

    return [
        [list(window(top, left)) for left in range(-pw, width + pw - kw + 1, sw)]
        for top in range(-ph, height + ph - kh + 1, sh)
    ]


def scalar_max(window):
    m = window[0]
    for x in window[1:]:
        m = x if x > m or x != x else m
    return m


def scalar_sum(window):
    total = F(0)
    for x in window:
        total = F(total + x)
    return total


def scalar_products(start, x, w):
    """start + x_0 w_0 + x_1 w_1 + ..., one fma each."""
    total = start
    for a, b in zip(x, w, strict=True):
        total = any_fma(a, b, total)
    return total


def scalar_conv(x, w, b, geometry):
    """x [C, H, W], w [C*K*K, O], b [O] or None -> [O, H', W']."""
    channels = [scalar_windows(channel, geometry, F(0)) for channel in x]
    height, width = len(channels[0]), len(channels[0][0])
    start = np.zeros(w.shape[1], F) if b is None else b
    out = np.empty((w.shape[1], height, width), F)
    for o, i, j in np.ndindex(out.shape):
        window = [element for channel in channels for element in channel[i][j]]
        out[o, i, j] = scalar_products(start[o], window, w[:, o])
    return out


def scalar_layers(layers: tuple[Layer, ...], x: np.ndarray, genes: Genes, bf16=False) -> np.ndarray:
    """One sample through the layers."""
    for layer in layers:
        with np.errstate(all="ignore"):
            x = _scalar_layer(layer, x, genes, bf16)
    return x


def _take(genes: Genes, *shape: int) -> np.ndarray:
    return np.array([next(genes) for _ in range(math.prod(shape))], F).reshape(shape)


def _scalar_layer(layer: Layer, x: np.ndarray, genes: Genes, bf16: bool) -> np.ndarray:
    def rounded(array: np.ndarray) -> np.ndarray:
        return round_to_bf16(array) if bf16 else array

    def activated(values: np.ndarray) -> np.ndarray:
        return activate(layer.activation, np.asarray(values, F), layer.negative_slope)

    match layer:
        case Flatten():
            return x.reshape(-1)
        case Activation():
            return activate(layer.name, x, layer.negative_slope)
        case MaxPool2d():
            windows = (scalar_windows(channel, layer.geometry()) for channel in x)
            return np.array([[[scalar_max(w) for w in row] for row in c] for c in windows], F)
        case AvgPool2d():
            padding = F(0) if layer.count_include_pad else None
            windows = (scalar_windows(channel, layer.geometry(), padding) for channel in x)
            return np.array(
                [[[F(scalar_sum(w) / F(len(w))) for w in row] for row in c] for c in windows], F
            )
        case GlobalAvgPool():
            return np.array([F(scalar_sum(c.ravel()) / F(c.size)) for c in x], F)
        case Dense():
            w = rounded(_take(genes, len(x), layer.outputs))
            b = _take(genes, layer.outputs) if layer.bias else np.zeros(layer.outputs, F)
            x = rounded(x)
            return activated([scalar_products(b[o], x, w[:, o]) for o in range(layer.outputs)])
        case Conv2d():
            geometry = layer.geometry()
            w = _take(genes, len(x) * geometry[0] * geometry[1], layer.outputs)
            b = _take(genes, layer.outputs) if layer.bias else None
            return activated(scalar_conv(rounded(x), rounded(w), b, geometry))
        case Affine():
            scale, shift = _take(genes, len(x)), _take(genes, len(x))
            out = np.empty(x.shape, F)
            for place in np.ndindex(x.shape):
                out[place] = F(F(x[place] * scale[place[0]]) + shift[place[0]])
            return activated(out)
        case Elman():
            w_in = rounded(_take(genes, x.shape[1], layer.outputs))
            w_rec = rounded(_take(genes, layer.outputs, layer.outputs))
            b, h, states = _take(genes, layer.outputs), np.zeros(layer.outputs, F), []
            for row in rounded(x):
                before = rounded(h)
                sums = [
                    scalar_products(scalar_products(b[o], row, w_in[:, o]), before, w_rec[:, o])
                    for o in range(layer.outputs)
                ]
                h = activated(sums)
                states.append(h)
            return np.array(states) if layer.return_sequence else h
        case Residual():
            body = scalar_layers(layer.body, x, genes, bf16)
            shortcut = scalar_layers(layer.shortcut or (), x, genes, bf16)
            return activated(body + shortcut)
