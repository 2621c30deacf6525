"""fp32 arithmetic whose order and rounding are fixed: fma, bf16 rounding and sums.

``np.sum``, ``np.dot`` and friends are not used: their order differs between machines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Samples that are added by halves before the block sums are added in order."""

_DROPPED_BITS = np.int64((1 << 29) - 1)
_HALF_WAY = np.int64(1 << 28)
_SMALLEST_NORMAL = np.float32(2.0**-126)


def fma(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]
) -> NDArray[np.float32]:
    """a * b + c rounded once to fp32, to nearest even; the arguments broadcast to [...].

    Subnormals are kept; infinities and NaN behave as in IEEE 754.

    Returns:
        float32 [...].
    """
    with np.errstate(all="ignore"):
        return add_product(np.multiply(a, b, dtype=np.float64), c)


def add_product(product: NDArray[np.float64], c: NDArray[np.float32]) -> NDArray[np.float32]:
    """The second half of `fma`: product + c, where the float64 product of two fp32 is exact.

    The sum is rounded to double first. A second rounding to fp32 can go wrong only where that
    double lies half way between two fp32 values, so only there the sum is rounded to odd
    (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).

    Returns:
        float32 [...].
    """
    total = np.add(product, c)
    result = total.astype(np.float32)
    # Among fp32 subnormals half way is not at a fixed bit, so all of them count as doubtful.
    doubtful = (total.view(np.int64) & _DROPPED_BITS) == _HALF_WAY
    doubtful |= np.abs(result) <= _SMALLEST_NORMAL
    if doubtful.any():
        product, c = np.broadcast_arrays(product, c)
        odd = _add_to_odd(product[doubtful], c[doubtful].astype(np.float64), total[doubtful])
        result[doubtful] = odd.astype(np.float32)
    return result


def _add_to_odd(
    p: NDArray[np.float64], c: NDArray[np.float64], total: NDArray[np.float64]
) -> NDArray[np.float64]:
    """p + c rounded to odd: an inexact sum gets last bit 1.

    total is the finite sum rounded to nearest even, and has the last bit 1 already, or is moved
    by one unit in the last place towards the exact sum.
    """
    virtual = total - p
    error = (p - (total - virtual)) + (c - virtual)
    bits = total.view(np.int64)
    move = (error != 0) & ((bits & 1) == 0)
    away_from_zero = (error > 0) == (total > 0)
    step = np.where(away_from_zero, np.int64(1), np.int64(-1))
    return np.where(move, bits + step, bits).view(np.float64)


def round_to_bf16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x rounded to bf16 (the upper half of fp32), to nearest even; NaN stays NaN.

    Returns:
        float32 of x's shape.
    """
    bits = np.ascontiguousarray(x).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + (np.uint32(0x7FFF) + odd)) & np.uint32(0xFFFF0000)
    quiet_nan = (bits & np.uint32(0xFFFF0000)) | np.uint32(0x00400000)
    return np.where(np.isnan(x), quiet_nan, rounded).view(np.float32)


def mean_of_samples(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean over samples in the order that tiles and threads cannot change.

    Blocks of 32 consecutive samples (missing ones +0) are added by halves; the block sums are
    added in order from +0; one division by float(B) follows.

    Args:
        values: float32 [S, B].

    Returns:
        float32 [S].
    """
    slots, samples = values.shape
    blocks = -(-samples // BLOCK)
    lanes = np.zeros((slots, blocks * BLOCK), np.float32)
    lanes[:, :samples] = values
    lanes = lanes.reshape(slots, blocks, BLOCK)
    with np.errstate(all="ignore"):
        half = BLOCK // 2
        while half:
            lanes = lanes[..., :half] + lanes[..., half : 2 * half]
            half //= 2
        total = np.zeros(slots, np.float32)
        for block in range(blocks):
            total = total + lanes[:, block, 0]
        return total / np.float32(samples)
