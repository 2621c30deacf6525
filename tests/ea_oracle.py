"""The evolutionary algorithm one individual at a time, for tests.

Written from the thesis (Algorithms 1 and 2, sections 4.4, 4.5 and 5.2) and docs/bits.md: full
copies of every genome, no bank, words of a scalar Philox.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
from scalar_rules import F, init, scalar_word

from evokern.backends.reference.activation import exp
from evokern.backends.reference.random import Stream, draw_deviates
from evokern.backends.reference.variation import crossover_mutate
from evokern.drivers.config import EAConfig
from evokern.layout import GenomeLayout
from evokern.schedules import cosine_cycle


@dataclass
class Individual:
    genome: np.ndarray
    fitness: np.float32
    sigma: np.float32


def noisy_fitness(genome: np.ndarray, generation: int) -> np.float32:
    """A value of few, so that there are ties; now and then NaN or infinite."""
    number = zlib.crc32(genome.tobytes(), generation)
    special = {0: np.nan, 1: np.inf, 2: -np.inf}.get(number % 17)
    return F((number % 1000 % 23 - 11) / 3 if special is None else special)


class NoisyProblem:
    """``noisy_fitness`` as a problem of a population."""

    def __init__(self, layout: GenomeLayout) -> None:
        self.layout = layout

    def evaluate(self, genomes: np.ndarray, rows: np.ndarray, generation: int) -> np.ndarray:
        return np.array([noisy_fitness(genomes[row], generation) for row in rows], F)


def first_population(layout: GenomeLayout, config: EAConfig) -> list[Individual]:
    genomes = init(layout, config.init, config.population, seed=config.seed)
    fitness = [
        noisy_fitness(genome, 0) if config.evaluate_first else F(-1000) for genome in genomes
    ]
    return [Individual(*pair, F(config.sigma)) for pair in zip(genomes, fitness, strict=True)]


def best_first(individuals: list[Individual]) -> list[Individual]:
    def key(individual: Individual) -> tuple[bool, float]:
        nan = bool(np.isnan(individual.fitness))
        return nan, 0.0 if nan else -float(individual.fitness)

    return sorted(individuals, key=key)


def quota(share: float, of: int) -> int:
    """round(share * of), halves to even, of the share as it is written."""
    return int((Decimal(str(share)) * of).quantize(Decimal(1), ROUND_HALF_EVEN))


def next_population(
    population: list[Individual], layout: GenomeLayout, config: EAConfig, generation: int
) -> list[Individual]:
    """Lines 3 to 10 of Algorithm 2, or 4 to 6 of Algorithm 1 with plus survival."""
    ranked = best_first(population)
    wanted = config.offspring or config.population
    elites = config.elites if isinstance(config.elites, int) else quota(config.elites, wanted)
    crossed = quota(config.crossover_share, wanted)
    offspring = []
    for slot in range(wanted):
        if slot < elites:
            parents, mutated = [slot], False
        elif slot < elites + crossed:
            parents = sorted(
                place(r, slot, config, generation) for r in range(config.crossover_parents)
            )
            mutated = config.crossover_then_mutation
        else:
            parents, mutated = [place(0, slot, config, generation)], True
        offspring.append(child(ranked, parents, mutated, slot, layout, config, generation))

    for individual in offspring:
        inherited, measured = individual.fitness, noisy_fitness(individual.genome, generation)
        individual.fitness = measured
        if config.alpha < 1 and np.isfinite(inherited):
            with np.errstate(all="ignore"):
                individual.fitness = (F(1) - F(config.alpha)) * inherited + F(
                    config.alpha
                ) * measured
    if config.survival == "comma" and wanted == config.population:
        return offspring
    others = offspring[elites:]
    if config.survival == "plus":
        others = others + ranked[elites:]
    return offspring[:elites] + best_first(others)[: config.population - elites]


def place(r: int, slot: int, config: EAConfig, generation: int) -> int:
    """Where parent r of an offspring stands in the ranking."""

    def word(gene: int) -> int:
        return scalar_word(Stream.SELECTION, gene, slot, generation, config.seed)

    n = config.population
    if config.selection == "truncation":
        best = max(1, int(Decimal(str(config.truncation)) * n))
        return word(r) * best // 2**32
    if config.selection == "tournament":
        size = config.tournament_size
        return min(word(r * size + i) * n // 2**32 for i in range(size))
    total = sum(config.rank_base**k for k in range(n))
    weights = [round(config.rank_base**k / total * 2**24) for k in range(n)]
    target = word(r) * sum(weights) // 2**32
    return next(k for k in range(n) if target < sum(weights[: k + 1]))


def child(
    ranked: list[Individual],
    parents: list[int],
    mutated: bool,
    slot: int,
    layout: GenomeLayout,
    config: EAConfig,
    generation: int,
) -> Individual:
    """An offspring with what it inherits as its fitness."""
    chosen = [ranked[parent] for parent in parents]
    alone = len(set(parents)) == 1
    adaptive = config.sigma_schedule == "self_adaptive"
    changes = adaptive and (mutated or config.sigma_rule == "program")
    sigma = inherited_sigma(chosen, alone, slot, config, generation)
    if changes and config.sigma_first:
        sigma = changed(sigma, slot, config, generation)

    weights = None
    if config.parent_weights == "rank" and config.crossover == "arithmetic":
        places = range(len(parents), 0, -1)
        weights = np.array([[F(i / sum(places))] for i in places], F)
    genome = np.full((1, layout.size), np.nan, F)
    crossover_mutate(
        np.stack([individual.genome for individual in ranked]),
        np.array([[parent] for parent in parents], np.int32),
        np.array([sigma if mutated else 0], F),
        kind=config.crossover,
        rate=config.crossover_rate,
        weights=weights,
        mutation_rate=config.mutation_rate,
        distribution=config.mutation,
        layout=layout,
        seed=config.seed,
        generation=generation,
        first=slot,
        out=genome,
        out_rows=None,
    )
    if changes and not config.sigma_first:
        sigma = changed(sigma, slot, config, generation)
    fitness = mean([individual.fitness for individual in chosen], alone)
    return Individual(genome[0], fitness, sigma)


def mean(values: list[np.float32], alone: bool) -> np.float32:
    if alone:
        return values[0]
    total = values[0]
    with np.errstate(all="ignore"):
        for value in values[1:]:
            total = F(total + value)
    return F(total / F(len(values)))


def inherited_sigma(
    parents: list[Individual], alone: bool, slot: int, config: EAConfig, generation: int
) -> np.float32:
    step = generation - 1
    if config.sigma_schedule == "constant":
        return F(config.sigma)
    if config.sigma_schedule == "exponential":
        return F(config.sigma * config.sigma_decay ** (step / config.sigma_period))
    if config.sigma_schedule == "power":
        return F(config.sigma * (1 + step / config.sigma_period) ** -config.sigma_exponent)
    if config.sigma_schedule == "cosine":
        return cosine_cycle(config.sigma, config.sigma_min, step, period=config.sigma_period)
    genes = [individual.sigma for individual in parents]
    if config.sigma_rule == "thesis" or config.crossover == "arithmetic" or alone:
        return mean(genes, alone)
    words = [scalar_word(Stream.SIGMA, i, slot, generation, config.seed) for i in (2, 3)]
    if words[0] < config.crossover_rate * 2**32:
        return genes[1 + words[1] * (len(genes) - 1) // 2**32]
    return genes[0]


def changed(sigma: np.float32, slot: int, config: EAConfig, generation: int) -> np.float32:
    """Eq. 5.4, between 2^-40 and 2^10."""
    place = {"seed": config.seed, "individual": slot, "generation": generation}
    normal = draw_deviates("normal", Stream.SIGMA, 1, **place)[0]
    factor = exp(np.array([F(config.tau) * normal], F))[0]
    return min(max(F(sigma * factor), F(2.0**-40)), F(2.0**10))
