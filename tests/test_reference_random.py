"""The reference's random numbers against known answers, scalar programs and their laws."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalar_rules import SEED, F, bits, scalar_word

from evokern.backends.reference.random import (
    Stream,
    bernoulli,
    bernoulli_threshold,
    cauchy_deviates,
    counter_permutation,
    draw_deviates,
    draw_index,
    draw_words,
    normal_deviates,
    philox,
    selection_words,
    uniform_deviates,
)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, words):
    assert " ".join(f"{word:08x}" for word in philox(counter, key)) == words


def test_streams_have_the_numbers_of_the_contract():
    assert {stream.name: int(stream) for stream in Stream} == {
        "INIT": 0,
        "CROSSOVER": 1,
        "CROSSOVER_PARENT": 2,
        "MUTATION": 3,
        "MUTATION_MASK": 4,
        "SIGMA": 5,
        "SELECTION": 6,
        "BATCH": 7,
        "NES": 8,
        "EPISODE": 9,
        "USER": 10,
    }


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from(Stream),
    st.integers(1, 9),
)
def test_words_count_genes_individuals_generations_and_streams(
    seed, individual, generation, stream, genes
):
    words = draw_words(stream, genes, seed=seed, individual=individual, generation=generation)
    assert words.dtype == np.uint32
    assert words.tolist() == [
        scalar_word(int(stream), gene, individual, generation, seed) for gene in range(genes)
    ]


def test_words_of_several_individuals_wrap_at_two_to_the_32():
    individuals = np.array([2**32 - 1, 2**32, 2**32 + 5])
    words = draw_words(Stream.USER, 5, seed=SEED, individual=individuals, generation=3)
    for row, individual in zip(words, [2**32 - 1, 0, 5], strict=True):
        assert row.tolist() == [scalar_word(10, gene, individual, 3) for gene in range(5)]


def test_four_million_normals_have_the_hash_of_the_contract():
    normals = draw_deviates(
        "normal", Stream.MUTATION, 1 << 22, seed=42 + (1 << 32), individual=0, generation=7
    )
    assert normals.dtype == F
    assert hashlib.sha256(normals.tobytes()).hexdigest().startswith("a62993ac87316374")


def test_normals_are_the_box_muller_transform_of_word_pairs():
    words = draw_words(Stream.USER, 1 << 14, seed=1, individual=2, generation=3)
    radius = np.sqrt(-2 * np.log(((words[0::2] >> 8) + 1) / 2.0**24))
    angle = (words[1::2] >> 8) / 2.0**24 * 2 * math.pi - math.pi / 4
    normals = normal_deviates(words)
    assert np.abs(normals[0::2] - radius * np.cos(angle)).max() < 6e-7
    assert np.abs(normals[1::2] - radius * np.sin(angle)).max() < 6e-7


def test_odd_numbers_of_genes_draw_the_same_normals_as_whole_blocks():
    place = {"seed": SEED, "individual": 1, "generation": 2}
    whole = draw_deviates("normal", Stream.USER, 8, **place)
    for genes in range(1, 8):
        assert bits(draw_deviates("normal", Stream.USER, genes, **place)) == bits(whole[:genes])


def test_uniform_deviates_at_the_ends_and_in_the_middle():
    words = np.array([0, 0xFF, 0x100, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], np.uint32)
    expected = [-1, -1, -1 + 2.0**-23, -(2.0**-23), 0, 1 - 2.0**-23]
    assert bits(uniform_deviates(words)) == bits(expected)


def test_cauchy_deviates_are_tangents_of_cell_middles():
    words = draw_words(Stream.MUTATION, 1 << 14, seed=5, individual=0, generation=0)
    angle = ((words >> 8) + 0.5) / 2.0**24 * 2 * math.pi - math.pi / 4
    cauchy = cauchy_deviates(words)
    assert cauchy.dtype == F
    # The fp32 angle is off by 2^-25 pi or so, which a steep tangent multiplies.
    bound = 4e-7 * (1 + np.tan(angle) ** 2)
    assert (np.abs(cauchy - np.tan(angle)) <= bound).all()


def test_cauchy_deviates_are_finite_and_not_zero_where_the_angle_is_steepest():
    # Cells beside the angles 0, pi/2, pi and 3 pi/2 and beside the ends of the quadrants.
    middles = [(q << 22) + (1 << 21) + d for q in range(4) for d in (-1, 0)]
    ends = [(q << 22) + d for q in range(4) for d in (0, (1 << 22) - 1)]
    cauchy = cauchy_deviates(np.array(middles + ends, np.uint32) << np.uint32(8))
    assert np.isfinite(cauchy).all()
    assert (cauchy != 0).all()
    assert np.sign(cauchy[:8]).tolist() == [-1, 1, 1, -1, -1, 1, 1, -1]
    assert np.abs(cauchy[2]) > 1e6


@pytest.mark.parametrize(
    ("probability", "threshold"),
    [
        (0.0, 0),
        (1.0, 2**32),
        (0.5, 2**31),
        (2.0**-33, 1),
        (2.0**-34, 0),
        (0.75, 3 << 30),
        (0.1, 429496730),
    ],
)
def test_bernoulli_threshold(probability, threshold):
    assert bernoulli_threshold(probability) == threshold
    words = np.array([0, max(threshold - 1, 0), min(threshold, 2**32 - 1), 2**32 - 1], np.uint32)
    expected = [int(word) < threshold for word in words]
    assert bernoulli(words, probability).tolist() == expected


def test_draw_index_is_the_high_half_of_the_product():
    words = np.array([0, 0x55555555, 0x55555556, 0xAAAAAAAB, 0xFFFFFFFF], np.uint32)
    assert draw_index(words, 3).tolist() == [0, 0, 1, 2, 2]
    assert draw_index(words, 1).tolist() == [0, 0, 0, 0, 0]
    assert draw_index(words[-1:], 2**31).tolist() == [2**31 - 1]


def test_selection_words_give_parent_r_the_word_of_gene_r():
    words = selection_words(6, 3, seed=SEED, generation=9, first=2**32 - 1)
    assert words.shape == (6, 3)
    for r in range(6):
        for slot, individual in enumerate([2**32 - 1, 0, 1]):
            assert words[r, slot] == scalar_word(6, r, individual, 9)


def test_permutation_sorts_the_batch_stream():
    words = [scalar_word(7, gene, 0, 4) for gene in range(11)]
    expected = sorted(range(11), key=lambda i: words[i])
    assert counter_permutation(11, seed=SEED, epoch=4).tolist() == expected
    assert counter_permutation(11, seed=SEED, epoch=5).tolist() != expected


def test_permutation_keeps_the_order_of_equal_words():
    n = 300_000
    words = draw_words(Stream.BATCH, n, seed=3, individual=0, generation=0)
    assert len(np.unique(words)) < n
    expected = np.lexsort((np.arange(n), words))
    assert (counter_permutation(n, seed=3, epoch=0) == expected).all()


def _sample(name):
    return draw_deviates(name, Stream.USER, 200_000, seed=2024, individual=1, generation=2)


@pytest.mark.parametrize(
    ("name", "law", "arguments"),
    [("normal", "norm", ()), ("uniform", "uniform", (-1, 2)), ("cauchy", "cauchy", ())],
)
def test_deviates_pass_kolmogorov_smirnov(name, law, arguments):
    stats = pytest.importorskip("scipy.stats")
    p = stats.kstest(_sample(name).astype(np.float64), law, arguments).pvalue
    assert p > 1e-3, f"{name}: p = {p}"


@pytest.mark.parametrize("probability", [0.001, 0.3, 0.5, 0.99])
def test_bernoulli_passes_chi_square(probability):
    stats = pytest.importorskip("scipy.stats")
    words = draw_words(Stream.CROSSOVER, 200_000, seed=11, individual=0, generation=0)
    hits = np.count_nonzero(bernoulli(words, probability))
    expected = len(words) * probability
    p = stats.chisquare([hits, len(words) - hits], [expected, len(words) - expected]).pvalue
    assert p > 1e-3, f"Bernoulli {probability}: p = {p}"


@pytest.mark.parametrize("neighbour", ["gene", "individual", "generation", "stream", "seed"])
def test_neighbouring_words_are_independent(neighbour):
    stats = pytest.importorskip("scipy.stats")
    place = {"stream": 3, "seed": 8, "individual": 4, "generation": 5}
    words = draw_words(genes=200_001, **place)
    if neighbour == "gene":
        other = words[1:]
    else:
        other = draw_words(genes=200_000, **(place | {neighbour: place[neighbour] + 1}))
    pairs = (words[:200_000] >> 28) * 16 + (other >> 28)
    p = stats.chisquare(np.bincount(pairs, minlength=256)).pvalue
    assert p > 1e-3, f"{neighbour}: p = {p}"
