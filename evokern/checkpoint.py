"""Checkpoints of runs and trained networks: safetensors beside or around JSON.

A checkpoint is ``000000100.safetensors`` with ``000000100.json``, written last, which holds the
SHA-256 of it and of itself. So a checkpoint is complete or is none, and one that was damaged later
is known.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors

from evokern import layers
from evokern.errors import CheckpointError, DtypeError, ShapeError, message
from evokern.files import Content, make_folder, remove, replace_file, unfinished
from evokern.network import Network

FORMAT = 1
"""Version of model files and checkpoints; a public contract."""

CHUNK_ROWS = 64
"""Genomes that are copied at one time on their way to or from a file."""

_DTYPES = {
    "float32": "F32",
    "float64": "F64",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint32": "U32",
    "uint64": "U64",
}


# What a file of other origin can lead to.
_NOT_OURS = (KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError)


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows [n] of a bank [Q, G] as one tensor [n, G] of a file; never copied as a whole."""

    bank: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int32]


Tensor = npt.NDArray[Any] | Rows
State = TypeVar("State")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were found whole. ``facts`` are JSON values."""

    path: Path
    tensors: Path
    step: int
    facts: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    run: str,
    keep: int = 2,
) -> Path:
    """Writes a checkpoint of the run ``run`` and deletes older ones, so that ``keep`` stay.

    Raises StorageError when it cannot be written; older ones are then still there.
    """
    make_folder(folder)
    content = folder / f"{step:09}.safetensors"
    digest = hashlib.sha256()
    replace_file(content, _hashed(_tensor_file(tensors, {}), digest))
    description = {
        "format": FORMAT,
        "run": run,
        "step": step,
        "tensors": content.name,
        "sha256": digest.hexdigest(),
        "facts": dict(facts),
    }
    path = content.with_suffix(".json")
    write_json(path, {**description, "own_sha256": _own_digest(description)})
    tidy(folder, step, keep=keep)
    return path


def tidy(folder: Path, step: int, *, keep: int = 2) -> None:
    """Deletes all but the newest ``keep`` checkpoints up to ``step``, and what is none.

    Those of later steps are left: nobody goes on from them, but a newer evokern might.
    Raises StorageError.
    """
    upto = [old for old in _numbered(folder, ".json") if int(old.stem) <= step]
    remove(upto[:-keep])
    described = {old.stem for old in _numbered(folder, ".json")}
    remove(old for old in _numbered(folder, ".safetensors") if old.stem not in described)
    remove(unfinished(folder))


def newest_checkpoint(
    folder: Path, *, run: str, read: Callable[[Checkpoint], State]
) -> tuple[State | None, list[str]]:
    """What ``read`` makes of the run's newest checkpoint, and why newer ones were skipped.

    A checkpoint is skipped when it is not whole or ``read`` raises CheckpointError. None where
    there is none at all. Raises CheckpointError when there are some and none can be used.
    """
    skipped: list[str] = []
    for path in reversed(_numbered(folder, ".json")):
        try:
            return read(open_checkpoint(path, run=run)), skipped
        except CheckpointError as error:
            skipped.append(str(error))
        except safetensors.SafetensorError as error:
            skipped.append(f"{path}: its tensors cannot be read: {error}")
    if skipped:
        mend = "remove the folder to start anew, or bring back a good copy"
        raise CheckpointError(f"no checkpoint can be used: {'; '.join(skipped)}; {mend}")
    return None, []


def open_checkpoint(path: Path, *, run: str) -> Checkpoint:
    """The checkpoint that the JSON file ``path`` describes, after its SHA-256 were compared.

    Raises CheckpointError when it is truncated, garbled, of another run or of another format.
    """
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        found = description["format"]
        if found != FORMAT:
            newer = isinstance(found, int) and found > FORMAT
            why = "a newer evokern wrote it" if newer else "no such format is known"
            raise CheckpointError(f"{path}: expected format {FORMAT}, found {found!r}: {why}")
        if (own := description.pop("own_sha256")) != _own_digest(description):
            wanted = f"SHA-256 {own} of its other entries"
            raise CheckpointError(message(str(path), wanted, _own_digest(description)))
        if description["run"] != run:
            raise CheckpointError(f"{path}: it belongs to a run with another config.json")
        tensors = path.with_name(description["tensors"])
        with tensors.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != description["sha256"]:
            wanted = f"SHA-256 {description['sha256']}"
            raise CheckpointError(message(str(tensors), wanted, digest))
        return Checkpoint(path, tensors, description["step"], description["facts"])
    except CheckpointError:
        raise
    except _NOT_OURS as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: not a whole checkpoint of evokern: {reason}") from error


def read_tensors(checkpoint: Checkpoint, *, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """The tensors whose names begin with ``prefix``, by what follows it."""
    with safetensors.safe_open(checkpoint.tensors, framework="numpy") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def read_rows(checkpoint: Checkpoint, name: str, out: npt.NDArray[np.float32]) -> None:
    """Reads a tensor [n, ...] into ``out`` [n, ...], some rows at a time.

    Raises CheckpointError when there is none of this name, type and shape.
    """
    with safetensors.safe_open(checkpoint.tensors, framework="numpy") as file:
        if name not in file.keys():  # noqa: SIM118
            wanted = f"a tensor {name}"
            raise CheckpointError(message(str(checkpoint.tensors), wanted, f"{file.keys()}"))
        rows = file.get_slice(name)
        wanted = f"{name} {_DTYPES[out.dtype.name]} {list(out.shape)}"
        got = f"{name} {rows.get_dtype()} {rows.get_shape()}"
        if wanted != got:
            raise CheckpointError(message(str(checkpoint.tensors), wanted, got))
        for start in range(0, len(out), CHUNK_ROWS):
            end = min(start + CHUNK_ROWS, len(out))
            out[start:end] = rows[start:end]


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically."""
    replace_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def save_network(
    path: Path,
    network: Network,
    genomes: npt.NDArray[np.float32],
    *,
    tensors: Mapping[str, npt.NDArray[Any]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network and one genome [G] or several [n, G], NumPy float32, as safetensors.

    ``tensors`` go along under their names (such as the mean image of the training data),
    ``facts`` as JSON in the header. Raises ShapeError when the genomes are not the network's.
    """
    if not isinstance(genomes, np.ndarray) or not _are_genomes(genomes, network):
        wanted = f"a NumPy array float32 [G={network.layout.size}] or [n, G]"
        got = type(genomes).__name__
        if isinstance(genomes, np.ndarray):
            got = f"{genomes.dtype} {list(genomes.shape)}"
        raise ShapeError(message("genomes", wanted, got))
    header = {
        "format": str(FORMAT),
        "network": json.dumps(describe(network)),
        "facts": json.dumps(dict(facts or {})),
    }
    replace_file(path, _tensor_file({"genomes": genomes, **(tensors or {})}, header))


def load_network(path: Path) -> tuple[Network, dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """What ``save_network`` wrote: the network, all tensors (``genomes`` among them), the facts.

    Raises CheckpointError when the file is not one of these.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != str(FORMAT):
                found = header.get("format", "none")
                raise CheckpointError(f"{path}: expected format {FORMAT}, found {found}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = rebuild(json.loads(header["network"]))
        facts = json.loads(header["facts"])
        genomes = tensors["genomes"]
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, *_NOT_OURS) as error:
        raise CheckpointError(f"{path}: not a network saved by evokern: {error}") from error
    if not _are_genomes(genomes, network):
        wanted = f"genomes float32 [..., {network.layout.size}] for the network"
        raise CheckpointError(message(str(path), wanted, f"{genomes.dtype} {list(genomes.shape)}"))
    return network, tensors, facts


def _are_genomes(genomes: npt.NDArray[Any], network: Network) -> bool:
    shaped = genomes.ndim in (1, 2) and genomes.shape[-1] == network.layout.size
    return bool(genomes.dtype == np.float32) and shaped


def describe(network: Network) -> dict[str, Any]:
    """A network as plain JSON values."""
    described = [_describe_layer(layer) for layer in network.layers]
    return {"input_shape": list(network.input_shape), "layers": described}


def rebuild(description: Mapping[str, Any]) -> Network:
    """The network that ``describe`` described."""
    built = tuple(_rebuild_layer(entry) for entry in description["layers"])
    return Network(built, tuple(description["input_shape"]))


def _describe_layer(layer: layers.Layer) -> dict[str, Any]:
    values = {name: _described(getattr(layer, name)) for name in (f.name for f in fields(layer))}
    return {"kind": type(layer).__name__, **values}


def _described(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_described(part) for part in value]
    return _describe_layer(value) if isinstance(value, layers.LAYERS) else value


def _rebuild_layer(entry: Mapping[str, Any]) -> layers.Layer:
    kinds = {kind.__name__: kind for kind in layers.LAYERS}
    values = {name: _rebuilt(value) for name, value in entry.items() if name != "kind"}
    return kinds[entry["kind"]](**values)


def _rebuilt(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_rebuilt(part) for part in value)
    return _rebuild_layer(value) if isinstance(value, dict) else value


def _tensor_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[Content]:
    """A safetensors file in pieces. The library's own writer needs all of it in memory at once.

    The same tensors and metadata give the same bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        dtype, shape = _kind(tensor)
        if dtype not in _DTYPES:
            raise DtypeError(message(name, f"one of {', '.join(_DTYPES)}", dtype))
        start, end = end, end + int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {
            "dtype": _DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if isinstance(tensor, Rows):
            for start in range(0, len(tensor.rows), CHUNK_ROWS):
                yield tensor.bank[tensor.rows[start : start + CHUNK_ROWS]].tobytes()
        else:
            yield tensor.tobytes()


def _kind(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    if isinstance(tensor, Rows):
        return "float32", (len(tensor.rows), tensor.bank.shape[1])
    dtype = tensor.dtype
    return dtype.name if dtype.isnative else dtype.str, tensor.shape


def _numbered(folder: Path, suffix: str) -> list[Path]:
    """The files of checkpoints, oldest first; what else lies there is nobody's business here."""
    paths = [path for path in folder.glob(f"*{suffix}") if re.fullmatch("[0-9]{9,}", path.stem)]
    return sorted(paths, key=lambda path: int(path.stem))


def _own_digest(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _hashed(pieces: Iterator[Content], digest: hashlib._Hash) -> Iterator[Content]:
    for piece in pieces:
        digest.update(piece)
        yield piece
