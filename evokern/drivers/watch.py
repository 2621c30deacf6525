"""What runs on a classification problem share: how they are watched, and how they end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from evokern._values import assign, boolean, integer
from evokern.checkpoint import save_network, write_json
from evokern.drivers.run import Run
from evokern.metrics import METRICS, RESULT, finite_or_none
from evokern.plots import plot_curve
from evokern.problems.classification import Classification
from evokern.selection import rank

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WatchConfig:
    """How a run is watched and kept; nothing here changes what is evolved."""

    log_every: int = 25
    """Generations between two records of metrics.jsonl."""
    checkpoint_every: int = 100
    """Generations between two checkpoints."""
    keep: int = 2
    """Checkpoints that stay; older ones are deleted."""
    tensorboard: bool = False
    """Write the records for TensorBoard too (extra tensorboard)."""

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "keep"):
            assign(self, name, integer(name, getattr(self, name), 1, 2**31 - 1))
        boolean("tensorboard", self.tensorboard)


class Result(Protocol):
    """A dataclass of what a run reached."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def test_accuracy(self) -> float:
        """Share of right predictions of the best network on the test part."""


def run_of_generations(
    folder: str | Path, settings: dict[str, Any], generations: int, options: WatchConfig
) -> Run:
    """The shell of a run that is watched as ``options`` say."""
    return Run(
        Path(folder),
        settings,
        "generation",
        generations,
        log_every=options.log_every,
        checkpoint_every=options.checkpoint_every,
        keep=options.keep,
        tensorboard=options.tensorboard,
    )


def progress_of(problem: Classification, generation: int, fitness: F32) -> dict[str, Any]:
    """What every record says of a generation and its fitness [S]."""
    usable = fitness[np.isfinite(fitness)]
    return {
        "generation": generation,
        "samples": generation * problem.config.batch,
        "fitness/best": finite_or_none(fitness[rank(fitness)[0]]),
        "fitness/median": finite_or_none(np.median(usable)) if len(usable) else None,
        "fitness/nan": int(np.isnan(fitness).sum()),
        "fitness/infinite": int(np.isinf(fitness).sum()),
    }


def in_short(record: dict[str, Any]) -> str:
    """A record for the terminal."""
    best, median = (
        "none" if record[name] is None else f"{record[name]:.4f}"
        for name in ("fitness/best", "fitness/median")
    )
    text = f"fitness {best} (median {median})  hold-out {record['holdout_accuracy/best']:.2%}"
    lost = record["fitness/nan"] + record["fitness/infinite"]
    return f"{text}  {lost} not finite" if lost else text


def finish(run: Run, problem: Classification, result: Result, **networks: F32) -> None:
    """Writes NAME.safetensors of each network, curves.png and, last, result.json.

    A network is its weights [G], or those of several [n, G].
    """
    for name, weights in networks.items():
        save_model(problem, weights, run.folder / f"{name}.safetensors")
    picture = run.folder / "curves.png"
    plot_curve(run.folder / METRICS, picture, test_accuracy=result.test_accuracy)
    write_json(run.folder / RESULT, asdict(result))


def save_model(problem: Classification, weights: F32, path: Path) -> None:
    """Writes one network's weights [G] or several [n, G], with what is needed to use them."""
    facts = {"dataset": problem.name, "class_names": problem.class_names}
    tensors = {"mean_image": problem.mean}
    save_network(path, problem.network, weights, tensors=tensors, facts=facts)
