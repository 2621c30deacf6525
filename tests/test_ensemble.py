"""Ensembles: the different genomes of a population, and the mean of their outputs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scalar_rules import F, bits

from evokern.ensemble import distinct, mean_logits
from evokern.population import allocate_genomes


def test_distinct_keeps_the_first_of_each_in_order():
    bank = np.array([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4]], F)
    found = distinct(bank, np.array([4, 2, 1, 0, 3, 2], np.int32))
    assert found.dtype == np.float32
    assert_array_equal(found, [[3, 4], [1, 2], [5, 6]])
    found[:] = 0
    assert_array_equal(bank[0], [1, 2])


def test_distinct_goes_by_bits():
    bank = np.array([[0.0], [-0.0], [np.nan], [np.nan]], F)
    assert bits(distinct(bank, np.arange(4, dtype=np.int32))) == bits(bank[:3])


def test_distinct_leaves_out_the_padding_of_rows():
    bank = allocate_genomes(3, 5)
    bank[:] = 7
    np.lib.stride_tricks.as_strided(bank, (1, 6))[0, 5] = 1  # padding behind the first row
    assert distinct(bank, np.array([0, 1, 2], np.int32)).shape == (1, 5)


def test_distinct_of_one_and_of_none():
    bank = np.ones((2, 3), F)
    assert distinct(bank, np.array([1], np.int32)).shape == (1, 3)
    assert distinct(bank, np.zeros(0, np.int32)).shape == (0, 3)


def test_mean_logits_of_a_few():
    logits = np.array([[[1, 2], [3, 4]], [[2, -2], [0, 0]], [[0, 3], [0, 5]]], F)
    assert_array_equal(mean_logits(logits), [[1, 1], [1, 3]])
    assert mean_logits(logits).dtype == np.float32
    assert_array_equal(mean_logits(logits[:1]), logits[0])


def test_mean_logits_adds_in_order_and_divides_once():
    logits = np.array([2**24, 1, 1, -(2**24)], F)[:, None, None]
    assert mean_logits(logits) == 0  # 2^24 + 1 rounds to 2^24
    assert mean_logits(logits[[1, 2, 0, 3]]) == 0.5


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12))
def test_mean_logits_is_the_sum_of_float32_over_the_number(values):
    total = F(0)
    for value in values:
        total = F(total + F(value))
    logits = np.array(values, F)[:, None, None]
    assert bits(mean_logits(logits)) == [[int((total / F(len(values))).view(np.uint32))]]
