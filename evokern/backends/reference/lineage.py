"""Genomes from their lineages in NumPy: every ancestor's genome in full, one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evokern._replay_program import START_COPY, START_INIT, ReplayProgram
from evokern.backends.reference.variation import crossover_mutate, init_genomes
from evokern.layout import GenomeLayout


def replay(program: ReplayProgram, layout: GenomeLayout, *, out: NDArray[np.float32]) -> None:
    """Runs the program.

    Args:
        program: see ``evokern._replay_program``.
        layout: where the genes belong.
        out: float32 [S, G].
    """
    stored: dict[int, NDArray[np.float32]] = {}
    runs = zip(program.start, program.source, program.target, strict=True)
    for run, (start, source, target) in enumerate(runs):
        steps = range(program.first_step[run], program.first_step[run + 1])
        if start == START_INIT:
            genomes = _founder(program, layout, steps[0])
            steps = steps[1:]
        else:
            rows = [source] if start == START_COPY else program.crossed[source]
            genomes = np.stack([stored[row] for row in rows])
        for step in steps:
            genomes = _child(program, layout, genomes, step)
        stored[target] = genomes[0]
        if target < len(out):
            out[target] = genomes[0]


def _founder(program: ReplayProgram, layout: GenomeLayout, step: int) -> NDArray[np.float32]:
    genome = np.empty((1, layout.size), np.float32)
    recipe, number = program.recipe, int(program.number[step])
    init_genomes(layout, seed=recipe.seed, scheme=recipe.scheme, first=number, out=genome)
    return genome


def _child(
    program: ReplayProgram, layout: GenomeLayout, parents: NDArray[np.float32], step: int
) -> NDArray[np.float32]:
    """The child [1, G] of its parents [R, G], all of them in order."""
    recipe, count = program.recipe, len(parents)
    child = np.empty((1, layout.size), np.float32)
    weights = None if recipe.weights is None else np.array(recipe.weights, np.float32)[:, None]
    crossover_mutate(
        parents,
        np.arange(count, dtype=np.int32)[:, None],
        program.sigma[step : step + 1],
        kind=recipe.kind,
        rate=recipe.rate,
        weights=weights,
        mutation_rate=recipe.mutation_rate,
        distribution=recipe.distribution,
        layout=layout,
        seed=recipe.seed,
        generation=int(program.generation[step]),
        first=int(program.number[step]),
        out=child,
        out_rows=None,
    )
    return child
