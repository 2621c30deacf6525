"""A run of the evolutionary algorithm on a classification problem, from start to finish.

The state of a run is its population and the number of the generation; no random state is needed,
since every random number is a function of the seed and its place.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evokern.checkpoint import (
    FORMAT,
    Checkpoint,
    Rows,
    Tensor,
    describe,
    newest_checkpoint,
    read_rows,
    read_tensors,
    save_checkpoint,
    save_network,
    tidy,
    write_json,
)
from evokern.drivers.ea import EAConfig, first_generation, next_generation
from evokern.drivers.run import Records, digest_of, open_run, read_result, stop_signals
from evokern.ensemble import distinct, mean_logits
from evokern.errors import ArgumentError, CheckpointError, RunStopped, message
from evokern.files import locked, make_folder
from evokern.lineage import Lineages
from evokern.metrics import CONFIG, METRICS, RESULT, read_json
from evokern.plots import plot_curve
from evokern.population import Population, allocate_genomes
from evokern.problems.classification import Classification, Part
from evokern.problems.objectives import predictions
from evokern.selection import rank


@dataclass(frozen=True)
class RunConfig:
    """How a run is watched, kept and finished; nothing here changes what is evolved."""

    log_every: int = 25
    """Generations between two records of metrics.jsonl."""
    checkpoint_every: int = 100
    """Generations between two checkpoints."""
    keep: int = 2
    """Checkpoints that stay; older ones are deleted."""
    finalists: int = 100
    """Fittest individuals of the last population that the hold-out part chooses among."""
    ensemble: int = 10
    """Best distinct individuals by hold-out accuracy whose mean logits are the ensemble."""
    tensorboard: bool = False
    """Write the records for TensorBoard too (extra tensorboard)."""

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "keep", "finalists", "ensemble"):
            if getattr(self, name) < 1:
                raise ArgumentError(message(name, "at least 1", repr(getattr(self, name))))


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
    problem: Classification, config: EAConfig, folder: Path, options: RunConfig | None = None
) -> RunResult:
    """Runs the algorithm in ``folder``, from its newest checkpoint if there is one.

    SIGINT and SIGTERM save and raise RunStopped. Raises ArgumentError when the folder holds a run
    with other settings, StorageError when something cannot be written.
    """
    options = options or RunConfig()
    make_folder(folder)
    with locked(folder), stop_signals() as stop:
        run = open_run(folder, settings_of(problem, config, options))
        if result := read_result(folder, RunResult):
            return result
        state = restore(folder, problem, config, run)
        population, generation, earlier = state or (first_generation(problem, config), 0, 0.0)
        tidy(folder / "checkpoints", generation, keep=options.keep)
        started = time.monotonic() - earlier
        with Records(
            folder,
            "generation",
            config.generations,
            done=generation,
            tensorboard=options.tensorboard,
        ) as records:
            while generation < config.generations:
                generation += 1
                population = next_generation(population, problem, config, generation)
                seconds = time.monotonic() - started
                last = generation == config.generations
                if last or generation % options.log_every == 0:
                    record = measure(problem, population, generation)
                    records.write({**record, "seconds": round(seconds, 3)}, in_short(record))
                if last or stop.signal or generation % options.checkpoint_every == 0:
                    records.sync()
                    save(folder, population, generation, seconds, run, options.keep)
                if stop.signal and not last:
                    raise RunStopped(folder, f"generation {generation}", stop.signal)
        return finish(problem, population, folder, options, generation, time.monotonic() - started)


def settings_of(problem: Classification, config: EAConfig, options: RunConfig) -> dict[str, Any]:
    """What config.json holds: all that decides what a run computes and records."""
    return {
        "format": FORMAT,
        "algorithm": "ea",
        "dataset": problem.name,
        **problem.settings(),
        **asdict(config),
        "log_every": options.log_every,
        "finalists": options.finalists,
        "ensemble": options.ensemble,
        "network": describe(problem.network),
    }


def save(
    folder: Path, population: Population, generation: int, seconds: float, run: str, keep: int
) -> None:
    """Writes a checkpoint: the population without padding, in slot order."""
    tensors: dict[str, Tensor] = {
        "genomes": Rows(population.genomes, population.rows),
        "fitness": population.fitness,
        "sigma": population.sigma,
    }
    facts: dict[str, Any] = {"seconds": round(seconds, 3)}
    if population.lineages is not None:
        arrays, facts["lineages"] = population.lineages.to_arrays()
        tensors |= {f"lineages.{name}": array for name, array in arrays.items()}
    save_checkpoint(folder / "checkpoints", generation, tensors, facts, run=run, keep=keep)


def restore(
    folder: Path, problem: Classification, config: EAConfig, run: str
) -> tuple[Population, int, float] | None:
    """(population, generation, seconds so far) of the newest whole checkpoint; None without one."""

    def read(checkpoint: Checkpoint) -> tuple[Population, int, float]:
        population = read_population(checkpoint, problem, config)
        return population, checkpoint.generation, checkpoint.facts["seconds"]

    state, skipped = newest_checkpoint(folder / "checkpoints", run=run, read=read)
    for reason in skipped:
        print(f"skipped a checkpoint: {reason}", flush=True)
    return state


def read_population(
    checkpoint: Checkpoint, problem: Classification, config: EAConfig
) -> Population:
    """What ``save`` wrote. Raises CheckpointError when it is of another kind."""
    n = config.population
    bank = allocate_genomes(config.bank_rows, problem.layout.size)
    fitness, sigma = np.empty(n, np.float32), np.empty(n, np.float32)
    for name, array in (("genomes", bank[:n]), ("fitness", fitness), ("sigma", sigma)):
        read_rows(checkpoint, name, array)
    rows = np.arange(n, dtype=np.int32)
    lineages = read_lineages(checkpoint, n) if config.lineages else None
    return Population(bank, rows, fitness, sigma, lineages)


def last_population(folder: Path) -> Population:
    """The population of the newest whole checkpoint of a run, finished or not.

    Raises CheckpointError when the folder is no run or has no checkpoint.
    """

    def read(checkpoint: Checkpoint) -> Population:
        tensors = read_tensors(checkpoint)
        rows = np.arange(len(tensors["fitness"]), dtype=np.int32)
        lineages = read_lineages(checkpoint, len(rows)) if "lineages" in checkpoint.facts else None
        return Population(tensors["genomes"], rows, tensors["fitness"], tensors["sigma"], lineages)

    run = digest_of(read_json(folder / CONFIG))
    population, _ = newest_checkpoint(folder / "checkpoints", run=run, read=read)
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
    fitness = population.fitness
    best = int(rank(fitness)[0])
    genome = population.genome(best)[None]
    samples = problem.batch_of(generation)
    batch = Part(problem.train.x[samples], problem.train.y[samples])
    usable = fitness[np.isfinite(fitness)]
    return {
        "generation": generation,
        "samples": generation * problem.config.batch,
        "fitness/best": _finite_or_none(fitness[best]),
        "fitness/median": _finite_or_none(np.median(usable)) if len(usable) else None,
        "fitness/nan": int(np.isnan(fitness).sum()),
        "fitness/infinite": int(np.isinf(fitness).sum()),
        "sigma/mean": float(population.sigma.mean(dtype=np.float64)),
        "batch_accuracy/best": float(problem.accuracy(genome, batch)[0]),
        "holdout_accuracy/best": float(problem.accuracy(genome, problem.holdout)[0]),
    }


def in_short(record: dict[str, Any]) -> str:
    """A record for the terminal."""
    best, median = (
        "none" if record[name] is None else f"{record[name]:.4f}"
        for name in ("fitness/best", "fitness/median")
    )
    text = f"fitness {best} (median {median})  hold-out {record['holdout_accuracy/best']:.2%}"
    lost = record["fitness/nan"] + record["fitness/infinite"]
    return f"{text}  {lost} not finite" if lost else text


def _finite_or_none(value: np.floating[Any]) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None


def finish(
    problem: Classification,
    population: Population,
    folder: Path,
    options: RunConfig,
    generations: int,
    seconds: float,
) -> RunResult:
    """Chooses the best network and the ensemble by hold-out accuracy, and writes what is left.

    The test part is used here only, once for each of the two.
    """
    order = rank(population.fitness)
    finalists = distinct(population.genomes, population.rows[order[: options.finalists]])
    holdout = problem.accuracy(finalists, problem.holdout)
    by_holdout = np.argsort(-holdout, kind="stable")
    members = finalists[by_holdout[: options.ensemble]]
    result = RunResult(
        generations=generations,
        seconds=round(seconds, 1),
        holdout_accuracy=float(holdout[by_holdout[0]]),
        test_accuracy=float(problem.accuracy(members[:1], problem.test)[0]),
        ensemble_size=len(members),
        ensemble_holdout_accuracy=ensemble_accuracy(problem, members, problem.holdout),
        ensemble_test_accuracy=ensemble_accuracy(problem, members, problem.test),
    )
    weights = np.stack([problem.weights(genome) for genome in members])
    facts = {"dataset": problem.name, "class_names": problem.class_names}
    for name, genomes in (("best", weights[0]), ("ensemble", weights)):
        save_network(
            folder / f"{name}.safetensors",
            problem.network,
            genomes,
            tensors={"mean_image": problem.mean},
            facts=facts,
        )
    plot_curve(folder / METRICS, folder / "curves.png", test_accuracy=result.test_accuracy)
    write_json(folder / RESULT, asdict(result))
    return result


def ensemble_accuracy(problem: Classification, genomes: np.ndarray, part: Part) -> float:
    """Share of right predictions of the mean logits of genomes [n, G]."""
    right = predictions(mean_logits(problem.logits(genomes, part))[None])[0] == part.y
    return float(right.mean())
