"""What ``evokern repeat`` and ``evokern study`` share: training runs in children of this process.

``OUT/VARIANT/seed-S`` is a run, ``OUT/VARIANT/seed-S.log`` its output, and ``OUT/repeat.json`` says
how all of them were made.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from evokern.checkpoint import write_json
from evokern.drivers.run import has_begun, signals_to_heed
from evokern.errors import ArgumentError, CheckpointError, message
from evokern.files import append, make_folder, open_to_append
from evokern.metrics import RESULT, read_json

_SAFE_PATH = () if sys.path[0] in ("", os.getcwd()) else ("-P",)
CHILD = (sys.executable, *_SAFE_PATH, "-m", "evokern.commands.child")
"""The command that the words of a variant are given to; it stops when this process is gone. Like
this process it imports from the current folder (``python -m evokern``) or not (``evokern``)."""

NOTES = "repeat.json"
"""The file that says how the runs in a folder are made."""

OWN_FLAGS = ("--seed", "--run-dir")
"""Set for every child."""

_FORMAT = 1  # of repeat.json
_POLL_SECONDS = 0.05
_TAIL_LINES = 15
_USAGE_ERROR = 2  # the exit code of a command that was given wrong flags


@dataclass(frozen=True)
class Trial:
    """One child: a variant's words (command and flags) with one seed, in one folder."""

    variant: str
    seed: int
    folder: Path
    words: tuple[str, ...]

    @property
    def log(self) -> Path:
        """Where the child's output goes."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def finished(self) -> bool:
        """Whether the run has its result."""
        return (self.folder / RESULT).is_file()


@dataclass
class _Child:
    trial: Trial
    process: subprocess.Popen[bytes]
    log_start: int
    started: float


def remember(out: Path, variants: Mapping[str, Sequence[str]]) -> None:
    """Notes how the runs in ``out`` are made. Raises ArgumentError if they were made otherwise.

    A variant none of whose runs has begun may be corrected.
    """
    path = out / NOTES
    noted = _noted(path) if path.is_file() else {}
    known = {
        name: made
        for name, made in noted.items()
        if any(map(has_begun, out.glob(f"{name}/seed-*")))
    }
    for name, words in variants.items():
        if without_threads(known.get(name, words)) != without_threads(words):
            wanted = f"{shlex.join(known[name])} for {name}, as the runs in {out} were made"
            mend = "choose another folder by --out"
            raise ArgumentError(message("command", wanted, shlex.join(words), mend))
    merged = known | {name: list(words) for name, words in variants.items()}
    write_json(path, {"format": _FORMAT, "variants": merged})


def _noted(path: Path) -> dict[str, Sequence[str]]:
    """The variants in repeat.json. Raises CheckpointError where it is of another format."""
    content = read_json(path)
    if content.get("format") != _FORMAT or not isinstance(content.get("variants"), dict):
        wanted = f"format {_FORMAT} and variants"
        raise CheckpointError(message(str(path), wanted, repr(content)[:80]))
    variants: dict[str, Sequence[str]] = content["variants"]
    return variants


def without_threads(words: Sequence[str]) -> tuple[str, ...]:
    """A command but for the threads that it had, which change nothing that a run computes."""
    kept = list(words)
    for at, word in enumerate(kept):
        if flag_of(word) == "--threads":
            del kept[at : at + (1 if "=" in word else 2)]
            break
    return tuple(kept)


def run_trials(
    trials: Sequence[Trial], jobs: int, after: Callable[[Trial], None] | None = None
) -> tuple[list[Trial], int]:
    """Runs what is not finished, ``jobs`` children at a time; ``after`` is called when one is.

    Gives the trials that failed and the signal that stopped it, or 0. A signal that asks to stop
    stops the children by SIGINT and waits until they have saved; a second one kills them. Raises
    ArgumentError when a child refuses its flags, which the other seeds' children would as well.
    """
    waiting = deque(trial for trial in trials if not trial.finished)
    done = len(trials) - len(waiting)
    if done:
        _say(f"{done} of {len(trials)} runs are finished already")
    running: list[_Child] = []
    failed: list[Trial] = []
    durations: list[float] = []
    told = 0
    with _signals() as received, _lifeline() as stdin, _none_left(running):
        while running or (waiting and not received):
            while waiting and len(running) < jobs and not received:
                running.append(_start(waiting.popleft(), jobs, stdin))
            time.sleep(_POLL_SECONDS)
            if len(received) > told:
                _stop(running, kill=told > 0)
                told = len(received)
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                if received and not child.trial.finished:
                    continue
                done += 1
                durations.append(time.monotonic() - child.started)
                left = sum(durations) / len(durations) * (len(waiting) + len(running)) / jobs
                _say(f"[{done}/{len(trials)}] {_outcome(child)}{_left(left)}")
                if child.process.returncode == _USAGE_ERROR:
                    words = child.trial.words
                    wanted, mend = f"flags that {words[0]} takes", f"see {child.trial.log}"
                    raise ArgumentError(message("command", wanted, repr(shlex.join(words)), mend))
                if not child.trial.finished:
                    failed.append(child.trial)
                elif after:
                    after(child.trial)
    return failed, received[0] if received else 0


def _start(trial: Trial, jobs: int, stdin: int) -> _Child:
    words = [*trial.words, "--seed", str(trial.seed), "--run-dir", str(trial.folder)]
    if jobs > 1 and not any(flag_of(word) == "--threads" for word in words):
        words += ["--threads", str(max(1, len(os.sched_getaffinity(0)) // jobs))]
    make_folder(trial.log.parent)
    with open_to_append(trial.log) as log:
        append(log, trial.log, os.fsencode(f"$ evokern {shlex.join(words)}\n"))
        log_start = log.tell()
        # A group of its own: a terminal's Ctrl-C must reach a child once, through this process.
        process = subprocess.Popen(
            [*CHILD, *words],
            stdin=stdin,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        return _Child(trial, process, log_start, time.monotonic())


def _say(text: str) -> None:
    with suppress(OSError):  # a reader that went away stops no run
        print(text, flush=True)


def _stop(running: Sequence[_Child], *, kill: bool) -> None:
    if not kill:
        text = f"stopping {len(running)} runs, which save first; a second signal kills them"
        with suppress(OSError):
            print(text, file=sys.stderr)
    for child in running:
        child.process.send_signal(signal.SIGKILL if kill else signal.SIGINT)


@contextmanager
def _lifeline() -> Iterator[int]:
    """A pipe for the children's stdin, which ends with this process, even with SIGKILL."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


@contextmanager
def _none_left(running: Sequence[_Child]) -> Iterator[None]:
    """No child outlives an error, such as a full disk where logs are."""
    try:
        yield
    finally:
        for child in running:
            child.process.send_signal(signal.SIGINT)
        for child in running:
            child.process.wait()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the numbers of signals that ask to stop, instead of being ended by them."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if not received or number != signal.SIGHUP:  # a terminal that is closed sends several
            received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, note) for number in signals_to_heed()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(child: _Child) -> str:
    trial = child.trial
    what = f"{trial.variant}, seed {trial.seed}"
    if trial.finished:
        result = read_json(trial.folder / RESULT)
        return (
            f"{what}: test accuracy {result.get('test_accuracy', float('nan')):.2%}, "
            f"{time.monotonic() - child.started:.0f} s"
        )
    code = child.process.returncode
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    with trial.log.open("rb") as log:
        log.seek(child.log_start)
        lines = log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
    tail = "".join(f"\n    {line}" for line in lines)
    return f"{what}: FAILED ({how}, no {RESULT}); the end of {trial.log}:{tail}"


def _left(seconds: float) -> str:
    if seconds < 1:
        return ""
    left = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    return f"; about {left} left"


def flag_of(word: str) -> str:
    """``--run_dir=x`` is ``--run-dir``, as for tyro."""
    return word.partition("=")[0].replace("_", "-")
