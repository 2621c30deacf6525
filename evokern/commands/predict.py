"""``evokern predict``: what a trained network sees in image files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from evokern import ops
from evokern.checkpoint import load_network
from evokern.ensemble import mean_logits
from evokern.errors import ArgumentError, CheckpointError, EvokernError, message
from evokern.metrics import CONFIG
from evokern.network import Network
from evokern.problems.datasets import normalise
from evokern.problems.images import read_image

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PredictCommand:
    """Classify image files with the network of a finished run."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of a finished run, or a .safetensors file of one."""
    files: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILES...")]]
    """Images; they are brought to the size and colours that the network was trained on."""
    ensemble: bool = False
    """Use the run's ensemble (the mean of its networks' outputs) instead of its best network."""
    invert: bool = False
    """Exchange dark and light; for dark digits on white paper, as MNIST is light on dark."""
    top: int = 3
    """How many classes to name per image, the most probable first; at most all there are."""
    json: bool = False
    """Print one JSON array instead of a table."""


@dataclass(frozen=True)
class Classifier:
    """Networks of one architecture, genomes float32 [n, G], and how to prepare images for them.

    ``mean`` float32 [H, W] or [C, H, W] is the mean image of the training data; ``names`` holds
    the name of every class.
    """

    network: Network
    genomes: F32
    mean: F32
    names: tuple[str, ...]

    def probabilities(self, images: npt.NDArray[np.uint8]) -> F64:
        """Softmax float64 [N, classes] for images uint8 [N, H, W] or [N, C, H, W].

        Several networks count with the mean of their outputs; a single output is the logit of
        class 1 of two.
        """
        outputs = ops.network_forward(self.genomes, self.network, normalise(images, self.mean))
        logits = mean_logits(outputs).astype(np.float64)
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def main(arguments: Sequence[str]) -> int:
    """Prints the predictions; 1 if a file is no image, else 0."""
    command = tyro.cli(PredictCommand, args=list(arguments), prog="evokern predict")
    if command.top < 1:
        raise ArgumentError(message("top", "at least 1 class", str(command.top)))
    if not command.files:
        raise ArgumentError(message("FILES", "at least one image", "none"))
    classifier = load_classifier(model_file(command.run, ensemble=command.ensemble))
    predictions = []
    for file in command.files:
        try:
            image = read_image(file, classifier.mean.shape, invert=command.invert)
            probabilities = classifier.probabilities(image[np.newaxis])[0]
            predictions.append(describe(file, probabilities, classifier.names, command.top))
        except EvokernError as error:
            print(f"evokern predict: {error}", file=sys.stderr)
    if command.json:
        print(json.dumps(predictions, indent=2))
    elif predictions:
        show(predictions)
    return int(len(predictions) < len(command.files))


def model_file(run: Path, *, ensemble: bool) -> Path:
    """The model of a run folder, or ``run`` itself if it is a file. Raises CheckpointError."""
    if run.is_file():
        if ensemble:
            wanted = "the folder of a run with --ensemble"
            raise ArgumentError(message("RUN", wanted, f"the file {run}"))
        return run
    if not run.is_dir():
        raise CheckpointError(message("RUN", "a run folder or a .safetensors file", f"no {run}"))
    model = run / ("ensemble.safetensors" if ensemble else "best.safetensors")
    if model.is_file():
        return model
    if not (run / CONFIG).is_file():
        raise CheckpointError(message("RUN", "the folder of a run", f"{run} without {CONFIG}"))
    mend = "let the run end" if not (run / "best.safetensors").is_file() else "leave out --ensemble"
    raise CheckpointError(f"{run}: no {model.name} there; {mend}")


def load_classifier(path: Path) -> Classifier:
    """A classifier from a model file. Raises CheckpointError if the file holds none."""
    network, tensors, facts = load_network(path)
    mean = tensors.get("mean_image")
    if mean is None or mean.dtype != np.float32 or mean.ndim not in (2, 3):
        got = "none" if mean is None else f"{mean.dtype} {list(mean.shape)}"
        wanted = "float32 [H, W] or [C, H, W] (a network trained on images)"
        raise CheckpointError(f"{path}: " + message("mean_image", wanted, got))
    if len(network.output_shape) != 1:
        got = str(list(network.output_shape))
        raise CheckpointError(f"{path}: " + message("outputs", "one number per class", got))
    classes = max(2, network.output_shape[0])
    known = tuple(map(str, facts.get("class_names") or ()))[:classes]
    numbers = tuple(map(str, range(len(known), classes)))  # outputs that no sample belongs to
    return Classifier(network, np.atleast_2d(tensors["genomes"]), mean, known + numbers)


def describe(file: Path, probabilities: F64, names: Sequence[str], top: int) -> dict[str, Any]:
    """A prediction as plain JSON values: the file and the most probable classes, best first.

    Raises CheckpointError if the network's outputs are not finite.
    """
    if not np.isfinite(probabilities).all():
        raise CheckpointError(f"{file}: the network's outputs for it are not finite")
    order = np.argsort(-probabilities, kind="stable")[:top]
    classes = [
        {"class": int(i), "name": names[i], "probability": float(probabilities[i])} for i in order
    ]
    return {"file": str(file), **classes[0], "top": classes}


def show(predictions: Sequence[dict[str, Any]]) -> None:
    """Prints a table on a terminal, one line per file otherwise."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        for prediction in predictions:
            print(f"{prediction['file']}: {', '.join(map(_share, prediction['top']))}")
        return
    table = Table("file", "class", "probability", "then")
    for prediction in predictions:
        table.add_row(
            Text(prediction["file"], overflow="fold"),  # text: brackets in names are no markup
            Text(prediction["name"]),
            f"{prediction['probability']:.2%}",
            Text(", ".join(map(_share, prediction["top"][1:]))),
        )
    console.print(table)


def _share(entry: dict[str, Any]) -> str:
    return f"{entry['name']} {entry['probability']:.2%}"
