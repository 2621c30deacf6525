"""The shell that long runs share: folder, settings, resume, records, checkpoints, signals.

A run lives in a folder: config.json, metrics.jsonl, checkpoints/ and, at its end, the networks,
curves.png and, written last, result.json. Only one process works in a folder at a time.
"""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

from evokern.checkpoint import (
    Checkpoint,
    Tensor,
    newest_checkpoint,
    save_checkpoint,
    tidy,
    write_json,
)
from evokern.errors import ArgumentError, CheckpointError, RunStopped
from evokern.files import is_locked, locked, make_folder
from evokern.metrics import (
    CONFIG,
    METRICS,
    RESULT,
    MetricsFile,
    read_json,
    read_metrics,
)
from evokern.progress import Progress
from evokern.tensorboard import TensorBoard

CHECKPOINTS = "checkpoints"

State = TypeVar("State")
Result = TypeVar("Result")


class Run:
    """A run in its folder, from the newest checkpoint on.

    >>> with Run(folder, settings, "generation", total, log_every=25) as run:
    ...     state = run.restore(read) or first_state()
    ...     for generation in run.steps():
    ...         state = next_state(state, generation)
    ...         if run.logs:
    ...             run.record({"generation": generation, ...}, "in short")
    ...         if run.saves:
    ...             run.save(tensors_of(state))

    Signals that ask to stop let ``saves`` be true, and ``steps`` then raises RunStopped. Entering
    raises ArgumentError when the folder holds a run with other settings, StorageError when another
    process works there or something cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        unit: str,
        total: int,
        *,
        log_every: int,
        checkpoint_every: int,
        keep: int = 2,
        tensorboard: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.total = total
        self.step = 0
        self._settings = plain(settings)
        self._unit = unit
        self._log_every, self._checkpoint_every, self._keep = log_every, checkpoint_every, keep
        self._tensorboard = tensorboard
        self._seconds_before = self._cpu_seconds_before = 0.0
        self._saved = 0
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        if (self.folder / RESULT).is_file() and may_claim(self.folder, self._settings):
            return self  # it is only read, wherever it lies
        make_folder(self.folder)
        with ExitStack() as opened:
            opened.enter_context(locked(self.folder))
            self._stop = opened.enter_context(stop_signals())
            claim(self.folder, self._settings)
            self._started, self._cpu_started = time.monotonic(), time.process_time()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def result(self, kind: type[Result]) -> Result | None:
        """The result of a finished run, as a dataclass; None before. Raises CheckpointError."""
        path = self.folder / RESULT
        if not path.exists():
            return None
        try:
            return kind(**read_json(path))
        except TypeError as error:
            raise CheckpointError(f"{path}: not the result of such a run: {error}") from error

    def restore(self, read: Callable[[Checkpoint], State]) -> State | None:
        """What ``read`` makes of the newest checkpoint it can read; None where there is none."""

        def read_all(checkpoint: Checkpoint) -> tuple[State, int, float, float]:
            facts = checkpoint.facts
            return read(checkpoint), checkpoint.step, facts["seconds"], facts["cpu_seconds"]

        folder = self.folder / CHECKPOINTS
        found, skipped = newest_checkpoint(folder, run=digest_of(self._settings), read=read_all)
        for reason in skipped:
            print(f"skipped a checkpoint: {reason}", flush=True)
        if found is None:
            return None
        state, self.step, self._seconds_before, self._cpu_seconds_before = found
        tidy(folder, self.step, keep=self._keep)
        return state

    def steps(self) -> Iterator[int]:
        """The steps that are left. Raises RunStopped after one that a signal came in."""
        path = self.folder / METRICS
        self._metrics = MetricsFile(path, self.step)
        self._opened.callback(self._metrics.close)
        self._board = TensorBoard(self.folder, read_metrics(path)) if self._tensorboard else None
        if self._board:
            self._opened.callback(self._board.close)
        self._progress = Progress(self._unit, self.total, self.step)
        self._opened.enter_context(self._progress)
        for step in range(self.step + 1, self.total + 1):
            self.step = step
            yield step
            # A signal that came too late for this step's save is heard in the next one.
            if self._stop.signal and self._saved == step and step < self.total:
                raise RunStopped(self.folder, f"{self._unit} {step}", self._stop.signal)

    @property
    def seconds(self) -> float:
        """Time that the run took so far, in all processes that worked on it."""
        return round(self._seconds_before + time.monotonic() - self._started, 3)

    @property
    def cpu_seconds(self) -> float:
        """Time of all its threads on processors."""
        return round(self._cpu_seconds_before + time.process_time() - self._cpu_started, 3)

    @property
    def times(self) -> dict[str, float]:
        """Both times, as records and checkpoints name them."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}

    @property
    def logs(self) -> bool:
        """Whether this step is recorded."""
        return self.step == self.total or self.step % self._log_every == 0

    @property
    def saves(self) -> bool:
        """Whether this step is saved."""
        due = self.step == self.total or self.step % self._checkpoint_every == 0
        return due or self._stop.signal != 0

    def record(self, record: dict[str, Any], text: str) -> None:
        """Keeps a record: metrics.jsonl, the terminal (as ``text``), TensorBoard on request."""
        record = {**record, **self.times}
        self._metrics.write(record)
        self._progress.show(self.step, text)
        if self._board:
            self._board.write(record)

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint of this step."""
        self._metrics.sync()
        save_checkpoint(
            self.folder / CHECKPOINTS,
            self.step,
            tensors,
            {**(facts or {}), **self.times},
            run=digest_of(self._settings),
            keep=self._keep,
        )
        self._saved = self.step


def run_folder(wanted: Path, settings: Mapping[str, Any]) -> Path:
    """``wanted``, or ``wanted-2``, ...: the first that holds a run with these settings or none."""
    candidate, number = wanted, 1
    while _is_taken(candidate, plain(settings)):
        number += 1
        candidate = wanted.with_name(f"{wanted.name}-{number}")
    return candidate


def _is_taken(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a run with other settings is there, be it that it has just been started."""
    there = (folder / CONFIG).exists() and not _same(read_json(folder / CONFIG), settings)
    return there and (is_locked(folder) or not may_claim(folder, settings))


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """As checkpoints see it: 1 is not 1.0, of which `elites` makes something else."""
    return digest_of(one) == digest_of(other)


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Writes config.json, or compares it with the one there.

    Raises ArgumentError with the difference when the folder holds a run with other settings.
    """
    path = folder / CONFIG
    if not may_claim(folder, settings):
        raise ArgumentError(
            f"{folder}: holds a run with other settings: {difference(read_json(path), settings)}; "
            "choose another folder, or give the settings there to go on with that run"
        )
    if not path.exists() or not _same(read_json(path), settings):
        write_json(path, settings)


def may_claim(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder is free for a run: it has these settings, or nothing was made in it yet
    (a run that failed at its start must not keep the corrected command out)."""
    path = folder / CONFIG
    return not path.exists() or _same(read_json(path), settings) or not has_begun(folder)


def has_begun(folder: Path) -> bool:
    """Whether the run in a folder has made anything: a record, a checkpoint or its result."""
    metrics = folder / METRICS
    recorded = metrics.exists() and metrics.stat().st_size > 0
    return recorded or (folder / RESULT).exists() or any(folder.glob(f"{CHECKPOINTS}/*.json"))


def difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two settings, in words."""
    if there.get("algorithm") != now.get("algorithm"):
        return f"algorithm: {there.get('algorithm')!r} there, {now.get('algorithm')!r} now"
    return "; ".join(
        f"{name}: {_shown(there, name)} there, {_shown(now, name)} now"
        for name in sorted({*there, *now})
        if _shown(there, name) != _shown(now, name)
    )


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "absent"


def digest_of(settings: Mapping[str, Any]) -> str:
    """What checkpoints know their run by: the SHA-256 of its settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    values: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    return values


def signals_to_heed() -> list[signal.Signals]:
    """SIGINT and SIGTERM, also in the background of a script, where a shell has SIGINT ignored:
    it is how runs are stopped. SIGHUP (the terminal was closed) unless nohup has it ignored."""
    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heeded.append(signal.SIGHUP)
    return heeded


@dataclass
class StopRequest:
    """The signal that asked the run to stop, or 0."""

    signal: int = 0


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Signals ask for a stop after the step; a second one acts at once, but for SIGHUP: a terminal
    that is closed sends several.

    Outside Python's main thread, where no handler can be set, signals do what they did.
    """
    stop = StopRequest()
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        _set_handlers({n: handler for n, handler in before.items() if n != signal.SIGHUP})

    try:
        for number in signals_to_heed():
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
