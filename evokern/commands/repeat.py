"""``evokern repeat``: one training command over many seeds and variants, and the statistics.

``OUT/VARIANT/seed-S`` is a run, ``OUT/VARIANT/seed-S.log`` its output; ``OUT/summary.json`` and
``OUT/curves.png`` tell about all of them, ``OUT/repeat.json`` how they were made.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import tyro

from evokern.checkpoint import write_json
from evokern.comparison import (
    Group,
    RankTest,
    Summary,
    last_value,
    mann_whitney,
    scipy_stats,
    summarise,
)
from evokern.errors import ArgumentError, CheckpointError, message
from evokern.files import append, locked, make_folder, open_to_append
from evokern.metrics import CONFIG, RESULT, Run, read_json, read_run
from evokern.plots import plot_groups

CHILD = (sys.executable, "-m", "evokern")
"""The command that the words of a variant are given to."""

METRIC = "holdout_accuracy/best"

_FORMAT = 1
_POLL_SECONDS = 0.05
_TAIL_LINES = 15
_TRAINING = ("ea", "adam")
OWN_FLAGS = ("--seed", "--run-dir")  # set for every child
_USAGE_ERROR = 2  # the exit code of a command that was given wrong flags


@dataclass(frozen=True)
class RepeatCommand:
    """Run one training command with many seeds, and with variants of its settings.

    The command follows after two dashes: evokern repeat --seeds 5 -- ea mnist --preset quick.
    Giving the same command again goes on where it stopped: finished runs are not run again.
    """

    seeds: int = 15
    """Runs per variant, with as many seeds in a row."""
    first_seed: int = 0
    """The first of the seeds."""
    jobs: int = 1
    """Runs at the same time; they share the processor's cores."""
    out: Path | None = None
    """Folder for all runs; default runs/repeat-COMMAND-DATASET-PRESET."""
    variant: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """'NAME: --flag value ...' adds flags to the command, 'NAME: adam mnist ...' replaces it.

    Give it several times to compare; default the command as it is, named base."""

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("first_seed", 0), ("jobs", 1)):
            if getattr(self, name) < least:
                raise ArgumentError(message(name, f"at least {least}", repr(getattr(self, name))))


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


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished, then compares; 1 if a run failed, 128 + N after signal N."""
    given = list(arguments)
    cut = given.index("--") if "--" in given else len(given)
    command = tyro.cli(RepeatCommand, args=given[:cut], prog="evokern repeat")
    variants = parse_variants(command.variant, given[cut + 1 :])
    if len(variants) > 1:
        scipy_stats()  # lacking, it should fail now and not after the last run
    out = command.out or Path("runs") / f"repeat-{_short_name(given[cut + 1 :])}"
    make_folder(out)
    with locked(out):
        remember(out, variants)
        trials = [
            Trial(name, seed, out / name / f"seed-{seed}", words)
            for seed in range(command.first_seed, command.first_seed + command.seeds)
            for name, words in variants.items()
        ]
        failed, stopped_by = run_trials(trials, command.jobs)
        finished = [trial for trial in trials if trial.finished]
        if finished and not stopped_by:
            report(finished, list(variants), out)
    for trial in failed:
        print(f"failed: {trial.variant}, seed {trial.seed}: {trial.log}", file=sys.stderr)
    if stopped_by:
        text = f"stopped with {len(finished)} of {len(trials)} runs finished"
        print(f"{text}; the same command goes on from there", file=sys.stderr)
        return 128 + stopped_by
    return int(bool(failed))


def parse_variants(texts: Sequence[str], command: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The whole words of every variant's command, by name. Raises ArgumentError."""
    example = "evokern repeat --seeds 5 -- ea mnist"
    variants: dict[str, tuple[str, ...]] = {}
    for text in texts or ("base:",):
        name, colon, flags = text.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9][\w.,=+-]{0,99}", name) or name in variants:
            wanted = "'NAME: --flag value ...' with a new name that can be a folder's"
            raise ArgumentError(message("variant", wanted, repr(text)))
        try:
            added = shlex.split(flags)
        except ValueError as error:
            raise ArgumentError(f"variant: {text!r}: {error}") from error
        replaces = bool(added) and not added[0].startswith("-")
        variants[name] = tuple(added if replaces else [*command, *added])
    for words in variants.values():
        if not words or words[0] not in _TRAINING:
            wanted = f"a training command ({' or '.join(_TRAINING)}) after --"
            got = repr(shlex.join(words)) if words else "none"
            raise ArgumentError(message("command", wanted, got, f"as in: {example}"))
        for word in words:
            if flag_of(word) in OWN_FLAGS:
                wanted = "a command without --seed and --run-dir, which repeat sets"
                raise ArgumentError(message("command", wanted, word))
    return variants


def run_trials(
    trials: Sequence[Trial], jobs: int, after: Callable[[Trial], None] | None = None
) -> tuple[list[Trial], int]:
    """Runs what is not finished, ``jobs`` children at a time; ``after`` is called when one is.

    Gives the trials that failed and the signal that stopped it, or 0. SIGINT, SIGTERM and SIGHUP
    stop the children by SIGINT and wait until they have saved; a second signal kills them. Raises
    ArgumentError when a child refuses its flags, which the other seeds' children would as well.
    """
    waiting = deque(trial for trial in trials if not trial.finished)
    done = len(trials) - len(waiting)
    if done:
        print(f"{done} of {len(trials)} runs are finished already", flush=True)
    running: list[_Child] = []
    failed: list[Trial] = []
    durations: list[float] = []
    told = 0
    with _signals() as received, _none_left(running):
        while running or (waiting and not received):
            while waiting and len(running) < jobs and not received:
                running.append(_start(waiting.popleft(), jobs))
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
                print(f"[{done}/{len(trials)}] {_outcome(child)}{_left(left)}", flush=True)
                if child.process.returncode == _USAGE_ERROR:
                    words = child.trial.words
                    wanted, mend = f"flags that {words[0]} takes", f"see {child.trial.log}"
                    raise ArgumentError(message("command", wanted, repr(shlex.join(words)), mend))
                if not child.trial.finished:
                    failed.append(child.trial)
                elif after:
                    after(child.trial)
    return failed, received[0] if received else 0


def report(trials: Sequence[Trial], names: Sequence[str], out: Path) -> None:
    """Prints and writes the statistics of finished trials: summary.json and curves.png."""
    seeds: dict[str, list[int]] = {}
    runs: dict[str, list[Run]] = {}
    for trial in trials:
        seeds.setdefault(trial.variant, []).append(trial.seed)
        runs.setdefault(trial.variant, []).append(read_run(trial.folder))
    holdout = {name: [_holdout(run) for run in runs[name]] for name in names if name in runs}
    test = {name: [_test(run) for run in runs[name]] for name in holdout}
    ranks = {
        (first, second): mann_whitney(holdout[first], holdout[second])
        for first, second in permutations(holdout, 2)
    }
    summary: dict[str, Any] = {
        "format": _FORMAT,
        "metric": f"last {METRIC}",
        "variants": {name: {"seeds": seeds[name]} for name in holdout},
        "mann_whitney": [
            {"greater": first, "than": second, **asdict(result)}
            for (first, second), result in ranks.items()
        ],
    }
    for part, values in (("holdout_accuracy", holdout), ("test_accuracy", test)):
        for name, sample in values.items():
            numbers = {**asdict(summarise(sample)), "values": sample}
            summary["variants"][name][part] = numbers
    write_json(out / "summary.json", summary)
    plot_groups([Group(name, tuple(runs[name])) for name in holdout], out / "curves.png")
    show({name: (summarise(holdout[name]), summarise(test[name])) for name in holdout}, ranks)
    print(f"summary  {out / 'summary.json'}\ncurves   {out / 'curves.png'}")


def show(
    summaries: Mapping[str, tuple[Summary, Summary]],
    ranks: Mapping[tuple[str, str], RankTest],
) -> None:
    """Prints a table of the variants (hold-out, test) and one of the significance tests."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table()
    table.add_column("variant", overflow="fold")
    table.add_column("measured on")
    for name in ("n", "median", "quartiles", "min", "max"):
        table.add_column(name, justify="right")
    for name, pair in summaries.items():
        for part, s in zip(("hold-out", "test"), pair, strict=True):
            table.add_row(
                name if part == "hold-out" else "",
                part,
                str(s.n),
                f"{s.median:.2%}",
                f"{s.q1:.2%}, {s.q3:.2%}",
                f"{s.minimum:.2%}",
                f"{s.maximum:.2%}",
                end_section=part == "test",
            )
    console.print("accuracy over seeds", table)
    if not ranks:
        return
    table = Table("is", "greater than", "U", "p", "method")
    for (first, second), test in ranks.items():
        table.add_row(first, second, f"{test.u:g}", f"{test.p:.4g}", test.method)
    console.print("one-sided Mann-Whitney U tests of the last hold-out accuracy", table)


def _start(trial: Trial, jobs: int) -> _Child:
    words = [*trial.words, "--seed", str(trial.seed), "--run-dir", str(trial.folder)]
    if jobs > 1 and not any(flag_of(word) == "--threads" for word in words):
        words += ["--threads", str(max(1, len(os.sched_getaffinity(0)) // jobs))]
    make_folder(trial.log.parent)
    with open_to_append(trial.log) as log:
        append(log, trial.log, f"$ evokern {shlex.join(words)}\n".encode())
        log_start = log.tell()
        # A group of its own: a terminal's Ctrl-C must reach a child once, through this process.
        process = subprocess.Popen(
            [*CHILD, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        return _Child(trial, process, log_start, time.monotonic())


def _stop(running: Sequence[_Child], *, kill: bool) -> None:
    if not kill:
        print(
            f"stopping {len(running)} runs, which save first; a second signal kills them",
            file=sys.stderr,
        )
    for child in running:
        child.process.send_signal(signal.SIGKILL if kill else signal.SIGINT)


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
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
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


def _holdout(run: Run) -> float:
    value = last_value(run, METRIC)
    if value is None:
        raise CheckpointError(f"{run.folder}: no record of {METRIC}")
    return value


def _test(run: Run) -> float:
    value = (run.result or {}).get("test_accuracy")
    if value is None:
        raise CheckpointError(f"{run.folder}: no test_accuracy in {RESULT}")
    return float(value)


def remember(out: Path, variants: Mapping[str, Sequence[str]]) -> None:
    """Notes how the runs in ``out`` are made. Raises ArgumentError if they were made otherwise.

    A variant none of whose children came to make a run may be corrected.
    """
    path = out / "repeat.json"
    noted = read_json(path)["variants"] if path.is_file() else {}
    known = {name: made for name, made in noted.items() if any(out.glob(f"{name}/seed-*/{CONFIG}"))}
    for name, words in variants.items():
        if known.get(name, list(words)) != list(words):
            wanted = f"{shlex.join(known[name])} for {name}, as the runs in {out} were made"
            mend = "choose another folder by --out"
            raise ArgumentError(message("command", wanted, shlex.join(words), mend))
    merged = known | {name: list(words) for name, words in variants.items()}
    write_json(path, {"format": _FORMAT, "variants": merged})


def _short_name(command: Sequence[str]) -> str:
    """The command's words before its first flag, and its preset."""
    first = next((i for i, word in enumerate(command) if word.startswith("-")), len(command))
    parts = list(command[:first])
    for word, following in zip(command, [*command[1:], ""], strict=False):
        if flag_of(word) == "--preset":
            parts.append(word.partition("=")[2] or following)
    return re.sub(r"[^\w.-]+", "-", "-".join(parts)) or "variants"


def flag_of(word: str) -> str:
    """``--run_dir=x`` is ``--run-dir``, as for tyro."""
    return word.partition("=")[0].replace("_", "-")
