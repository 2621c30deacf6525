"""An evolution strategy for whole networks: Algorithm 5 of the thesis with a Gaussian (8.3).

The offspring of a generation are mutants of one centre. The centre then follows the natural
gradient of Eq. 8.9 with the utilities of Eq. 8.19: all offspring recombine, weighted by rank, the
worse half negatively (as in Salimans et al., "Evolution strategies as a scalable alternative to
reinforcement learning", 2017).

A generation may mutate the last layers only (``turns``; this project). What comes before is the
centre's then, so it runs once for all offspring: small last layers are searched at a small price.

``ES`` asks and tells, for evaluators of any kind:

>>> es = ES(network.layout, ESConfig(population=100))
>>> while es.generation <= 50:
...     es.tell(fitness_of(es.ask()))  # float32 [S, G] -> [S], higher is better
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from evokern import _devices, ops
from evokern._values import integer, number, one_of
from evokern.drivers.ea import checked_fitness
from evokern.errors import ArgumentError, DtypeError, message
from evokern.layout import GenomeLayout
from evokern.nes import rank_utilities
from evokern.population import allocate_genomes
from evokern.rules import INIT_SCHEMES, InitScheme
from evokern.schedules import sigma_at

__all__ = ["ES", "ESConfig", "TailProblem", "next_generation"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

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
_MOST_TURNS = 10_000


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
    """Share of the mutated weights that the centre loses per generation; it shrinks, too."""
    turns: tuple[int, ...] = (1,)
    """How often generations mutate from the first, second, ... layer with genes on, in turn."""
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
            self._set(name, integer(name, getattr(self, name), least, most))
        for name in (*_AMOUNTS, *_SHARES, "sigma_decay"):
            number(name, getattr(self, name))
            self._set(name, float(getattr(self, name)))
        for name in _AMOUNTS:
            self._expect(name, 0 <= getattr(self, name) <= _LARGEST, f"a number in [0, {_LARGEST}]")
        self._expect("sigma", bool(np.float32(self.sigma)), "a float32 > 0")
        for name in _SHARES:
            self._expect(name, 0 <= getattr(self, name) <= 1, "a share in [0, 1]")
        self._expect("sigma_decay", 0 < self.sigma_decay <= 1, "a factor in (0, 1]")
        turns = tuple(integer("turns", turn, 0, _MOST_TURNS) for turn in self.turns)
        self._set("turns", turns)
        self._expect("turns", 0 < sum(turns) <= _MOST_TURNS, f"1 to {_MOST_TURNS} turns in all")

    @cached_property
    def cycle(self) -> tuple[int, ...]:
        """The block that each generation of a cycle begins at, every block as evenly as can be."""
        credit, cycle = [0] * len(self.turns), []
        for _ in range(sum(self.turns)):
            credit = [have + turn for have, turn in zip(credit, self.turns, strict=True)]
            block = max(range(len(credit)), key=credit.__getitem__)
            credit[block] -= sum(self.turns)
            cycle.append(block)
        return tuple(cycle)

    def block_at(self, generation: int) -> int:
        """The first parameter block that generation 1, 2, ... mutates."""
        return self.cycle[(generation - 1) % len(self.cycle)]

    def sigma_of(self, generation: int) -> np.float32:
        """The mutation strength of generation 1, 2, ..."""
        return sigma_at(self, generation) if self.anneal == "sigma" else np.float32(self.sigma)

    def rates_of(self, generation: int) -> tuple[np.float32, np.float32]:
        """Learning rate and weight decay of generation 1, 2, ..."""
        shrunk = float(sigma_at(self, generation)) / float(np.float32(self.sigma))
        rate = self.learning_rate * (shrunk if self.anneal == "learning_rate" else 1)
        return np.float32(rate), np.float32(self.weight_decay * shrunk)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _expect(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ArgumentError(message(name, wanted, repr(getattr(self, name))))


class TailProblem(Protocol):
    """What the strategy needs to know of a problem."""

    @property
    def layout(self) -> GenomeLayout:
        """Where the genes belong."""

    def evaluate_tails(
        self, centre: F32, block: int, tails: F32, rows: I32, generation: int
    ) -> F32:
        """Fitness float32 [S] of individuals: the centre's [1, G] genes before a parameter block,
        then those in ``rows`` int32 [S] of ``tails`` [Q, G']."""


def next_generation(es: ES, problem: TailProblem) -> F32:
    """One generation: mutate, evaluate, recombine. Gives the offspring's fitness float32 [S]."""
    block, tails, rows = es.ask_tails()
    fitness = problem.evaluate_tails(es.centre, block, tails, rows, es.generation)
    es.tell(fitness)
    return fitness


class ES:
    """The strategy's state and its two halves of a generation, ``ask`` and ``tell``.

    ``generation`` is the one that ``ask`` mutates for: 1, 2, ... All genes are on ``device``.
    """

    def __init__(self, layout: GenomeLayout, config: ESConfig, device: str = "cpu") -> None:
        if not isinstance(layout, GenomeLayout):
            mend = "try network.layout"
            raise DtypeError(message("layout", "a GenomeLayout", type(layout).__name__, mend))
        if len(config.turns) > len(layout.blocks):
            wanted = f"at most one number per layer with genes ({len(layout.blocks)})"
            raise ArgumentError(message("turns", wanted, repr(config.turns)))
        self.layout = layout
        self.config = config
        self.generation = 1
        self._device = device
        self._kept = allocate_genomes(3, layout.size, device)  # the centre, averages in turn
        self._average_row = 1
        self._asked = False
        self._banks: dict[int, F32] = {}
        for row in (0, 1):
            ops.init_genomes(
                layout, 1, seed=config.seed, scheme=config.init, out=self._kept[row : row + 1]
            )

    @property
    def centre(self) -> F32:
        """float32 [1, G], a view."""
        return self._kept[:1]

    @property
    def average(self) -> F32:
        """float32 [1, G], a view: the mean of the newest centres, older ones counting less."""
        return self._kept[self._average_row : self._average_row + 1]

    def ask(self) -> F32:
        """Genomes to evaluate: float32 [S, G] (a copy)."""
        block, tails, rows = self.ask_tails()
        genomes = allocate_genomes(len(rows), self.layout.size, self._device)
        first = self.layout.offsets[block]
        genomes[:, :first] = self.centre[:, :first]
        genomes[:, first:] = tails[1:-1]
        return genomes

    def ask_tails(self) -> tuple[int, F32, I32]:
        """The same without a copy: (block, tails [1 + S + 1, G'], rows int32 [S] of it).

        Offspring have the centre's genes before parameter block ``block``, then their tail. Row 0
        is the centre's own, the last row is +0.
        """
        config, n = self.config, self.config.population
        block = config.block_at(self.generation)
        centre = self.centre[:, self.layout.offsets[block] :]
        tails = self._bank(block)
        sigma = np.full(1 + n, config.sigma_of(self.generation), np.float32)
        sigma[0] = 0
        ops.crossover_mutate(
            centre,
            np.zeros((1, 1 + n), np.int32),
            sigma,
            kind="none",
            seed=config.seed,
            generation=self.generation,
            out=tails[: 1 + n],
        )
        self._asked = True
        return block, tails, np.arange(1, 1 + n, dtype=np.int32)

    def tell(self, fitness: npt.ArrayLike) -> None:
        """Takes the fitness [S] of what was asked for; higher is better, NaN counts as the worst.

        Raises FitnessError when all are NaN. An error leaves all as it was.
        """
        if not self._asked:
            raise ArgumentError(message("tell", "a call of ask() before", "none since the last"))
        told = checked_fitness(fitness, self.config.population, self.generation)
        block = self.config.block_at(self.generation)
        tails = self._bank(block)
        self._combine(tails, range(len(tails)), self._weights(told), self.layout.offsets[block], 0)
        self._average_in()
        self._asked = False
        self.generation += 1

    def state(self) -> dict[str, F32]:
        """What a run must keep, on the host: centre and average float32 [1, G]."""
        return {
            "centre": _devices.to_host(self.centre),
            "average": _devices.to_host(self.average),
        }

    def restore(self, state: Mapping[str, F32], generation: int) -> None:
        """Takes what ``state`` gave after ``generation``."""
        _devices.write(self.centre, state["centre"])
        _devices.write(self.average, state["average"])
        self.generation = generation + 1
        self._asked = False

    def _weights(self, fitness: F32) -> F32:
        """Of the centre, its offspring and the origin, float32 [1 + S + 1]: their sum is 1."""
        rate, decay = self.config.rates_of(self.generation)
        steps = rate / np.float32(len(fitness)) * rank_utilities(-fitness)
        return np.concatenate([[np.float32(1 - math.fsum([*steps, decay]))], steps, [decay]])

    def _bank(self, block: int) -> F32:
        """Where the tails of generations that begin at a block live, float32 [1 + S + 1, G']."""
        if block not in self._banks:
            genes = self.layout.size - self.layout.offsets[block]
            bank = allocate_genomes(1 + self.config.population + 1, genes, self._device)
            _devices.write(bank[-1:], np.zeros((1, genes), np.float32))
            self._banks[block] = bank
        return self._banks[block]

    def _average_in(self) -> None:
        """The average takes the newest centre in."""
        spans = max(1.0, self.config.average_share * self.generation)  # generations
        newest = np.float32(1 / spans)
        weights = np.array([newest, np.float32(1) - newest], np.float32)
        before = self._average_row
        self._average_row = 3 - before  # the other of 1 and 2
        self._combine(self._kept, (0, before), weights, 0, self._average_row)

    def _combine(
        self, genomes: F32, rows: Sequence[int], weights: F32, first: int, row: int
    ) -> None:
        """The weighted sum of some rows of ``genomes`` [n, G'] becomes the genes from ``first`` on
        in a row of what is kept."""
        ops.crossover_mutate(
            genomes,
            np.array(rows, np.int32)[:, None],
            np.zeros(1, np.float32),
            kind="arithmetic",
            weights=weights[:, None],
            seed=self.config.seed,
            generation=self.generation,
            out=self._kept[:, first:],
            out_rows=np.array([row], np.int32),
        )
