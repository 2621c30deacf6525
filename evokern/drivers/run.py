"""The loop shell of a training run: generations, progress, metrics and what is left at the end."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evokern.checkpoint import save_network, write_json
from evokern.drivers.ea import EAConfig, first_generation, next_generation
from evokern.errors import ArgumentError, message
from evokern.metrics import MetricsFile
from evokern.plots import plot_curve
from evokern.population import Population, allocate_genomes
from evokern.problems.classification import Classification
from evokern.progress import Progress
from evokern.selection import rank

FINALISTS = 32
"""Individuals of the last population that the hold-out part chooses the best network among."""


@dataclass(frozen=True)
class RunResult:
    """What a run reached. Accuracies are shares of right predictions."""

    folder: Path
    model: Path
    curve: Path
    generations: int
    seconds: float
    holdout_accuracy: float
    test_accuracy: float


def new_run_folder(wanted: Path) -> Path:
    """Creates ``wanted``, or ``wanted-2``, ``wanted-3``, ... so that no run overwrites another."""
    candidate, number = wanted, 1
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            number += 1
            candidate = wanted.with_name(f"{wanted.name}-{number}")


def train(
    problem: Classification, config: EAConfig, folder: Path, *, log_every: int = 25
) -> RunResult:
    """Runs the algorithm and writes config.json, metrics.jsonl, curves.png, best.safetensors.

    Every ``log_every`` generations the best individual of the batch is measured on the hold-out
    part. ``folder`` must exist.
    """
    if log_every < 1:
        raise ArgumentError(message("log_every", "at least 1 generation", repr(log_every)))
    write_json(folder / "config.json", {"algorithm": "ea", **asdict(config)})
    metrics = MetricsFile(folder / "metrics.jsonl")
    started = time.monotonic()
    population = first_generation(problem, config)
    spare = allocate_genomes(*population.genomes.shape)
    with Progress(config.generations) as progress:
        for generation in range(1, config.generations + 1):
            parents = population.genomes
            population = next_generation(population, problem, config, generation, out=spare)
            spare = parents
            if generation % log_every == 0 or generation == config.generations:
                record = measure(problem, config, population, generation)
                record["seconds"] = time.monotonic() - started
                metrics.write(record)
                progress.show(record)
    metrics.close()
    return _finish(problem, config, population, folder, time.monotonic() - started)


def measure(
    problem: Classification, config: EAConfig, population: Population, generation: int
) -> dict[str, Any]:
    """One metrics record: fitness of the population, hold-out accuracy of its best."""
    best = int(rank(population.fitness)[0])
    return {
        "generation": generation,
        "samples": generation * config.batch,
        "fitness/best": float(population.fitness[best]),
        "fitness/median": float(np.nanmedian(population.fitness)),
        "batch_accuracy/best": float(population.correct[best] / config.batch),
        "holdout_accuracy/best": float(
            problem.accuracy(population.genomes[best : best + 1], problem.holdout)[0]
        ),
    }


def _finish(
    problem: Classification,
    config: EAConfig,
    population: Population,
    folder: Path,
    seconds: float,
) -> RunResult:
    finalists = population.genomes[rank(population.fitness)[:FINALISTS]]
    holdout = problem.accuracy(finalists, problem.holdout)
    winner = int(holdout.argmax())
    best = finalists[winner : winner + 1]
    result = RunResult(
        folder=folder,
        model=folder / "best.safetensors",
        curve=folder / "curves.png",
        generations=config.generations,
        seconds=seconds,
        holdout_accuracy=float(holdout[winner]),
        test_accuracy=float(problem.accuracy(best, problem.test)[0]),
    )
    facts = {
        "holdout_accuracy": result.holdout_accuracy,
        "test_accuracy": result.test_accuracy,
        "generations": config.generations,
        "seconds": round(seconds, 1),
    }
    tensors = {"mean_image": problem.mean}
    save_network(result.model, problem.network, best[0], tensors=tensors, facts=facts)
    write_json(folder / "result.json", facts)
    plot_curve(folder / "metrics.jsonl", result.curve, test_accuracy=result.test_accuracy)
    return result
