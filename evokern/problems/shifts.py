"""Training images moved by a pixel, so that a population cannot learn them by heart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evokern.backends.reference.random import Stream, bernoulli, draw_index, draw_words

U8 = npt.NDArray[np.uint8]

_SHIFTS = 2
"""Of the stream of batches: number 0 orders the epochs, 1 draws by importance."""

_WAYS = ((0, 1), (2, 1), (1, 0), (1, 2))
"""Where an image begins in one with a border of a pixel: down, up, right and left; (1, 1) stays."""


def shifted(images: U8, share: float, *, seed: int, generation: int) -> U8:
    """Images uint8 [B, ..., H, W], each moved by one pixel with a chance of ``share`` in [0, 1].

    Down, up, right and left are alike; the edge that is left behind repeats. Image b takes words
    2b (whether) and 2b + 1 (which way) of the stream of batches.
    """
    words = draw_words(
        Stream.BATCH, 2 * len(images), seed=seed, individual=_SHIFTS, generation=generation
    )
    moves = bernoulli(words[::2], share)
    way = draw_index(words[1::2], len(_WAYS))
    height, width = images.shape[-2:]
    bordered = np.pad(images, ((0, 0),) * (images.ndim - 2) + ((1, 1), (1, 1)), mode="edge")
    out = images.copy()
    for number, (top, left) in enumerate(_WAYS):
        chosen = moves & (way == number)
        out[chosen] = bordered[chosen, ..., top : top + height, left : left + width]
    return out
