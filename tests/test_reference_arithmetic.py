"""The reference's fma, bf16 and sums against exact arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scalar_rules import F, bits, exact_fma, image, scalar_mean

from evokern.backends.reference.arithmetic import fma, mean_of_samples, round_to_bf16

any_fp32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
sparse_fp32 = st.builds(
    lambda sign, low, mid, exponent: float(
        F(sign * (1 + low * 2.0**-23 + mid * 2.0**-12) * 2.0**exponent)
    ),
    st.sampled_from([-1, 1]),
    st.integers(-3, 3),
    st.integers(-3, 3),
    st.integers(-3, 3) | st.integers(-80, -60) | st.integers(-30, 30) | st.just(-126),
)
# Sums that fall half way between two fp32, or a hair beside; the last ones overflow or not.
HALF_WAY = [
    (2.0**-12, 2.0**-12, 1),
    (2.0**-12, 2.0**-12, 1 + 2.0**-23),
    (2.0**-12, -(2.0**-12), 1 + 2.0**-23),
    (2.0**-24 * (1 + 2.0**-20), 1 + 2.0**-20, 1),
    (2.0**-12 + 2.0**-35, 2.0**-12 - 2.0**-35, 1 + 2.0**-23),
    (-(2.0**-12 + 2.0**-35), 2.0**-12 - 2.0**-35, -1 - 2.0**-23),
    (2.0**-100 + 2.0**-123, 2.0**-50 - 2.0**-73, 2.0**-149),
    (2.0**-75 + 2.0**-98, 2.0**-75 - 2.0**-98, 2.0**-127 + 2.0**-149),
    (2.0**-75 + 362 * 2.0**-98, 2.0**-75 - 362 * 2.0**-98, 2.0**-127 + 2.0**-149),
    (2.0**-75 + 2.0**-98, 2.0**-75 - 2.0**-98, 2.0**-126 - 2.0**-149),
    (2.0**-75, 2.0**-75, 0),
    (2.0**-75 + 2.0**-98, 2.0**-75, 0),
    (2.0**-75, 2.0**-75, 2.0**-149),
    (-(2.0**-75), 2.0**-75, 2.0**-126),
    (2.0**-149, 2.0**-149, 2.0**-149),
    (2.0**-149, 2.0**-149, -(2.0**-126)),
    (2.0**52, 2.0**51, 2.0**128 - 2.0**104),
    (2.0**52 - 2.0**29, 2.0**51, 2.0**128 - 2.0**104),
    (2.0**52, 2.0**51 - 2.0**28, 2.0**128 - 2.0**104),
    (2.0**127, 2.0**127, -(2.0**127)),
]


def _fma(a, b, c):
    return fma(np.array([a], F), np.array([b], F), np.array([c], F))[0]


@pytest.mark.parametrize(("a", "b", "c"), HALF_WAY)
def test_fma_half_way_between_two_fp32(a, b, c):
    assert [float(F(x)) for x in (a, b, c)] == [a, b, c]
    assert bits(_fma(a, b, c)) == bits(exact_fma(a, b, c))


def test_fma_is_right_where_the_sum_in_double_rounds_twice():
    a, b, c = HALF_WAY[4]
    assert float(F(a * b + c)) == 1 + 2.0**-22
    assert float(_fma(a, b, c)) == 1 + 2.0**-23


@given(any_fp32 | sparse_fp32, any_fp32 | sparse_fp32, any_fp32 | sparse_fp32)
def test_fma_rounds_the_exact_result_once(a, b, c):
    assert bits(_fma(a, b, c)) == bits(exact_fma(a, b, c))


@given(
    st.integers(2**23, 2**24 - 1),
    st.integers(-3, 3),
    st.sampled_from([0, 30, 60, -100, -126, 104]),
    st.integers(-30, 2),
    st.booleans(),
)
@example(2**24 - 1, 1, 104, -30, True)
def test_fma_beside_half_way(mantissa, hairs, exponent, distance, negative):
    """c is any fp32; a * b is half its last place, give or take hairs of 2^-23 of that."""
    c = math.ldexp(mantissa, exponent - 23)
    a = math.ldexp(1 + hairs * 2.0**-22, exponent - 24 - distance)
    b = math.ldexp(1 - (hairs % 2) * 2.0**-23, distance)
    a, b, c = (float(F(x)) for x in (a, -b if negative else b, c))
    if all(map(math.isfinite, (a, b, c))):
        assert bits(_fma(a, b, c)) == bits(exact_fma(a, b, c))


@given(st.integers(0, 2**23), st.integers(-400, 400), st.integers(-400, 400), st.booleans())
def test_fma_beside_half_way_between_subnormals(c, i, j, negative):
    """c is any subnormal; a * b is half their spacing, give or take."""
    a = 2.0**-75 + i * 2.0**-98
    b = 2.0**-75 + j * 2.0**-98
    a, b = (float(F(x)) for x in (a, -b if negative else b))
    assert bits(_fma(a, b, c * 2.0**-149)) == bits(exact_fma(a, b, c * 2.0**-149))


def test_fma_of_infinities_nan_and_signed_zeros():
    inf, nan = math.inf, math.nan
    for a, b in ((inf, 0), (0, -inf), (nan, 1), (1, nan)):
        assert np.isnan(_fma(a, b, 1))
    assert np.isnan(_fma(inf, 1, -inf))
    assert np.isnan(_fma(1, 1, nan))
    assert _fma(inf, -2, 5) == -inf
    assert _fma(3e38, 3e38, -inf) == -inf
    assert bits(_fma(-0.0, 1, -0.0)) == 0x80000000
    assert bits(_fma(-0.0, 1, 0.0)) == 0
    assert bits(_fma(1, -1, 1)) == 0
    assert bits(_fma(-(2.0**-100), 2.0**-100, 0)) == 0x80000000


def test_fma_broadcasts_every_doubtful_element():
    a = np.array([[HALF_WAY[4][0]], [1]], F)
    b = np.array([HALF_WAY[4][1], 2.0**-149, 0.5], F)
    c = np.array([HALF_WAY[4][2]], F)
    expected = [[exact_fma(x, y, c[0]) for y in b] for x in a[:, 0]]
    assert bits(fma(a, b, c)) == bits(expected)


@pytest.mark.parametrize(
    ("x", "rounded"),
    [
        (0x3F800000, 0x3F800000),
        (0x3F808000, 0x3F800000),
        (0x3F808001, 0x3F810000),
        (0x3F818000, 0x3F820000),
        (0x3F807FFF, 0x3F800000),
        (0xBF818000, 0xBF820000),
        (0x00008001, 0x00010000),
        (0x80000000, 0x80000000),
        (0x7F7FFFFF, 0x7F800000),
        (0xFF800000, 0xFF800000),
    ],
)
def test_bf16_rounds_to_nearest_even(x, rounded):
    assert bits(round_to_bf16(np.array([x], np.uint32).view(F))) == [rounded]


@pytest.mark.parametrize("nan", [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF80FFFF, 0x7FC00000])
def test_bf16_of_nan_is_a_bf16_nan(nan):
    result = round_to_bf16(np.array([nan], np.uint32).view(F))
    assert np.isnan(result[0])
    assert bits(result)[0] & 0xFFFF == 0


def test_mean_of_samples_adds_by_halves():
    values = np.zeros((1, 18), F)
    values[0, [0, 1, 16, 17]] = [2.0**24, -(2.0**24), 1, 1]
    assert bits(mean_of_samples(values)) == bits([F(1) / F(18)])


@pytest.mark.parametrize("samples", [1, 2, 31, 32, 33, 100])
def test_mean_of_samples_is_the_rule_word_for_word(samples):
    values = image(20, samples)
    expected = [scalar_mean(row) for row in values]
    assert bits(mean_of_samples(values)) == bits(expected)
