"""Losses of samples in NumPy (docs/bits.md); `network_loss` takes their means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evokern.backends.reference.activation import exp, log


def cross_entropy(
    logits: NDArray[np.float32], labels: NDArray[np.int64], classes: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Loss and whether it is right, per sample.

    logits [S, B, O], labels [S or 1, B], classes [S] -> float32 [S, B], bool [S, B].
    """
    limit = classes[:, None]
    largest = logits[..., 0]
    best = np.zeros(largest.shape, np.int64)
    total = np.zeros(largest.shape, np.float32)
    with np.errstate(all="ignore"):
        for c in range(1, logits.shape[2]):
            z = logits[..., c]
            take = ((z > largest) | np.isnan(z)) & (c < limit)
            largest = np.where(take, z, largest)
            best = np.where(take, c, best)
        for c in range(logits.shape[2]):
            summed = total + exp(logits[..., c] - largest)
            total = np.where(c < limit, summed, total)
        labels = np.broadcast_to(labels, best.shape)
        wanted = np.take_along_axis(logits, labels[..., None], axis=2)[..., 0]
        losses = (log(total) + largest) - wanted
    return losses, (best == labels) & ~np.isnan(largest)


def squared_error(
    outputs: NDArray[np.float32], targets: NDArray[np.float32], classes: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Mean over the outputs that count.

    outputs [S, B, O], targets [S or 1, B, O], classes [S] -> float32 [S, B].
    """
    limit = classes[:, None]
    total: NDArray[np.float32] = np.zeros(outputs.shape[:2], np.float32)
    with np.errstate(all="ignore"):
        for c in range(outputs.shape[2]):
            error = outputs[..., c] - targets[..., c]
            total = np.where(c < limit, total + error * error, total)
        return np.divide(total, limit, dtype=np.float32)
