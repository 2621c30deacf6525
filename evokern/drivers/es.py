"""An evolution strategy for whole networks: Algorithm 5 of the thesis with a Gaussian (8.3).

The offspring of a generation are mutants of one centre. The centre then follows the natural
gradient of Eq. 8.9 with the utilities of Eq. 8.19: all offspring recombine, weighted by rank, the
worse half negatively (as in Salimans et al., "Evolution strategies as a scalable alternative to
reinforcement learning", 2017).

An offspring may mutate some units of one layer only (``units``; this project): it then costs a
fraction of a whole network (``problems/mutants.py``).

``ES`` asks and tells, for evaluators of any kind:

>>> es = ES(network.layout, ESConfig(population=100))
>>> while es.generation <= 50:
...     es.tell(fitness_of(es.ask()))  # float32 [S, G] -> [S], higher is better
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evokern import _devices, ops
from evokern.drivers.ea import checked_fitness
from evokern.drivers.es_config import ESConfig
from evokern.errors import ArgumentError, DtypeError, message
from evokern.layout import GenomeLayout
from evokern.nes import rank_utilities
from evokern.population import allocate_genomes
from evokern.slices import Mutants, Slices, all_genes, slices_of

__all__ = ["ES", "ESConfig", "MutantProblem", "mutated_slices", "next_generation"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


class MutantProblem(Protocol):
    """What the strategy needs to know of a problem."""

    @property
    def layout(self) -> GenomeLayout:
        """Where the genes belong."""

    def evaluate_mutants(self, centre: F32, mutants: Sequence[Mutants], generation: int) -> F32:
        """Fitness float32 [S] of mutants of a centre [1, G], group after group."""


def next_generation(es: ES, problem: MutantProblem) -> F32:
    """One generation: mutate, evaluate, recombine. Gives the offspring's fitness float32 [S]."""
    mutants = es.ask_mutants()
    fitness = problem.evaluate_mutants(es.centre, mutants, es.generation)
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
        self.layout = layout
        self.config = config
        self.generation = 1
        self._device = device
        self._groups = _groups(layout, config, device)
        self._kept = allocate_genomes(3, layout.size, device)  # the centre, averages in turn
        self._average_row = 1
        self._asked = False
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
        genomes = allocate_genomes(self.config.population, self.layout.size, self._device)
        genomes[:] = self.centre
        mutants = self.ask_mutants()
        for group, own in zip(self._groups, mutants, strict=True):
            for slot, k in enumerate(own.index):
                own.slices.write_one(int(k), own.genes[slot], genomes[group.first + slot])
        return genomes

    def ask_mutants(self) -> list[Mutants]:
        """The same without a copy: each offspring's mutated genes, layer after layer.

        All its other genes are the centre's. What this gives is the strategy's own: ``tell``
        recombines it, the next ``ask`` overwrites it.
        """
        sigma = self.config.sigma_of(self.generation)
        for group in self._groups:
            group.slices.read(self.centre, group.centres)
            ops.crossover_mutate(
                group.centres,
                group.index_at(self.generation)[None],
                np.full(group.size, sigma, np.float32),
                kind="none",
                seed=self.config.seed,
                generation=self.generation,
                first=group.first,
                out=group.mutants,
            )
        self._asked = True
        return [
            Mutants(group.slices, group.index_at(self.generation), group.mutants)
            for group in self._groups
        ]

    def tell(self, fitness: npt.ArrayLike) -> None:
        """Takes the fitness [S] of what was asked for; higher is better, NaN counts as the worst.

        Offspring are ranked among those of their layer. Raises FitnessError when all are NaN. An
        error leaves all as it was.
        """
        if not self._asked:
            raise ArgumentError(message("tell", "a call of ask() before", "none since the last"))
        told = checked_fitness(fitness, self.config.population, self.generation)
        rate, decay = self.config.rates_of(self.generation)
        for group in self._groups:
            own = told[group.first : group.first + group.size]
            parents, weights = group.recombination(own, self.generation, rate, decay)
            self._combine(group.bank, parents, weights, group.new_rows)
        for group in self._groups:
            group.slices.write(group.bank[group.new_rows[0] :], self.centre)
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

    def _average_in(self) -> None:
        """The average takes the newest centre in."""
        spans = max(1.0, self.config.average_share * self.generation)  # generations
        newest = np.float32(1 / spans)
        weights = np.array([[newest], [np.float32(1) - newest]], np.float32)
        parents = np.array([[0], [self._average_row]], np.int32)
        self._average_row = 3 - self._average_row  # the other of 1 and 2
        self._combine(self._kept, parents, weights, np.array([self._average_row], np.int32))

    def _combine(self, bank: F32, parents: I32, weights: F32, rows: I32) -> None:
        """Weighted sums of ``parents`` [R, n], rows of a bank, become its ``rows`` [n]."""
        ops.crossover_mutate(
            bank,
            parents,
            np.zeros(len(rows), np.float32),
            kind="arithmetic",
            weights=weights,
            seed=self.config.seed,
            generation=self.generation,
            out=bank,
            out_rows=rows,
        )


@dataclass(frozen=True, eq=False)
class _Group:
    """The offspring that mutate one layer: ``size`` of them, from number ``first`` on.

    In ``bank`` are the centre's slices, the mutated ones, +0, and the centre's next slices.
    """

    slices: Slices
    first: int
    size: int
    bank: F32

    @classmethod
    def at(cls, slices: Slices, first: int, size: int, device: str) -> _Group:
        """A group with its bank."""
        bank = allocate_genomes(2 * slices.count + size + 1, slices.genes, device)
        zero = slices.count + size
        _devices.write(bank[zero : zero + 1], np.zeros((1, slices.genes), np.float32))
        return cls(slices, first, size, bank)

    @property
    def centres(self) -> F32:
        """The centre's slices."""
        return self.bank[: self.slices.count]

    @property
    def mutants(self) -> F32:
        """Each offspring's slice."""
        return self.bank[self.slices.count : self.slices.count + self.size]

    @property
    def new_rows(self) -> I32:
        """Where the centre's next slices are."""
        return np.arange(self.slices.count + self.size + 1, len(self.bank), dtype=np.int32)

    def index_at(self, generation: int) -> I32:
        """Which slice each offspring mutates: one after the other, over all generations."""
        passed = (generation - 1) * self.size
        return ((passed + np.arange(self.size)) % self.slices.count).astype(np.int32)

    def recombination(
        self, fitness: F32, generation: int, rate: np.float32, decay: np.float32
    ) -> tuple[I32, F32]:
        """Parents [R, count] and weights of the centre's next slices: for each, with its n
        offspring, c + rate / (sqrt(count) n) * sum of u_s (x_s - c), Eq. 8.9, less the decay.

        A slice has 1 / count of the layer's squared gradient: with 1 / sqrt(count) of the rate,
        the layer's step is as long as if all its units were mutated at once.
        """
        count, index = self.slices.count, self.index_at(generation)
        rates = rate / np.sqrt(count) / np.maximum(1, np.bincount(index, minlength=count))
        steps = (rates[index] * rank_utilities(-fitness)).astype(np.float32)
        place = np.arange(self.size) // count  # offspring i and i + count mutate the same slice
        parents = np.full((place[-1] + 3, count), count + self.size, np.int32)  # +0
        weights = np.zeros(parents.shape, np.float32)
        parents[0], parents[1 + place, index] = np.arange(count), count + np.arange(self.size)
        weights[1 + place, index] = steps
        weights[0] = [1 - math.fsum([decay, *others]) for others in weights[1:-1].T.tolist()]
        # +0 takes the decay, and what rounding left.
        weights[-1] = [1 - math.fsum(others) for others in weights[:-1].T.tolist()]
        return parents, weights


def mutated_slices(layout: GenomeLayout, config: ESConfig) -> list[Slices]:
    """What each layer's offspring mutate a slice of, for the layers that have offspring.

    Raises ArgumentError where ``units`` do not fit the layers.
    """
    units = config.fitted(layout).units
    cuts = [slices_of(layout, block, n) for block, n in enumerate(units)] or [all_genes(layout)]
    return [cut for cut, size in zip(cuts, config.offspring, strict=True) if size]


def _groups(layout: GenomeLayout, config: ESConfig, device: str) -> list[_Group]:
    sizes = [size for size in config.offspring if size]
    groups, first = [], 0
    for slices, size in zip(mutated_slices(layout, config), sizes, strict=True):
        groups.append(_Group.at(slices, first, size, device))
        first += size
    return groups
