"""The evolutionary algorithm for supervised training: Algorithm 2 of the thesis.

Truncation selection, elites, uniform crossover or normal mutation, and a mutation strength that
decays exponentially. Fitness is minus the loss on one random batch per generation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evokern import ops
from evokern.errors import ArgumentError, message
from evokern.population import Population, allocate_genomes
from evokern.problems.classification import Classification
from evokern.rules import Precision
from evokern.schedules import exponential_decay
from evokern.selection import elite_parents, rank, truncation_parents

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

PARENTS = 2


@dataclass(frozen=True)
class EAConfig:
    """The algorithm's numbers; the defaults are the validation settings of Table 5.1."""

    population: int = 1000
    """Individuals per generation (lambda)."""
    batch: int = 512
    """Training samples that a generation is evaluated on."""
    generations: int = 50_000
    """Generations to run."""
    elite_share: float = 0.05
    """Share of the best that go on unchanged (p_E)."""
    crossover_share: float = 0.50
    """Share of offspring made by crossover (p_C); the rest is mutated."""
    truncation: float = 0.5
    """Share of the best that may become parents (rho)."""
    sigma: float = 0.001
    """Mutation strength of the first generation."""
    sigma_decay: float = 1.0
    """Factor on the mutation strength per generation; 1 keeps it constant."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass: fp32 (the same bits everywhere) or bf16."""
    seed: int = 0
    """Seed of every random number of the run."""

    def __post_init__(self) -> None:
        for name in ("population", "batch", "generations"):
            if getattr(self, name) < 1:
                raise ArgumentError(message(name, "at least 1", repr(getattr(self, name))))
        for name in ("elite_share", "crossover_share", "truncation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(message(name, "a share in [0, 1]", repr(getattr(self, name))))
        if self.elites + self.crossovers > self.population:
            got = f"{self.elite_share} + {self.crossover_share}"
            raise ArgumentError(message("elite_share + crossover_share", "at most 1", got))
        if not (self.sigma >= 0 and 0 < self.sigma_decay <= 1):
            got = f"sigma={self.sigma}, sigma_decay={self.sigma_decay}"
            raise ArgumentError(message("sigma", "sigma >= 0 and 0 < sigma_decay <= 1", got))

    @property
    def elites(self) -> int:
        """Individuals that go on unchanged."""
        return round(self.population * self.elite_share)

    @property
    def crossovers(self) -> int:
        """Offspring made by crossover."""
        return round(self.population * self.crossover_share)

    @property
    def parents(self) -> int:
        """How many of the best may become parents."""
        return max(1, int(self.population * self.truncation))


def first_generation(problem: Classification, config: EAConfig) -> Population:
    """Glorot-uniform genomes, evaluated on the batch of generation 0."""
    layout = problem.network.layout
    genomes = allocate_genomes(config.population, layout.size)
    ops.init_genomes(layout, config.population, seed=config.seed, out=genomes)
    loss, correct = problem.evaluate(genomes, 0, config.precision)
    return Population(genomes, -loss, correct)


def next_generation(
    population: Population,
    problem: Classification,
    config: EAConfig,
    generation: int,
    out: F32,
) -> Population:
    """One generation of Algorithm 2; the offspring's genomes are written to ``out`` [P, G]."""
    order = rank(population.fitness)
    parents = select_parents(order, config, generation)
    sigma = sigma_at(config, generation)
    genomes = ops.crossover_mutate(
        population.genomes, parents, sigma, seed=config.seed, generation=generation, out=out
    )
    loss, correct = problem.evaluate(genomes, generation, config.precision)
    return Population(genomes, -loss, correct)


def select_parents(order: I32, config: EAConfig, generation: int) -> I32:
    """int32 [2, P]: slots are elites, then crossover children, then mutation children.

    An elite and a mutation child have one parent, named twice.
    """
    offspring = truncation_parents(
        order,
        config.parents,
        PARENTS,
        config.population - config.elites,
        seed=config.seed,
        generation=generation,
        first=config.elites,
    )
    offspring[1, config.crossovers :] = offspring[0, config.crossovers :]
    return np.concatenate([elite_parents(order, config.elites, PARENTS), offspring], axis=1)


def sigma_at(config: EAConfig, generation: int) -> F32:
    """Mutation strength float32 [P]: 0 for elites and crossover children, else Eq. 5.3."""
    sigma = np.zeros(config.population, np.float32)
    strength = exponential_decay(config.sigma, config.sigma_decay, generation - 1)
    sigma[config.elites + config.crossovers :] = strength
    return sigma
