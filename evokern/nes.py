"""Search distributions for natural evolution strategies, on the host (thesis, 8.3 and 8.4).

Algorithm 5 with any of them::

    search = nes.Bernoulli(100, seed=1)
    for step in range(300):
        samples = search.ask(20, step)
        search = search.tell(samples, loss_of_each(samples))

A distribution is a value: ``tell`` gives the next one. Lower losses are better; only their ranks
count (`rank_utilities`), NaN as the worst. ``tell`` goes ``learning_rate`` along the estimate of
Eq. 8.9: of the natural gradient (``gradient="natural"``), or of the plain gradient with respect to
the same parameters (``"plain"``), which the inverse of the Fisher matrix turns into the natural.

Samples are a pure function of (seed, step, sample): Philox stream NES, individual = sample,
generation = step, one gene per coordinate. Arrays are fp32, sums ascending, so that a run has the
same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from evokern import ops
from evokern._arrays import Array, Host, expect, expect_range, expect_shape
from evokern._values import integer, non_negative_number, one_of
from evokern.backends.reference.activation import exp
from evokern.backends.reference.categorical import normalise, utilities
from evokern.backends.reference.random import Stream, draw_deviates, draw_words
from evokern.errors import ArgumentError, ShapeError, message

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
Bits = npt.NDArray[np.bool_]
Gradient = Literal["natural", "plain"]

_MOST_ROWS = 2**31 - 1
_LEAST_SIGMA, _MOST_SIGMA = np.float32(2.0**-40), np.float32(2.0**40)
_LEAST_CHANCE = np.float32(2.0**-33)
_MOST_RATE = 2.0**64  # so that no step is infinite
_ONE = np.float32(1)


def rank_utilities(losses: Array) -> F32:
    """Eq. 8.19: equally spaced from -1 (highest loss) to 1 (lowest). float32 [S] -> [S].

    Equal losses share the mean of their ranks, NaN counts as the highest. A single sample has 0.
    """
    loss = expect("losses", losses, np.float32, "[S]", 1)
    if len(loss) < 1:
        raise ShapeError(message("losses", "float32 [S] with S >= 1", f"{list(loss.shape)}"))
    return utilities(loss)


@dataclass(frozen=True, eq=False)
class Categorical:
    """``n`` independent choices, each among ``choices`` (Eq. 8.35 to 8.44). Samples int32 [S, n].

    Its parameters are the probabilities of all but the last entry (expectation parameters, Eq.
    8.24); all are stored. Natural steps are `ops.nes_update`. The plain gradient grows with 1/p
    and wants a smaller learning rate.

    Args:
        n, choices: at least 1.
        learning_rate: in [0, 2^64].
        gradient: "natural" or "plain".
        min_probability, keep_minimum, mask: as of `ops.nes_update`.
        seed: in [0, 2^64).
        probabilities: float32 [n, choices]; None means the same for all entries of a row.
    """

    n: int
    choices: int
    learning_rate: float = 0.1
    gradient: Gradient = "natural"
    min_probability: float = 0.001
    keep_minimum: bool = False
    mask: Bits | None = None
    seed: int = 0
    probabilities: F32 = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        integer("n", self.n, 1, _MOST_ROWS)
        integer("choices", self.choices, 1, 2**20)
        one_of("gradient", self.gradient, get_args(Gradient))
        shape = (self.n, self.choices)
        if self.mask is not None:
            expect_shape("mask", expect("mask", self.mask, np.bool_, "[n, K]", 2), "[n, K]", shape)
        if self.probabilities is None:
            start = normalise(np.zeros(shape, np.float32), 1.0, keep_minimum=False, mask=self.mask)
        else:
            start = expect("probabilities", self.probabilities, np.float32, "[n, K]", 2)
            expect_shape("probabilities", start, "[n, K]", shape)
        _freeze(self, probabilities=start)
        # What the ops refuse is refused at once, whatever the gradient.
        self._natural_step(self.ask(1, 0), np.zeros(1, np.float32))

    def ask(self, samples: int, step: int) -> I32:
        """Entries int32 [S, n]."""
        drawn: I32 = ops.nes_sample(
            self.probabilities, samples, seed=self.seed, step=step, mask=self.mask
        )
        return drawn

    def tell(self, samples: Array, losses: Array) -> Categorical:
        """The distribution after a step; ``samples`` int32 [S, n], ``losses`` float32 [S]."""
        if self.gradient == "natural":
            return replace(self, probabilities=self._natural_step(samples, losses))
        step = _estimate(self.log_gradient(samples), losses)
        after = normalise(
            self.probabilities + np.float32(self.learning_rate) * step,
            self.min_probability,
            keep_minimum=self.keep_minimum,
            mask=self.mask,
        )
        return replace(self, probabilities=after)

    def log_gradient(self, samples: Array) -> F32:
        """The gradient of log q at each sample: float32 [S, n, K].

        Natural: onehot - p (Eq. 8.44). Plain: onehot / p, less that of the row's last entry, whose
        own place holds what its probability gains so that rows go on summing to 1.
        """
        chosen = _samples_of(samples, np.int32, self.n)
        absent = np.zeros((self.n, self.choices), np.bool_) if self.mask is None else self.mask
        expect_range("samples", chosen, 0, self.choices - 1, "entries")
        masked = absent[np.arange(self.n), chosen]
        if masked.any():
            s, row = np.argwhere(masked)[0]
            got = f"samples[{s}, {row}] = {chosen[s, row]}"
            raise ArgumentError(message("samples", "entries that are not masked", got))
        hits = (np.arange(self.choices) == chosen[..., None]).astype(np.float32)
        if self.gradient == "natural":
            return np.where(absent, np.float32(0), hits - self.probabilities)
        last = self.choices - 1 - (~absent)[:, ::-1].argmax(axis=1)
        rows = np.arange(self.n)
        ratios = np.where(absent, np.float32(0), _over(hits, self.probabilities))
        terms = np.where(absent, np.float32(0), ratios - ratios[:, rows, last][..., None])
        total = np.zeros(chosen.shape, np.float32)
        for k in range(self.choices):
            total = total + terms[..., k]
        terms[:, rows, last] = -total
        return terms

    def mode(self) -> I32:
        """The most probable entries int32 [n], the first of equals (thesis, 8.4.5)."""
        best: I32 = self.probabilities.argmax(axis=1).astype(np.int32)
        return best

    def _natural_step(self, samples: Array, losses: Array) -> F32:
        after: F32 = ops.nes_update(
            self.probabilities,
            samples,
            losses,
            learning_rate=self.learning_rate,
            min_probability=self.min_probability,
            keep_minimum=self.keep_minimum,
            mask=self.mask,
        )
        return after


@dataclass(frozen=True, eq=False)
class Bernoulli:
    """``n`` independent bits. Samples bool [S, n].

    Args:
        n: at least 1.
        learning_rate: in [0, 2^64].
        gradient: "natural" (x - p, Eq. 8.15) or "plain" ((x - p) / (p (1 - p))).
        min_probability: in [0, 0.5]; p stays this far from 0 and 1.
        seed: in [0, 2^64).
        probabilities: float32 [n] in [0, 1] of true; None means 0.5.
    """

    n: int
    learning_rate: float = 0.1
    gradient: Gradient = "natural"
    min_probability: float = 0.001
    seed: int = 0
    probabilities: F32 = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        integer("n", self.n, 1, _MOST_ROWS)
        _rate("learning_rate", self.learning_rate)
        one_of("gradient", self.gradient, get_args(Gradient))
        if non_negative_number("min_probability", self.min_probability) > 0.5:
            got = repr(self.min_probability)
            raise ArgumentError(message("min_probability", "a number in [0, 0.5]", got))
        integer("seed", self.seed, 0, 2**64 - 1)
        start = _vector("probabilities", self.probabilities, self.n, 0.5)
        if not ((start >= 0) & (start <= 1)).all():
            place = int((~((start >= 0) & (start <= 1))).argmax())
            got = f"probabilities[{place}] = {start[place]}"
            raise ArgumentError(message("probabilities", "numbers in [0, 1]", got))
        _freeze(self, probabilities=start)

    def ask(self, samples: int, step: int) -> Bits:
        """Bits bool [S, n]: a word below floor(p 2^32 + 0.5) means true."""
        words = draw_words(Stream.NES, self.n, **_place(self.seed, samples, step))
        thresholds = np.floor(self.probabilities.astype(np.float64) * 2.0**32 + 0.5)
        return words < thresholds.astype(np.uint64)

    def tell(self, samples: Array, losses: Array) -> Bernoulli:
        """The distribution after a step; ``samples`` bool [S, n], ``losses`` float32 [S]."""
        step = _estimate(self.log_gradient(samples), losses)
        least = np.float32(self.min_probability)
        stepped = self.probabilities + np.float32(self.learning_rate) * step
        return replace(self, probabilities=np.clip(stepped, least, _ONE - least))

    def log_gradient(self, samples: Array) -> F32:
        """The gradient of log q at each sample: float32 [S, n]."""
        p = self.probabilities
        difference = _samples_of(samples, np.bool_, self.n).astype(np.float32) - p
        return difference if self.gradient == "natural" else _over(difference, p * (_ONE - p))

    def mode(self) -> Bits:
        """The most probable bits bool [n]; true where both are."""
        return self.probabilities >= np.float32(0.5)


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """``n`` independent normals. Samples float32 [S, n].

    Its parameters are ``mean`` and log ``sigma``, so that natural steps are those of separable NES
    (Schaul, Glasmachers and Schmidhuber, "High dimensions and heavy tails for natural evolution
    strategies", 2011). Sigma stays in [2^-40, 2^40].

    Args:
        n: at least 1.
        learning_rate: of the mean; in [0, 2^64].
        sigma_learning_rate: of log sigma; in [0, 2^64].
        gradient: "natural" or "plain"; the latter grows with 1/sigma^2 as sigma shrinks.
        seed: in [0, 2^64).
        mean: float32 [n]; None means 0.
        sigma: float32 [n], > 0; None means 1.
    """

    n: int
    learning_rate: float = 1.0
    sigma_learning_rate: float = 0.1
    gradient: Gradient = "natural"
    seed: int = 0
    mean: F32 = None  # type: ignore[assignment]
    sigma: F32 = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        integer("n", self.n, 1, _MOST_ROWS)
        _rate("learning_rate", self.learning_rate)
        _rate("sigma_learning_rate", self.sigma_learning_rate)
        one_of("gradient", self.gradient, get_args(Gradient))
        integer("seed", self.seed, 0, 2**64 - 1)
        mean = _vector("mean", self.mean, self.n, 0.0)
        sigma = _vector("sigma", self.sigma, self.n, 1.0)
        for name, values, right, what in (
            ("mean", mean, np.isfinite(mean), "finite numbers"),
            ("sigma", sigma, np.isfinite(sigma) & (sigma > 0), "finite numbers > 0"),
        ):
            if not right.all():
                place = int((~right).argmax())
                raise ArgumentError(message(name, what, f"{name}[{place}] = {values[place]}"))
        _freeze(self, mean=mean, sigma=sigma)

    def ask(self, samples: int, step: int) -> F32:
        """Points float32 [S, n]: mean + sigma * normal."""
        normals = draw_deviates("normal", Stream.NES, self.n, **_place(self.seed, samples, step))
        return self.mean + self.sigma * normals

    def tell(self, samples: Array, losses: Array) -> DiagonalGaussian:
        """The distribution after a step; ``samples`` float32 [S, n], ``losses`` float32 [S]."""
        of_mean, of_log_sigma = self.log_gradient(samples)
        along_mean = np.float32(self.learning_rate) * _estimate(of_mean, losses)
        along_sigma = np.float32(self.sigma_learning_rate) * _estimate(of_log_sigma, losses)
        sigma = np.clip(self.sigma * exp(along_sigma), _LEAST_SIGMA, _MOST_SIGMA)
        return replace(self, mean=self.mean + along_mean, sigma=sigma)

    def log_gradient(self, samples: Array) -> tuple[F32, F32]:
        """The gradients of log q at each sample by mean and by log sigma: float32 [S, n] each.

        With z = (x - mean) / sigma. Natural: x - mean and (z^2 - 1) / 2; plain: (x - mean) /
        sigma^2 and z^2 - 1.
        """
        difference = _samples_of(samples, np.float32, self.n) - self.mean
        z = difference / self.sigma
        surplus = z * z - _ONE
        if self.gradient == "natural":
            return difference, surplus * np.float32(0.5)
        return z / self.sigma, surplus

    def mode(self) -> F32:
        """The most probable point float32 [n]."""
        return self.mean


def _freeze(state: Any, **arrays: Host) -> None:
    """Stores read-only copies in a frozen dataclass."""
    for name, array in arrays.items():
        copy = array.copy()
        copy.flags.writeable = False
        object.__setattr__(state, name, copy)


def _rate(name: str, value: float) -> None:
    if non_negative_number(name, value) > _MOST_RATE:
        raise ArgumentError(message(name, "at most 2^64", repr(value)))


def _vector(name: str, given: Array | None, n: int, default: float) -> F32:
    if given is None:
        return np.full(n, default, np.float32)
    vector = expect(name, given, np.float32, "[n]", 1)
    expect_shape(name, vector, "[n]", (n,))
    return vector


def _samples_of(samples: Array, dtype: npt.DTypeLike, n: int) -> Host:
    array = expect("samples", samples, dtype, "[S, n]", 2)
    expect_shape("samples", array, "[S, n]", (len(array), n))
    return array


def _place(seed: int, samples: int, step: int) -> dict[str, Any]:
    samples = integer("samples", samples, 0, _MOST_ROWS)
    step = integer("step", step, 0, 2**32 - 1)
    return {"seed": seed, "individual": np.arange(samples), "generation": step}


def _over(values: F32, chances: F32) -> F32:
    """``values / chances``, and 0 where a chance is so small that no word is drawn for it."""
    possible = chances >= _LEAST_CHANCE
    return np.where(possible, values / np.where(possible, chances, _ONE), np.float32(0))


def _estimate(terms: F32, losses: Array) -> F32:
    """Eq. 8.9: the mean over samples of utility times log-gradient. [S, ...] -> [...]."""
    weights = rank_utilities(losses)
    expect_shape("losses", weights, "[S]", (len(terms),))
    total = np.zeros(terms.shape[1:], np.float32)
    for weight, term in zip(weights, terms, strict=True):
        total = total + weight * term
    return total / np.float32(len(weights))
