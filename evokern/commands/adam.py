"""``evokern adam``: the gradient baseline on the same network, data and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import tyro

from evokern.drivers.adam import AdamConfig
from evokern.errors import BackendError
from evokern.metrics import RESULT


@dataclass(frozen=True)
class AdamCommand:
    """Train the thesis' network by gradients (Adam), for comparison with evolution.

    A command given again goes on where the run stopped; SIGINT (Ctrl-C) and SIGTERM save first.
    """

    dataset: tyro.conf.Positional[str]
    """What to learn: mnist, fashion-mnist, digits, or another set that evokern loads."""
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
    from rich.console import Console

    from evokern.backends.cpu import set_threads
    from evokern.drivers.adam import adam_settings, train_adam
    from evokern.drivers.run import run_folder
    from evokern.problems.classification import (
        Classification,
        ClassificationConfig,
        thesis_network,
    )
    from evokern.problems.datasets import load

    if command.threads is not None:
        torch.set_num_threads(command.threads)
        set_threads(command.threads)
    dataset = load(command.dataset)
    network = thesis_network(dataset.image_shape, dataset.classes)
    config = ClassificationConfig(batch=command.batch)
    problem = Classification(dataset, network, config, seed=command.adam.seed)
    settings = adam_settings(problem, command.adam)
    folder = command.run_dir or run_folder(Path("runs") / f"{command.dataset}-adam", settings)
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"one network of {network.layout.size:,} weights on {dataset.name}, "
        f"{command.adam.iterations} iterations of {command.batch} samples, in {folder}"
    )
    if (folder / RESULT).exists():
        console.print("this run is finished; delete its folder to run it anew")
    result = train_adam(problem, command.adam, folder)
    console.print(
        f"test accuracy {result.test_accuracy:.2%} ({len(problem.test.y):,} test images), "
        f"hold-out accuracy {result.holdout_accuracy:.2%} "
        f"({len(problem.holdout.y):,} training images held out), {result.seconds:.0f} s\n"
        f"curve         {folder / 'curves.png'}\n"
        f"network       {folder / 'best.safetensors'}"
    )
    return 0
