"""The reference's variation against tiny scalar programs of its rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalar_rules import LAYOUT, SEED, F, bits, init, scalar_word

from evokern.backends.reference.activation import exp
from evokern.backends.reference.random import cauchy_deviates, normal_deviates, uniform_deviates
from evokern.backends.reference.variation import crossover_mutate, mutate_sigma
from evokern.layout import AffineGenes, DenseGenes, ElmanGenes, GenomeLayout

NAN_PAYLOAD = np.array([0x7FC12345, 0xFF800001, 0x80000000, 0x00000001], np.uint32).view(F)


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
    for genome, individual in zip(init(LAYOUT, scheme, first=4), (4, 5), strict=True):
        words = _init_words(LAYOUT, individual)
        expected = []
        for gene, word in enumerate(words.tolist()):
            limit = np.array(limits[0 if gene < 8 else 1], np.uint32).view(F)
            deviate = F(((word >> 8) - 2**23) * 2.0**-23)
            is_bias = gene in (6, 7, 14, 15, 16)
            expected.append(F(0) if is_bias and scheme != "torch" else limit * deviate)
        assert bits(genome) == bits(expected)


def test_lecun_normal_scales_normals_by_the_root_of_fan_in():
    genome = init(LAYOUT, "lecun_normal", n=1)[0]
    words = np.append(_init_words(LAYOUT, 0), np.zeros(3, np.uint32))
    normals = normal_deviates(words)[: LAYOUT.size]
    scale = np.repeat(np.array([0x3F13CD3A, 0x3F3504F3], np.uint32).view(F), [8, 9])
    expected = normals * scale
    expected[[6, 7, 14, 15, 16]] = 0
    assert bits(genome) == bits(expected)


def test_unit_rows_divide_each_unit_by_its_norm_summed_in_order():
    layout = GenomeLayout((DenseGenes(9, 11), DenseGenes(1, 1)))
    genome = init(layout, "unit_rows", n=1)[0]
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


KINDS = GenomeLayout(
    (
        DenseGenes(4, 2, bias=False, kernel_area=2),
        AffineGenes(2),
        ElmanGenes(1, 2),
        DenseGenes(2, 1),
    )
)
"""Genes 0-7 a convolution, 8-11 scale and shift, 12-19 W_in, W_rec, bias, 20-22 a dense layer."""


@pytest.mark.parametrize(
    ("scheme", "fans"),
    [
        # fan_in + fan_out of the convolution (4 + 2 * 2), W_in (1 + 2), W_rec (2 + 2), dense.
        ("glorot_uniform", [6 / 8, 6 / 3, 6 / 4, 6 / 3]),
        ("he_uniform", [6 / 4, 6 / 1, 6 / 2, 6 / 2]),
        ("torch", [1 / 4, 1 / 1, 1 / 2, 1 / 2]),
        ("lecun_normal", [1 / 4, 1 / 1, 1 / 2, 1 / 2]),
    ],
)
def test_init_of_every_kind_of_layer(scheme, fans):
    genome = init(KINDS, scheme, n=1)[0]
    words = np.append(_init_words(KINDS, 0), np.zeros(1, np.uint32))
    law = normal_deviates if scheme == "lecun_normal" else uniform_deviates
    conv, w_in, w_rec, dense = [F(math.sqrt(fan)) for fan in fans]
    recurrent_bias, dense_bias = (w_rec, dense) if scheme == "torch" else (0, 0)
    scales = [conv] * 8 + [0] * 4 + [w_in] * 2 + [w_rec] * 4 + [recurrent_bias] * 2
    scales += [dense] * 2 + [dense_bias]
    expected = law(words)[: KINDS.size] * np.array(scales, F)
    expected[np.array(scales) == 0] = 0
    expected[8:10] = 1
    assert bits(genome) == bits(expected)


def test_unit_rows_norm_each_matrix_of_a_recurrent_layer():
    genome = init(KINDS, "unit_rows", n=1)[0]
    conv, (w_in, w_rec) = genome[:8].reshape(4, 2), (genome[12:14], genome[14:18].reshape(2, 2))
    np.testing.assert_allclose(np.square(conv).sum(0), 1, rtol=1e-6)
    np.testing.assert_allclose(np.square(w_rec).sum(0), 1, rtol=1e-6)
    assert np.abs(w_in).tolist() == [1, 1]
    assert genome[[8, 9, 10, 11, 18, 19, 22]].tolist() == [1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("scheme", ["glorot_uniform", "unit_rows"])
def test_init_of_a_shard_is_a_part_of_the_whole(scheme):
    whole = init(LAYOUT, scheme, n=6)
    assert bits(init(LAYOUT, scheme, n=2, first=3)) == bits(whole[3:5])
    assert bits(init(LAYOUT, scheme, n=2, first=2**32 - 1)[1]) == bits(whole[0])


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


def test_rows_crossover_of_every_kind_of_layer():
    genomes = _parents(2, KINDS.size)
    out = _vary(genomes, [[0], [1]], [0], kind="rows", layout=KINDS, first=4)[0]
    choice = _scalar_choice(7, 2, 0.5, 4)
    assert len(set(choice)) == 2
    unit = [0, 1] * 4 + [2, 3] * 2 + [4, 5] * 4 + [6] * 3
    assert bits(out) == bits([genomes[choice[u], gene] for gene, u in enumerate(unit)])


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
