"""The evolutionary algorithm: Algorithms 1 and 2 of the thesis (chapters 4 and 5).

One generation is ``next_generation``: breed offspring, evaluate them, decide who survives. ``EA``
is the same cut in two, for evaluators of any kind:

>>> ea = EA(network.layout, EAConfig(population=100))
>>> while ea.generation < 50:
...     ea.tell(fitness_of(ea.ask()))  # float32 [P, G] -> float32 [P], higher is better
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evokern import ops
from evokern.backends.reference.random import Stream, bernoulli, draw_index, draw_words
from evokern.drivers.config import EAConfig
from evokern.errors import ArgumentError, DtypeError, FitnessError, ShapeError, message
from evokern.layout import GenomeLayout
from evokern.lineage import Lineages, founders
from evokern.population import Population, allocate_genomes
from evokern.schedules import sigma_at
from evokern.selection import draw_exponential_rank, draw_tournament, draw_truncation, rank

__all__ = ["EA", "EAConfig", "Problem", "breed", "first_generation", "next_generation", "survive"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

UNEVALUATED_FITNESS = np.float32(-1000)
"""Everybody's fitness where the first population is not evaluated (``evaluate_first=False``)."""


class Problem(Protocol):
    """What the algorithm needs to know of a problem."""

    @property
    def layout(self) -> GenomeLayout:
        """Where the genes of a genotype belong."""

    def evaluate(self, genomes: F32, rows: I32, generation: int) -> F32:
        """Fitness float32 [S] of the genomes in ``rows`` int32 [S] of a bank [Q, G]."""


def next_generation(
    population: Population, problem: Problem, config: EAConfig, generation: int
) -> Population:
    """One generation: the loop body of Algorithm 2, or of Algorithm 1 with plus survival.

    The population given is used up: offspring overwrite rows of its bank that can be no parents.
    """
    offspring = breed(population, problem.layout, config, generation)
    fitness = problem.evaluate(offspring.genomes, offspring.rows, generation)
    return survive(population, offspring, fitness, config, generation)


def breed(
    population: Population, layout: GenomeLayout, config: EAConfig, generation: int
) -> Population:
    """The offspring [S], slot by slot: elites, crossover children, mutation children.

    Their ``fitness`` is what they inherit from their parents, until they are evaluated.
    """
    elites = config.elite_count
    order = rank(population.fitness)  # best first, NaN last, ties by number
    parents = select_parents(order, config, generation)  # int32 [R, S]
    sigma = inherit_sigma(population, parents, config, generation)  # float32 [S]
    strength = mutation_strength(sigma, config)  # 0 for elites and crossover children
    rows = offspring_rows(population, order, config)  # elites stay where they are
    ops.crossover_mutate(
        population.genomes,
        population.rows[parents[:, elites:]],
        strength[elites:],
        kind=config.crossover,
        rate=config.crossover_rate,
        weights=parent_weights(config, parents.shape[1] - elites),
        mutation_rate=config.mutation_rate,
        distribution=config.mutation,
        layout=layout,
        seed=config.seed,
        generation=generation,
        first=elites,
        out=population.genomes,
        out_rows=rows[elites:],
    )
    lineages = population.lineages
    if lineages is not None:
        lineages = lineages.offspring(parents, strength, generation=generation)
    return Population(
        population.genomes,
        rows,
        fitness=inherit_fitness(population, parents, config),
        sigma=adapt_sigma(sigma, config, generation),
        lineages=lineages,
    )


def survive(
    population: Population,
    offspring: Population,
    fitness: npt.ArrayLike,
    config: EAConfig,
    generation: int,
) -> Population:
    """The next population: the elites, then the best of the offspring, with plus survival of both.

    ``fitness`` float32 [S] is the offspring's on the current batch. Elites bypass the comparison
    (thesis, 4.5); with plus survival they take part once, as offspring, with their newest fitness.
    Of equals, offspring come before parents. Raises FitnessError when the fitness of all offspring
    is NaN.
    """
    elites = config.elite_count
    fitness = checked_fitness(fitness, len(offspring), generation)
    evaluated = replace(offspring, fitness=adjust_fitness(offspring.fitness, fitness, config))
    if config.survival == "plus":
        evaluated = evaluated.joined_by(population.take(rank(population.fitness)[elites:]))
    if len(evaluated) == config.population:
        return evaluated
    best = rank(evaluated.fitness[elites:])[: config.population - elites]
    return evaluated.take(np.concatenate([np.arange(elites, dtype=np.int32), elites + best]))


def first_generation(problem: Problem, config: EAConfig, device: str = "cpu") -> Population:
    """Random genomes, evaluated on the batch of generation 0 unless ``evaluate_first`` is off."""
    population = initial_population(problem.layout, config, device)
    if not config.evaluate_first:
        return population
    fitness = problem.evaluate(population.genomes, population.rows, 0)
    return replace(population, fitness=checked_fitness(fitness, len(population), 0))


def initial_population(layout: GenomeLayout, config: EAConfig, device: str = "cpu") -> Population:
    """Random genomes on ``device`` that nobody has evaluated: their fitness is UNEVALUATED_FITNESS.

    All else is on the host: it has one number per individual.
    """
    genomes = allocate_genomes(config.bank_rows, layout.size, device)
    n = config.population
    ops.init_genomes(layout, n, seed=config.seed, scheme=config.init, out=genomes[:n])
    return Population(
        genomes,
        rows=np.arange(n, dtype=np.int32),
        fitness=np.full(n, UNEVALUATED_FITNESS),
        sigma=np.full(n, config.sigma, np.float32),
        lineages=first_lineages(config) if config.lineages else None,
    )


class EA:
    """Ask and tell: ``next_generation`` cut in two, for foreign evaluators.

    ``generation`` is what ``ask`` gives next: 0 for the initial population (left out where
    ``evaluate_first`` is off), then the offspring of generation 1, 2, ... ``population`` is the
    last one that was told. ``ask`` writes offspring over those of its genomes that can be no
    parents.
    """

    def __init__(self, layout: GenomeLayout, config: EAConfig, device: str = "cpu") -> None:
        if not isinstance(layout, GenomeLayout):
            mend = "try network.layout"
            raise DtypeError(message("layout", "a GenomeLayout", type(layout).__name__, mend))
        self.layout = layout
        self.config = config
        self.generation = 0 if config.evaluate_first else 1
        self.population = initial_population(layout, config, device)
        self._asked: Population | None = None

    def ask(self) -> F32:
        """Genomes to evaluate: float32 [P, G] at first, then the offspring [S, G] (a copy)."""
        bank, rows = self.ask_rows()
        genomes: F32 = bank[rows]
        return genomes

    def ask_rows(self) -> tuple[F32, I32]:
        """The same without a copy: a bank [Q, G] and the rows int32 [S] to evaluate.

        ``ops.network_loss(bank, network, x, y, index=rows)`` takes them as they are.
        """
        if self._asked is None:
            self._asked = self.population
            if self.generation > 0:
                self._asked = breed(self.population, self.layout, self.config, self.generation)
        return self._asked.genomes, self._asked.rows

    def tell(self, fitness: npt.ArrayLike) -> None:
        """Takes the fitness [S] of what ``ask`` gave; higher is better, NaN ranks last.

        Numbers are rounded to float32. An error leaves all as it was.
        """
        if self._asked is None:
            raise ArgumentError(message("tell", "a call of ask() before", "none since the last"))
        if self.generation == 0:
            fitness = checked_fitness(fitness, len(self._asked), 0)
            self.population = replace(self.population, fitness=fitness)
        else:
            self.population = survive(
                self.population, self._asked, fitness, self.config, self.generation
            )
        self._asked = None
        self.generation += 1


def select_parents(order: I32, config: EAConfig, generation: int) -> I32:
    """int32 [R, S]: individuals; the fitter parent comes first.

    An elite and a mutation child have one parent, named R times.
    """
    elites, crossovers = config.elite_count, config.crossover_count
    slots = config.offspring_count - elites
    draw = {"seed": config.seed, "generation": generation, "first": elites}
    shape = (config.crossover_parents, slots)
    if config.selection == "tournament":
        places = draw_tournament(len(order), config.tournament_size, *shape, **draw)
    elif config.selection == "exponential_rank":
        places = draw_exponential_rank(len(order), config.rank_base, *shape, **draw)
    else:
        places = draw_truncation(config.parent_count, *shape, **draw)
    places[1:, crossovers:] = places[0, crossovers:]
    places.sort(axis=0)
    best = np.tile(order[:elites], (config.crossover_parents, 1))
    return np.concatenate([best, order[places]], axis=1)


def offspring_rows(population: Population, order: I32, config: EAConfig) -> I32:
    """int32 [S]: where the offspring live. Elites stay; the others take rows nobody needs."""
    elites = config.elite_count
    free = np.ones(len(population.genomes), np.bool_)
    free[population.rows[order[: config.kept_count]]] = False
    taken = np.flatnonzero(free)[: config.offspring_count - elites]
    return np.concatenate([population.rows[order[:elites]], taken.astype(np.int32)])


def parent_weights(config: EAConfig, slots: int) -> F32 | None:
    """Weights float32 [R, slots] of arithmetic crossover by rank: R, R - 1, ... 1 over their sum.

    None means equal weights (Eq. 4.2).
    """
    if config.crossover != "arithmetic" or config.parent_weights == "equal":
        return None
    return np.tile(config.rank_weights[:, None], (1, slots))


def inherit_sigma(population: Population, parents: I32, config: EAConfig, generation: int) -> F32:
    """The offspring's mutation strengths float32 [S], before they mutate anything (5.2.2).

    Self-adaptive: the arithmetic mean of the parents' (the thesis), or, with the program's rule,
    one parent's at random unless the crossover is arithmetic. Otherwise the schedule's.
    """
    if config.sigma_schedule != "self_adaptive":
        return np.full(parents.shape[1], sigma_at(config, generation), np.float32)
    genes = population.sigma[parents]
    if config.sigma_rule == "program" and config.crossover != "arithmetic":
        sigma: F32 = np.take_along_axis(genes, _sigma_parent(parents, config, generation), 0)[0]
    else:
        sigma = _mean_of_parents(genes, parents)
    if config.sigma_first:
        sigma = _mutated_sigma(sigma, config, generation)
    return sigma


def mutation_strength(sigma: F32, config: EAConfig) -> F32:
    """float32 [S]: 0 where a slot is not mutated, else its sigma."""
    strength = sigma.copy()
    unmutated = 0 if config.crossover_then_mutation else config.crossover_count
    strength[: config.elite_count + unmutated] = 0
    return strength


def adapt_sigma(sigma: F32, config: EAConfig, generation: int) -> F32:
    """The offspring's mutation strengths float32 [S] after they were used (Eq. 5.4)."""
    if config.sigma_schedule != "self_adaptive" or config.sigma_first:
        return sigma
    return _mutated_sigma(sigma, config, generation)


def inherit_fitness(population: Population, parents: I32, config: EAConfig) -> F32:
    """The parents' mean fitness float32 [S] (5.2.1); NaN where there is nothing to inherit."""
    if config.alpha == 1:
        return np.full(parents.shape[1], np.nan, np.float32)
    return _mean_of_parents(population.fitness[parents], parents)


def adjust_fitness(inherited: F32, fitness: F32, config: EAConfig) -> F32:
    """(1 - alpha) * inherited + alpha * fitness (Eq. 5.2); nothing is inherited that is not finite.

    With alpha 1 the inherited term is left out: 0 times infinity would be NaN.
    """
    if config.alpha == 1:
        return fitness
    alpha = np.float32(config.alpha)
    with np.errstate(all="ignore"):
        mixed = (np.float32(1) - alpha) * inherited + alpha * fitness
    return np.where(np.isfinite(inherited), mixed, fitness)


def checked_fitness(fitness: npt.ArrayLike, slots: int, generation: int) -> F32:
    """Fitness [S] of real numbers as float32, rounded once. Else DtypeError or ShapeError.

    Raises FitnessError when every individual's is NaN: nothing can be selected.
    """
    given = np.asarray(fitness)
    if given.dtype.kind not in "fiu":
        raise DtypeError(message("fitness", f"real numbers [S={slots}]", f"{given.dtype}"))
    with np.errstate(over="ignore"):
        values = given.astype(np.float32)
    if values.shape != (slots,):
        mend = "one number per individual"
        raise ShapeError(message("fitness", f"[S={slots}]", f"{list(values.shape)}", mend))
    if np.isnan(values).all():
        raise FitnessError(
            f"fitness: all {slots} individuals are NaN in generation {generation}, so none can be "
            "selected; check that the data and the objective are finite, or lower sigma"
        )
    return values


def first_lineages(config: EAConfig) -> Lineages:
    """The recipes of the initial population."""
    weights = config.rank_weights if config.parent_weights == "rank" else None
    return founders(
        config.population,
        seed=config.seed,
        scheme=config.init,
        kind=config.crossover,
        rate=config.crossover_rate,
        weights=weights if config.crossover == "arithmetic" else None,
        mutation_rate=config.mutation_rate,
        distribution=config.mutation,
    )


def _mean_of_parents(values: F32, parents: I32) -> F32:
    """Mean float32 [S] of values [R, S], ascending; exactly the value where all parents are one."""
    total = values[0]
    with np.errstate(all="ignore"):
        for value in values[1:]:
            total = total + value
    alike = (parents == parents[0]).all(axis=0)
    return np.asarray(np.where(alike, values[0], total / np.float32(len(values))))


def _sigma_parent(parents: I32, config: EAConfig, generation: int) -> npt.NDArray[np.int64]:
    """int64 [1, S]: whose sigma an offspring takes, chosen as uniform crossover chooses a gene."""
    slots = np.arange(parents.shape[1], dtype=np.int64)
    words = draw_words(
        Stream.SIGMA, 4, seed=config.seed, individual=slots, generation=generation
    )  # words 0 and 1 make the normal of Eq. 5.4
    other = bernoulli(words[:, 2], config.crossover_rate)
    which = 1 + draw_index(words[:, 3], len(parents) - 1)
    return np.where(other, which, 0).astype(np.int64)[None]


def _mutated_sigma(sigma: F32, config: EAConfig, generation: int) -> F32:
    """Eq. 5.4 for the mutated slots (the thesis), or for all, elites too (the program)."""
    mutated: F32 = ops.mutate_sigma(sigma, tau=config.tau, seed=config.seed, generation=generation)
    if config.sigma_rule == "program":
        return mutated
    return np.where(mutation_strength(np.ones_like(sigma), config) > 0, mutated, sigma)
