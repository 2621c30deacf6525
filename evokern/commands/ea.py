"""``evokern ea``: evolve a network on a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from evokern.drivers.ea import EAConfig
from evokern.drivers.train import RunConfig
from evokern.metrics import RESULT
from evokern.problems.classification import ClassificationConfig

PRESETS: dict[str, tuple[EAConfig, ClassificationConfig]] = {
    "quick": (
        EAConfig(
            population=300,
            generations=2000,
            crossover_share=0.8,
            truncation=0.3,
            sigma=0.02,
            sigma_schedule="exponential",
            sigma_decay=0.9988,
            sigma_period=1,
        ),
        ClassificationConfig(batch=256),
    ),
    "thesis-validation": (EAConfig(), ClassificationConfig()),
    "thesis-test": (
        EAConfig(population=2000, crossover_share=0.75),
        ClassificationConfig(batch=1024),
    ),
}
"""Settings by name; the thesis' are those of Table 5.1."""

DEFAULT_PRESET = "thesis-validation"


@dataclass(frozen=True)
class EACommand:
    """Evolve the thesis' network on a data set.

    A command given again goes on where the run stopped; SIGINT (Ctrl-C) and SIGTERM save first.
    """

    dataset: tyro.conf.Positional[str]
    """What to learn: mnist, fashion-mnist, digits, or another set that evokern loads; fetched into
    the data cache if it is not there."""
    ea: tyro.conf.OmitArgPrefixes[EAConfig] = field(default_factory=EAConfig)
    problem: tyro.conf.OmitArgPrefixes[ClassificationConfig] = field(
        default_factory=ClassificationConfig
    )
    run: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    preset: Literal["quick", "thesis-validation", "thesis-test"] = "thesis-validation"
    """Settings to start from; the other flags change them."""
    run_dir: Path | None = None
    """Folder of the run; default runs/DATASET-PRESET, with a number where that holds another."""
    threads: int | None = None
    """Threads of the kernels; default all."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    command = _parse(arguments)

    from rich.console import Console

    from evokern.backends.cpu import set_threads
    from evokern.drivers.run import run_folder
    from evokern.drivers.train import settings_of, train
    from evokern.problems.classification import Classification, thesis_network
    from evokern.problems.datasets import load

    if command.threads is not None:
        set_threads(command.threads)
    dataset = load(command.dataset)
    network = thesis_network(dataset.image_shape, dataset.classes)
    problem = Classification(dataset, network, command.problem, seed=command.ea.seed)
    settings = settings_of(problem, command.ea, command.run)
    default = Path("runs") / f"{command.dataset}-{command.preset}"
    folder = command.run_dir or run_folder(default, settings)
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{command.ea.population} networks of {network.layout.size:,} genes on {dataset.name}, "
        f"{command.ea.generations} generations of {command.problem.batch} samples, in {folder}"
    )
    if (folder / RESULT).exists():
        console.print("this run is finished; delete its folder to run it anew")
    result = train(problem, command.ea, folder, command.run)
    console.print(
        f"test accuracy {result.test_accuracy:.2%} ({len(problem.test.y):,} test images), "
        f"hold-out accuracy {result.holdout_accuracy:.2%} "
        f"({len(problem.holdout.y):,} training images held out), {result.seconds:.0f} s\n"
        f"ensemble of the best {result.ensemble_size}: test accuracy "
        f"{result.ensemble_test_accuracy:.2%}, hold-out {result.ensemble_holdout_accuracy:.2%}\n"
        f"curve         {folder / 'curves.png'}\n"
        f"best network  {folder / 'best.safetensors'}"
    )
    return 0


def _parse(arguments: Sequence[str]) -> EACommand:
    """The preset decides the other flags' defaults, so it is read first."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(PRESETS), default=DEFAULT_PRESET)
    chosen = first.parse_known_args(list(arguments))[0].preset
    ea, problem = PRESETS[chosen]
    default = EACommand(tyro.MISSING, ea=ea, problem=problem, preset=chosen)
    return tyro.cli(EACommand, args=list(arguments), prog="evokern ea", default=default)
