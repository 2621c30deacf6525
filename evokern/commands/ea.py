"""``evokern ea``: evolve a network on a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from evokern.commands.training import Report, problem_of
from evokern.drivers.ea import EAConfig
from evokern.drivers.train import RunConfig, settings_of, train
from evokern.problems.classification import ClassificationConfig

PRESETS: dict[str, tuple[EAConfig, ClassificationConfig]] = {
    "quick": (
        EAConfig(
            population=128,
            generations=2800,
            elites=1,
            crossover_share=0.9,
            crossover_then_mutation=True,
            truncation=0.3,
            mutation="uniform",
            sigma=0.007,
            sigma_schedule="exponential",
            sigma_decay=0.99927,
            sigma_period=1,
        ),
        ClassificationConfig(batch=256, sampling="importance"),
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
    """What to learn (mnist, fashion-mnist, digits, ...); fetched if it is not in the data cache."""
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
    device: str = "cpu"
    """Where populations and data are: cpu, cuda, cuda:1, ... The results are the same bits."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    command = _parse(arguments)
    problem = problem_of(
        command.dataset,
        command.problem,
        seed=command.ea.seed,
        threads=command.threads,
        device=command.device,
    )
    settings = settings_of(problem, command.ea, command.run)
    report = Report(command.run_dir, f"{command.dataset}-{command.preset}", settings)
    report.start(
        f"{command.ea.population} networks of {problem.network.layout.size:,} genes on "
        f"{problem.name}, {command.ea.generations} generations of {command.problem.batch} samples"
    )
    result = train(problem, command.ea, report.folder, command.run)
    report.end(
        problem,
        result,
        f"ensemble of the best {result.ensemble_size}: test accuracy "
        f"{result.ensemble_test_accuracy:.2%}, hold-out {result.ensemble_holdout_accuracy:.2%}\n",
    )
    return 0


def _parse(arguments: Sequence[str]) -> EACommand:
    """The preset decides the other flags' defaults, so it is read first."""
    first = argparse.ArgumentParser(prog="evokern ea", add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(PRESETS), default=DEFAULT_PRESET)
    chosen = first.parse_known_args(list(arguments))[0].preset
    ea, problem = PRESETS[chosen]
    default = EACommand(tyro.MISSING, ea=ea, problem=problem, preset=chosen)
    return tyro.cli(EACommand, args=list(arguments), prog="evokern ea", default=default)
