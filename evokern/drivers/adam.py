"""The baseline of chapter 5: the same network, data and batches, trained by gradients (Adam).

Kingma and Ba, "Adam", 2015. Needs PyTorch (extra ``torch``). It repeats on one machine only.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evokern import ops
from evokern.checkpoint import (
    FORMAT,
    Checkpoint,
    describe,
    newest_checkpoint,
    read_tensors,
    save_checkpoint,
    save_network,
    tidy,
    write_json,
)
from evokern.drivers.run import Records, open_run, read_result, stop_signals
from evokern.errors import ArgumentError, CheckpointError, RunStopped, message
from evokern.files import locked, make_folder
from evokern.metrics import METRICS, RESULT
from evokern.plots import plot_curve
from evokern.problems.classification import Classification


@dataclass(frozen=True)
class AdamConfig:
    """Settings of the baseline; the defaults are those of the authors' program."""

    iterations: int = 50_000
    """Gradient steps, one batch each."""
    learning_rate: float = 1e-3
    """Step size of Adam; its other constants are PyTorch's defaults."""
    log_every: int = 500
    """Iterations between two records of metrics.jsonl."""
    checkpoint_every: int = 5000
    """Iterations between two checkpoints."""
    tensorboard: bool = False
    """Write the records for TensorBoard too (extra tensorboard)."""
    seed: int = 0
    """Seed of the first weights and of the batches."""

    def __post_init__(self) -> None:
        for name in ("iterations", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ArgumentError(message(name, "at least 1", repr(getattr(self, name))))
        if not self.learning_rate > 0:
            raise ArgumentError(message("learning_rate", "> 0", repr(self.learning_rate)))


@dataclass(frozen=True)
class AdamResult:
    """What the run reached. Accuracies are shares of right predictions."""

    iterations: int
    seconds: float
    holdout_accuracy: float
    test_accuracy: float


def train_adam(problem: Classification, config: AdamConfig, folder: Path) -> AdamResult:
    """Minimises the cross-entropy (Eq. 5.5) from a Glorot-uniform genome, as individual 0 of an EA.

    Goes on from the newest checkpoint in ``folder``; SIGINT and SIGTERM save and raise RunStopped.
    """
    from torch import from_numpy
    from torch.nn.functional import cross_entropy
    from torch.optim import Adam

    make_folder(folder)
    with locked(folder), stop_signals() as stop:
        run = open_run(folder, adam_settings(problem, config))
        if result := read_result(folder, AdamResult):
            return result
        genome = ops.init_genomes(problem.layout, 1, seed=config.seed)[0]
        module = problem.network.to_module(genome).train()
        optimizer = Adam(module.parameters(), lr=config.learning_rate)

        def read(checkpoint: Checkpoint) -> tuple[int, float]:
            _set_state(module, optimizer, checkpoint)
            return checkpoint.generation, checkpoint.facts["seconds"]

        state, skipped = newest_checkpoint(folder / "checkpoints", run=run, read=read)
        for reason in skipped:
            print(f"skipped a checkpoint: {reason}", flush=True)
        step, earlier = state or (0, 0.0)
        tidy(folder / "checkpoints", step)
        started = time.monotonic() - earlier
        with Records(
            folder, "iteration", config.iterations, done=step, tensorboard=config.tensorboard
        ) as records:
            while step < config.iterations:
                samples = problem.batch_of(step)
                step += 1
                outputs = module(from_numpy(problem.train.x[samples]))
                loss = cross_entropy(outputs, from_numpy(problem.train.y[samples]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seconds = time.monotonic() - started
                last = step == config.iterations
                if last or step % config.log_every == 0:
                    genome = problem.network.genome_of(module)
                    holdout = float(problem.accuracy(genome[None], problem.holdout)[0])
                    record = {
                        "iteration": step,
                        "samples": step * problem.config.batch,
                        "loss": loss.item(),
                        "holdout_accuracy/best": holdout,
                        "seconds": round(seconds, 3),
                    }
                    records.write(record, f"loss {loss.item():.4f}  hold-out {holdout:.2%}")
                if last or stop.signal or step % config.checkpoint_every == 0:
                    records.sync()
                    save_checkpoint(
                        folder / "checkpoints",
                        step,
                        _state(module, optimizer),
                        {"seconds": seconds},
                        run=run,
                    )
                if stop.signal and not last:
                    raise RunStopped(folder, f"iteration {step}", stop.signal)
        seconds = time.monotonic() - started
        return _finish(problem, problem.network.genome_of(module), folder, config, seconds)


def adam_settings(problem: Classification, config: AdamConfig) -> dict[str, Any]:
    """What config.json holds: all that decides what a run computes and records."""
    settings = asdict(config)
    del settings["checkpoint_every"], settings["tensorboard"]
    return {
        "format": FORMAT,
        "algorithm": "adam",
        "dataset": problem.name,
        "dataset_sha256": problem.data_sha256,
        "batch": problem.config.batch,
        **settings,
        "network": describe(problem.network),
    }


def _finish(
    problem: Classification, genome: np.ndarray, folder: Path, config: AdamConfig, seconds: float
) -> AdamResult:
    result = AdamResult(
        iterations=config.iterations,
        seconds=round(seconds, 1),
        holdout_accuracy=float(problem.accuracy(genome[None], problem.holdout)[0]),
        test_accuracy=float(problem.accuracy(genome[None], problem.test)[0]),
    )
    save_network(
        folder / "best.safetensors",
        problem.network,
        genome,
        tensors={"mean_image": problem.mean},
        facts={"dataset": problem.name, "class_names": problem.class_names},
    )
    plot_curve(folder / METRICS, folder / "curves.png", test_accuracy=result.test_accuracy)
    write_json(folder / RESULT, asdict(result))
    return result


def _state(module: Any, optimizer: Any) -> dict[str, np.ndarray]:
    """Weights and moments, one tensor each per parameter."""
    state = {}
    for number, parameter in enumerate(module.parameters()):
        state[f"{number}.weights"] = parameter.detach().numpy()
        for name, value in optimizer.state[parameter].items():
            state[f"{number}.{name}"] = value.numpy()
    return state


def _set_state(module: Any, optimizer: Any, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError when the checkpoint is of another network."""
    from torch import from_numpy, no_grad

    for number, parameter in enumerate(module.parameters()):
        tensors = read_tensors(checkpoint, prefix=f"{number}.")
        own = {name: from_numpy(tensor) for name, tensor in tensors.items()}
        shape = tuple(parameter.shape)
        wanted = {"weights": shape, "step": (), "exp_avg": shape, "exp_avg_sq": shape}
        got = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if got != wanted:
            expected = f"{wanted} of parameter {number}"
            raise CheckpointError(message(str(checkpoint.tensors), expected, f"{got}"))
        with no_grad():
            parameter.copy_(own.pop("weights"))
        optimizer.state[parameter].update(own)
