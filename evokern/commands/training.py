"""What the training commands share: setting up, where a run goes, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from evokern.backends.cpu import set_threads
from evokern.drivers.run import run_folder
from evokern.metrics import RESULT
from evokern.problems import datasets
from evokern.problems.classification import Classification, ClassificationConfig, thesis_network


def problem_of(
    name: str,
    config: ClassificationConfig,
    *,
    seed: int,
    threads: int | None,
    device: str = "cpu",
) -> Classification:
    """The data set ``name`` with the thesis' network for its images, on ``device``."""
    if threads is not None:
        set_threads(threads)
    with _fetching_told():
        dataset = datasets.load(name)
    network = thesis_network(dataset.image_shape, dataset.classes)
    return Classification(dataset, network, config, seed=seed, device=device)


@contextmanager
def _fetching_told() -> Iterator[None]:
    """A data set that is not in the cache takes a while: says which sources are asked."""
    log, told = logging.getLogger("evokern.problems.fetch"), logging.StreamHandler()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(told)
    try:
        yield
    finally:
        log.removeHandler(told)
        log.setLevel(level)


class Report:
    """Says what runs where, and at the end what came of it."""

    def __init__(self, wanted: Path | None, default: str, settings: Mapping[str, Any]) -> None:
        self.folder = wanted or run_folder(Path("runs") / default, settings)
        self._finished_before = (self.folder / RESULT).exists()
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def start(self, what: str) -> None:
        """Before the run."""
        self._console.print(f"{what}, in {self.folder}")

    def end(self, problem: Classification, result: Any, more: str = "") -> None:
        """After the run, which may have been finished before: ``more`` are further lines."""
        if self._finished_before:
            self._console.print("this run was finished before; delete its folder to run it anew")
        self._console.print(
            f"test accuracy {result.test_accuracy:.2%} ({len(problem.test.y):,} test images), "
            f"hold-out accuracy {result.holdout_accuracy:.2%} "
            f"({len(problem.holdout.y):,} training images held out), {result.seconds:.0f} s\n"
            f"{more}",
            end="",
        )
        for what, name in (("curve", "curves.png"), ("best network", "best.safetensors")):
            if (self.folder / name).exists():  # a run from an archive has its numbers only
                self._console.print(f"{what:12}  {self.folder / name}")
