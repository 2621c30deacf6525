"""nes_sample and nes_update: literal values, an oracle of scalars, properties, bad input."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from backends import host_backends
from cases import SEED, F
from cases_categorical import distributions, masked, tiny_entries
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scalar_rules import round_exactly, scalar_word

from evokern import ops
from evokern.backends.reference import categorical as reference
from evokern.errors import (
    ArgumentError,
    BackendError,
    DtypeError,
    EvokernError,
    LayoutError,
    ShapeError,
)
from evokern.testing import assert_same_bits

pytestmark = pytest.mark.cpp

NES = 8
BACKENDS = host_backends("nes_sample")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def scalar_sample(row: np.ndarray, word: int) -> int:
    """The rule of docs/bits.md in Python integers."""
    weights = [round(Fraction(float(p)) * 2**24) for p in row]
    target = word * sum(weights) >> 32
    total = 0
    for k, weight in enumerate(weights):
        total += weight
        if target < total:
            return k
    raise AssertionError("no entry")


def scalar_utilities(losses: np.ndarray) -> list[float]:
    """Eq. 8.19 with mean ranks, as fractions that are rounded after each operation."""
    count = len(losses)
    if count == 1:
        return [0.0]
    keys = [(1, 0.0) if np.isnan(x) else (0, float(x)) for x in losses]
    result = []
    for key in keys:
        ranks = [
            1 + place for place, other in enumerate(sorted(keys, reverse=True)) if other == key
        ]
        twice = 2 * Fraction(sum(ranks), len(ranks))
        quotient = round_exactly((twice - 2) / (count - 1)) if twice > 2 else 0.0
        result.append(float(F(quotient) - F(1)))
    return result


def scalar_update(
    row: np.ndarray, chosen: list[int], losses: np.ndarray, rate: float, least: float, keep: bool
) -> list[np.float32]:
    """The new probabilities of one row whose entries are all there, number by number in fp32."""
    values = []
    for k, p in enumerate(row):
        total = F(0)
        for u, choice in zip(scalar_utilities(losses), chosen, strict=True):
            difference = F((1 if choice == k else 0) - p)
            total = F(total + F(F(u) * difference))
        value = F(p + F(F(rate) * F(total / F(len(losses)))))
        values.append(max(value, F(least)))
    base = F(least) if keep else F(0)
    amounts = [F(value - base) for value in values]
    total = F(0)
    for amount in amounts:
        total = F(total + amount)
    left = max(F(1) - F(F(len(row)) * base), F(0))
    equal = F(F(1) / F(len(row)))
    return [F(base + F((F(a / total) if total > 0 else equal) * left)) for a in amounts]


class TestSample:
    def test_literal_values(self) -> None:
        """A word below 2^30 picks 0, below 3 * 2^30 1, else 2; the first are d11af1ec, 78230a6c."""
        probabilities = np.tile(np.array([0.25, 0.5, 0.25], F), (6, 1))
        for backend in BACKENDS:
            drawn = ops.nes_sample(probabilities, 3, seed=1, step=2, backend=backend)
            assert drawn.dtype == np.int32
            assert drawn.tolist() == [[2, 1, 1, 1, 2, 1], [1, 1, 2, 1, 1, 1], [2, 2, 1, 1, 1, 0]]

    @each_backend
    @pytest.mark.parametrize("kind", ["random", "tiny"])
    def test_the_rule(self, backend: str, kind: str) -> None:
        probabilities = distributions(9, 5) if kind == "random" else tiny_entries(9, 5)
        drawn = ops.nes_sample(probabilities, 6, seed=SEED, step=3, backend=backend)
        for sample, row in np.ndindex(6, 9):
            word = scalar_word(NES, row, sample, 3, SEED)
            assert drawn[sample, row] == scalar_sample(probabilities[row], word)

    @each_backend
    def test_certain_entries_are_always_drawn(self, backend: str) -> None:
        probabilities = np.eye(7, dtype=F)
        drawn = ops.nes_sample(probabilities, 50, seed=0, step=0, backend=backend)
        assert (drawn == np.arange(7)).all()

    def test_frequencies(self) -> None:
        probabilities = np.array([[0.1, 0.0, 0.6, 0.3]], F)
        drawn = ops.nes_sample(np.tile(probabilities, (1000, 1)), 100, seed=3, step=0)
        shares = np.bincount(drawn.ravel(), minlength=4) / drawn.size
        assert shares[1] == 0
        # Six standard deviations.
        assert (abs(shares - probabilities[0]) < 6 * 0.5 / np.sqrt(drawn.size)).all()

    def test_rows_samples_and_steps_draw_on_their_own(self) -> None:
        halves = np.full((40, 2), 0.5, F)
        whole = ops.nes_sample(halves, 30, seed=5, step=1)
        assert_same_bits(ops.nes_sample(halves[:7], 30, seed=5, step=1), whole[:, :7])
        assert_same_bits(ops.nes_sample(halves, 11, seed=5, step=1), whole[:11])
        for other in ({"seed": 6, "step": 1}, {"seed": 5, "step": 2}):
            share = (ops.nes_sample(halves, 30, **other) == whole).mean()
            assert 0.4 < share < 0.6

    @each_backend
    def test_masked_entries_are_never_drawn(self, backend: str) -> None:
        probabilities, mask = masked(50, 6)
        drawn = ops.nes_sample(probabilities, 40, seed=1, step=1, mask=mask, backend=backend)
        assert not mask[np.arange(50), drawn].any()
        zeros = np.where(mask, F(0), probabilities)
        assert_same_bits(drawn, ops.nes_sample(zeros, 40, seed=1, step=1, backend=backend))


class TestUtilities:
    @pytest.mark.parametrize(
        ("losses", "expected"),
        [
            ([5.0], [0]),
            ([1, 2], [1, -1]),
            ([3, 1, 2], [-1, 1, 0]),
            ([7, 7, 7], [0, 0, 0]),
            ([1, 2, 2, 3, 0], [0.5, -0.25, -0.25, -1, 1]),
            ([0.0, -0.0, 1], [0.5, 0.5, -1]),
            ([np.nan, np.inf, -np.inf], [-1, 0, 1]),
            ([np.nan, 1, np.nan, 0], [F(1 / 3) - F(1), F(4 / 3) - F(1), F(1 / 3) - F(1), 1]),
        ],
    )
    def test_literal_values(self, losses: list[float], expected: list[float]) -> None:
        assert_same_bits(reference.utilities(np.array(losses, F)), np.array(expected, F))

    @given(hnp.arrays(F, st.integers(1, 40), elements=st.floats(width=32)))
    def test_the_rule(self, losses: np.ndarray) -> None:
        assert reference.utilities(losses).tolist() == scalar_utilities(losses)


class TestUpdate:
    @each_backend
    def test_literal_values(self, backend: str) -> None:
        """Two samples, utilities 1 and -1: the better assignment gains what the other one loses."""
        probabilities = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], F)
        assignments = np.array([[0, 1], [1, 1]], np.int32)
        losses = np.array([1, 2], F)
        after = ops.nes_update(
            probabilities, assignments, losses, learning_rate=0.25, backend=backend
        )
        assert after.tolist() == [[0.625, 0.125, 0.25], [0.25, 0.5, 0.25]]
        assert after.dtype == F

    @each_backend
    def test_an_entry_may_end_below_the_minimum(self, backend: str) -> None:
        """As in the thesis: cut to 0.25, then divided by the sum of 1.25 + 0.25."""
        probabilities = np.array([[0.5, 0.5]], F)
        assignments = np.array([[0], [1]], np.int32)
        call = (probabilities, assignments, np.array([0, 1], F))
        options = {"learning_rate": 1.5, "min_probability": 0.25, "backend": backend}
        after = ops.nes_update(*call, **options)
        assert_same_bits(after, np.array([[1.25 / 1.5, 0.25 / 1.5]], F))
        assert after[0, 1] < 0.25
        kept = ops.nes_update(*call, keep_minimum=True, **options)
        assert kept.tolist() == [[0.75, 0.25]]

    @each_backend
    @pytest.mark.parametrize("keep", [False, True])
    def test_the_rule(self, backend: str, keep: bool) -> None:
        rng = np.random.default_rng(1)
        for samples, rate, least in ((1, 0.1, 0.0), (5, 0.7, 0.05), (8, 30.0, 0.2), (3, 1e9, 0.0)):
            probabilities = distributions(4, 5)
            assignments = rng.integers(0, 5, (samples, 4), np.int32)
            losses = rng.integers(0, 4, samples).astype(F)
            losses[::3] = np.nan
            after = ops.nes_update(
                probabilities,
                assignments,
                losses,
                learning_rate=rate,
                min_probability=least,
                keep_minimum=keep,
                backend=backend,
            )
            for n, row in enumerate(probabilities):
                chosen = assignments[:, n].tolist()
                expected = scalar_update(row, chosen, losses, rate, least, keep)
                assert_same_bits(after[n], np.array(expected, F))

    @each_backend
    def test_masked_rows_are_rows_of_fewer_entries(self, backend: str) -> None:
        probabilities, mask = masked(20, 6)
        rng = np.random.default_rng(2)
        chosen = np.where(mask, -1, rng.random((7, 20, 6))).argmax(axis=2).astype(np.int32)
        losses = rng.random(7, F)
        options = {"learning_rate": 0.5, "min_probability": 0.02, "backend": backend}
        for keep in (False, True):
            after = ops.nes_update(
                probabilities, chosen, losses, mask=mask, keep_minimum=keep, **options
            )
            assert_same_bits(after[mask], np.zeros(mask.sum(), F))
            for n in range(20):
                there = np.flatnonzero(~mask[n])
                place = np.searchsorted(there, chosen[:, n : n + 1]).astype(np.int32)
                alone = ops.nes_update(
                    probabilities[n : n + 1, there], place, losses, keep_minimum=keep, **options
                )
                assert_same_bits(after[n, there], alone[0])

    @each_backend
    def test_a_row_that_is_cut_to_nothing_becomes_uniform(self, backend: str) -> None:
        """Utilities whose rounding errors do not cancel, and a rate that makes them count."""
        probabilities = np.array([[0.9995, 0]], F)
        losses = np.arange(26, 0, -1).astype(F)
        call = (probabilities, np.zeros((26, 1), np.int32), losses)
        for rate, expected in ((1e18, [[0.5, 0.5]]), (1e-3, [[1.0, 0.0]])):
            options = {"learning_rate": rate, "min_probability": 0.0, "backend": backend}
            assert ops.nes_update(*call, **options).tolist() == expected

    @each_backend
    def test_out_may_be_the_probabilities(self, backend: str) -> None:
        probabilities, assignments = distributions(30, 4), np.zeros((2, 30), np.int32)
        call = (assignments, np.array([1, 2], F))
        expected = ops.nes_update(probabilities, *call, learning_rate=0.1, backend=backend)
        result = ops.nes_update(
            probabilities, *call, learning_rate=0.1, out=probabilities, backend=backend
        )
        assert result is probabilities
        assert_same_bits(probabilities, expected)

    @each_backend
    def test_out_stays_as_it_was_when_the_call_fails(self, backend: str) -> None:
        wrong = distributions(200, 4)
        wrong[150] = 1
        out, drawn = np.full((200, 4), 5, F), np.full((2, 200), 5, np.int32)
        with pytest.raises(ArgumentError, match="row 150"):
            ops.nes_sample(wrong, 2, seed=0, step=0, out=drawn, backend=backend)
        with pytest.raises(ArgumentError, match="row 150"):
            ops.nes_update(
                wrong, drawn * 0, np.zeros(2, F), learning_rate=1.0, out=out, backend=backend
            )
        assert (out == 5).all()
        assert (drawn == 5).all()

    @given(st.data())
    def test_rows_stay_distributions(self, data: st.DataObject) -> None:
        rows, choices, samples = (data.draw(st.integers(1, n)) for n in (5, 12, 9))
        seed = data.draw(st.integers(0, 2**32))
        rng = np.random.default_rng(seed)
        raw = rng.random((rows, choices)) ** data.draw(st.sampled_from([0.1, 1, 20])) + 1e-30
        probabilities = (raw / raw.sum(axis=1, keepdims=True)).astype(F)
        assignments = rng.integers(0, choices, (samples, rows), np.int32)
        losses = data.draw(hnp.arrays(F, samples, elements=st.floats(width=32)))
        least = data.draw(st.floats(0, 1)) / choices
        rate = data.draw(st.sampled_from([0.0, 0.01, 1.0, 1e4, 1e9, 2.0**64]))
        keep = data.draw(st.booleans())
        results = [
            ops.nes_update(
                probabilities,
                assignments,
                losses,
                learning_rate=rate,
                min_probability=least,
                keep_minimum=keep,
                backend=backend,
            )
            for backend in BACKENDS
        ]
        after = results[0]
        for other in results[1:]:
            assert_same_bits(other, after)
        sums = after.astype(np.float64).sum(axis=1)
        assert (abs(sums - 1) <= choices * 2.0**-23).all()
        if keep:
            assert (after >= F(least)).all()
        else:
            stepped = 1 + rate + choices * least  # no sum after the cut is larger
            assert (after >= F(least / (1.001 * stepped + 1e-6))).all()
        ops.nes_sample(after, 2, seed=seed, step=0)  # accepts what the update gives

    def test_repeated_updates_find_the_better_entries(self) -> None:
        best = np.random.default_rng(0).integers(0, 4, 30)
        probabilities = np.full((30, 4), 0.25, F)
        for step in range(400):
            drawn = ops.nes_sample(probabilities, 8, seed=1, step=step)
            losses = (drawn != best).sum(axis=1).astype(F)
            probabilities = ops.nes_update(probabilities, drawn, losses, learning_rate=0.1)
        assert (probabilities.argmax(axis=1) == best).all()


@pytest.mark.torch
def test_tensors_give_tensors() -> None:
    torch = pytest.importorskip("torch")
    probabilities, losses = distributions(12, 3), np.arange(8, dtype=F)
    mask = np.zeros((12, 3), np.bool_)
    table = torch.from_numpy(probabilities.copy())
    drawn = ops.nes_sample(table, 8, seed=1, step=2, mask=torch.from_numpy(mask))
    assert isinstance(drawn, torch.Tensor)
    assert drawn.dtype == torch.int32
    assert_same_bits(drawn.numpy(), ops.nes_sample(probabilities, 8, seed=1, step=2))
    after = ops.nes_update(table, drawn, torch.from_numpy(losses), learning_rate=0.1)
    expected = ops.nes_update(probabilities, drawn.numpy(), losses, learning_rate=0.1)
    assert_same_bits(after.numpy(), expected)
    assert ops.nes_update(table, drawn, losses, learning_rate=0.1, out=table) is table
    assert_same_bits(table.numpy(), expected)
    with pytest.raises(ArgumentError, match=r"probabilities: .*requires_grad=True"):
        ops.nes_sample(table.requires_grad_(), 8, seed=1, step=2)


def test_out_lies_apart_from_inputs() -> None:
    """But for the probabilities that an update replaces."""
    memory = np.zeros(40, F)
    table = memory[:15].reshape(5, 3)
    table[:] = distributions(5, 3)
    drawn, losses = ops.nes_sample(table, 4, seed=1, step=2), np.zeros(4, F)
    words = "out: expected memory apart from probabilities, got an overlap"
    with pytest.raises(ArgumentError, match=words):
        ops.nes_sample(table, 3, seed=1, step=2, out=memory[:15].view(np.int32).reshape(3, 5))
    options = {"learning_rate": 0.1}
    with pytest.raises(ArgumentError, match=words):
        ops.nes_update(table, drawn, losses, out=memory[3:18].reshape(5, 3), **options)
    with pytest.raises(ArgumentError, match="out: expected memory apart from losses"):
        ops.nes_update(table, drawn, memory[16:20], out=memory[15:30].reshape(5, 3), **options)
    assert_same_bits(table, distributions(5, 3))


def sample(**changes: Any) -> Any:
    options = {"probabilities": distributions(5, 3), "samples": 4, "seed": 1, "step": 2}
    return ops.nes_sample(**(options | changes))


def update(**changes: Any) -> Any:
    options: dict[str, Any] = {
        "probabilities": distributions(5, 3),
        "assignments": np.ones((4, 5), np.int32),
        "losses": np.arange(4, dtype=F),
        "learning_rate": 0.1,
    }
    return ops.nes_update(**(options | changes))


def row_with(*values: float) -> np.ndarray:
    table = distributions(5, 3)
    table[3] = values
    return table


def assigned(sample: int, row: int, entry: int) -> np.ndarray:
    chosen = np.ones((4, 5), np.int32)
    chosen[sample, row] = entry
    return chosen


def mask_with(row: int, *entries: int) -> np.ndarray:
    mask = np.zeros((5, 3), np.bool_)
    mask[row, list(entries)] = True
    return mask


def read_only() -> np.ndarray:
    array = np.zeros((5, 3), F)
    array.flags.writeable = False
    return array


SUM = "probabilities: expected rows that sum to 1 within 0.001, got a sum of 0.9 in row 3; divide"
WRONG: list[tuple[Any, dict[str, Any], type[EvokernError], str]] = [
    (sample, {"samples": -1}, ArgumentError, "samples: expected an int in [0, ...], got -1"),
    (sample, {"samples": 2.0}, DtypeError, "samples: expected an int, got float 2.0"),
    (sample, {"seed": 2**64}, ArgumentError, "seed: expected an int in [0, "),
    (sample, {"step": -1}, ArgumentError, "step: expected an int in [0, "),
    (sample, {"out": np.zeros((4, 4), np.int32)}, ShapeError, "out: expected [S, N] = [4, 5], got"),
    (sample, {"out": np.zeros((4, 5), F)}, DtypeError, "out: expected int32 [S, N], got float32"),
    (sample, {"backend": "cuda"}, BackendError, "probabilities: expected an array on a device"),
    (update, {"losses": np.zeros(3, F)}, ShapeError, "assignments: expected [S, N] = [3, 5], got"),
    (update, {"losses": np.zeros(4)}, DtypeError, "losses: expected float32 [S], got float64 [4]"),
    (update, {"losses": np.zeros((4, 1), F)}, ShapeError, "losses: expected float32 [S], got"),
    (
        update,
        {"losses": np.zeros(0, F), "assignments": np.ones((0, 5), np.int32)},
        ShapeError,
        "losses: expected float32 [S] with S >= 1, got [0]",
    ),
    (update, {"assignments": np.ones((4, 5))}, DtypeError, "assignments: ... try ...int32"),
    (
        update,
        {"assignments": np.ones((5, 4), np.int32).T},
        LayoutError,
        "assignments: expected [S, N] with a contiguous last axis",
    ),
    *(
        (
            update,
            {"assignments": assigned(2, 4, entry)},
            ArgumentError,
            f"assignments: expected entries in [0, 2], got assignments[2, 4] = {entry}",
        )
        for entry in (-1, 3, 2**31 - 1, -(2**31))
    ),
    (
        update,
        {
            "assignments": assigned(2, 0, 0),
            "mask": mask_with(0, 0),
            "probabilities": np.full((5, 3), [0, 0.5, 0.5], F),
        },
        ArgumentError,
        "assignments: expected entries that are not masked, got assignments[2, 0] = 0",
    ),
    *(
        (update, {name: value}, error, words)
        for name in ("learning_rate", "min_probability")
        for value, error, words in (
            (
                -0.1,
                ArgumentError,
                f"{name}: expected a finite number >= 0 that float32 can hold, got -0.1",
            ),
            (
                np.nan,
                ArgumentError,
                f"{name}: expected a finite number >= 0 that float32 can hold, got nan",
            ),
            (
                np.inf,
                ArgumentError,
                f"{name}: expected a finite number >= 0 that float32 can hold, got inf",
            ),
            ("1", DtypeError, f"{name}: expected a number, got str '1'"),
        )
    ),
    (update, {"learning_rate": 1e30}, ArgumentError, "learning_rate: expected at most 2^64, got"),
    (
        update,
        {"min_probability": 0.34},
        ArgumentError,
        "min_probability: expected at most 1/3 for rows of 3 entries, got 0.34",
    ),
    (update, {"out": np.zeros((5, 2), F)}, ShapeError, "out: expected [N, K] = [5, 3], got [5, 2]"),
    (update, {"out": read_only()}, LayoutError, "out: expected a writable array, got a read-only"),
    *(
        (call, changes, error, words)
        for call in (sample, update)
        for changes, error, words in (
            (
                {"probabilities": np.zeros((5, 0), F)},
                ShapeError,
                "probabilities: expected float32 [N, K] with K in [1, 2^20], got [5, 0]",
            ),
            (
                {"probabilities": distributions(5, 3).astype(np.float64)},
                DtypeError,
                "probabilities: expected float32 [N, K], got float64 [5, 3]; try ...astype",
            ),
            (
                {"probabilities": np.ones(3, F)},
                ShapeError,
                "probabilities: expected float32 [N, K]",
            ),
            ({"probabilities": [[1.0]]}, DtypeError, "probabilities: expected an array, got list"),
            (
                {"probabilities": distributions(5, 6)[:, ::2]},
                LayoutError,
                "probabilities: expected [N, K] with a contiguous last axis",
            ),
            ({"probabilities": row_with(0.5, 0.2, 0.2)}, ArgumentError, SUM),
            (
                {"probabilities": row_with(1.5, -0.5, 0)},
                ArgumentError,
                "probabilities: expected finite numbers >= 0, got probabilities[3, 1] = -0.5",
            ),
            (
                {"probabilities": row_with(0.5, 0.5, np.nan)},
                ArgumentError,
                "probabilities: expected finite numbers >= 0, got probabilities[3, 2] = nan",
            ),
            (
                {"probabilities": row_with(np.inf, 0.5, 0.5)},
                ArgumentError,
                "probabilities: expected finite numbers >= 0, got probabilities[3, 0] = inf",
            ),
            (
                {"probabilities": row_with(1, 0, 0), "mask": mask_with(3, 0)},
                ArgumentError,
                "probabilities: expected rows that sum to 1 within 0.001, got a sum of 0 in row 3",
            ),
            (
                {"mask": mask_with(3, 0, 1, 2)},
                ArgumentError,
                "mask: expected an entry in every row, got none in row 3",
            ),
            ({"mask": np.zeros((5, 3), F)}, DtypeError, "mask: expected bool [N, K], got float32"),
            ({"mask": np.zeros((3, 5), bool)}, ShapeError, "mask: expected [N, K] = [5, 3], got"),
        )
    ),
]


@each_backend
@pytest.mark.parametrize(("call", "changes", "error", "words"), WRONG)
def test_bad_input(
    call: Any, changes: dict[str, Any], error: type[EvokernError], words: str, backend: str
) -> None:
    pattern = ".*".join(re.escape(part) for part in words.split("..."))
    with pytest.raises(error, match=pattern):
        call(**({"backend": backend} | changes))


@each_backend
@pytest.mark.parametrize("excess", [0.0009, -0.0009])
def test_rows_may_be_off_by_a_thousandth(backend: str, excess: float) -> None:
    table = row_with(0.5, 0.5 + excess, 0)
    sample(probabilities=table, backend=backend)
    after = update(probabilities=table, backend=backend)
    assert abs(after.astype(np.float64).sum(axis=1) - 1).max() <= 3 * 2.0**-23
    table[3, 2] = 0.0002 if excess > 0 else 0
    table[3, 1] -= 0 if excess > 0 else F(0.0002)
    with pytest.raises(ArgumentError, match=r"within 0\.001, got a sum of .* in row 3"):
        sample(probabilities=table, backend=backend)


@each_backend
def test_the_first_wrong_row_is_named(backend: str) -> None:
    """Rows in several groups, the second one wrong in two places."""
    table = distributions(5000, 3)
    table[4100] = 0
    table[77, 2] = np.nan
    table[1000] = 2
    losses = np.zeros(80, F)
    chosen = np.full((80, 5000), -1, np.int32)
    with pytest.raises(ArgumentError, match=r"probabilities\[77, 2\] = nan"):
        ops.nes_sample(table, 80, seed=1, step=1, backend=backend)
    with pytest.raises(ArgumentError, match=r"probabilities\[77, 2\] = nan"):
        ops.nes_update(table, chosen, losses, learning_rate=0.1, backend=backend)
