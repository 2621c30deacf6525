"""Files that are either whole or not there, and trained networks in safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from evokern import network as layers
from evokern.errors import CheckpointError, EvokernError
from evokern.network import Network

FORMAT = 1
"""Version of the model file; a public contract."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes under a temporary name, fsyncs, renames: a crash leaves the old file or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def save_network(
    path: Path,
    network: Network,
    genomes: npt.NDArray[np.float32],
    *,
    tensors: Mapping[str, npt.NDArray[Any]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network and one genome [G] or several [n, G] as safetensors.

    ``tensors`` go along under their names (such as the mean image of the training data),
    ``facts`` as JSON in the header.
    """
    header = {
        "format": str(FORMAT),
        "network": json.dumps(describe(network)),
        "facts": json.dumps(dict(facts or {})),
    }
    content = {"genomes": np.ascontiguousarray(genomes), **(tensors or {})}
    write_atomically(path, safetensors.numpy.save(content, metadata=header))


def load_network(path: Path) -> tuple[Network, dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """What ``save_network`` wrote: the network, all tensors (``genomes`` among them), the facts.

    Raises CheckpointError when the file is not one of these.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get("format") != str(FORMAT):
            found = header.get("format", "none")
            raise CheckpointError(f"{path}: expected format {FORMAT}, found {found}")
        network = rebuild(json.loads(header["network"]))
        facts = json.loads(header["facts"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, EvokernError):
            raise
        raise CheckpointError(f"{path}: not a network saved by evokern: {error}") from error
    return network, tensors, facts


def describe(network: Network) -> dict[str, Any]:
    """A network as plain JSON values."""
    described = [{"kind": type(layer).__name__, **asdict(layer)} for layer in network.layers]
    return {"input_shape": list(network.input_shape), "layers": described}


def rebuild(description: Mapping[str, Any]) -> Network:
    """The network that ``describe`` described."""
    kinds = {kind.__name__: kind for kind in layers.LAYERS}
    built = []
    for entry in description["layers"]:
        values = {name: _pairs(value) for name, value in entry.items() if name != "kind"}
        built.append(kinds[entry["kind"]](**values))
    return Network(tuple(built), tuple(description["input_shape"]))


def _pairs(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
