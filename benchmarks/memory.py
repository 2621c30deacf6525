"""How much memory a run takes: the peak above the level before the population is allocated.

The claim of the thesis (5.2.3): 8,000 networks of 92,234 genes with batches of 64 in 16 GB.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.workload import NETWORK
from evokern.drivers.config import EAConfig, Selection
from evokern.drivers.ea import first_generation, next_generation
from evokern.network import Flatten, Network
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.problems.datasets import Dataset

GENERATIONS = 3


@dataclass(frozen=True)
class Usage:
    """Bytes of one copy of the population, and the peak above the level before there was any."""

    selection: str
    population_bytes: int
    peak_bytes: int

    @property
    def ratio(self) -> float:
        """Peak over population."""
        return self.peak_bytes / self.population_bytes


def measure(population: int, batch: int) -> list[Usage]:
    """Truncation selection (rho 0.5), then tournaments, where anybody may be a parent."""
    found = []
    selections: tuple[Selection, ...] = ("truncation", "tournament")
    for selection in selections:
        # A process of its own: nothing that was there before counts.
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            peak = process.submit(_peak, population, batch, selection).result()
        found.append(Usage(selection, population * NETWORK.layout.size * 4, peak))
    return found


def report(quick: bool) -> list[str]:
    """The measurement in words."""
    population, batch = (200, 64) if quick else (8000, 64)
    lines = [f"memory, population {population}, batch {batch}, {GENERATIONS} generations"]
    for usage in measure(population, batch):
        lines.append(
            f"  {usage.selection:<11} {usage.peak_bytes / 1e9:6.3f} GB at the peak, "
            f"{usage.ratio:.3f} times the population's {usage.population_bytes / 1e9:.3f} GB"
        )
    return lines


def _peak(population: int, batch: int, selection: Selection) -> int:
    network = Network((Flatten(), *NETWORK.layers), (1, 14, 14))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2000, 14, 14), dtype=np.uint8)
    labels = rng.integers(0, 10, 2000).astype(np.uint8)
    dataset = Dataset("random", images, labels, images, labels)
    problem = Classification(dataset, network, ClassificationConfig(batch=batch), seed=0)
    config = EAConfig(population=population, selection=selection)
    before = _high_water_bytes(reset=True)
    state = first_generation(problem, config)
    for generation in range(1, GENERATIONS + 1):
        state = next_generation(state, problem, config, generation)
    return _high_water_bytes() - before


def _high_water_bytes(reset: bool = False) -> int:
    """VmHWM: the most resident memory so far, or since the reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
