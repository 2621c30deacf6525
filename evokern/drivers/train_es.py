"""A run of the evolution strategy on a classification problem, from start to finish.

Its state is two genomes, the centre and the average of centres, and the number of the generation.
The average is the run's network.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern import _devices
from evokern.checkpoint import Checkpoint, describe, read_rows
from evokern.drivers.es import ES, ESConfig, mutated_slices, next_generation
from evokern.drivers.run import Run
from evokern.drivers.watch import (
    WatchConfig,
    finish,
    in_short,
    progress_of,
    run_of_generations,
)
from evokern.metrics import CONFIG_FORMAT
from evokern.problems.classification import Classification

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ESResult:
    """What a run reached. Accuracies are shares of right predictions."""

    generations: int
    seconds: float
    holdout_accuracy: float
    test_accuracy: float


def train_es(
    problem: Classification,
    config: ESConfig,
    folder: str | Path,
    options: WatchConfig | None = None,
) -> ESResult:
    """Runs the strategy in ``folder``, from its newest checkpoint if there is one.

    Leaves best.safetensors, curves.png and, last, result.json; a run that is finished is only read.
    Errors and signals: see ``drivers.run.Run``.
    """
    options = options or WatchConfig()
    settings = es_settings(problem, config, options)
    with run_of_generations(folder, settings, config.generations, options) as run:
        if result := run.result(ESResult):
            return result
        problem.begin()
        es = ES(problem.layout, config, problem.device)
        run.restore(partial(_restore, es, problem))
        for generation in run.steps():
            fitness = next_generation(es, problem)
            if run.logs:
                record = _measure(es, problem, fitness, generation)
                run.record(record, in_short(record))
            if run.saves:
                run.save({**es.state(), **problem.state()})
        return _finish(es, problem, run)


def es_settings(problem: Classification, config: ESConfig, options: WatchConfig) -> dict[str, Any]:
    """What config.json holds: all that decides what a run computes and records.

    Raises ArgumentError where ``units`` do not fit the problem's layers.
    """
    problem.check_mutants(mutated_slices(problem.layout, config))
    return {
        "format": CONFIG_FORMAT,
        "algorithm": "es",
        "dataset": problem.name,
        **problem.settings(),
        **asdict(config.fitted(problem.layout)),
        "log_every": options.log_every,
        "network": describe(problem.network),
    }


def _restore(es: ES, problem: Classification, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError when the checkpoint is of another kind."""
    states = es.state(), problem.state()
    for state in states:
        for name, values in state.items():
            state[name] = np.empty_like(values)
            read_rows(checkpoint, name, state[name])
    es.restore(states[0], checkpoint.step)
    problem.restore(states[1])


def _measure(es: ES, problem: Classification, fitness: F32, generation: int) -> dict[str, Any]:
    """One metrics record: fitness of the offspring, accuracies of the average and the centre."""
    return {
        **progress_of(problem, generation, fitness),
        "sigma/mean": float(es.config.sigma_of(generation)),
        "learning_rate": float(es.config.rates_of(generation)[0]),
        "holdout_accuracy/best": float(problem.accuracy(es.average, problem.holdout)[0]),
        "holdout_accuracy/centre": float(problem.accuracy(es.centre, problem.holdout)[0]),
    }


def _finish(es: ES, problem: Classification, run: Run) -> ESResult:
    """The test part is used here only, once, for the average."""
    result = ESResult(
        generations=run.step,
        seconds=run.seconds,
        holdout_accuracy=float(problem.accuracy(es.average, problem.holdout)[0]),
        test_accuracy=float(problem.accuracy(es.average, problem.test)[0]),
    )
    finish(run, problem, result, best=problem.weights(_devices.to_host(es.average)[0]))
    return result
