"""Categorical search distributions in NumPy: samples, and the step of NES (thesis, 8.3 and 8.4).

Row n of ``probabilities`` [N, K] is a categorical distribution over K entries. Types, shapes and
numbers are checked by `evokern.ops`; the values in arrays are looked at here, as the kernels do in
passing: the functions return the first row that is no distribution, or N for an assignment to an
entry that is not there, or -1. Unless it is -1, ``out`` is worth nothing. Masked entries take no
part, whatever value they hold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evokern.backends.reference.random import Stream, draw_words

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
Mask = NDArray[np.bool_]

_WEIGHT_UNIT = np.float32(2.0**24)
_ROW_SUM_TOLERANCE = 1e-3
_ZERO = np.float32(0)
_ONE = np.float32(1)


def nes_sample(probabilities: F32, *, mask: Mask | None, seed: int, step: int, out: I32) -> int:
    """One entry per row and sample.

    With the integers w_k = rint(p_k 2^24) and their ascending sums c_k, it is the first k with
    ``floor(word * c_K / 2^32) < c_k``. Row n of sample s takes gene n's word of individual s.

    Args:
        probabilities: float32 [N, K].
        mask: bool [N, K], true where there is no entry.
        seed: in [0, 2^64).
        step: the generation of the random stream NES, in [0, 2^32).
        out: int32 [S, N].
    """
    entries = _present(probabilities, mask)
    fault = _first_wrong_row(entries)
    if fault >= 0:
        return fault
    sums = np.cumsum(np.rint(entries * _WEIGHT_UNIT).astype(np.int64), axis=1)
    samples, rows = out.shape
    words = draw_words(Stream.NES, rows, seed=seed, individual=np.arange(samples), generation=step)
    targets = (words.astype(np.uint64) * sums[:, -1].astype(np.uint64)) >> np.uint64(32)
    out[:] = np.count_nonzero(sums <= targets.astype(np.int64)[..., None], axis=2)
    return -1


def nes_update(
    probabilities: F32,
    assignments: I32,
    losses: F32,
    *,
    learning_rate: float,
    min_probability: float,
    keep_minimum: bool,
    mask: Mask | None,
    out: F32,
) -> int:
    """A step along the natural gradient, towards assignments of low loss (Algorithm 6).

    Args:
        probabilities: float32 [N, K].
        assignments: int32 [S, N].
        losses: float32 [S].
        learning_rate: finite, in [0, 2^64].
        min_probability: in [0, 1/K].
        keep_minimum: as in `normalise`.
        mask: bool [N, K], true where there is no entry.
        out: float32 [N, K]; may be ``probabilities``.
    """
    entries = _present(probabilities, mask)
    fault = _first_wrong_row(entries)
    if fault >= 0:
        return fault
    rows, choices = entries.shape
    if not ((assignments >= 0) & (assignments < choices)).all():
        return len(entries)
    if mask is not None and mask[np.arange(rows), assignments].any():
        return len(entries)
    gradient = np.zeros_like(entries)
    for u, chosen in zip(utilities(losses), assignments, strict=True):
        hit = (np.arange(choices) == chosen[:, None]).astype(np.float32)
        gradient = gradient + u * (hit - entries)
    gradient = gradient / np.float32(len(losses))
    stepped = entries + np.float32(learning_rate) * gradient
    out[:] = normalise(stepped, min_probability, keep_minimum=keep_minimum, mask=mask)
    return -1


def utilities(losses: F32) -> F32:
    """Eq. 8.19: equally spaced in [-1, 1] by rank, 1 for the lowest loss. float32 [S] -> [S].

    NaN counts as the highest loss. Equal losses share the mean of their ranks. One sample alone
    has +0.
    """
    if len(losses) == 1:
        return np.zeros(1, np.float32)
    keys = np.where(np.isnan(losses), np.inf, losses.astype(np.float64))
    order = np.lexsort((-keys, ~np.isnan(losses)))
    ordered = losses[order]
    same = (ordered[1:] == ordered[:-1]) | (np.isnan(ordered[1:]) & np.isnan(ordered[:-1]))
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    ends = np.append(starts[1:], len(losses))
    twice_rank = np.empty(len(losses), np.int64)
    twice_rank[order] = np.repeat(starts + ends - 1, ends - starts)
    result: F32 = twice_rank.astype(np.float32) / np.float32(len(losses) - 1) - _ONE
    return result


def normalise(values: F32, min_probability: float, *, keep_minimum: bool, mask: Mask | None) -> F32:
    """Rows that sum to 1, out of values cut to at least ``min_probability``. [N, K] -> [N, K].

    As in the thesis (8.5) the values q_k that are left are divided by their ascending sum, which
    may bring the smallest below the minimum m again. With ``keep_minimum`` every entry has m
    beforehand and what is left to give away, 1 - n m for n entries, goes by the q_k - m:
    ``m + (q_k - m) / sum_j(q_j - m) * max(1 - n m, 0)``, one rounding per operation (this
    project's rule). Where the sum is 0, all n entries get the same. Masked entries are +0.
    """
    least = np.float32(min_probability)
    base = least if keep_minimum else _ZERO
    absent = np.zeros(values.shape, np.bool_) if mask is None else mask
    amounts = np.where(absent, _ZERO, np.where(values > least, values, least) - base)
    total = np.zeros(len(values), np.float32)
    for column in amounts.T:
        total = total + column
    entries = np.count_nonzero(~absent, axis=1).astype(np.float32)
    left = _ONE - entries * base
    left = np.where(left > 0, left, _ZERO)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where((total > 0)[:, None], amounts / total[:, None], (_ONE / entries)[:, None])
    return np.where(absent, _ZERO, base + shares * left)


def _present(probabilities: F32, mask: Mask | None) -> F32:
    return probabilities if mask is None else np.where(mask, _ZERO, probabilities)


def _first_wrong_row(entries: F32) -> int:
    """The first row with a negative entry, or whose sum (ascending, in double) is not 1; or -1."""
    with np.errstate(invalid="ignore"):
        sums = np.add.accumulate(entries, axis=1, dtype=np.float64)[:, -1]
        near = np.abs(sums - 1) <= _ROW_SUM_TOLERANCE
    wrong = ~near | (entries < 0).any(axis=1)
    return int(wrong.argmax()) if wrong.any() else -1
