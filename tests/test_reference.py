"""The NumPy reference against values found by hand or by tiny scalar programs of its rules."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evokern.backends.reference.activation import exp, log
from evokern.backends.reference.arithmetic import fma, mean_of_samples, round_to_bf16
from evokern.backends.reference.network import (
    affine,
    dense_forward,
    network_forward,
    network_loss,
)
from evokern.backends.reference.pool import avg_pool2d, max_pool2d
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
from evokern.backends.reference.variation import crossover_mutate, init_genomes, mutate_sigma
from evokern.layout import DenseGenes, GenomeLayout
from evokern.network import Activation, AvgPool2d, Dense, Flatten, MaxPool2d, Network

F = np.float32
SEED = (7 << 32) + 42
NAN_PAYLOAD = np.array([0x7FC12345, 0xFF800001, 0x80000000, 0x00000001], np.uint32).view(F)
LAYOUT = GenomeLayout((DenseGenes(3, 2), DenseGenes(2, 3)))


def bits(x):
    return np.asarray(x, F).view(np.uint32).tolist()


def scalar_philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        low = 0xFFFFFFFF
        c = [(b >> 32) ^ c[1] ^ k[0], b & low, (a >> 32) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


def scalar_word(stream, gene, individual, generation, seed=SEED):
    key = (seed % 2**32, seed // 2**32)
    return scalar_philox((gene // 4, individual, generation, stream), key)[gene % 4]


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


def _init(layout, scheme, n=2, first=0, seed=SEED):
    out = np.full((n, layout.size), np.nan, F)
    init_genomes(layout, seed=seed, scheme=scheme, first=first, out=out)
    return out


def _init_words(layout, individual):
    return np.array([scalar_word(0, gene, individual, 0) for gene in range(layout.size)], np.uint32)


@pytest.mark.parametrize(
    ("scheme", "limits"),
    [
        # sqrt(6/5), sqrt(6/5); sqrt(6/3), sqrt(6/2); 1/sqrt(3), 1/sqrt(2)
        ("glorot_uniform", (0x3F8C378C, 0x3F8C378C)),
        ("he_uniform", (0x3FB504F3, 0x3FDDB3D7)),
        ("torch", (0x3F13CD3A, 0x3F3504F3)),
    ],
)
def test_uniform_init_schemes(scheme, limits):
    for genome, individual in zip(_init(LAYOUT, scheme, first=4), (4, 5), strict=True):
        words = _init_words(LAYOUT, individual)
        expected = []
        for gene, word in enumerate(words.tolist()):
            limit = np.array(limits[0 if gene < 8 else 1], np.uint32).view(F)
            deviate = F(((word >> 8) - 2**23) * 2.0**-23)
            is_bias = gene in (6, 7, 14, 15, 16)
            expected.append(F(0) if is_bias and scheme != "torch" else limit * deviate)
        assert bits(genome) == bits(expected)


def test_lecun_normal_scales_normals_by_the_root_of_fan_in():
    genome = _init(LAYOUT, "lecun_normal", n=1)[0]
    words = np.append(_init_words(LAYOUT, 0), np.zeros(3, np.uint32))
    normals = normal_deviates(words)[: LAYOUT.size]
    scale = np.repeat(np.array([0x3F13CD3A, 0x3F3504F3], np.uint32).view(F), [8, 9])
    expected = normals * scale
    expected[[6, 7, 14, 15, 16]] = 0
    assert bits(genome) == bits(expected)


def test_unit_rows_divide_each_unit_by_its_norm_summed_in_order():
    layout = GenomeLayout((DenseGenes(9, 11), DenseGenes(1, 1)))
    genome = _init(layout, "unit_rows", n=1)[0]
    normals = normal_deviates(_init_words(layout, 0))[:99].reshape(9, 11)
    for unit in range(11):
        total = F(0)
        for n in normals[:, unit]:
            total = F(total + F(n * n))
        expected = [F(n / np.sqrt(total)) for n in normals[:, unit]]
        assert bits(genome[:99].reshape(9, 11)[:, unit]) == bits(expected)
    assert bits(genome[99:110]) == [0] * 11
    assert abs(genome[110]) == 1
    assert bits(genome[111]) == 0


@pytest.mark.parametrize("scheme", ["glorot_uniform", "unit_rows"])
def test_init_of_a_shard_is_a_part_of_the_whole(scheme):
    whole = _init(LAYOUT, scheme, n=6)
    assert bits(_init(LAYOUT, scheme, n=2, first=3)) == bits(whole[3:5])
    assert bits(_init(LAYOUT, scheme, n=2, first=2**32 - 1)[1]) == bits(whole[0])


GENERATION = 12


def _vary(genomes, parents, sigma, **options):
    slots = len(sigma)
    arguments = {
        "kind": "uniform",
        "rate": 0.5,
        "weights": None,
        "mutation_rate": 1.0,
        "distribution": "normal",
        "layout": None,
        "seed": SEED,
        "generation": GENERATION,
        "first": 0,
        "out": np.full((slots, genomes.shape[1]), np.nan, F),
        "out_rows": None,
    } | options
    crossover_mutate(genomes, np.array(parents, np.int32), np.array(sigma, F), **arguments)
    return arguments["out"]


def _parents(count, genes):
    """Genome r holds r + gene / 64, so that a gene tells where it came from."""
    return (np.arange(count)[:, None] + np.arange(genes) / 64).astype(F)


def _scalar_choice(draws, parents, rate, individual):
    choice = []
    for gene in range(draws):
        other = scalar_word(1, gene, individual, GENERATION) < math.floor(rate * 2**32 + 0.5)
        word = scalar_word(2, gene, individual, GENERATION)
        choice.append(1 + word * (parents - 1) // 2**32 if other else 0)
    return choice


@pytest.mark.parametrize(("parents", "rate"), [(2, 0.5), (2, 0.25), (3, 0.7), (5, 1.0)])
def test_uniform_crossover_draws_every_gene(parents, rate):
    genomes = _parents(6, 21)
    rows = np.array([[5, 0], [2, 3], [0, 4], [1, 1], [3, 2]], np.int32)[:parents]
    out = _vary(genomes, rows, [0, 0], rate=rate, first=8)
    for slot in range(2):
        choice = _scalar_choice(21, parents, rate, 8 + slot)
        assert len(set(choice)) == min(parents, parents - (rate == 1))
        expected = [genomes[rows[c, slot], gene] for gene, c in enumerate(choice)]
        assert bits(out[slot]) == bits(expected)


@pytest.mark.parametrize("parents", [2, 3])
def test_rows_crossover_moves_a_units_weights_and_bias_together(parents):
    genomes = _parents(3, LAYOUT.size)
    rows = [[2], [0], [1]][:parents]
    out = _vary(genomes, rows, [0], kind="rows", layout=LAYOUT, rate=0.6, first=3)[0]
    choice = _scalar_choice(5, parents, 0.6, 3)
    assert len(set(choice)) > 1
    unit = [0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4]
    expected = [genomes[rows[choice[u]][0], gene] for gene, u in enumerate(unit)]
    assert bits(out) == bits(expected)


def test_arithmetic_crossover_adds_products_in_order():
    genomes = np.array([[1, 2.0**24, 3], [2, 1, 5], [4, -(2.0**24), 7]], F)
    third = F(1 / 3)
    out = _vary(genomes, [[0], [1], [2]], [0], kind="arithmetic")[0]
    expected = []
    for a, b, c in genomes.T:
        expected.append(F(F(F(third * a) + F(third * b)) + F(third * c)))
    assert bits(out) == bits(expected)
    weights = np.array([[1, 0.5], [1, 0.25], [1, 0.25]], F)
    out = _vary(genomes, [[0, 0], [1, 1], [2, 2]], [0, 0], kind="arithmetic", weights=weights)
    assert out.tolist() == [[7, 0, 15], [2, 2.0**22, 4.5]]


@pytest.mark.parametrize("kind", ["uniform", "rows", "arithmetic", "none"])
def test_copies_move_bits(kind):
    layout = GenomeLayout((DenseGenes(1, 2),))
    genomes = np.stack([NAN_PAYLOAD, np.ones(4, F)])
    out = _vary(genomes, [[0], [0], [0]], [0], kind=kind, layout=layout)
    assert bits(out[0]) == [0x7FC12345, 0xFF800001, 0x80000000, 0x00000001]


@pytest.mark.parametrize("kind", ["uniform", "rows"])
def test_chosen_genes_move_bits(kind):
    layout = GenomeLayout((DenseGenes(1, 2),))
    genomes = np.stack([NAN_PAYLOAD, NAN_PAYLOAD])
    out = _vary(genomes, [[0], [1]], [0], kind=kind, layout=layout)
    assert bits(out[0]) == bits(NAN_PAYLOAD)


def test_kind_none_looks_at_the_first_parent_only():
    genomes = _parents(3, 9)
    assert bits(_vary(genomes, [[2, 1], [0, 0]], [0, 0], kind="none")) == bits(genomes[[2, 1]])


@pytest.mark.parametrize("distribution", ["normal", "uniform", "cauchy"])
def test_mutation_adds_a_rounded_product(distribution):
    genomes = _parents(2, 7)
    sigma = F(0.1)
    out = _vary(genomes, [[1, 0]], [0, sigma], distribution=distribution, first=5)
    words = np.array([scalar_word(3, gene, 6, GENERATION) for gene in range(8)], np.uint32)
    law = {"normal": normal_deviates, "uniform": uniform_deviates, "cauchy": cauchy_deviates}
    deviates = law[distribution](words)
    expected = [F(x + F(sigma * n)) for x, n in zip(genomes[0], deviates, strict=False)]
    assert bits(out[0]) == bits(genomes[1])
    assert bits(out[1]) == bits(expected)


def test_mutation_follows_crossover():
    genomes = _parents(2, 16)
    crossed = _vary(genomes, [[0], [1]], [0])
    mutated = _vary(genomes, [[0], [1]], [0.5])
    alone = _vary(crossed, [[0]], [0.5], kind="none")
    assert bits(mutated) == bits(alone)
    assert bits(mutated) != bits(crossed)


def test_mutation_rate_copies_the_genes_that_are_not_drawn():
    genomes = np.tile(NAN_PAYLOAD, (1, 4))
    genomes[0, 4:] = 1
    everywhere = _vary(genomes, [[0]], [0.5], kind="none")[0]
    some = _vary(genomes, [[0]], [0.5], kind="none", mutation_rate=0.4)[0]
    drawn = [scalar_word(4, gene, 0, GENERATION) < 1717986918 for gene in range(16)]
    assert drawn.count(True) in range(1, 16)
    assert bits(some) == bits(np.where(drawn, everywhere, genomes[0]))
    assert bits(_vary(genomes, [[0]], [0.5], mutation_rate=0.0)) == bits(genomes)


def test_out_rows_scatter_the_slots_but_not_their_draws():
    genomes = _parents(4, 10)
    plain = _vary(genomes, [[0, 1], [1, 2]], [0.1, 0.2], first=7)
    bank = np.vstack([genomes, np.zeros((3, 10), F)])
    _vary(
        bank, [[0, 1], [1, 2]], [0.1, 0.2], first=7, out=bank, out_rows=np.array([6, 4], np.int32)
    )
    assert bits(bank[:4]) == bits(genomes)
    assert bits(bank[[6, 4]]) == bits(plain)
    assert not bank[5].any()


@given(st.integers(0, 6), st.integers(1, 3))
def test_a_shard_of_slots_draws_what_the_whole_draws(start, count):
    genomes = _parents(4, 13)
    parents = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 1], [1, 1, 0, 2, 3, 2, 2, 0, 0]])
    sigma = np.array([0, 0.1, 0.2, 0, 0.3, 0, 0.1, 0.1, 0], F)
    whole = _vary(genomes, parents, sigma, mutation_rate=0.5)
    part = slice(start, start + count)
    shard = _vary(genomes, parents[:, part], sigma[part], mutation_rate=0.5, first=start)
    assert bits(shard) == bits(whole[part])


def test_sigma_is_multiplied_by_the_exponential_of_its_own_normal():
    sigma = np.array([0.001, 1, 2.0**-40, 1024, 0], F)
    out = np.empty(5, F)
    mutate_sigma(sigma, tau=0.25, seed=SEED, generation=3, first=2**32 - 2, out=out)
    for slot, individual in enumerate([2**32 - 2, 2**32 - 1, 0, 1, 2]):
        words = np.array([scalar_word(5, gene, individual, 3) for gene in (0, 1)], np.uint32)
        factor = exp(F(0.25) * normal_deviates(words)[:1])[0]
        expected = min(max(F(sigma[slot] * factor), F(2.0**-40)), F(1024))
        assert bits(out[slot : slot + 1]) == bits([expected])
    assert out[4] == 2.0**-40
    mutate_sigma(sigma, tau=0.0, seed=SEED, generation=3, first=0, out=out)
    assert bits(out[:4]) == bits(sigma[:4])


def test_sigma_stays_within_its_limits_when_the_factor_overflows():
    out = np.empty(64, F)
    mutate_sigma(np.zeros(64, F), tau=1e6, seed=1, generation=0, first=0, out=out)
    assert (out == 2.0**-40).all()
    mutate_sigma(np.ones(64, F), tau=1e6, seed=1, generation=0, first=0, out=out)
    assert set(out.tolist()) == {2.0**-40, 1024.0}


def round_exactly(value: Fraction) -> float:
    """A non-zero rational to fp32, to nearest even, through integers only."""
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** max(exponent - 23, -149)
    rounded = round(value / quantum) * quantum
    if abs(rounded) >= 2**128:
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def exact_fma(a, b, c):
    a, b, c = float(a), float(b), float(c)
    value = Fraction(a) * Fraction(b) + Fraction(c)
    # The double computation is exact for an exact zero and gives it the sign of IEEE 754.
    return round_exactly(value) if value else a * b + c


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


def _scalar_mean(values):
    total = F(0)
    for start in range(0, len(values), 32):
        lanes = [F(v) for v in values[start : start + 32]]
        lanes += [F(0)] * (32 - len(lanes))
        for h in (16, 8, 4, 2, 1):
            lanes = [F(lanes[i] + lanes[i + h]) for i in range(h)]
        total = F(total + lanes[0])
    return F(total / F(len(values)))


@pytest.mark.parametrize("samples", [1, 2, 31, 32, 33, 100])
def test_mean_of_samples_is_the_rule_word_for_word(samples):
    values = _image(20, samples)
    expected = [_scalar_mean(row) for row in values]
    assert bits(mean_of_samples(values)) == bits(expected)


def _image(*shape):
    size = math.prod(shape)
    flat = draw_deviates("normal", Stream.USER, size, seed=9, individual=0, generation=0)
    return flat.reshape(shape)


def _windows(image, geometry):
    """The real elements of every window in row order: [[window, ...], ...] of one channel."""
    kh, kw, sh, sw, ph, pw = geometry
    height, width = image.shape
    return [
        [
            [
                image[i, j]
                for i in range(top, top + kh)
                for j in range(left, left + kw)
                if 0 <= i < height and 0 <= j < width
            ]
            for left in range(-pw, width + pw - kw + 1, sw)
        ]
        for top in range(-ph, height + ph - kh + 1, sh)
    ]


def _scalar_max(window):
    m = window[0]
    for x in window[1:]:
        m = x if x > m or x != x else m
    return m


def _scalar_sum(window):
    total = F(0)
    for x in window:
        total = F(total + x)
    return total


GEOMETRIES = [(2, 2, 2, 2, 0, 0), (3, 2, 1, 2, 1, 1), (2, 3, 3, 1, 1, 0), (7, 6, 1, 1, 0, 3)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_pools_follow_the_scalar_rule(geometry):
    x = _image(2, 3, 7, 6)
    x[0, 0, 2, 3] = np.nan
    x[0, 1, :4] = -np.inf
    x[1, 2] = np.where(x[1, 2] > 0, F(0), F(-0.0))
    expected = [[_windows(channel, geometry) for channel in image] for image in x]
    shape = np.shape([[[[0 for _ in row] for row in c] for c in image] for image in expected])
    area = geometry[0] * geometry[1]

    def apply(rule):
        flat = [rule(w) for image in expected for c in image for row in c for w in row]
        return np.array(flat, F).reshape(shape)

    out = np.empty(shape, F)
    max_pool2d(x, geometry=geometry, out=out)
    assert bits(out) == bits(apply(_scalar_max))
    avg_pool2d(x, geometry=geometry, count_include_pad=True, out=out)
    np.testing.assert_array_equal(out, apply(lambda w: F(_scalar_sum(w) / F(area))))
    assert (np.signbit(out) <= (out < 0) | np.isnan(out)).all()
    avg_pool2d(x, geometry=geometry, count_include_pad=False, out=out)
    np.testing.assert_array_equal(out, apply(lambda w: F(_scalar_sum(w) / F(len(w)))))


def test_max_pool_keeps_the_first_of_equals_and_lets_nan_win():
    x = np.array([[-0.0, 0.0, np.nan, np.inf], [-0.0, -1, 2, 3]], F)[None, None]
    out = np.empty((1, 1, 1, 2), F)
    max_pool2d(x, geometry=(2, 2, 2, 2, 0, 0), out=out)
    assert bits(out)[0][0][0][0] == 0x80000000
    assert np.isnan(out[0, 0, 0, 1])


def test_average_pool_adds_in_row_order_and_divides_once():
    x = np.array([[2.0**24, 1], [-(2.0**24), 1]], F)[None, None]
    out = np.empty((1, 1, 1, 1), F)
    avg_pool2d(x, geometry=(2, 2, 2, 2, 0, 0), count_include_pad=True, out=out)
    assert out.item() == 0.25


def _dense(x, w, b, index, activation="identity", precision="fp32", negative_slope=0.01):
    x, w, b = (np.asarray(a, F) for a in (x, w, b))
    out = np.full((len(index), x.shape[-2], w.shape[2]), np.nan, F)
    dense_forward(
        x,
        w,
        b,
        index=np.array(index, np.int32),
        activation=activation,
        negative_slope=negative_slope,
        precision=precision,
        out=out,
    )
    return out


def test_dense_starts_at_the_bias_and_goes_up():
    assert _dense([[1, 1]], [[[1], [-(2.0**24)]]], [[2.0**24]], [0]).item() == 0
    assert _dense([[1, 1]], [[[-(2.0**24)], [1]]], [[2.0**24]], [0]).item() == 1


def test_dense_fuses_product_and_sum():
    x = 1 + 2.0**-12
    assert _dense([[x]], [[[x]]], [[-1 - 2.0**-11]], [0]).item() == 2.0**-24


def test_dense_follows_the_scalar_rule_for_every_slot():
    x, w, b = _image(3, 4, 5), _image(2, 5, 6), _image(2, 6)
    index = [1, 0, 1]
    expected = np.empty((3, 4, 6))
    for s, row, o in np.ndindex(3, 4, 6):
        total = b[index[s], o]
        for k in range(5):
            total = exact_fma(x[s, row, k], w[index[s], k, o], total)
        expected[s, row, o] = total
    assert bits(_dense(x, w, b, index)) == bits(expected)
    relu = np.where(expected < 0, 0, expected)
    assert bits(_dense(x, w, b, index, "relu")) == bits(relu)
    leaky = np.where(expected < 0, expected.astype(F) * F(0.25), expected.astype(F))
    assert bits(_dense(x, w, b, index, "leaky_relu", negative_slope=0.25)) == bits(leaky)


def test_dense_shares_a_batch_and_takes_slots_in_parts():
    x, w, b = _image(70, 3), _image(4, 3, 120), _image(4, 120)
    index = [3, 1, 1, 0, 2]
    shared = _dense(x, w, b, index)
    assert bits(shared) == bits(_dense(np.stack([x] * 5), w, b, index))
    for slot, individual in enumerate(index):
        assert bits(shared[slot]) == bits(_dense(x, w, b, [individual])[0])


def test_dense_bf16_rounds_inputs_and_weights_only():
    x, w, b = 1 + 2.0**-8, 1 + 3 * 2.0**-8, 2.0**-20
    assert _dense([[x]], [[[w]]], [[b]], [0], precision="bf16").item() == 1 + 2.0**-6 + 2.0**-20
    assert _dense([[x]], [[[w]]], [[b]], [0]).item() == float(F(exact_fma(x, w, b)))


def test_affine_rounds_twice():
    x = np.array([[1 + 2.0**-12, 2], [3, 4]], F).reshape(1, 1, 2, 2)
    scale = np.array([[9, 9], [1 + 2.0**-12, 10]], F)
    shift = np.array([[9, 9], [-1 - 2.0**-11, 0.5]], F)
    out = np.empty((2, 1, 2, 2), F)
    affine(np.concatenate([x, x]), scale, shift, index=np.array([1, 0], np.int32), out=out)
    assert out[0, 0].tolist() == [[0, 1 - 2.0**-11 + 2.0**-11], [30.5, 40.5]]
    assert out[1, 0].tolist() == [[18 + 9 * 2.0**-12, 27], [36, 45]]


def _forward(network, genomes, x, index, precision="fp32"):
    samples = x.shape[-1 - len(network.input_shape)]
    out = np.full((len(index), samples, *network.output_shape), np.nan, F)
    network_forward(
        genomes, network, x, index=np.array(index, np.int32), precision=precision, out=out
    )
    return out


def test_network_is_its_layers_one_after_another():
    network = Network(
        (
            Activation("leaky_relu", 0.5),
            MaxPool2d(2, 1),
            AvgPool2d((1, 2), padding=(0, 1), count_include_pad=False),
            Flatten(),
            Dense(5, "relu"),
            Activation("leaky_relu"),
            Dense(3),
        ),
        (2, 4, 5),
    )
    genomes = _init(network.layout, "torch", n=3)
    x = _image(6, 2, 4, 5)
    index = [2, 0, 0, 1]
    head = np.where(x < 0, x * F(0.5), x)
    pooled = np.empty((6, 2, 3, 4), F)
    max_pool2d(head, geometry=(2, 2, 1, 1, 0, 0), out=pooled)
    averaged = np.empty((6, 2, 3, 3), F)
    avg_pool2d(pooled, geometry=(1, 2, 1, 2, 0, 1), count_include_pad=False, out=averaged)
    (w1, b1), (w2, b2) = network.layout.split(genomes)
    hidden = _dense(averaged.reshape(6, 18), w1, b1, index, "relu")
    expected = _dense(hidden, w2, b2, index)
    assert bits(_forward(network, genomes, x, index)) == bits(expected)
    per_slot = np.stack([x, x[::-1], x, x])
    out = _forward(network, genomes, per_slot, index)
    assert bits(out[[0, 2, 3]]) == bits(expected[[0, 2, 3]])
    assert bits(out[1]) == bits(expected[1, ::-1])


def test_network_bf16_rounds_where_a_layer_is_entered():
    network = Network((Dense(1), Dense(1)), (1,))
    genomes = np.array([[1, 2.0**-8, 1, 2.0**-20]], F)
    x = np.ones((1, 1), F)
    assert _forward(network, genomes, x, [0], "bf16").item() == 1 + 2.0**-20
    assert _forward(network, genomes, x, [0]).item() == float(F(1 + 2.0**-8 + 2.0**-20))


def test_network_takes_genomes_with_padded_rows():
    network = Network((Dense(70, "relu"), Dense(3)), (4,))
    genomes = _init(network.layout, "torch", n=6)
    padded = np.full((6, network.layout.size + 13), np.nan, F)
    padded[:, : network.layout.size] = genomes
    x = _image(100, 4)
    expected = _forward(network, genomes, x, range(6))
    assert bits(_forward(network, padded[:, : network.layout.size], x, range(6))) == bits(expected)


def test_network_takes_slots_with_their_own_batches_in_parts():
    network = Network((Dense(70, "relu"), Dense(3)), (4,))
    genomes = _init(network.layout, "torch", n=2)
    x, index = _image(7, 100, 4), [1, 0, 0, 1, 1, 0, 1]
    out = _forward(network, genomes, x, index)
    for slot, individual in enumerate(index):
        assert bits(out[slot]) == bits(_forward(network, genomes, x[slot], [individual])[0])


def _loss(outputs, y, classes=None, loss="cross_entropy"):
    """Loss and right answers of slots whose networks give these outputs [S, B, O]."""
    outputs = np.asarray(outputs, F)
    slots = len(outputs)
    network = Network((Flatten(),), (outputs.shape[2],))
    out_loss, out_correct = np.full(slots, np.nan, F), np.full(slots, -1, np.int32)
    network_loss(
        np.zeros((1, 0), F),
        network,
        outputs,
        np.asarray(y, np.int64 if loss == "cross_entropy" else F),
        index=np.zeros(slots, np.int32),
        classes=None if classes is None else np.array(classes, np.int32),
        loss=loss,
        precision="fp32",
        out_loss=out_loss,
        out_correct=out_correct,
    )
    return out_loss, out_correct


def test_cross_entropy_of_two_equal_logits_is_log_two():
    loss, correct = _loss([[[0, 0]], [[5, 5]]], [0])
    assert bits(loss[0]) == 0x3F317218
    assert loss[1] == pytest.approx(math.log(2), abs=1e-6)
    assert correct.tolist() == [1, 1]
    assert _loss([[[0, 0]]], [1])[1].tolist() == [0]


def _scalar_cross_entropy(z, y):
    m = z[0]
    for value in z[1:]:
        m = value if value > m or value != value else m
    total = F(0)
    for value in z:
        total = F(total + exp(np.array([value - m], F))[0])
    return F(F(log(np.array([total], F))[0] + m) - z[y])


def test_cross_entropy_follows_the_scalar_rule():
    logits = _image(3, 40, 7) * F(3)
    labels = (np.arange(120).reshape(3, 40) * 5 % 7).astype(np.int64)
    classes = [7, 7, 4]
    labels[2] %= 4
    expected, right = [], []
    for slot in range(3):
        rows = logits[slot, :, : classes[slot]]
        losses = [_scalar_cross_entropy(z, y) for z, y in zip(rows, labels[slot], strict=True)]
        expected.append(_scalar_mean(losses))
        right.append(np.count_nonzero(rows.argmax(axis=1) == labels[slot]))
    loss, correct = _loss(logits, labels, classes)
    assert bits(loss) == bits(expected)
    assert correct.tolist() == right
    exact = logits[0].astype(float)
    exact = np.log(np.exp(exact).sum(1)) - exact[np.arange(40), labels[0]]
    assert loss[0] == pytest.approx(exact.mean(), abs=1e-6)
    shared = _loss(logits[:2], labels[0])[0]
    assert bits(shared[0]) == bits(loss[0])


def test_classes_hide_outputs_whatever_they_hold():
    loss, correct = _loss([[[1, 2, np.nan]], [[1, 2, np.inf]], [[1, 2, 3]]], [1], [2, 2, 3])
    assert bits(loss[0]) == bits(loss[1]) == bits(_loss([[[1, 2]]], [1])[0][0])
    assert correct.tolist() == [1, 1, 0]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_nan_logit_is_wrong_and_makes_the_loss_nan(place):
    logits = np.array([[[3, 2, 1]]], F)
    logits[0, 0, place] = np.nan
    for label in range(3):
        loss, correct = _loss(logits, [label])
        assert np.isnan(loss[0])
        assert correct[0] == 0


def test_the_first_of_equal_logits_is_the_answer():
    logits = [[[1, 4, 4, 0], [-np.inf, -np.inf, -np.inf, -np.inf], [-0.0, 0, 0, -0.0]]]
    assert _loss(logits, [1, 0, 0])[1].tolist() == [3]
    assert _loss(logits, [2, 1, 1])[1].tolist() == [0]


def test_mse_divides_the_ascending_sum_of_squares():
    outputs = [[[2.0**12, 1, 1], [0, 0, 3]]]
    targets = [[0, 0, 0], [0, 0, 0]]
    # 2^24 + 1 + 1 is 2^24 when added in order.
    first, second = F(2.0**24) / F(3), F(3)
    loss, correct = _loss(outputs, targets, loss="mse")
    assert bits(loss) == bits([F(F(first + second) / F(2))])
    assert correct.tolist() == [0]
    assert _loss(outputs, [targets], loss="mse")[0] == loss
    hidden = _loss([[[1, 2, np.nan]]], [[0, 0, 0]], [2], loss="mse")[0]
    assert hidden.tolist() == [2.5]


def test_network_loss_is_the_loss_of_the_networks_outputs():
    network = Network((Dense(90, "relu"), Dense(3)), (4,))
    genomes = _init(network.layout, "torch", n=5)
    x, y = _image(90, 4), np.arange(90) % 3
    index = np.array([4, 2, 2, 0, 1], np.int32)
    loss, correct = np.empty(5, F), np.empty(5, np.int32)
    network_loss(
        genomes,
        network,
        x,
        y,
        index=index,
        classes=None,
        loss="cross_entropy",
        precision="fp32",
        out_loss=loss,
        out_correct=correct,
    )
    outputs = _forward(network, genomes, x, index)
    expected_loss, expected_correct = _loss(outputs, y)
    assert bits(loss) == bits(expected_loss)
    assert correct.tolist() == expected_correct.tolist()
    assert len(set(correct.tolist())) > 1
