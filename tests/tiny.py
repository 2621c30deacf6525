"""A problem so small that a whole run takes milliseconds, and what its run folder must hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
from cases import threads

from evokern import Dense, Flatten, Network
from evokern.drivers.ea import EAConfig
from evokern.drivers.train import RunConfig, RunResult, train
from evokern.drivers.watch import WatchConfig
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.problems.datasets import Dataset

NETWORK = Network((Flatten(), Dense(3)), (1, 4, 4))

OPTIONS = RunConfig(log_every=2, checkpoint_every=2, keep=2, finalists=4, ensemble=2)
"""So the run of ``config()`` has records and checkpoints at 2, 4 and 6."""

WATCH = WatchConfig(log_every=2, checkpoint_every=2, keep=2)
"""The same for the evolution strategy."""


def dataset() -> Dataset:
    """Three classes of noise with one bright row each."""
    rng = np.random.default_rng(3)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n, dtype=np.uint8) % 3
        images = rng.integers(0, 200, (n, 4, 4), dtype=np.uint8)
        images[np.arange(n), labels] = 255
        return images, labels

    return Dataset("rows", *part(60), *part(21), classes=3)


def problem(kind: type[Classification] = Classification, **options: Any) -> Classification:
    return kind(dataset(), NETWORK, ClassificationConfig(batch=4), seed=1, **options)


def problem_by_importance() -> Classification:
    """With a state of its own, measured anew between two checkpoints."""
    settings = ClassificationConfig(batch=4, sampling="importance", importance_every=3)
    return Classification(dataset(), NETWORK, settings, seed=1)


def config(**options: Any) -> EAConfig:
    values = {"population": 8, "generations": 6, "sigma": 0.1, "elites": 1, "seed": 1}
    return EAConfig(**{**values, **options})


def options(**changes: Any) -> RunConfig:
    return replace(OPTIONS, **changes)


class Hooked(Classification):
    """Calls ``hook(generation)`` before the individuals of that generation are evaluated."""

    hook: Callable[[int], None] = staticmethod(lambda generation: None)

    def evaluate(self, genomes: np.ndarray, rows: np.ndarray, generation: int) -> np.ndarray:
        self.hook(generation)
        return super().evaluate(genomes, rows, generation)


def hooked(hook: Callable[[int], None]) -> Hooked:
    hooked_problem = problem(Hooked)
    hooked_problem.hook = hook
    return hooked_problem


def at(generation: int, act: Callable[[], object]) -> Hooked:
    """The problem that does something in one generation."""
    return hooked(lambda now: act() if now == generation else None)


def run(
    folder: Path,
    changed: Classification | None = None,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> RunResult:
    """``train`` on the problem (or a changed one) with changed settings and options."""
    return train(changed or problem(), config(**settings or {}), folder, options(**changes))


@contextmanager
def quickly() -> Iterator[None]:
    """Runs of milliseconds: without drawing, and without threads that wait for each other."""
    with threads(1), mock.patch("evokern.drivers.watch.plot_curve"):
        yield


@contextmanager
def memory() -> Iterator[Path]:
    """A folder in memory where there is such a place: fsync takes most of the time of a run."""
    ram = "/dev/shm"
    with TemporaryDirectory(dir=ram if os.access(ram, os.W_OK) else None) as folder:
        yield Path(folder)


def outcome(folder: Path) -> dict[str, Any]:
    """All that an unbroken run and a resumed one must have in common: everything but the time."""
    files: dict[str, Any] = {
        path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))
    }
    assert "best.safetensors" in files
    for name in ("config.json", "result.json"):
        files[name] = without_time(json.loads((folder / name).read_text()))
    files["metrics.jsonl"] = [
        without_time(json.loads(line)) for line in (folder / "metrics.jsonl").open()
    ]
    last = sorted((folder / "checkpoints").glob("*.json"))[-1]
    files["last checkpoint"] = last.with_suffix(".safetensors").read_bytes()
    files["its description"] = without_time(json.loads(last.read_text()))
    return files


def without_time(value: dict[str, Any]) -> dict[str, Any]:
    """Also without the digest of what holds the time."""
    kept = {
        name: v for name, v in value.items() if name not in ("seconds", "cpu_seconds", "own_sha256")
    }
    return {name: without_time(v) if isinstance(v, dict) else v for name, v in kept.items()}


def names(folder: Path) -> list[str]:
    """The files in a run folder but the picture, which takes longer than the rest of the run."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "curves.png"]
    return sorted(str(path.relative_to(folder)) for path in paths)
