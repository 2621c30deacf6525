"""Metrics of a run: one JSON object per line, written at once; and what a run folder tells."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evokern.errors import CheckpointError, message
from evokern.files import append, open_to_append, replace_file, sync

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"

CONFIG_FORMAT = 1
"""Version of config.json; a public contract."""


class MetricsFile:
    """Appends records to ``metrics.jsonl``; records after ``step`` are dropped first.

    So a run that goes on from a checkpoint leaves the file that an unbroken run leaves.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self._path = path
        if path.exists():
            kept = [record for record in read_metrics(path) if step_of(record) <= step]
            replace_file(path, "".join(map(_line, kept)).encode())
        self._file = open_to_append(path)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        append(self._file, self._path, _line(record).encode())

    def sync(self) -> None:
        """Returns when all records are on the disk. Raises StorageError."""
        sync(self._file, self._path)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


@dataclass(frozen=True)
class RunRecords:
    """What a run folder tells: settings, records (oldest first), and the result when finished."""

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]
    result: dict[str, Any] | None


def read_run(folder: Path) -> RunRecords:
    """A run folder's ``config.json``, ``metrics.jsonl`` and, if there, ``result.json``.

    Raises CheckpointError if the folder is no run or has no records yet.
    """
    if not (folder / CONFIG).is_file():
        got = "no such folder" if not folder.is_dir() else f"a folder without {CONFIG}"
        raise CheckpointError(message(str(folder), "the folder of a run", got))
    config = read_json(folder / CONFIG)
    if (found := config.get("format", CONFIG_FORMAT)) != CONFIG_FORMAT:
        raise CheckpointError(message(str(folder / CONFIG), f"format {CONFIG_FORMAT}", repr(found)))
    path = folder / METRICS
    records = read_metrics(path) if path.is_file() else []
    if not records:
        raise CheckpointError(f"{folder}: the run has no records yet")
    result = read_json(folder / RESULT) if (folder / RESULT).is_file() else None
    return RunRecords(folder, config, records, result)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records of a metrics file, oldest first.

    A last line that a crash cut off is left out. Raises CheckpointError if the file cannot be read
    or another line is no record.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        record = _parse(line)
        if record is None or not _has_step(record):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            wanted = "a JSON object with its generation or iteration"
            raise CheckpointError(message(f"{path}, line {number}", wanted, repr(line[:80])))
        records.append(record)
    return records


def step_of(record: dict[str, Any]) -> int:
    """The generation of a record, or the iteration where training is by gradients."""
    return int(record["generation"] if "generation" in record else record["iteration"])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises CheckpointError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    value = _parse(content)
    if value is None:
        raise CheckpointError(message(str(path), "a JSON object", repr(content[:80])))
    return value


def _has_step(record: dict[str, Any]) -> bool:
    return isinstance(record.get("generation", record.get("iteration")), int)


def finite_or_none(value: Any) -> float | None:
    """A number for a record: JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):  # bad JSON as well as bad UTF-8
        return None
    return value if isinstance(value, dict) else None
