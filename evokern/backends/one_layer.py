"""Single layers as networks of one layer, whose weights and bias are two banks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from evokern.layers import Conv2d, Dense

OneLayer = tuple[list[Any], tuple[Dense | Conv2d], tuple[int, ...]]
"""Banks, layers and input shape, as ``layers_forward`` of a back end takes them."""

# Checking its arguments takes longer than a small layer.
_dense = lru_cache(maxsize=1024)(Dense)
_conv2d = lru_cache(maxsize=1024)(Conv2d)


def dense(w: Any, b: Any | None, activation: str, negative_slope: float) -> OneLayer:
    """Of ``ops.dense_forward``."""
    inputs, outputs = w.shape[1:]
    layer = _dense(outputs, activation, negative_slope, b is not None)
    return _banks(w, b), (layer,), (inputs,)


def conv2d(
    x: Any,
    w: Any,
    b: Any | None,
    geometry: tuple[int, int, int, int, int, int],
    activation: str,
    negative_slope: float,
) -> OneLayer:
    """Of ``ops.conv2d_forward``."""
    kernel, stride, padding = geometry[:2], geometry[2:4], geometry[4:]
    layer = _conv2d(w.shape[2], kernel, stride, padding, activation, negative_slope, b is not None)
    return _banks(w, b), (layer,), tuple(x.shape[-3:])


def _banks(w: Any, b: Any | None) -> list[Any]:
    return [w] if b is None else [w, b]
