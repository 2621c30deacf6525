"""Pooling in NumPy, window elements in row order (docs/bits.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Geometry = tuple[int, int, int, int, int, int]
"""(kernel height, width, stride height, width, padding height, width)."""
Element = TypeVar("Element", np.float32, np.float64)


def max_pool2d(x: NDArray[np.float32], *, geometry: Geometry, out: NDArray[np.float32]) -> None:
    """Maximum over windows; padding never wins, NaN always does.

    Args:
        x: float32 [N, C, H, W].
        geometry: kernel, stride and padding, each height and width.
        out: float32 [N, C, H', W'].
    """
    # -inf neither beats a real element nor differs from one that it ties with.
    out[:] = -np.inf
    for element in window_elements(x, geometry, out.shape, -np.inf):
        np.copyto(out, element, where=(element > out) | np.isnan(element))


def avg_pool2d(
    x: NDArray[np.float32],
    *,
    geometry: Geometry,
    count_include_pad: bool,
    out: NDArray[np.float32],
) -> None:
    """Mean over windows: ascending sum from +0, one division by the number of elements.

    Args:
        x: float32 [N, C, H, W].
        geometry: kernel, stride and padding, each height and width.
        count_include_pad: whether padding counts as elements.
        out: float32 [N, C, H', W'].
    """
    # A sum that starts at +0 is never -0, so adding the padding's +0 changes no bit of it.
    out[:] = 0
    with np.errstate(all="ignore"):
        for element in window_elements(x, geometry, out.shape, 0.0):
            np.add(out, element, out=out)
        out /= _window_sizes(x.shape, geometry, out.shape, count_include_pad)


def global_avg_pool(x: NDArray[np.float32], *, out: NDArray[np.float32]) -> None:
    """Mean of every channel: ascending sum over rows, then columns, from +0; one division.

    Args:
        x: float32 [N, C, H, W].
        out: float32 [N, C].
    """
    height, width = x.shape[-2:]
    out[:] = 0
    with np.errstate(all="ignore"):
        for row in range(height):
            for column in range(width):
                np.add(out, x[..., row, column], out=out)
        out /= np.float32(height * width)


def window_elements(
    x: NDArray[Element], geometry: Geometry, shape: tuple[int, ...], padding: float
) -> Iterator[NDArray[Element]]:
    """Views [N, C, H', W'] of the padded image: element 0 of every window, element 1, ..."""
    kh, kw, sh, sw, ph, pw = geometry
    height, width = shape[-2:]
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=padding)
    for row in range(kh):
        for column in range(kw):
            rows = slice(row, row + sh * (height - 1) + 1, sh)
            columns = slice(column, column + sw * (width - 1) + 1, sw)
            yield padded[..., rows, columns]


def _window_sizes(
    image: tuple[int, ...], geometry: Geometry, shape: tuple[int, ...], count_include_pad: bool
) -> NDArray[np.float32]:
    """float32 [1, 1, H', W']: elements that count in each window."""
    ones = np.ones((1, 1, *image[-2:]), np.float32)
    sizes = np.zeros((1, 1, *shape[-2:]), np.float32)
    for element in window_elements(ones, geometry, shape, float(count_include_pad)):
        sizes += element
    return sizes
