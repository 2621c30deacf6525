"""The settings of the evolution strategy: one frozen dataclass, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from evokern._values import assign, integer, number, one_of
from evokern.errors import ArgumentError, DtypeError, message
from evokern.layout import GenomeLayout
from evokern.rules import INIT_SCHEMES, InitScheme
from evokern.schedules import sigma_at

Anneal = Literal["sigma", "learning_rate"]
ScheduleName = Literal["constant", "exponential", "power", "cosine"]

_COUNTS = {
    "population": (2, 2**31 - 1),
    "generations": (1, 2**32 - 1),
    "sigma_period": (1, 2**32 - 1),
    "seed": (0, 2**64 - 1),
}
_AMOUNTS = ("sigma", "sigma_exponent", "sigma_min", "learning_rate")
_SHARES = ("weight_decay", "average_share")
_LARGEST = 65536


@dataclass(frozen=True)
class ESConfig:
    """The settings of the evolution strategy."""

    population: int = 256
    """Offspring of the centre in a generation (lambda)."""
    generations: int = 10_000
    """Generations to run."""
    sigma: float = 0.02
    """Mutation strength of the first generation."""
    anneal: Anneal = "sigma"
    """What the schedule shrinks: sigma, or the learning rate while sigma stays."""
    sigma_schedule: ScheduleName = "exponential"
    """How it shrinks: constant (not at all), exponential (Eq. 5.3), power, cosine."""
    sigma_decay: float = 0.9992
    """Factor on sigma per sigma_period generations, for exponential."""
    sigma_period: int = 1
    """Generations per sigma_decay or per cosine; k of power."""
    sigma_exponent: float = 0.75
    """What 1 + generations / sigma_period is raised to, negated, for power."""
    sigma_min: float = 0.0
    """What the cosine falls to."""
    learning_rate: float = 14.0
    """Step of the centre along the natural gradient (Eq. 8.9)."""
    weight_decay: float = 0.0
    """Share of the mutated layers' weights that is lost per generation; it shrinks, too."""
    units: tuple[int, ...] = ()
    """Units of the first, second, ... layer with genes that an offspring mutates: of one layer,
    one slice of so many units; 0: all units of the layer. Empty: all genes."""
    shares: tuple[int, ...] = ()
    """How the offspring are shared among the layers, in proportion; a layer with 0 stays as it is.
    Empty: equally."""
    average_share: float = 0.1
    """Share of the generations so far that the average of centres spans; 0: only the last."""
    init: InitScheme = "glorot_uniform"
    """How the first centre is drawn."""
    seed: int = 0
    """Seed of every random number of the run."""

    def __post_init__(self) -> None:
        one_of("anneal", self.anneal, get_args(Anneal))
        one_of("sigma_schedule", self.sigma_schedule, get_args(ScheduleName))
        one_of("init", self.init, INIT_SCHEMES)
        for name, (least, most) in _COUNTS.items():
            assign(self, name, integer(name, getattr(self, name), least, most))
        for name in (*_AMOUNTS, *_SHARES, "sigma_decay"):
            assign(self, name, number(name, getattr(self, name)))
        for name in _AMOUNTS:
            self._expect(name, 0 <= getattr(self, name) <= _LARGEST, f"a number in [0, {_LARGEST}]")
        self._expect("sigma", bool(np.float32(self.sigma)), "a float32 > 0")
        self._expect("sigma_min", self.sigma_min <= self.sigma, f"at most sigma, {self.sigma}")
        for name in _SHARES:
            self._expect(name, 0 <= getattr(self, name) <= 1, "a share in [0, 1]")
        self._expect("sigma_decay", 0 < self.sigma_decay <= 1, "a factor in (0, 1]")
        self._check_layers()

    @property
    def offspring(self) -> tuple[int, ...]:
        """Offspring that mutate each layer of ``units``; all of them without."""
        shares = self._shares
        ends = [self.population * sum(shares[: i + 1]) // sum(shares) for i in range(len(shares))]
        return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))

    def fitted(self, layout: GenomeLayout) -> ESConfig:
        """The same with numbers of units where ``units`` has 0. Raises ArgumentError when it has
        more numbers than there are layers with genes."""
        if len(self.units) > len(layout.blocks):
            wanted = f"at most one number per layer with genes ({len(layout.blocks)})"
            raise ArgumentError(message("units", wanted, repr(self.units)))
        units = (n or layout.blocks[block].outputs for block, n in enumerate(self.units))
        return replace(self, units=tuple(units))

    @property
    def _shares(self) -> tuple[int, ...]:
        return self.shares or (1,) * max(1, len(self.units))

    def sigma_of(self, generation: int) -> np.float32:
        """The mutation strength of generation 1, 2, ..."""
        return sigma_at(self, generation) if self.anneal == "sigma" else np.float32(self.sigma)

    def rates_of(self, generation: int) -> tuple[np.float32, np.float32]:
        """Learning rate and weight decay of generation 1, 2, ..."""
        shrunk = float(sigma_at(self, generation)) / float(np.float32(self.sigma))
        rate = self.learning_rate * (shrunk if self.anneal == "learning_rate" else 1)
        return np.float32(rate), np.float32(self.weight_decay * shrunk)

    def _check_layers(self) -> None:
        for name in ("units", "shares"):
            numbers = getattr(self, name)
            if not isinstance(numbers, tuple | list):
                wanted = "numbers, one per layer"
                raise DtypeError(message(name, wanted, f"{type(numbers).__name__} {numbers!r}"))
            values = tuple(integer(name, value, 0, _LARGEST) for value in numbers)
            assign(self, name, values)
        if self.shares:
            wanted = f"as many numbers as shares has {self.shares}"
            self._expect("units", len(self.shares) == len(self.units), wanted)
            self._expect("shares", sum(self.shares) > 0, "numbers that are not all 0")
        few = [n < 2 and share > 0 for n, share in zip(self.offspring, self._shares, strict=True)]
        wanted = f"at least 2 offspring for each layer with a share ({list(self.offspring)} now)"
        self._expect("population", not any(few), wanted)

    def _expect(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ArgumentError(message(name, wanted, repr(getattr(self, name))))
