"""Who survives and who becomes a parent: plain functions on [P] arrays (thesis, section 4.5).

Individuals are ranked once per generation; the ``draw_*`` functions then draw places in that order
(0 = the best), with replacement. Their draws are those of offspring ``first .. first + slots - 1``
in the stream SELECTION.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from evokern.backends.reference.random import draw_index, selection_words

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_WEIGHT_UNIT = 1 << 24  # weights of a categorical draw are integers in this unit (docs/bits.md)
_DIGITS = Context(prec=40)


def rank(fitness: npt.NDArray[np.float32]) -> I32:
    """Individuals from best to worst: int32 [P]. NaN comes last, ties go by number."""
    losses = np.where(np.isnan(fitness), np.inf, -fitness.astype(np.float64))
    nan_last = np.lexsort((losses, np.isnan(fitness)))
    return nan_last.astype(np.int32)


def draw_truncation(
    best: int, parents: int, slots: int, *, seed: int, generation: int, first: int
) -> I32:
    """Places int32 [R, S], uniform among the ``best`` first ones (truncation selection)."""
    words = selection_words(parents, slots, seed=seed, generation=generation, first=first)
    return draw_index(words, best)


def draw_exponential_rank(
    n: int, base: float, parents: int, slots: int, *, seed: int, generation: int, first: int
) -> I32:
    """Places int32 [R, S] among all ``n``, place k with a chance proportional to base^k.

    Exponential ranking of Blickle and Thiele, "A comparison of selection schemes used in
    evolutionary algorithms", 1996.
    """
    words = selection_words(parents, slots, seed=seed, generation=generation, first=first)
    sums = _exponential_sums(n, base)
    targets = (words.astype(np.uint64) * np.uint64(sums[-1])) >> np.uint64(32)
    return np.searchsorted(sums, targets.astype(np.int64), side="right").astype(np.int32)


def draw_tournament(
    n: int, size: int, parents: int, slots: int, *, seed: int, generation: int, first: int
) -> I32:
    """Places int32 [R, S]: each is the best of ``size`` places drawn among all ``n``."""
    words = selection_words(parents * size, slots, seed=seed, generation=generation, first=first)
    entrants = draw_index(words, n).reshape(parents, size, slots)
    winners: I32 = entrants.min(axis=1)
    return winners


@lru_cache(maxsize=8)
def _exponential_sums(n: int, base: float) -> I64:
    """Ascending sums int64 [n] of the integer weights of the places, by decimal arithmetic."""
    ratio = Decimal(repr(float(base)))
    power, total, powers = Decimal(1), Decimal(0), []
    for _ in range(n):
        powers.append(power)
        total = _DIGITS.add(total, power)
        power = _DIGITS.multiply(power, ratio)
    unit = _DIGITS.divide(Decimal(_WEIGHT_UNIT), total)
    weights = [round(_DIGITS.multiply(power, unit)) for power in powers]
    return np.cumsum(np.array(weights, np.int64))
