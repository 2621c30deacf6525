"""A run of the evolutionary algorithm on a device: the host's fitness and genomes, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.report import HARNESS, Budget, Rows, Verdict
from evokern import _devices
from evokern.drivers.ea import EAConfig, first_generation, next_generation
from evokern.errors import DataError
from evokern.layers import Dense, Flatten
from evokern.network import Network
from evokern.population import Population
from evokern.problems.classification import Classification, ClassificationConfig, thesis_network
from evokern.problems.datasets import Dataset, load

COLUMNS = (
    *("generation", "data", "fitness_host", "fitness_device", "genomes_host", "genomes_device"),
    "equal",
)

_SEED = 1


def run(device: str, rows: Rows, budget: Budget) -> Verdict:
    """Both side by side, generation after generation, to the first difference.

    Genomes are compared at the end and every tenth generation, since they have to be copied.
    """
    tiny = device == HARNESS
    data = _synthetic() if tiny else _dataset()
    config = _config(tiny)
    places = ("cpu", device)
    problems = [_problem(data, tiny, place) for place in places]
    populations = [
        first_generation(problem, config, place)
        for problem, place in zip(problems, places, strict=True)
    ]
    for generation in range(config.generations + 1):
        if generation > 0:
            if budget.left() < 0:
                return Verdict(True, f"{data.name}: equal so far, but out of time in {generation}")
            populations = [
                next_generation(population, problem, config, generation)
                for population, problem in zip(populations, problems, strict=True)
            ]
        fitness = [_sha256(population.fitness) for population in populations]
        whole = generation % 10 == 0 or generation == config.generations
        genomes = [_sha256_of_genomes(p) for p in populations] if whole else ["", ""]
        equal = fitness[0] == fitness[1] and genomes[0] == genomes[1]
        shown = dict(zip(COLUMNS[2:6], [*fitness, *genomes], strict=True))
        rows.write(generation=generation, data=data.name, equal=equal, **shown)
        if not equal:
            return Verdict(False, f"{data.name}: different in generation {generation}")
    return Verdict(True, f"{data.name}: equal in all of {config.generations} generations")


def _config(tiny: bool) -> EAConfig:
    population, generations = (12, 3) if tiny else (500, 50)
    return EAConfig(population=population, generations=generations, sigma=0.01, seed=_SEED)


def _problem(data: Dataset, tiny: bool, place: str) -> Classification:
    if tiny:
        layers = (Flatten(), Dense(17, "relu"), Dense(data.classes))
        network = Network(layers, data.image_shape)
    else:
        network = thesis_network(data.image_shape, data.classes)
    config = ClassificationConfig(batch=32 if tiny else 512)
    return Classification(data, network, config, seed=_SEED, device=place)


def _dataset() -> Dataset:
    """MNIST where it is in the data cache, else scikit-learn's digits, else noise."""
    for name in ("mnist", "digits"):
        try:
            return load(name, download=False)
        except DataError:
            continue
    return _synthetic((28, 28), 4000, 10)


def _synthetic(size: tuple[int, int] = (4, 4), count: int = 120, classes: int = 3) -> Dataset:
    rng = np.random.default_rng(_SEED)

    def part(samples: int) -> Sequence[Any]:
        images = rng.integers(0, 256, (samples, *size), dtype=np.uint8)
        return images, rng.integers(0, classes, samples)

    return Dataset("synthetic", *part(count), *part(count // 4), classes)


def _sha256(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _sha256_of_genomes(population: Population) -> str:
    """Of the individuals in their order."""
    rows = population.rows.astype(np.int64)
    return _sha256(_devices.to_host(_devices.take(population.genomes, rows)))
