"""Ranking, and the draws of parents: places in the order from the best on."""

from __future__ import annotations

import decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scalar_rules import scalar_word

from evokern.backends.reference.random import Stream, draw_words
from evokern.selection import (
    _exponential_sums,
    draw_exponential_rank,
    draw_tournament,
    draw_truncation,
    rank,
)

PLACE = {"seed": (5 << 32) + 11, "generation": 7}
MANY = {"seed": 2024, "generation": 3, "first": 0}


def word(gene: int, slot: int) -> int:
    return scalar_word(Stream.SELECTION, gene, slot, PLACE["generation"], PLACE["seed"])


def shares(places: np.ndarray, n: int) -> np.ndarray:
    """How often each place was drawn: int64 [n]."""
    return np.bincount(places.ravel(), minlength=n)


def chi_square_p(observed: np.ndarray, chances: np.ndarray) -> float:
    stats = pytest.importorskip("scipy.stats")
    expected = chances * observed.sum()
    assert expected.min() > 5
    return float(stats.chisquare(observed, expected * (observed.sum() / expected.sum())).pvalue)


def test_rank_puts_nan_last_and_settles_ties_by_number():
    fitness = np.array([-2, np.nan, -1, -np.inf, -1, np.inf, np.nan, 0, -0.0], np.float32)
    order = rank(fitness)
    assert order.dtype == np.int32
    assert_array_equal(order, [5, 7, 8, 2, 4, 0, 3, 1, 6])


def test_rank_keeps_numbers_in_order_where_all_are_equal():
    for value in (1.5, np.nan, np.inf, -np.inf):
        assert_array_equal(rank(np.full(40, value, np.float32)), np.arange(40))
    assert_array_equal(rank(np.zeros(1, np.float32)), [0])
    assert rank(np.zeros(0, np.float32)).shape == (0,)


@given(st.lists(st.floats(width=32), max_size=30))
def test_rank_is_the_sort_of_python(values):
    def key(number: int) -> tuple[bool, float, int]:
        value = values[number]
        return value != value, 0.0 if value != value else -value, number

    order = sorted(range(len(values)), key=key)
    assert_array_equal(rank(np.array(values, np.float32)), np.array(order, np.int32))


@given(st.integers(1, 50), st.integers(1, 5), st.integers(0, 9), st.integers(0, 2**32 - 9))
def test_truncation_scales_a_word_per_parent_and_slot(best, parents, slots, first):
    places = draw_truncation(best, parents, slots, first=first, **PLACE)
    assert places.dtype == np.int32
    assert places.shape == (parents, slots)
    for r in range(parents):
        for s in range(slots):
            assert places[r, s] == word(r, first + s) * best // 2**32


@given(st.integers(1, 50), st.integers(1, 6), st.integers(1, 3), st.integers(0, 5))
def test_a_tournament_is_won_by_the_best_of_consecutive_words(n, size, parents, slots):
    places = draw_tournament(n, size, parents, slots, first=3, **PLACE)
    assert places.dtype == np.int32
    assert places.shape == (parents, slots)
    for r in range(parents):
        for s in range(slots):
            entrants = [word(r * size + i, 3 + s) * n // 2**32 for i in range(size)]
            assert places[r, s] == min(entrants)


@given(
    st.integers(1, 20),
    st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.1, 1e-9]),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_exponential_ranking_is_a_categorical_draw_of_integer_weights(n, base, parents, slots):
    places = draw_exponential_rank(n, base, parents, slots, first=3, **PLACE)
    assert places.dtype == np.int32
    assert places.shape == (parents, slots)
    total = sum(base**k for k in range(n))
    weights = [round(base**k / total * 2**24) for k in range(n)]
    for r in range(parents):
        for s in range(slots):
            target = word(r, 3 + s) * sum(weights) // 2**32
            place = next(k for k in range(n) if target < sum(weights[: k + 1]))
            assert places[r, s] == place


def test_draws_of_a_fixed_seed_are_these():
    place = {"seed": 1, "generation": 1, "first": 0}
    words = draw_words(Stream.SELECTION, 4, individual=np.arange(3), seed=1, generation=1)
    assert [f"{word:08x}" for word in words[0]] == ["f8cebe5a", "5931533b", "a5c74da4", "8f6dac6c"]
    truncation = draw_truncation(100, 4, 3, **place)
    assert_array_equal(truncation, [[97, 77, 78], [34, 91, 85], [64, 38, 83], [56, 42, 6]])
    assert_array_equal(draw_tournament(100, 2, 2, 3, **place), [[34, 77, 78], [56, 38, 6]])
    ranked = draw_exponential_rank(100, 0.97, 4, 3, **place)
    assert_array_equal(ranked, [[85, 43, 45], [13, 67, 55], [31, 15, 51], [25, 17, 2]])


@pytest.mark.parametrize(
    "draw",
    [
        lambda slots, first: draw_truncation(10, 3, slots, first=first, **PLACE),
        lambda slots, first: draw_tournament(10, 3, 2, slots, first=first, **PLACE),
        lambda slots, first: draw_exponential_rank(10, 0.9, 3, slots, first=first, **PLACE),
    ],
    ids=["truncation", "tournament", "exponential_rank"],
)
def test_a_shard_draws_what_the_whole_would_have_drawn(draw):
    whole = draw(23, 2)
    assert_array_equal(np.concatenate([draw(9, 2), draw(0, 11), draw(14, 11)], axis=1), whole)
    assert len(set(whole.ravel())) > 1


def test_truncation_is_uniform_among_the_best():
    observed = shares(draw_truncation(13, 3, 4000, **MANY), 13)
    assert chi_square_p(observed, np.full(13, 1 / 13)) > 1e-3


@pytest.mark.parametrize(("n", "base"), [(10, 0.8), (40, 0.97), (7, 1.0), (3, 0.25)])
def test_chances_of_exponential_ranking_go_with_the_power_of_the_base(n, base):
    places = draw_exponential_rank(n, base, 2, 10_000, **MANY)
    chances = base ** np.arange(n)
    assert chi_square_p(shares(places, n), chances / chances.sum()) > 1e-3


@pytest.mark.parametrize(("n", "size"), [(10, 1), (10, 2), (25, 3), (6, 5)])
def test_chances_of_a_tournament_are_those_of_the_closed_form(n, size):
    # The best of t draws with replacement is at least k with a chance of ((n - k) / n)^t
    # (Blickle and Thiele 1996, for one individual per fitness).
    places = draw_tournament(n, size, 2, 20_000, **MANY)
    at_least = ((n - np.arange(n + 1)) / n) ** size
    chances = at_least[:-1] - at_least[1:]
    enough = chances * places.size > 10
    observed = np.append(shares(places, n)[enough], shares(places, n)[~enough].sum())
    expected = np.append(chances[enough], chances[~enough].sum())
    if expected[-1] * places.size < 10:
        assert observed[-1] < 40
        observed, expected = observed[:-1], expected[:-1]
    assert chi_square_p(observed, expected) > 1e-3


def test_two_parents_are_drawn_independently():
    places = draw_truncation(4, 2, 20_000, **MANY)
    pairs = np.bincount(places[0] * 4 + places[1], minlength=16)
    assert chi_square_p(pairs, np.full(16, 1 / 16)) > 1e-3


def test_one_individual_is_always_drawn():
    for draw in (
        draw_truncation(1, 2, 50, **MANY),
        draw_tournament(1, 4, 2, 50, **MANY),
        draw_exponential_rank(1, 0.5, 2, 50, **MANY),
    ):
        assert_array_equal(draw, np.zeros((2, 50), np.int32))


def test_extremes_of_selective_pressure():
    assert set(draw_tournament(50, 2000, 2, 100, **MANY).ravel()) == {0}
    assert set(draw_exponential_rank(50, 1e-9, 2, 1000, **MANY).ravel()) == {0}
    assert_array_equal(draw_tournament(50, 1, 2, 99, **MANY), draw_truncation(50, 2, 99, **MANY))
    # A base of 1 is no pressure: the uniform draw, but for the rounding of the weights.
    even = draw_exponential_rank(50, 1.0, 2, 5000, **MANY)
    assert (even != draw_truncation(50, 2, 5000, **MANY)).mean() < 1e-3
    assert even.max() == 49


def test_the_worst_of_many_are_out_of_reach_of_a_steep_base():
    places = draw_exponential_rank(100_000, 0.99, 2, 20_000, **MANY)
    assert 500 < places.max() < 1700  # 0.99^1700 is 4e-8


def test_weights_do_not_depend_on_the_decimal_context_of_the_caller():
    expected = draw_exponential_rank(60, 0.93, 2, 500, **MANY)
    _exponential_sums.cache_clear()
    with decimal.localcontext(prec=2, rounding=decimal.ROUND_UP):
        assert_array_equal(draw_exponential_rank(60, 0.93, 2, 500, **MANY), expected)
    _exponential_sums.cache_clear()
