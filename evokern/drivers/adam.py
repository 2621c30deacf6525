"""The baseline of chapter 5: the same network, data and batches, trained by gradients (Adam).

Kingma and Ba, "Adam", 2015. Needs PyTorch (extra ``torch``). It repeats on one machine only.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern import ops
from evokern._values import assign, boolean, integer, number
from evokern.checkpoint import Checkpoint, describe, read_tensors
from evokern.drivers.run import Run
from evokern.drivers.watch import finish
from evokern.errors import ArgumentError, CheckpointError, FitnessError, message
from evokern.metrics import CONFIG_FORMAT
from evokern.problems.classification import Classification

F32 = npt.NDArray[np.float32]


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
            assign(self, name, integer(name, getattr(self, name), 1, 2**31 - 1))
        assign(self, "seed", integer("seed", self.seed, 0, 2**64 - 1))
        boolean("tensorboard", self.tensorboard)
        assign(self, "learning_rate", number("learning_rate", self.learning_rate))
        if not 0 < self.learning_rate < math.inf:
            wanted = "a finite number > 0"
            raise ArgumentError(message("learning_rate", wanted, repr(self.learning_rate)))


_ONLY = {
    "sampling": "epochs",
    "shift_share": 0,
    "objective": "cross_entropy",
    "phenotype": "direct",
    "precision": "fp32",
}
"""Settings of a problem that gradients leave no choice of."""


@dataclass(frozen=True)
class AdamResult:
    """What the run reached. Accuracies are shares of right predictions."""

    iterations: int
    seconds: float
    holdout_accuracy: float
    test_accuracy: float


def train_adam(problem: Classification, config: AdamConfig, folder: str | Path) -> AdamResult:
    """Minimises the cross-entropy (Eq. 5.5) from a Glorot-uniform genome, as individual 0 of an EA.

    Goes on from the newest checkpoint in ``folder``; errors and signals: see ``drivers.run.Run``.
    Raises FitnessError when the loss is no longer finite.
    """
    given = problem.settings()
    for name, only in _ONLY.items():
        if given[name] != only:
            raise ArgumentError(message(name, f"{only} for Adam", str(given[name])))

    from torch import from_numpy
    from torch.nn.functional import cross_entropy
    from torch.optim import Adam

    with Run(
        Path(folder),
        adam_settings(problem, config),
        "iteration",
        config.iterations,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        tensorboard=config.tensorboard,
    ) as run:
        if result := run.result(AdamResult):
            return result
        genome = ops.init_genomes(problem.layout, 1, seed=config.seed)[0]
        module = problem.network.to_module(genome).train()
        optimizer = Adam(module.parameters(), lr=config.learning_rate)
        run.restore(partial(_set_state, module, optimizer))
        for iteration in run.steps():
            samples = problem.batch_of(iteration - 1)
            outputs = module(from_numpy(problem.train.x[samples]))
            loss = cross_entropy(outputs, from_numpy(problem.train.y[samples]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if run.logs:
                genome = problem.network.genome_of(module)
                record = _measure(problem, genome, _finite(loss.item(), iteration), iteration)
                run.record(record, _in_short(record))
            if run.saves:
                run.save(_state(module, optimizer))
        return _finish(problem, problem.network.genome_of(module), run)


def adam_settings(problem: Classification, config: AdamConfig) -> dict[str, Any]:
    """What config.json holds: all that decides what a run computes and records."""
    settings = asdict(config)
    del settings["checkpoint_every"], settings["tensorboard"]
    return {
        "format": CONFIG_FORMAT,
        "algorithm": "adam",
        "dataset": problem.name,
        **problem.settings(),
        **settings,
        "network": describe(problem.network),
    }


def _finite(loss: float, iteration: int) -> float:
    """The loss. Raises FitnessError where it is NaN or infinite."""
    if not math.isfinite(loss):
        raise FitnessError(
            f"loss: {loss} in iteration {iteration}: training diverged; lower learning_rate"
        )
    return loss


def _measure(problem: Classification, genome: F32, loss: float, iteration: int) -> dict[str, Any]:
    """One metrics record: loss of the batch, accuracy on the hold-out part."""
    return {
        "iteration": iteration,
        "samples": iteration * problem.config.batch,
        "loss": loss,
        "holdout_accuracy/best": float(problem.accuracy(genome[None], problem.holdout)[0]),
    }


def _in_short(record: dict[str, Any]) -> str:
    """A record for the terminal."""
    return f"loss {record['loss']:.4f}  hold-out {record['holdout_accuracy/best']:.2%}"


def _finish(problem: Classification, genome: F32, run: Run) -> AdamResult:
    """The test part is used here only, once."""
    result = AdamResult(
        iterations=run.step,
        seconds=run.seconds,
        holdout_accuracy=float(problem.accuracy(genome[None], problem.holdout)[0]),
        test_accuracy=float(problem.accuracy(genome[None], problem.test)[0]),
    )
    finish(run, problem, result, best=genome)
    return result


def _state(module: Any, optimizer: Any) -> dict[str, np.ndarray]:
    """Weights and moments, one tensor each per parameter."""
    state = {}
    for i, parameter in enumerate(module.parameters()):
        state[f"{i}.weights"] = parameter.detach().numpy()
        for name, value in optimizer.state[parameter].items():
            state[f"{i}.{name}"] = value.numpy()
    return state


def _set_state(module: Any, optimizer: Any, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError when the checkpoint is of another network."""
    from torch import from_numpy, no_grad

    for i, parameter in enumerate(module.parameters()):
        tensors = read_tensors(checkpoint, prefix=f"{i}.")
        own = {name: from_numpy(tensor) for name, tensor in tensors.items()}
        shape = tuple(parameter.shape)
        wanted = {"weights": shape, "step": (), "exp_avg": shape, "exp_avg_sq": shape}
        got = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if got != wanted:
            expected = f"{wanted} of parameter {i}"
            raise CheckpointError(message(str(checkpoint.tensors), expected, f"{got}"))
        with no_grad():
            parameter.copy_(own.pop("weights"))
        optimizer.state[parameter].update(own)
