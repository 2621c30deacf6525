"""The ``evokern`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from evokern.drivers.ea import EAConfig
from evokern.errors import EvokernError

PRESETS: dict[str, EAConfig] = {
    "demo": EAConfig(
        population=300,
        batch=256,
        generations=2000,
        crossover_share=0.8,
        truncation=0.3,
        sigma=0.02,
        sigma_decay=0.9988,
    ),
    "thesis-validation": EAConfig(),
    "thesis-test": EAConfig(population=2000, batch=1024, crossover_share=0.75),
}
"""Settings by name; the thesis' are those of Table 5.1."""


@dataclass(frozen=True)
class EACommand:
    """Evolve the thesis' network on a data set."""

    dataset: tyro.conf.Positional[Literal["mnist", "fashion-mnist"]]
    """What to learn; fetched into the data cache if it is not there."""
    ea: tyro.conf.OmitArgPrefixes[EAConfig] = field(default_factory=EAConfig)
    preset: Literal["demo", "thesis-validation", "thesis-test"] = "thesis-validation"
    """Settings to start from; the other flags change them."""
    run_dir: Path | None = None
    """Folder of the run; default runs/DATASET-PRESET, with a number if that exists."""
    log_every: int = 25
    """Generations between two records."""
    threads: int | None = None
    """Threads of the kernels; default all."""


def run_ea(arguments: Sequence[str]) -> int:
    """``evokern ea``."""
    presets = argparse.ArgumentParser(add_help=False)
    presets.add_argument("--preset", choices=list(PRESETS), default="thesis-validation")
    chosen = presets.parse_known_args(list(arguments))[0].preset
    default = EACommand("mnist", ea=PRESETS[chosen], preset=chosen)
    command = tyro.cli(EACommand, args=list(arguments), prog="evokern ea", default=default)

    from rich.console import Console

    from evokern.backends.cpu import set_threads
    from evokern.drivers.run import new_run_folder, train
    from evokern.problems.classification import Classification, thesis_network
    from evokern.problems.datasets import load

    if command.threads is not None:
        set_threads(command.threads)
    dataset = load(command.dataset)
    problem = Classification(
        dataset, thesis_network(), batch=command.ea.batch, seed=command.ea.seed
    )
    wanted = command.run_dir or Path("runs") / f"{command.dataset}-{command.preset}"
    folder = new_run_folder(wanted)
    console = Console(highlight=False)
    genes = problem.network.layout.size
    console.print(
        f"{command.ea.population} networks of {genes:,} genes on {dataset.name}, "
        f"{command.ea.generations} generations of {command.ea.batch} samples"
    )
    result = train(problem, command.ea, folder, log_every=command.log_every)
    console.print(
        f"test accuracy {result.test_accuracy:.2%} (10,000 test images), "
        f"hold-out accuracy {result.holdout_accuracy:.2%} "
        f"({len(problem.holdout.y):,} training images held out), {result.seconds:.0f} s\n"
        f"curve         {result.curve}\nbest network  {result.model}",
        soft_wrap=True,
    )
    return 0


def run_doctor(arguments: Sequence[str]) -> int:
    """``evokern doctor``."""
    argparse.ArgumentParser(prog="evokern doctor").parse_args(list(arguments))
    from evokern.doctor import report

    report()
    return 0


def run_bench(arguments: Sequence[str]) -> int:
    """``evokern bench``: the suite lives beside the package in a checkout."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "benchmarks" / "report.py").exists():
        print("evokern bench: run it from a checkout; the package holds no benchmarks")
        return 2
    sys.path.insert(0, str(checkout))
    from benchmarks import report

    return int(report.main(list(arguments)) or 0)


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "ea": ("evolve a network on a data set", run_ea),
    "doctor": ("show what this installation has", run_doctor),
    "bench": ("measure the kernels against their rivals", run_bench),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; errors of evokern are printed without a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in COMMANDS:
        print("usage: evokern COMMAND [OPTIONS]; evokern COMMAND --help says more\n")
        for name, (text, _) in COMMANDS.items():
            print(f"  {name:8} {text}")
        return 0 if words[:1] in (["--help"], ["-h"]) else 2
    try:
        return COMMANDS[words[0]][1](words[1:])
    except EvokernError as error:
        print(f"evokern {words[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
