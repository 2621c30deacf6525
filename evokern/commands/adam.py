"""``evokern adam``: the gradient baseline on the same network, data and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import tyro

from evokern.commands.training import Report, problem_of
from evokern.drivers.adam import AdamConfig, adam_settings, train_adam
from evokern.errors import BackendError
from evokern.problems.classification import ClassificationConfig


@dataclass(frozen=True)
class AdamCommand:
    """Train the thesis' network by gradients (Adam), for comparison with evolution.

    A command given again goes on where the run stopped. SIGINT (Ctrl-C), SIGTERM and SIGHUP (a
    closed terminal) save first.
    """

    dataset: tyro.conf.Positional[str]
    """What to learn (mnist, fashion-mnist, digits, ...); fetched if it is not in the data cache."""
    adam: tyro.conf.OmitArgPrefixes[AdamConfig] = field(default_factory=AdamConfig)
    batch: int = 256
    """Training samples per iteration."""
    run_dir: Path | None = None
    """Folder of the run; default runs/DATASET-adam, with a number where that holds another."""
    threads: int | None = None
    """Threads of PyTorch and of the kernels; default all."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    command = tyro.cli(AdamCommand, args=list(arguments), prog="evokern adam")
    if find_spec("torch") is None:
        mend = "try pip install 'evokern[torch]'"
        raise BackendError(f"PyTorch is needed and is not installed; {mend}")

    import torch

    config = ClassificationConfig(batch=command.batch)
    problem = problem_of(command.dataset, config, seed=command.adam.seed, threads=command.threads)
    if command.threads is not None:
        torch.set_num_threads(command.threads)
    settings = adam_settings(problem, command.adam)
    report = Report(command.run_dir, f"{command.dataset}-adam", settings)
    report.start(
        f"one network of {problem.network.layout.size:,} weights on {problem.name}, "
        f"{command.adam.iterations} iterations of {command.batch} samples"
    )
    report.end(problem, train_adam(problem, command.adam, report.folder))
    return 0
