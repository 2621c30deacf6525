"""The shell that long runs share: folder and settings, records, signals.

A run lives in a folder: config.json, metrics.jsonl, checkpoints/ and, at its end, the networks,
curves.png and, written last, result.json. Only one process works in a folder at a time.
"""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

from evokern.checkpoint import write_json
from evokern.errors import ArgumentError, CheckpointError
from evokern.metrics import (
    CONFIG,
    METRICS,
    RESULT,
    MetricsFile,
    read_json,
    read_metrics,
    step_of,
)
from evokern.progress import Progress
from evokern.tensorboard import TensorBoard

Result = TypeVar("Result")


class Records:
    """Where the records of a run go: metrics.jsonl, the terminal, and TensorBoard on request.

    ``unit`` ("generation") names the steps, of which there are ``total``; ``done`` were done
    before, by the run that this one continues.
    """

    def __init__(
        self, folder: Path, unit: str, total: int, *, done: int, tensorboard: bool
    ) -> None:
        path = folder / METRICS
        self._progress = Progress(unit, total, done)
        with ExitStack() as opened:
            self._file = MetricsFile(path, done)
            opened.callback(self._file.close)
            self._board = TensorBoard(folder, read_metrics(path)) if tensorboard else None
            if self._board:
                opened.callback(self._board.close)
            self._opened = opened.pop_all()

    def write(self, record: dict[str, Any], text: str) -> None:
        """Takes the newest record; ``text`` is its short form for the terminal."""
        self._file.write(record)
        self._progress.show(step_of(record), text)
        if self._board:
            self._board.write(record)

    def sync(self) -> None:
        """Returns when metrics.jsonl is on the disk: before a checkpoint says so."""
        self._file.sync()

    def __enter__(self) -> Self:
        self._opened.enter_context(self._progress)
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)


def run_folder(wanted: Path, settings: dict[str, Any]) -> Path:
    """``wanted``, or ``wanted-2``, ...: the first that holds a run with these settings or none."""
    candidate, number = wanted, 1
    while (candidate / CONFIG).exists() and read_json(candidate / CONFIG) != _plain(settings):
        number += 1
        candidate = wanted.with_name(f"{wanted.name}-{number}")
    return candidate


def open_run(folder: Path, settings: dict[str, Any]) -> str:
    """Writes config.json, or compares it with the one there; gives the digest of the settings.

    Raises ArgumentError with the difference when the folder holds a run with other settings.
    """
    path = folder / CONFIG
    settings = _plain(settings)
    if path.exists():
        there = read_json(path)
        if there != settings:
            differences = [
                f"{name}: {there.get(name)!r} there, {settings.get(name)!r} now"
                for name in sorted({*there, *settings})
                if there.get(name) != settings.get(name)
            ]
            raise ArgumentError(
                f"{folder}: holds a run with other settings: {'; '.join(differences)}; "
                "choose another folder, or give the settings there to go on with that run"
            )
    else:
        write_json(path, settings)
    return digest_of(settings)


def digest_of(settings: dict[str, Any]) -> str:
    """What checkpoints know their run by: the SHA-256 of its settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def read_result(folder: Path, kind: type[Result]) -> Result | None:
    """The result of a finished run, as a dataclass; None before. Raises CheckpointError."""
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return kind(**read_json(path))
    except TypeError as error:
        raise CheckpointError(f"{path}: not a result of this kind of run: {error}") from error


@dataclass
class StopRequest:
    """The signal that asked the run to stop, or 0."""

    signal: int = 0


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """SIGINT and SIGTERM ask for a stop after the generation; a second one acts at once.

    Outside Python's main thread, where no handler can be set, signals do what they did.
    """
    stop = StopRequest()
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        _set_handlers(before)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    except ValueError:
        before.clear()
    try:
        yield stop
    finally:
        _set_handlers(before)


def _set_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain
