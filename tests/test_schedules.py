"""Schedules of sigma: exact values, edges of periods, literal bits."""

from __future__ import annotations

import decimal
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalar_rules import F, bits, round_exactly

from evokern.drivers.config import EAConfig
from evokern.drivers.ea import sigma_at
from evokern.schedules import cosine_cycle, exponential_decay, power_decay


def nearest(value: np.float32) -> tuple[Fraction, Fraction]:
    """The numbers that round to a positive float32 lie between these two."""
    below, above = np.nextafter(value, F(0)), np.nextafter(value, F(np.inf))
    middle = Fraction(float(value))
    return (middle + Fraction(float(below))) / 2, (middle + Fraction(float(above))) / 2


@given(
    st.sampled_from([0.001, 0.1, 1.0, 0.3, 7.25]),
    st.sampled_from([0.99, 0.5, 0.999, 0.123456789, 1.0]),
    st.integers(0, 60),
    st.integers(1, 9),
)
def test_exponential_decay_is_the_nearest_float32_to_the_formula(start, rate, generation, period):
    sigma = exponential_decay(start, rate, generation, period=period)
    assert type(sigma) is np.float32
    low, high = nearest(sigma)
    # sigma^period = start^period * rate^generation has rational sides.
    exact = Fraction(repr(start)) ** period * Fraction(repr(rate)) ** generation
    assert low**period <= exact <= high**period


@pytest.mark.parametrize("generation", [0, 1, 100, 4999, 50_000, 100_000])
def test_exponential_decay_of_whole_periods_is_exact(generation):
    exact = Fraction("0.001") * Fraction("0.99") ** generation
    assert exponential_decay(0.001, 0.99, 100 * generation, period=100) == round_exactly(exact)


def test_exponential_decay_is_continuous_within_a_period():
    sigma = [exponential_decay(1.0, 0.25, generation, period=2) for generation in range(5)]
    assert sigma == [1, 0.5, 0.25, 0.125, 0.0625]


def test_exponential_decay_of_the_program_is_small_after_50000_generations():
    # The authors' settings: rate 0.99, k = 100, sigma 0.001.
    assert exponential_decay(0.001, 0.99, 50_000, period=100) == pytest.approx(6.57e-6, rel=1e-3)


@given(
    st.sampled_from([0.001, 0.1, 1.0, 7.25]),
    st.sampled_from([0.0, 0.5, 0.75, 1.0, 2.0]),
    st.integers(0, 10_000),
    st.integers(1, 900),
)
def test_power_decay_is_the_nearest_float32_to_the_formula(start, exponent, generation, period):
    sigma = power_decay(start, exponent, generation, period=period)
    assert type(sigma) is np.float32
    low, high = nearest(sigma)
    # sigma^4 = start^4 * (1 + generation / period)^(-4 exponent) has rational sides.
    base = 1 + Fraction(generation, period)
    exact = Fraction(repr(start)) ** 4 / base ** int(4 * exponent)
    assert low**4 <= exact <= high**4


def test_power_decay_of_known_generations():
    sigma = [power_decay(1.0, 0.5, generation, period=10) for generation in (0, 30, 80, 150)]
    assert sigma == [1, 0.5, F(1 / 3), 0.25]


def test_exponential_decay_underflows_to_zero():
    assert exponential_decay(0.001, 0.5, 100_000) == 0
    assert 0 < exponential_decay(1.0, 0.5, 149) < F(2.0**-126)  # a subnormal


EXPONENTIAL_BITS = [0x3C23D70A, 0x3C23AD19, 0x3C17B124, 0x393FAB5F]
PERIOD_BITS = [0x3A830F0F, 0x36DC7DB1]
COSINE_BITS = [
    *(0x3DCCCCCD, 0x3DC7D69B, 0x3DB9705C, 0x3DA302E6, 0x3D86C03B),
    *(0x3D4ED916, 0x3D1031B5, 0x3CAF58C3, 0x3C2B45D2, 0x3B604F72),
]


def test_schedules_give_these_bits():
    exponential = [exponential_decay(0.01, 0.999, generation) for generation in (0, 1, 77, 4000)]
    assert bits(exponential) == EXPONENTIAL_BITS
    exponential = [exponential_decay(0.001, 0.99, i, period=100) for i in (1, 49_999)]
    assert bits(exponential) == PERIOD_BITS
    cosine = [cosine_cycle(0.1, 0.001, generation, period=10) for generation in range(10)]
    assert bits(cosine) == COSINE_BITS


def test_numbers_of_numpy_are_taken_as_they_are_written():
    plain = exponential_decay(0.1, 0.97, 12, period=5)
    assert exponential_decay(np.float64(0.1), np.float64(0.97), 12, period=5) == plain
    assert exponential_decay(0.1, 0.97, np.int64(12), period=np.int32(5)) == plain


def test_decay_does_not_depend_on_the_decimal_context_of_the_caller():
    expected = exponential_decay(0.1, 0.97, 12, period=5)
    with decimal.localcontext(prec=2, rounding=decimal.ROUND_UP):
        assert exponential_decay(0.1, 0.97, 12, period=5) == expected


@given(
    st.floats(0, 10), st.floats(0, 10), st.integers(0, 10**6), st.sampled_from([1, 2, 3, 7, 1000])
)
def test_cosine_is_that_of_math(start, end, generation, period):
    sigma = cosine_cycle(start, end, generation, period=period)
    assert type(sigma) is np.float32
    turn = math.pi * (generation % period) / period
    exact = end + (start - end) / 2 * (1 + math.cos(turn))
    assert sigma == pytest.approx(exact, rel=1e-6, abs=1e-6 * max(start, end))
    assert min(F(start), F(end)) * (1 - 1e-6) <= sigma <= max(F(start), F(end)) * (1 + 1e-6)


@pytest.mark.parametrize("period", [1, 2, 5, 100])
def test_cosine_starts_anew_every_period(period):
    sigma = [cosine_cycle(0.5, 0.0, generation, period=period) for generation in range(3 * period)]
    assert sigma[0] == sigma[period] == sigma[2 * period] == F(0.5)
    assert sigma[:period] == sigma[period : 2 * period] == sigma[2 * period :]
    falling = sigma[:period]
    assert all(before > after for before, after in itertools.pairwise(falling))
    assert falling[-1] > 0  # it would be the end at the period itself
    if period % 2 == 0:
        assert falling[period // 2] == F(0.25)


def config(**options: object) -> EAConfig:
    return EAConfig(population=10, **{"sigma": 0.25, **options})  # type: ignore[arg-type]


def test_the_first_generation_has_the_first_sigma():
    for schedule in ("constant", "exponential", "cosine"):
        assert sigma_at(config(sigma_schedule=schedule, sigma_period=7), 1) == F(0.25)


def test_a_constant_sigma_is_the_nearest_float32():
    for generation in (1, 2, 10**6):
        assert bits(sigma_at(config(sigma=0.1), generation)) == 0x3DCCCCCD


def test_schedules_take_their_settings_from_the_config():
    exponential = config(sigma_schedule="exponential", sigma_decay=0.25, sigma_period=2)
    assert [sigma_at(exponential, generation) for generation in (1, 2, 3)] == [0.25, 0.125, 0.0625]
    cosine = config(sigma_schedule="cosine", sigma_min=0.125, sigma_period=4)
    values = [sigma_at(cosine, generation) for generation in (1, 3, 5)]
    assert values == [0.25, 0.1875, 0.25]
