"""The settings of the genetic algorithm: one frozen dataclass, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from evokern._values import assign, integer, number, one_of
from evokern.errors import ArgumentError, DtypeError, message
from evokern.rules import DISTRIBUTIONS, INIT_SCHEMES, Distribution, InitScheme

Selection = Literal["truncation", "exponential_rank", "tournament"]
Survival = Literal["comma", "plus"]
Crossover = Literal["uniform", "arithmetic", "rows"]
ParentWeights = Literal["equal", "rank"]
SigmaSchedule = Literal["constant", "exponential", "power", "cosine", "self_adaptive"]
SigmaRule = Literal["thesis", "program"]

_NAMES = {
    "survival": get_args(Survival),
    "selection": get_args(Selection),
    "crossover": get_args(Crossover),
    "parent_weights": get_args(ParentWeights),
    "mutation": DISTRIBUTIONS,
    "sigma_schedule": get_args(SigmaSchedule),
    "sigma_rule": get_args(SigmaRule),
    "init": INIT_SCHEMES,
}
_COUNTS = {
    "population": (1, 2**31 - 1),
    "generations": (1, 2**32 - 1),
    "tournament_size": (1, 1024),
    "crossover_parents": (2, 1024),
    "sigma_period": (1, 2**32 - 1),
    "seed": (0, 2**64 - 1),
}
_SHARES = ("truncation", "crossover_share", "crossover_rate", "mutation_rate", "alpha")
_LARGEST = float(np.finfo(np.float32).max)
_AMOUNTS = ("sigma", "sigma_exponent", "sigma_min", "tau")
_FACTORS = ("sigma_decay", "rank_base")
_SWITCHES = ("crossover_then_mutation", "sigma_first", "evaluate_first", "lineages")


@dataclass(frozen=True)
class EAConfig:
    """The algorithm's settings; the defaults are the validation settings of Table 5.1."""

    population: int = 1000
    """Individuals that survive a generation (mu)."""
    offspring: int | None = None
    """Individuals evaluated per generation, elites among them (lambda); default: population."""
    generations: int = 50_000
    """Generations to run."""
    survival: Survival = "comma"
    """Who competes to survive: the offspring (comma) or parents and offspring (plus)."""
    selection: Selection = "truncation"
    """How parents are drawn: among the best, by exponential rank, or by tournaments."""
    truncation: float = 0.5
    """Share of the best that may become parents (rho), for truncation selection."""
    rank_base: float = 0.99
    """Chance of a rank relative to the rank before, for exponential rank selection."""
    tournament_size: int = 2
    """Individuals that compete to become a parent, for tournament selection."""
    elites: int | float = 0.05
    """The best that go on unchanged (p_E): a count (5) or a share of the offspring (0.05)."""
    crossover_share: float = 0.50
    """Share of the offspring made by crossover (p_C); the rest is mutated."""
    crossover: Crossover = "uniform"
    """Per gene (Eq. 4.1), weighted mean (Eq. 4.2), or per output unit with its weights."""
    crossover_parents: int = 2
    """Parents of a crossover child (R)."""
    crossover_rate: float = 0.5
    """Chance that a gene or unit comes from another parent than the fittest."""
    parent_weights: ParentWeights = "equal"
    """Weights in arithmetic crossover: all the same, or R, R - 1, ... 1 from the fittest on."""
    crossover_then_mutation: bool = False
    """Mutate crossover children as well."""
    mutation: Distribution = "normal"
    """Distribution of what mutation adds, times sigma (Eq. 4.3)."""
    mutation_rate: float = 1.0
    """Chance per gene that mutation changes it."""
    sigma: float = 0.001
    """Mutation strength of the first generation."""
    sigma_schedule: SigmaSchedule = "constant"
    """How sigma goes on: constant, exponential (5.3), power, cosine, self_adaptive (5.4)."""
    sigma_decay: float = 0.99
    """Factor on sigma per sigma_period generations, for exponential."""
    sigma_period: int = 100
    """Generations per sigma_decay (k of Eq. 5.3) or per cosine; k of power."""
    sigma_exponent: float = 0.75
    """What 1 + generations / sigma_period is raised to, negated, for power."""
    sigma_min: float = 0.0
    """What the cosine falls to."""
    tau: float = 0.01
    """Learning rate of self-adaptive sigma (Eq. 5.4)."""
    sigma_rule: SigmaRule = "thesis"
    """Self-adaptive sigma: crossover takes the mean (thesis), or one's and all change (program)."""
    sigma_first: bool = False
    """Change the self-adaptive sigma before it mutates the genes, not after."""
    alpha: float = 1.0
    """Weight of the batch's fitness against the inherited one (Eq. 5.2); 1 inherits nothing."""
    evaluate_first: bool = True
    """Evaluate generation 0 before the first selection; the authors' program does not."""
    init: InitScheme = "glorot_uniform"
    """How the first genomes are drawn."""
    lineages: bool = False
    """Record how every individual came about, so that it can be replayed from seeds."""
    seed: int = 0
    """Seed of every random number of the run."""

    def __post_init__(self) -> None:
        for name, names in _NAMES.items():
            one_of(name, getattr(self, name), names)
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise DtypeError(message(name, "True or False", repr(getattr(self, name))))
        for name, (least, most) in _COUNTS.items():
            assign(self, name, integer(name, getattr(self, name), least, most))
        if self.offspring is not None:
            assign(self, "offspring", integer("offspring", self.offspring, 1, 2**31 - 1))
        for name in (*_SHARES, *_AMOUNTS, *_FACTORS):
            assign(self, name, number(name, getattr(self, name)))
        for name in _SHARES:
            self._expect(name, 0 <= getattr(self, name) <= 1, "a share in [0, 1]")
        for name in _AMOUNTS:
            self._expect(name, 0 <= getattr(self, name) <= _LARGEST, "a finite float32 >= 0")
        low = self.sigma_schedule != "cosine" or self.sigma_min <= self.sigma
        self._expect("sigma_min", low, f"at most sigma, {self.sigma}, for cosine")
        for name in _FACTORS:
            self._expect(name, 0 < getattr(self, name) <= 1, "a factor in (0, 1]")
        self._check_elites()
        if self.survival == "comma" and self.offspring_count < self.population:
            wanted = f"at least the population {self.population} with comma survival"
            raise ArgumentError(message("offspring", wanted, str(self.offspring)))
        if self.elite_count + self.crossover_count > self.offspring_count:
            got = f"{self.elite_count} + {self.crossover_count}"
            wanted = f"at most the {self.offspring_count} offspring"
            raise ArgumentError(message("elites + crossover_share", wanted, got))
        if self.elite_count > self.population:
            wanted = f"at most the population {self.population}"
            raise ArgumentError(message("elites", wanted, str(self.elite_count)))

    @property
    def offspring_count(self) -> int:
        """Individuals evaluated per generation (lambda)."""
        return self.population if self.offspring is None else self.offspring

    @property
    def elite_count(self) -> int:
        """Individuals that go on unchanged: round(lambda p_E)."""
        if isinstance(self.elites, int):
            return self.elites
        return round(_exactly(self.elites) * self.offspring_count)

    @property
    def crossover_count(self) -> int:
        """Offspring made by crossover: round(lambda p_C)."""
        return round(_exactly(self.crossover_share) * self.offspring_count)

    @property
    def parent_count(self) -> int:
        """The best that may become parents: floor(rho mu), at least 1; all without truncation."""
        if self.selection != "truncation":
            return self.population
        return max(1, int(_exactly(self.truncation) * self.population))

    @property
    def kept_count(self) -> int:
        """The best whose rows are still needed while offspring are made and compared."""
        if self.survival == "plus":
            return self.population
        return max(self.parent_count, self.elite_count)

    @property
    def bank_rows(self) -> int:
        """Rows of the bank that holds parents and offspring; elites are both."""
        return max(self.population, self.kept_count + self.offspring_count - self.elite_count)

    @cached_property
    def rank_weights(self) -> npt.NDArray[np.float32]:
        """float32 [R]: R, R - 1, ... 1 over their sum."""
        weights = np.arange(self.crossover_parents, 0, -1, dtype=np.float64)
        return (weights / (self.crossover_parents * (self.crossover_parents + 1) / 2)).astype(
            np.float32
        )

    def _check_elites(self) -> None:
        number("elites", self.elites)
        if isinstance(self.elites, (int, np.integer)):
            assign(self, "elites", int(self.elites))
            holds = self.elites >= 0
        else:
            assign(self, "elites", float(self.elites))
            holds = 0 <= self.elites <= 1
        self._expect("elites", holds, "a count >= 0 or a share in [0, 1]")

    def _expect(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ArgumentError(message(name, wanted, repr(getattr(self, name))))


def _exactly(share: float) -> Fraction:
    """A share as it was written: 0.29 of 100 is 29, which floats make 28.999..."""
    return Fraction(repr(share))
