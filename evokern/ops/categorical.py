"""Categorical search distributions: samples, and steps of natural evolution strategies (NES).

Row n of ``probabilities`` float32 [N, K] is a categorical distribution over K entries, all N
independent (Eq. 8.37). Rows may have fewer entries than K: where ``mask`` bool [N, K] is true,
there is none.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from evokern import _devices
from evokern._arrays import Array, Host, empty_beside, expect, expect_shape, like, output
from evokern._devices import DeviceArray
from evokern._dispatch import choose
from evokern._values import boolean, integer, non_negative_number
from evokern.errors import ArgumentError, ShapeError, message

_MOST_CHOICES = 1 << 20  # so that weights of 2^-24 can tell all entries of a row from 0
_MOST_SAMPLES = 2**31 - 1
_MOST_LEARNING_RATE = 2.0**64  # so that no step is infinite


def nes_sample(
    probabilities: Array,
    samples: int,
    *,
    seed: int,
    step: int,
    mask: Array | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """One entry per row and sample: int32 [S, N].

    Args:
        probabilities: float32 [N, K], K in [1, 2^20]; no entry negative, rows that sum to 1
            within 0.001. They are used in units of 2^-24.
        samples: S >= 0.
        seed: in [0, 2^64).
        step: in [0, 2^32); every step draws anew.
        mask: bool [N, K], true where there is no entry; what ``probabilities`` hold there does
            not count. Every row has an entry.
        out: int32 [S, N] to write to.
        backend: see ``evokern.ops``.

    Source of the numbers: Philox stream NES; row n of sample s takes the word of gene n,
    individual s, generation ``step``.
    """
    samples = integer("samples", samples, 0, _MOST_SAMPLES)
    seed = integer("seed", seed, 0, 2**64 - 1)
    step = integer("step", step, 0, 2**32 - 1)
    table, absent = _distributions(probabilities, mask)
    shape = (samples, len(table))
    target = None
    if out is not None:
        target = output(out, shape, "[S, N]", dtype=np.int32, probabilities=table, mask=absent)
    # On the host into an array of its own, so that out outlives an error.
    result = target
    if not isinstance(result, DeviceArray):
        result = empty_beside(table, shape, np.int32, "out [S, N]")
    compute = choose("nes_sample", backend, "probabilities mask out", table, absent, target)
    fault = compute(table, mask=absent, seed=seed, step=step, out=result)
    if fault >= 0:
        _refuse_row(table, absent, fault)
    if target is None:
        return result if probabilities is table else like(probabilities)(result)
    if result is not target:
        target[...] = result
    return out


def nes_update(
    probabilities: Array,
    assignments: Array,
    losses: Array,
    *,
    learning_rate: float,
    min_probability: float = 0.001,
    keep_minimum: bool = False,
    mask: Array | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Probabilities after one step of NES, towards assignments of low loss: float32 [N, K].

    The step follows the natural gradient of the expected utility (Eq. 8.18, 8.44)::

        p + learning_rate * mean over s of u_s * (onehot(assignments[s, n]) - p)

    with the utilities u_s by rank (Eq. 8.19): 1 for the lowest loss, -1 for the highest, equal
    losses share the mean of their ranks, NaN counts as the highest. Then every entry is cut to at
    least ``min_probability`` and rows are divided by their sum. Whatever the losses, rows sum to 1
    within K * 2^-23. The time grows with S^2 beside S * N * K.

    Args:
        probabilities: float32 [N, K], K in [1, 2^20]; no entry negative, rows that sum to 1
            within 0.001.
        assignments: int32 [S, N], S >= 1, entries as of ``nes_sample``.
        losses: float32 [S], lower is better.
        learning_rate: in [0, 2^64].
        min_probability: in [0, 1/n] for rows of n entries. As in the thesis (8.5), dividing by
            the sum may bring an entry slightly below it.
        keep_minimum: no entry is below ``min_probability``: each has it beforehand, and what is
            left of 1 goes in proportion to the surplus over it.
        mask: bool [N, K], true where there is no entry; the result is +0 there.
        out: float32 [N, K] to write to; may be ``probabilities`` itself.
        backend: see ``evokern.ops``.
    """
    learning_rate = non_negative_number("learning_rate", learning_rate)
    min_probability = non_negative_number("min_probability", min_probability)
    if learning_rate > _MOST_LEARNING_RATE:
        raise ArgumentError(message("learning_rate", "at most 2^64", repr(learning_rate)))
    keep_minimum = boolean("keep_minimum", keep_minimum)
    table, absent = _distributions(probabilities, mask)
    chosen = expect("assignments", assignments, np.int32, "[S, N]", 2)
    loss = expect("losses", losses, np.float32, "[S]", 1)
    if len(loss) < 1:
        raise ShapeError(message("losses", "float32 [S] with S >= 1", f"{list(loss.shape)}"))
    expect_shape("assignments", chosen, "[S, N]", (len(loss), len(table)))
    if min_probability * table.shape[1] > 1:
        _check_minimum(min_probability, table, mask, absent)
    target = None
    if out is not None:
        target = output(
            out,
            table.shape,
            "[N, K]",
            in_place="probabilities",
            probabilities=table,
            assignments=chosen,
            losses=loss,
            mask=absent,
        )
    result = target
    if not isinstance(result, DeviceArray):
        result = empty_beside(table, table.shape, np.float32, "out [N, K]")
    names = "probabilities assignments losses mask out"
    compute = choose("nes_update", backend, names, table, chosen, loss, absent, target)
    fault = compute(
        table,
        chosen,
        loss,
        learning_rate=learning_rate,
        min_probability=min_probability,
        keep_minimum=keep_minimum,
        mask=absent,
        out=result,
    )
    if fault >= 0:
        if fault < len(table):
            _refuse_row(table, absent, fault)
        _refuse_assignment(chosen, table, absent)
    if target is None:
        return result if probabilities is table else like(probabilities)(result)
    if result is not target:
        target[...] = result
    return out


def _distributions(probabilities: Array, mask: Array | None) -> tuple[Host, Host | None]:
    table = expect("probabilities", probabilities, np.float32, "[N, K]", 2)
    if not 1 <= table.shape[1] <= _MOST_CHOICES:
        raise ShapeError(
            message("probabilities", "float32 [N, K] with K in [1, 2^20]", f"{list(table.shape)}")
        )
    if mask is None:
        return table, None
    absent = expect("mask", mask, np.bool_, "[N, K]", 2)
    expect_shape("mask", absent, "[N, K]", table.shape)
    return table, absent


def _check_minimum(
    min_probability: float, table: Host, mask: Array | None, absent: Host | None
) -> None:
    """On a device ``mask`` is looked at only where values are checked."""
    most = table.shape[1]
    if isinstance(absent, DeviceArray):
        if not absent.device.checked:
            return
        absent = _devices.to_host(mask)
    if absent is not None:
        most = int(np.count_nonzero(~absent, axis=1).max(initial=1))
    if min_probability * most > 1:
        raise ArgumentError(
            message(
                "min_probability",
                f"at most 1/{most} for rows of {most} entries",
                repr(min_probability),
            )
        )


def _refuse_row(table: Host, absent: Host | None, row: int) -> NoReturn:
    if isinstance(table, DeviceArray):
        wanted = "finite numbers >= 0, rows that sum to 1 within 0.001 and have an entry"
        raise ArgumentError(message("probabilities", wanted, f"row {row} on the device"))
    present = np.ones(table.shape[1], np.bool_) if absent is None else ~absent[row]
    if not present.any():
        raise ArgumentError(message("mask", "an entry in every row", f"none in row {row}"))
    entries = np.where(present, table[row], np.float32(0))
    wrong = ~(np.isfinite(entries) & (entries >= 0))
    if wrong.any():
        place = int(wrong.argmax())
        got = f"probabilities[{row}, {place}] = {entries[place]}"
        raise ArgumentError(message("probabilities", "finite numbers >= 0", got))
    total = float(entries.sum(dtype=np.float64))
    raise ArgumentError(
        message(
            "probabilities",
            "rows that sum to 1 within 0.001",
            f"a sum of {total:.6g} in row {row}",
            "divide every row by its sum",
        )
    )


def _refuse_assignment(chosen: Host, table: Host, absent: Host | None) -> NoReturn:
    if isinstance(chosen, DeviceArray):
        wanted = f"entries in [0, {table.shape[1] - 1}] that are not masked"
        raise ArgumentError(message("assignments", wanted, "others, on the device"))
    rows, choices = table.shape
    wrong = (chosen < 0) | (chosen >= choices)
    what = f"entries in [0, {choices - 1}]"
    if absent is not None and not wrong.any():
        wrong = absent[np.arange(rows), chosen]
        what = "entries that are not masked"
    sample, row = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
    got = f"assignments[{sample}, {row}] = {chosen[sample, row]}"
    raise ArgumentError(message("assignments", what, got))
