"""A run of the genetic algorithm on a classification problem, from start to finish.

The state of a run is its population and the number of the generation; no random state is needed,
since every random number is a function of the seed and its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern import _devices
from evokern._values import assign, integer
from evokern.checkpoint import (
    Checkpoint,
    Rows,
    Tensor,
    describe,
    newest_checkpoint,
    read_rows,
    read_tensors,
)
from evokern.drivers.ea import EAConfig, first_generation, next_generation
from evokern.drivers.run import CHECKPOINTS, Run, digest_of
from evokern.drivers.watch import (
    WatchConfig,
    finish,
    in_short,
    progress_of,
    run_of_generations,
)
from evokern.ensemble import distinct, mean_logits
from evokern.errors import CheckpointError, message
from evokern.lineage import Lineages
from evokern.metrics import CONFIG, CONFIG_FORMAT, read_json
from evokern.population import Population, allocate_genomes
from evokern.problems.classification import Classification, Part
from evokern.problems.objectives import predictions
from evokern.selection import rank

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RunConfig(WatchConfig):
    """How a run is watched, kept and finished; nothing here changes what is evolved."""

    finalists: int = 100
    """Fittest individuals of the last population that the hold-out part chooses among."""
    ensemble: int = 10
    """Best distinct individuals by hold-out accuracy whose mean logits are the ensemble."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("finalists", "ensemble"):
            assign(self, name, integer(name, getattr(self, name), 1, 2**31 - 1))


@dataclass(frozen=True)
class RunResult:
    """What a run reached. Accuracies are shares of right predictions."""

    generations: int
    seconds: float
    holdout_accuracy: float
    test_accuracy: float
    ensemble_size: int
    ensemble_holdout_accuracy: float
    ensemble_test_accuracy: float


def train(
    problem: Classification,
    config: EAConfig,
    folder: str | Path,
    options: RunConfig | None = None,
) -> RunResult:
    """Runs the algorithm in ``folder``, from its newest checkpoint if there is one.

    Leaves best.safetensors, ensemble.safetensors, curves.png and, last, result.json; a run that is
    finished is only read. Errors and signals: see ``drivers.run.Run``.
    """
    options = options or RunConfig()
    settings = settings_of(problem, config, options)
    with run_of_generations(folder, settings, config.generations, options) as run:
        if result := run.result(RunResult):
            return result
        problem.begin()
        population = run.restore(partial(read_population, problem=problem, config=config))
        if population is None:
            population = first_generation(problem, config, problem.device)
        for generation in run.steps():
            population = next_generation(population, problem, config, generation)
            if run.logs:
                record = measure(problem, population, generation)
                run.record(record, in_short(record))
            if run.saves:
                run.save(*state_of(problem, population))
        return _finish(problem, population, run, options)


def settings_of(problem: Classification, config: EAConfig, options: RunConfig) -> dict[str, Any]:
    """What config.json holds: all that decides what a run computes and records."""
    return {
        "format": CONFIG_FORMAT,
        "algorithm": "ea",
        "dataset": problem.name,
        **problem.settings(),
        **asdict(config),
        "log_every": options.log_every,
        "finalists": options.finalists,
        "ensemble": options.ensemble,
        "network": describe(problem.network),
    }


def state_of(
    problem: Classification, population: Population
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint: the population without padding, in slot order."""
    tensors: dict[str, Tensor] = {
        "genomes": Rows(_devices.to_host(population.genomes), population.rows),
        "fitness": population.fitness,
        "sigma": population.sigma,
        **problem.state(),
    }
    if population.lineages is None:
        return tensors, {}
    arrays, header = population.lineages.to_arrays()
    tensors |= {f"lineages.{name}": array for name, array in arrays.items()}
    return tensors, {"lineages": header}


def read_population(
    checkpoint: Checkpoint, problem: Classification, config: EAConfig
) -> Population:
    """The population of a checkpoint. Raises CheckpointError when it is of another kind."""
    n = config.population
    bank = allocate_genomes(config.bank_rows, problem.layout.size)
    genomes = bank[:n]
    fitness, sigma = np.empty(n, np.float32), np.empty(n, np.float32)
    for name, array in (("genomes", genomes), ("fitness", fitness), ("sigma", sigma)):
        read_rows(checkpoint, name, array)
    rows = np.arange(n, dtype=np.int32)
    lineages = read_lineages(checkpoint, n) if config.lineages else None
    state = {name: np.empty_like(array) for name, array in problem.state().items()}
    for name, array in state.items():
        read_rows(checkpoint, name, array)
    problem.restore(state)
    if problem.device != "cpu":
        bank = allocate_genomes(config.bank_rows, problem.layout.size, problem.device)
        _devices.write(bank[:n], genomes)
    return Population(bank, rows, fitness, sigma, lineages)


def last_population(folder: str | Path) -> Population:
    """The population of the newest whole checkpoint of a genetic algorithm's run, finished or not.

    Raises CheckpointError when the folder is no such run or has no checkpoint.
    """
    folder = Path(folder)
    settings = read_json(folder / CONFIG)
    if settings.get("algorithm") != "ea":
        got = f"one of {settings.get('algorithm')!r}"
        raise CheckpointError(message(str(folder), "a run of the genetic algorithm", got))
    config = EAConfig(**{f.name: settings[f.name] for f in fields(EAConfig) if f.name in settings})

    def read(checkpoint: Checkpoint) -> Population:
        tensors = read_tensors(checkpoint)
        rows = np.arange(config.population, dtype=np.int32)
        bank = allocate_genomes(config.bank_rows, tensors["genomes"].shape[1])
        bank[: len(rows)] = tensors["genomes"]
        lineages = read_lineages(checkpoint, len(rows)) if "lineages" in checkpoint.facts else None
        return Population(bank, rows, tensors["fitness"], tensors["sigma"], lineages)

    population, _ = newest_checkpoint(folder / CHECKPOINTS, run=digest_of(settings), read=read)
    if population is None:
        raise CheckpointError(f"{folder}: the run has no checkpoint yet")
    return population


def read_lineages(checkpoint: Checkpoint, n: int) -> Lineages:
    """The lineages of ``n`` individuals. Raises CheckpointError."""
    arrays = read_tensors(checkpoint, prefix="lineages.")
    try:
        lineages = Lineages.from_arrays(arrays, checkpoint.facts["lineages"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.tensors}: no lineages: {error}") from error
    if len(lineages) != n:
        wanted = f"lineages of {n} individuals"
        raise CheckpointError(message(str(checkpoint.tensors), wanted, f"{len(lineages)}"))
    return lineages


def measure(problem: Classification, population: Population, generation: int) -> dict[str, Any]:
    """One metrics record: fitness of the population, accuracy of its best on both parts."""
    genome = population.genome(int(rank(population.fitness)[0]))[None]
    batch = problem.batch(generation)
    return {
        **progress_of(problem, generation, population.fitness),
        "sigma/mean": float(population.sigma.mean(dtype=np.float64)),
        "batch_accuracy/best": float(problem.accuracy(genome, batch)[0]),
        "holdout_accuracy/best": float(problem.accuracy(genome, problem.holdout)[0]),
    }


def _finish(
    problem: Classification, population: Population, run: Run, options: RunConfig
) -> RunResult:
    """The test part is used here only, once for the best network and once for the ensemble."""
    members, holdout = best_by_holdout(
        problem, population, options.ensemble, finalists=options.finalists
    )
    result = RunResult(
        generations=run.step,
        seconds=run.seconds,
        holdout_accuracy=float(holdout[0]),
        test_accuracy=float(problem.accuracy(members[:1], problem.test)[0]),
        ensemble_size=len(members),
        ensemble_holdout_accuracy=ensemble_accuracy(problem, members, problem.holdout),
        ensemble_test_accuracy=ensemble_accuracy(problem, members, problem.test),
    )
    weights = np.stack([problem.weights(genome) for genome in members])
    finish(run, problem, result, best=weights[0], ensemble=weights)
    return result


def best_by_holdout(
    problem: Classification, population: Population, count: int, *, finalists: int = 100
) -> tuple[F32, npt.NDArray[Any]]:
    """The ``count`` best distinct genomes [n, G] and their hold-out accuracies [n], best first.

    Chosen among the ``finalists`` fittest; fewer than ``count`` where these are not all distinct.
    """
    return best_by(problem.accuracy, problem.holdout, population, count, finalists=finalists)


def best_by(
    score: Callable[[F32, Part], npt.NDArray[Any]],
    part: Part,
    population: Population,
    count: int,
    *,
    finalists: int = 100,
) -> tuple[F32, npt.NDArray[Any]]:
    """As ``best_by_holdout``, by any score [n] of genomes [n, G] on a part; higher is better."""
    order = rank(population.fitness)[:finalists]
    genomes = distinct(_devices.to_host(population.genomes), population.rows[order])
    scores = score(genomes, part)
    best = np.argsort(-scores, kind="stable")[:count]
    return genomes[best], scores[best]


def ensemble_accuracy(problem: Classification, genomes: F32, part: Part) -> float:
    """Share of right predictions of the mean logits of genomes [n, G]."""
    logits = mean_logits(problem.logits(genomes, part))
    right = predictions(logits[None])[0] == _devices.to_host(part.y)
    return float(right.mean())
