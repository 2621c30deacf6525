"""Whole generations of the thesis' algorithm: selection, batch, variation, evaluation, records.

Table 5.1's validation settings: 5 % elites, half of the offspring by uniform crossover, the rest
mutated, parents from the better half. evokern's run is the driver's loop with a record and its
part of a checkpoint every 100 generations; its rivals do without both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import rivals, rivals_generation, workload
from benchmarks.harness import Cases, Contest, Contestant, MismatchError, Result
from benchmarks.limits import limits
from benchmarks.rivals_generation import Evaluated, Samples
from benchmarks.workload import NETWORK
from evokern import Flatten, Network, _cpu, ops
from evokern.checkpoint import save_checkpoint
from evokern.drivers.ea import EAConfig, first_generation, next_generation
from evokern.drivers.train import measure, state_of
from evokern.metrics import METRICS, MetricsFile
from evokern.problems.classification import (
    Classification,
    ClassificationConfig,
    HostPrecision,
)
from evokern.problems.datasets import Dataset

_CHECKPOINT_EVERY = 100
_KERNELS = ("crossover_mutate", "network_loss")
_TOLERANCE = 1e-4

_on_images = Network((Flatten(), *NETWORK.layers), (1, 14, 14))
_kernel_shares: list[float] = []


def cases(quick: bool) -> Cases:
    """One contest between all."""
    population, batch, generations = (20, 40, 4) if quick else (1000, 512, 20)
    title = f"generation, population {population}, batch {batch}"
    return {title: partial(_contest, population, batch, generations, quick)}


def test_generation(hand_over: Callable[[], None]) -> None:
    """One contest with one number of threads (conftest.py)."""
    hand_over()


def notes(results: Sequence[Result]) -> list[str]:
    """Generations per second, and evokern's share of time in kernels."""
    timed = [r for r in results if r.wall_ratio is not None]
    lines = [
        f"{r.contestant}, threads {r.threads}: {1 / r.wall_s:.2f} generations/s" for r in timed
    ]
    share = statistics.median(_kernel_shares)
    return [*lines, f"evokern: {share:.1%} of the wall time is inside kernels (median of all runs)"]


@contextmanager
def _contest(population: int, batch: int, generations: int, quick: bool) -> Iterator[Contest]:
    _kernel_shares.clear()
    dataset = _random_images(20 * batch if quick else 60_000)
    problem = _problem(dataset, batch, "fp32")
    data = Samples(problem.train.x.reshape(len(problem.train.x), -1), problem.train.y)
    work = float(2 * workload.MULTIPLY_ADDS * population * batch)
    absent = {name: why for name in ("torch", "evosax", "evox") if (why := rivals.missing(name))}
    runs: dict[str, rivals_generation.Generation] = {}
    if "torch" not in absent:
        runs["torch, strongest form"] = rivals_generation.torch_strongest(population, batch, data)
        runs["torch, straightforward"] = rivals_generation.torch_straightforward(
            population, batch, data
        )
        if "evox" not in absent:
            runs["EvoX PSO"] = rivals_generation.evox_pso(population, batch, data)
    contestants = [Contestant(name, run, work, "GFLOP/s") for name, run in runs.items()]
    with (
        tempfile.TemporaryDirectory() as folder,
        rivals_generation.evosax_ga(population, batch, data) as evosax,
    ):
        ours = []
        precisions: tuple[HostPrecision, ...] = ("fp32", "bf16")
        for precision in precisions:
            run = _Evokern(
                population, generations, _problem(dataset, batch, precision), Path(folder)
            )
            ours.append(Contestant(f"evokern {precision}", run, work, "GFLOP/s", part=generations))
        if "evosax" not in absent:
            contestants.append(
                Contestant(
                    "evosax SimpleGA (own process)",
                    evosax,
                    work,
                    "GFLOP/s",
                    cpu_clock=evosax.cpu_clock,
                )
            )
        yield Contest(
            (*ours, *contestants),
            limits(["multiply-add"], quick),
            check_losses,
            ours[0].name,
            missing=absent,
        )


class _Evokern:
    """``generations`` generations, a record, and their part of a checkpoint."""

    def __init__(
        self, population: int, generations: int, problem: Classification, folder: Path
    ) -> None:
        self._config = EAConfig(population=population, sigma=workload.SIGMA)
        self._problem = problem
        self._folder = folder / problem.config.precision
        self._folder.mkdir()
        self._records = MetricsFile(self._folder / METRICS)
        self._generations = generations
        self._generation = 0
        self._population = first_generation(problem, self._config)

    def __call__(self, threads: int) -> Evaluated:
        started = time.perf_counter()
        with _kernel_clock() as clock:
            for _ in range(self._generations):
                self._generation += 1
                self._population = next_generation(
                    self._population, self._problem, self._config, self._generation
                )
            self._keep()
        _kernel_shares.append(clock[0] / (time.perf_counter() - started))
        return self._shown()

    def _keep(self) -> None:
        self._records.write(measure(self._problem, self._population, self._generation))
        share = max(1, len(self._population) * self._generations // _CHECKPOINT_EVERY)
        part = self._population.take(np.arange(share, dtype=np.int32))
        tensors, _ = state_of(self._problem, part)
        save_checkpoint(self._folder, self._generation, tensors, {}, run="benchmark")

    def _shown(self) -> Evaluated:
        samples = self._problem.batch_of(self._generation)
        x, y = self._problem.train.x[samples], self._problem.train.y[samples]
        rows = self._population.rows[:4]
        genomes = self._population.genomes[rows]
        return Evaluated(genomes, x.reshape(len(x), -1), y, -self._population.fitness[:4])


@contextmanager
def _kernel_clock() -> Iterator[list[float]]:
    """Seconds spent in kernels, in a list of one."""
    seconds = [0.0]

    def timed(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = kernel(*arguments)
            seconds[0] += time.perf_counter() - started
            return result

        return run

    with ExitStack() as patches:
        for name in _KERNELS:
            patches.enter_context(mock.patch.object(_cpu, name, timed(getattr(_cpu, name))))
        yield seconds


def check_losses(contestant: Contestant, result: Evaluated) -> None:
    """Raises MismatchError unless the losses are those of the genomes on the batch."""
    loss, _ = ops.network_loss(result.genomes, NETWORK, result.x, result.y)
    tolerance = 5e-2 if contestant.name.endswith("bf16") else _TOLERANCE
    error = np.abs(loss - result.loss) / np.abs(loss)
    if not (error <= tolerance).all():
        raise MismatchError(
            f"{contestant.name}: losses differ by up to {error.max():.1e}, allowed {tolerance:.0e}"
        )


def _problem(dataset: Dataset, batch: int, precision: HostPrecision) -> Classification:
    config = ClassificationConfig(batch=batch, precision=precision)
    return Classification(dataset, _on_images, config, seed=0)


def _random_images(n: int) -> Dataset:
    """Images already pooled to 14 x 14, as the rivals get them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 14, 14), dtype=np.uint8)
    labels = rng.integers(0, 10, n).astype(np.uint8)
    return Dataset("random", images, labels, images[:10], labels[:10])
