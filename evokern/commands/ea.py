"""``evokern ea``: evolve a network on a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import tyro

from evokern.commands.training import Report, problem_of
from evokern.drivers.ea import EAConfig
from evokern.drivers.es import ESConfig
from evokern.drivers.train import RunConfig, settings_of, train
from evokern.drivers.train_es import es_settings, train_es
from evokern.drivers.watch import WatchConfig
from evokern.errors import message
from evokern.problems.classification import ClassificationConfig

_STRATEGY = ESConfig(
    sigma=0.05,
    sigma_schedule="power",
    sigma_period=1500,
    sigma_exponent=0.75,
    learning_rate=0.9,
    weight_decay=0.0002,
    units=(4, 4, 8, 0),
    shares=(3, 2, 2, 1),
)
_BATCHES = ClassificationConfig(batch=256, sampling="importance", importance_every=200)

PresetName = Literal["quick", "best", "thesis-validation", "thesis-test"]

PRESETS: dict[PresetName, tuple[EAConfig | ESConfig, ClassificationConfig]] = {
    "quick": (replace(_STRATEGY, generations=12_000), _BATCHES),
    "best": (replace(_STRATEGY, generations=30_000), replace(_BATCHES, shift_share=0.25)),
    "thesis-validation": (EAConfig(), ClassificationConfig()),
    "thesis-test": (
        EAConfig(population=2000, crossover_share=0.75),
        ClassificationConfig(batch=1024),
    ),
}
"""Settings by name; the thesis' are those of Table 5.1."""

DEFAULT_PRESET: PresetName = "thesis-validation"


@dataclass(frozen=True)
class _Training:
    """What both algorithms are told."""

    dataset: tyro.conf.Positional[str]
    """What to learn (mnist, fashion-mnist, digits, ...); fetched if it is not in the data cache."""
    problem: tyro.conf.OmitArgPrefixes[ClassificationConfig] = field(
        default_factory=ClassificationConfig
    )
    preset: PresetName = DEFAULT_PRESET
    """Settings to start from; the other flags change them. quick and best are of the evolution
    strategy, the thesis' of the genetic algorithm, and each has the flags of its algorithm."""
    run_dir: Path | None = None
    """Folder of the run; default runs/DATASET-PRESET, with a number where that holds another."""
    threads: int | None = None
    """Threads of the kernels; default all."""
    device: str = "cpu"
    """Where populations and data are: cpu, cuda, cuda:1, ... CUDA kernels give the same bits as the
    processor; where only Triton runs, fitness differs in its last digits."""


@dataclass(frozen=True)
class EACommand(_Training):
    """Evolve the thesis' network on a data set by the genetic algorithm of chapter 5.

    A command given again goes on where the run stopped. SIGINT (Ctrl-C), SIGTERM and SIGHUP (a
    closed terminal) save first.
    """

    ea: tyro.conf.OmitArgPrefixes[EAConfig] = field(default_factory=EAConfig)
    run: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)

    @property
    def config(self) -> EAConfig:
        """The algorithm's settings."""
        return self.ea


@dataclass(frozen=True)
class ESCommand(_Training):
    """Evolve the thesis' network on a data set by the evolution strategy of chapter 8.

    A command given again goes on where the run stopped. SIGINT (Ctrl-C), SIGTERM and SIGHUP (a
    closed terminal) save first.
    """

    es: tyro.conf.OmitArgPrefixes[ESConfig] = field(default_factory=ESConfig)
    run: tyro.conf.OmitArgPrefixes[WatchConfig] = field(
        default_factory=lambda: WatchConfig(log_every=100)  # of generations that take milliseconds
    )

    @property
    def config(self) -> ESConfig:
        """The algorithm's settings."""
        return self.es


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    command = parse(arguments)
    config = command.config
    problem = problem_of(
        command.dataset,
        command.problem,
        seed=config.seed,
        threads=command.threads,
        device=command.device,
    )
    if isinstance(command, ESCommand):
        settings = es_settings(problem, command.es, command.run)
    else:
        settings = settings_of(problem, command.ea, command.run)
    report = Report(command.run_dir, f"{command.dataset}-{command.preset}", settings)
    report.start(
        f"{config.population} networks of {problem.network.layout.size:,} genes on "
        f"{problem.name}, {config.generations} generations of {command.problem.batch} samples"
    )
    if isinstance(command, ESCommand):
        report.end(problem, train_es(problem, command.es, report.folder, command.run))
        return 0
    result = train(problem, command.ea, report.folder, command.run)
    report.end(
        problem,
        result,
        f"ensemble of the best {result.ensemble_size}: test accuracy "
        f"{result.ensemble_test_accuracy:.2%}, hold-out {result.ensemble_holdout_accuracy:.2%}\n",
    )
    return 0


def parse(arguments: Sequence[str]) -> EACommand | ESCommand:
    """What the words of a command say.

    The preset decides the algorithm and the other flags' defaults, so it is read first. Ends the
    process with 2 for wrong flags; one that only the other algorithm has is told apart.
    """
    first = argparse.ArgumentParser(prog="evokern ea", add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(PRESETS), default=DEFAULT_PRESET)
    chosen = first.parse_known_args(list(arguments))[0].preset
    config, problem = PRESETS[chosen]
    if wrong := _foreign_flag(arguments, chosen):
        first.error(wrong)
    default: EACommand | ESCommand
    if isinstance(config, ESConfig):
        default = ESCommand(tyro.MISSING, es=config, problem=problem, preset=chosen)
    else:
        default = EACommand(tyro.MISSING, ea=config, problem=problem, preset=chosen)
    return tyro.cli(type(default), args=list(arguments), prog="evokern ea", default=default)


def _foreign_flag(arguments: Sequence[str], preset: PresetName) -> str:
    """What is wrong with the first flag that only the other algorithm has; nothing without one."""
    kinds = (EAConfig, RunConfig), (ESConfig, WatchConfig)
    names = "genetic algorithm", "evolution strategy"
    own = int(isinstance(PRESETS[preset][0], ESConfig))
    foreign = _fields(kinds[1 - own]) - _fields(kinds[own])
    presets = [name for name, (config, _) in PRESETS.items() if isinstance(config, kinds[1 - own])]
    for word in arguments:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag[2:].replace("-", "_") in foreign:
            wanted = f"one of the {names[own]}, which --preset {preset} is"
            mend = f"try --preset {' or '.join(presets)}"
            return message("flag", wanted, f"{flag} of the {names[1 - own]}", mend)
    return ""


def _fields(kinds: Sequence[type]) -> set[str]:
    return {field.name for kind in kinds for field in fields(kind)}
