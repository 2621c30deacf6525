"""Search distributions: gradients, Algorithm 5 on problems with a known optimum, bad input."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import F
from scalar_rules import scalar_word

from evokern import nes, ops
from evokern.errors import ArgumentError, DtypeError, EvokernError, ShapeError
from evokern.testing import assert_same_bits

GRADIENTS = ("natural", "plain")
each_gradient = pytest.mark.parametrize("gradient", GRADIENTS)
Search = nes.Categorical | nes.Bernoulli | nes.DiagonalGaussian

PROBABILITIES = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], F)
BITS = np.array([0.2, 0.5, 0.9], F)
MEAN, SIGMA = np.array([0.5, -1.0], F), np.array([2.0, 0.25], F)


def difference(function: Callable[[float], Any], at: float, h: float = 1e-6) -> Any:
    """The central difference quotient."""
    return (function(at + h) - function(at - h)) / (2 * h)


def all_assignments(choices: int, n: int) -> np.ndarray:
    return np.array(list(itertools.product(range(choices), repeat=n)), np.int32)


def categorical_chance(free: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """q of each sample from the probabilities [n, K - 1] of all but the last entry."""
    table = np.concatenate([free, 1 - free.sum(axis=1, keepdims=True)], axis=1)
    return table[np.arange(len(table)), samples].prod(axis=1)


def bernoulli_chance(p: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return np.where(samples, p, 1 - p).prod(axis=1)


def log_normal(mean: np.ndarray, log_sigma: np.ndarray, x: np.ndarray) -> np.ndarray:
    z = (x - mean) / np.exp(log_sigma)
    return (-0.5 * z * z - log_sigma - 0.5 * math.log(2 * math.pi)).sum(axis=-1)


def by_differences(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray) -> np.ndarray:
    """The derivatives [..., *at.shape] of function(at) [...]."""
    result = []
    for place in np.ndindex(at.shape):

        def moved(value: float, place: tuple[int, ...] = place) -> np.ndarray:
            point = at.copy()
            point[place] = value
            return function(point)

        result.append(difference(moved, at[place]))
    stacked = np.stack(result, axis=-1)
    return stacked.reshape(*stacked.shape[:-1], *at.shape)


class TestPlainGradients:
    """Against finite differences of the log density."""

    def test_categorical(self) -> None:
        search = nes.Categorical(2, 3, gradient="plain", probabilities=PROBABILITIES)
        samples = all_assignments(3, 2)
        free = PROBABILITIES[:, :-1].astype(np.float64)
        expected = by_differences(lambda p: np.log(categorical_chance(p, samples)), free)
        terms = search.log_gradient(samples)
        np.testing.assert_allclose(terms[..., :-1], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(terms.sum(axis=2), 0, atol=1e-5)

    def test_bernoulli(self) -> None:
        search = nes.Bernoulli(3, gradient="plain", probabilities=BITS)
        samples = all_assignments(2, 3).astype(np.bool_)
        p = BITS.astype(np.float64)
        expected = by_differences(lambda p: np.log(bernoulli_chance(p, samples)), p)
        np.testing.assert_allclose(search.log_gradient(samples), expected, rtol=1e-5)

    def test_gaussian(self) -> None:
        search = nes.DiagonalGaussian(2, gradient="plain", mean=MEAN, sigma=SIGMA)
        x = search.ask(50, 0)
        mean, log_sigma = MEAN.astype(np.float64), np.log(SIGMA.astype(np.float64))
        of_mean, of_log_sigma = search.log_gradient(x)
        by_mean = by_differences(lambda m: log_normal(m, log_sigma, x), mean)
        by_log_sigma = by_differences(lambda s: log_normal(mean, s, x), log_sigma)
        np.testing.assert_allclose(of_mean, by_mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(of_log_sigma, by_log_sigma, rtol=1e-4, atol=1e-4)


class TestNaturalGradients:
    """The inverse of the Fisher matrix, E of outer products, times the plain gradient."""

    @staticmethod
    def check(plain: np.ndarray, natural: np.ndarray, chances: np.ndarray) -> None:
        """Terms [S, parameters] of all samples and their chances [S]."""
        plain = plain.astype(np.float64)
        fisher = np.einsum("s,si,sj->ij", chances, plain, plain)
        np.testing.assert_allclose(natural, np.linalg.solve(fisher, plain.T).T, atol=1e-5)

    def test_categorical(self) -> None:
        samples = all_assignments(3, 2)
        chances = categorical_chance(PROBABILITIES[:, :-1].astype(np.float64), samples)
        plain, natural = (
            nes.Categorical(2, 3, gradient=gradient, probabilities=PROBABILITIES)
            .log_gradient(samples)[..., :-1]
            .reshape(len(samples), -1)
            for gradient in ("plain", "natural")
        )
        self.check(plain, natural, chances)

    def test_bernoulli(self) -> None:
        samples = all_assignments(2, 3).astype(np.bool_)
        plain, natural = (
            nes.Bernoulli(3, gradient=gradient, probabilities=BITS).log_gradient(samples)
            for gradient in ("plain", "natural")
        )
        self.check(plain, natural, bernoulli_chance(BITS.astype(np.float64), samples))

    def test_gaussian(self) -> None:
        """The grid's sums are exact integrals of polynomials (Gauss and Hermite)."""
        points, weights = np.polynomial.hermite_e.hermegauss(5)
        grid = np.array(list(itertools.product(points, repeat=2)))
        chances = np.array([a * b for a, b in itertools.product(weights, repeat=2)]) / (2 * np.pi)
        samples = (MEAN + SIGMA * grid).astype(F)
        plain, natural = (
            np.concatenate(
                nes.DiagonalGaussian(2, gradient=gradient, mean=MEAN, sigma=SIGMA).log_gradient(
                    samples
                ),
                axis=1,
            )
            for gradient in ("plain", "natural")
        )
        self.check(plain, natural, chances)

    def test_expected_utility_rises_along_it(self) -> None:
        """Eq. 8.9 over all samples by their chances is the gradient of the expected utility."""
        samples = all_assignments(3, 2)
        u = np.random.default_rng(0).random(len(samples))
        free = PROBABILITIES[:, :-1].astype(np.float64)
        slope = by_differences(lambda p: (categorical_chance(p, samples) * u).sum(), free)
        plain = nes.Categorical(2, 3, gradient="plain", probabilities=PROBABILITIES)
        chances = categorical_chance(free, samples)
        mean = np.einsum("s,snk->nk", chances * u, plain.log_gradient(samples).astype(np.float64))
        np.testing.assert_allclose(mean[:, :-1], slope, atol=1e-5)


class TestSteps:
    @each_gradient
    def test_categorical(self, gradient: nes.Gradient) -> None:
        search = nes.Categorical(2, 3, 0.01, gradient, probabilities=PROBABILITIES)
        samples = search.ask(5, 3)
        losses = np.array([1, 4, 2, 2, np.nan], F)
        mean = np.zeros((2, 3), F)
        for u, term in zip(nes.rank_utilities(losses), search.log_gradient(samples), strict=True):
            mean = mean + u * term
        stepped = np.maximum(PROBABILITIES + F(0.01) * (mean / F(5)), F(0.001))
        expected = stepped / ((stepped[:, :1] + stepped[:, 1:2]) + stepped[:, 2:])
        assert_same_bits(search.tell(samples, losses).probabilities, expected)

    def test_bernoulli(self) -> None:
        samples = np.array([[True, False, True], [False, True, True]])
        losses = np.array([1, 2], F)
        for gradient, expected in (
            ("natural", [0.25 + 0.05, 0.5 - 0.05, 0.9]),
            ("plain", [0.25 + 0.05 / 0.1875, 0.5 - 0.05 / 0.25, 0.9]),
        ):
            start = np.array([0.25, 0.5, 0.9], F)
            search = nes.Bernoulli(3, 0.1, gradient, probabilities=start)  # type: ignore[arg-type]
            after = search.tell(samples, losses)
            np.testing.assert_allclose(after.probabilities, expected, rtol=1e-6)
            assert_same_bits(search.probabilities, start)
        after = nes.Bernoulli(3, 100.0, min_probability=0.25).tell(samples, losses)
        assert after.probabilities.tolist() == [0.75, 0.25, 0.5]

    def test_gaussian(self) -> None:
        samples = np.array([[3.0], [0.0]], F)
        losses = np.array([1, 2], F)
        for gradient, mean, exponent in (
            ("natural", 1 + 0.5 * (2 + 1) / 2, 0.25 * ((1 - 1) - (0.25 - 1)) / 4),
            ("plain", 1 + 0.5 * (2 + 1) / 4 / 2, 0.25 * ((1 - 1) - (0.25 - 1)) / 2),
        ):
            search = nes.DiagonalGaussian(
                1, 0.5, 0.25, gradient, mean=np.ones(1, F), sigma=np.full(1, 2, F)
            )  # type: ignore[arg-type]
            after = search.tell(samples, losses)
            np.testing.assert_allclose(after.mean, [mean], rtol=1e-6)
            np.testing.assert_allclose(after.sigma, [2 * math.exp(exponent)], rtol=1e-6)

    def test_sigma_is_limited(self) -> None:
        search = nes.DiagonalGaussian(1, sigma_learning_rate=1e6)
        inner, outer = np.zeros((1, 1), F), np.full((1, 1), 3, F)
        samples = np.concatenate([inner, outer])
        assert search.tell(samples, np.array([1, 2], F)).sigma == F(2.0**-40)
        assert search.tell(samples, np.array([2, 1], F)).sigma == F(2.0**40)

    def test_utilities(self) -> None:
        losses = np.array([3, np.nan, 1], F)
        assert nes.rank_utilities(losses).tolist() == [0, -1, 1]


class TestSamples:
    def test_categorical_are_those_of_the_op(self) -> None:
        search = nes.Categorical(2, 3, seed=9, probabilities=PROBABILITIES)
        assert_same_bits(search.ask(7, 5), ops.nes_sample(PROBABILITIES, 7, seed=9, step=5))

    def test_bernoulli_compare_words(self) -> None:
        drawn = nes.Bernoulli(3, seed=9, probabilities=BITS).ask(4, 5)
        for sample, gene in np.ndindex(4, 3):
            word = scalar_word(8, gene, sample, 5, 9)
            assert drawn[sample, gene] == (word < math.floor(float(BITS[gene]) * 2**32 + 0.5))
        certain = nes.Bernoulli(2, probabilities=np.array([0, 1], F)).ask(100, 1)
        assert (certain == [False, True]).all()

    def test_gaussian_scale_normals(self) -> None:
        plain = nes.DiagonalGaussian(2, seed=9).ask(1000, 5)
        scaled = nes.DiagonalGaussian(2, seed=9, mean=MEAN, sigma=SIGMA).ask(1000, 5)
        assert_same_bits(scaled, MEAN + SIGMA * plain)
        assert abs(plain.mean(axis=0)).max() < 6 / math.sqrt(1000)
        assert abs(plain.var(axis=0) - 1).max() < 6 * math.sqrt(2 / 1000)

    @pytest.mark.parametrize(
        "search", [nes.Categorical(4, 3), nes.Bernoulli(4), nes.DiagonalGaussian(4)]
    )
    def test_steps_and_samples(self, search: Search) -> None:
        assert search.ask(0, 1).shape == (0, 4)
        assert_same_bits(search.ask(5, 1), search.ask(9, 1)[:5])
        assert (search.ask(9, 1) != search.ask(9, 2)).any()


class TestAlgorithm5:
    """A few hundred steps find the optimum, and again with the same bits."""

    @staticmethod
    def run(search: Any, loss: Callable[[np.ndarray], np.ndarray], steps: int) -> Any:
        for step in range(steps):
            samples = search.ask(16, step)
            search = search.tell(samples, loss(samples).astype(F))
        return search

    @pytest.mark.parametrize(
        ("gradient", "rate", "steps"), [("natural", 0.2, 300), ("plain", 0.003, 1500)]
    )
    def test_categorical(self, gradient: nes.Gradient, rate: float, steps: int) -> None:
        best = np.random.default_rng(1).integers(0, 4, 12)
        search = nes.Categorical(12, 4, rate, gradient, seed=1)
        search = self.run(search, lambda a: (a != best).sum(axis=1), steps)
        assert search.mode().tolist() == best.tolist()
        assert search.probabilities.max(axis=1).min() > 0.8
        sums = search.probabilities.astype(np.float64).sum(axis=1)
        assert abs(sums - 1).max() <= 4 * 2.0**-23

    @pytest.mark.parametrize(("gradient", "rate"), [("natural", 0.2), ("plain", 0.05)])
    def test_bernoulli(self, gradient: nes.Gradient, rate: float) -> None:
        best = np.random.default_rng(2).random(20) < 0.5
        search = nes.Bernoulli(20, rate, gradient, seed=1)
        search = self.run(search, lambda x: (x != best).sum(axis=1), 300)
        assert (search.mode() == best).all()
        assert abs(search.probabilities - 0.5).min() > 0.3

    @pytest.mark.parametrize(
        ("gradient", "rates", "error"),
        [("natural", (1.0, 0.1), 0.01), ("plain", (0.05, 0.02), 0.25)],
    )
    def test_gaussian(
        self, gradient: nes.Gradient, rates: tuple[float, float], error: float
    ) -> None:
        """The plain gradient jumps about once sigma is small, and so comes less close."""
        best, scale = np.array([1, -2, 0.5], F), np.array([1, 3, 0.3], F)
        search = nes.DiagonalGaussian(3, *rates, gradient)
        search = self.run(search, lambda x: np.square((x - best) * scale).sum(axis=1), 300)
        np.testing.assert_allclose(search.mode(), best, atol=error)
        assert search.sigma.max() < 0.6

    @each_gradient
    @pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
    def test_losses_that_are_no_numbers(self, gradient: nes.Gradient, loss: float) -> None:
        for search in (
            nes.Categorical(3, 4, 1.0, gradient),
            nes.Bernoulli(3, 1.0, gradient),
            nes.DiagonalGaussian(3, 1.0, 1.0, gradient),
        ):
            after = self.run(search, lambda x: np.where(np.arange(16) % 3, loss, 1.0), 20)
            if isinstance(after, nes.DiagonalGaussian):
                assert np.isfinite(after.mean).all()
                assert (after.sigma > 0).all()
            else:
                assert (after.probabilities >= 0).all()
                assert (after.probabilities <= 1).all()

    @each_gradient
    def test_entries_that_cannot_be_drawn_are_refused(self, gradient: nes.Gradient) -> None:
        mask = np.array([[False, False, True], [True, False, True]])
        search = nes.Categorical(2, 3, 0.1, gradient, mask=mask)
        for entry, words in (
            (3, r"entries in \[0, 2\]"),
            (-1, "entries in"),
            (2, "entries that are not masked"),
        ):
            with pytest.raises(ArgumentError, match=f"expected {words}"):
                search.tell(np.full((2, 2), entry, np.int32), np.zeros(2, np.float32))

    @each_gradient
    def test_masked_entries_stay_out(self, gradient: nes.Gradient) -> None:
        mask = np.array([[False, False, True], [True, False, True]])
        search = nes.Categorical(2, 3, 0.1, gradient, mask=mask)
        assert search.probabilities.tolist() == [[0.5, 0.5, 0], [0, 1, 0]]
        search = self.run(search, lambda a: a[:, 0], 60)
        assert search.mode().tolist() == [0, 1]
        assert (search.probabilities[mask] == 0).all()
        assert search.probabilities[1, 1] == 1

    def test_a_run_has_the_same_bits_again(self) -> None:
        def loss(x: np.ndarray) -> np.ndarray:
            return np.square(x.astype(np.float64) - 0.3).sum(axis=1)

        for search in (nes.Bernoulli(5, seed=3), nes.DiagonalGaussian(5, seed=3)):
            first, second = (self.run(search, loss, 20) for _ in range(2))
            assert_same_bits(first.ask(3, 0), second.ask(3, 0))


def test_states_cannot_be_changed() -> None:
    given = PROBABILITIES.copy()
    search = nes.Categorical(2, 3, probabilities=given)
    given[:] = 0
    assert_same_bits(search.probabilities, PROBABILITIES)
    with pytest.raises(ValueError, match="read-only"):
        search.probabilities[0, 0] = 1
    with pytest.raises(AttributeError):
        search.n = 3  # type: ignore[misc]


WRONG: list[tuple[Callable[[], Any], type[EvokernError], str]] = [
    (lambda: nes.Categorical(0, 3), ArgumentError, "n: expected an int in"),
    (lambda: nes.Categorical(2, 0), ArgumentError, "choices: expected an int in"),
    (lambda: nes.Categorical(2, 3, -1.0), ArgumentError, "learning_rate: expected a finite"),
    (
        lambda: nes.Categorical(2, 3, gradient="fisher"),  # type: ignore[arg-type]
        ArgumentError,
        r"gradient: expected one of \['natural', 'plain'\], got 'fisher'",
    ),
    (
        lambda: nes.Categorical(2, 3, gradient="plain", min_probability=0.5),
        ArgumentError,
        "min_probability: expected at most 1/3",
    ),
    (
        lambda: nes.Categorical(2, 3, probabilities=PROBABILITIES * F(2)),
        ArgumentError,
        "probabilities: expected rows that sum to 1 .* in row 0",
    ),
    (
        lambda: nes.Categorical(3, 3, probabilities=PROBABILITIES),
        ShapeError,
        r"probabilities: expected \[n, K\] = \[3, 3\], got \[2, 3\]",
    ),
    (
        lambda: nes.Categorical(1, 2, mask=np.ones((1, 2), np.bool_)),
        ArgumentError,
        "mask: expected an entry in every row",
    ),
    (lambda: nes.Categorical(1, 2, seed=-1), ArgumentError, "seed: expected an int"),
    (lambda: nes.Bernoulli(3, np.inf), ArgumentError, "learning_rate: expected a finite"),
    (lambda: nes.Bernoulli(3, 1e30), ArgumentError, r"learning_rate: expected at most 2\^64"),
    (
        lambda: nes.Bernoulli(3, min_probability=0.6),
        ArgumentError,
        r"min_probability: expected a number in \[0, 0.5\], got 0.6",
    ),
    (
        lambda: nes.Bernoulli(2, probabilities=np.array([0.5, np.nan], F)),
        ArgumentError,
        r"probabilities: expected numbers in \[0, 1\], got probabilities\[1\] = nan",
    ),
    (
        lambda: nes.Bernoulli(2, probabilities=np.array([0.5, 0.5])),
        DtypeError,
        r"probabilities: expected float32 \[n\]",
    ),
    (
        lambda: nes.DiagonalGaussian(2, sigma=np.array([1, 0], F)),
        ArgumentError,
        r"sigma: expected finite numbers > 0, got sigma\[1\] = 0.0",
    ),
    (
        lambda: nes.DiagonalGaussian(2, mean=np.array([1, np.inf], F)),
        ArgumentError,
        r"mean: expected finite numbers, got mean\[1\] = inf",
    ),
    (lambda: nes.Bernoulli(2).ask(-1, 0), ArgumentError, "samples: expected an int"),
    (lambda: nes.Bernoulli(2).ask(1, -1), ArgumentError, "step: expected an int"),
    (
        lambda: nes.Bernoulli(2).tell(np.zeros((3, 4), np.bool_), np.zeros(3, F)),
        ShapeError,
        r"samples: expected \[S, n\] = \[3, 2\], got \[3, 4\]",
    ),
    (
        lambda: nes.Bernoulli(2).tell(np.zeros((3, 2)), np.zeros(3, F)),
        DtypeError,
        r"samples: expected bool \[S, n\], got float64 \[3, 2\]",
    ),
    (
        lambda: nes.DiagonalGaussian(2).tell(np.zeros((3, 2), F), np.zeros(2, F)),
        ShapeError,
        r"losses: expected \[S\] = \[3\], got \[2\]",
    ),
    (
        lambda: nes.rank_utilities(np.zeros(0, F)),
        ShapeError,
        "losses: expected float32 .* with S >= 1",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), WRONG)
def test_bad_input(call: Callable[[], Any], error: type[EvokernError], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
