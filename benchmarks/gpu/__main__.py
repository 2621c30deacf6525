"""`make gpu`: parity, a run, compute-sanitizer and timings on a machine with a GPU.

Usage: python -m benchmarks.gpu [--device cuda] [--only parity,run,sanitizer,timings]
       [--minutes 20] [--out FOLDER] [--sample N]

Exit status: 0, 1 where results differ or something failed, 2 where there is no GPU.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tyro

from benchmarks.gpu import parity, run, sanitizer, timings
from benchmarks.gpu.report import (
    HARNESS,
    RESULTS,
    ROOT,
    Budget,
    Rows,
    Verdict,
    facts_of,
    folder_of,
    run_within,
    use_harness,
    why_not,
    write_facts,
)
from evokern.errors import ArgumentError, EvokernError, message

SHARES = {"parity": 0.4, "run": 0.15, "sanitizer": 0.25, "timings": 1.0}
"""The parts in their order, and how much of all the time each may take at most."""

_TINY_SAMPLE = 6
_GRACE_S = 30.0  # what a part may take beyond its time before it is ended


@dataclass(frozen=True)
class Options:
    """Proves and times the CUDA kernels on this machine's GPU; writes as it goes."""

    device: str = "cuda"
    """cuda, cuda:1, ..., or harness: the kernels on the processor, at tiny sizes."""
    only: str = ",".join(SHARES)
    """Parts, with commas between."""
    minutes: float = 20.0
    """For all parts; what there is no time for is left out, and said so."""
    out: Path | None = None
    """Folder for the results; benchmarks/results/<device> if not given."""
    sample: int = 0
    """About so many parity cases of each op; 0: all of them, or few on the harness."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Raises ArgumentError for options that make no sense."""
    options = tyro.cli(Options, args=arguments, prog="python -m benchmarks.gpu")
    parts = options.only.split(",")
    if not set(parts) <= set(SHARES):
        raise ArgumentError(message("--only", f"some of {','.join(SHARES)}", options.only))
    reason = why_not(options.device)
    if reason:
        print(f"benchmarks.gpu: nothing can run on {options.device}: {reason}", file=sys.stderr)
        return 2
    facts = facts_of(options.device)
    folder = (options.out or folder_of(options.device, facts)).resolve()
    if options.device == HARNESS and folder.is_relative_to(RESULTS):
        wanted = f"a folder outside {RESULTS.relative_to(ROOT)}, which is for what GPUs did"
        raise ArgumentError(message("--out", wanted, str(folder)))
    budget = Budget.of(60 * options.minutes)
    write_facts(folder, facts)
    if len(parts) == 1:
        good = _run_here(parts[0], options, folder, budget, facts)
    else:
        print(f"{facts['device']}, results in {folder}", flush=True)
        good = all([_run_apart(part, options, folder, budget) for part in SHARES if part in parts])
    return 0 if good else 1


def _run_apart(part: str, options: Options, folder: Path, budget: Budget) -> bool:
    """The part in a process of its own: a kernel that hangs or breaks the device ends with it."""
    seconds = min(budget.left(), 60 * options.minutes * SHARES[part])
    if seconds <= 0:
        _note(folder, part, Verdict(True, "left out: out of time"))
        return True
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", options.device]
    command += ["--only", part, "--minutes", str(seconds / 60), "--out", str(folder)]
    command += ["--sample", str(options.sample)]
    status = run_within(seconds + _GRACE_S, command)
    if status is None:
        _note(folder, part, Verdict(False, f"did not end in {seconds + _GRACE_S:.0f} s"))
        return False
    if status not in (0, 1):
        _note(folder, part, Verdict(False, f"ended with status {status}"))
    return status == 0


def _run_here(
    part: str, options: Options, folder: Path, budget: Budget, facts: dict[str, str]
) -> bool:
    try:
        verdict = _verdict_of(part, options, folder, budget, facts)
    except Exception as error:
        traceback.print_exc()
        verdict = Verdict(False, f"{type(error).__name__}: {error}")
    _note(folder, part, verdict)
    return verdict.good


def _verdict_of(
    part: str, options: Options, folder: Path, budget: Budget, facts: dict[str, str]
) -> Verdict:
    """The part in this process; its results are in <part>.csv."""
    device, tiny = options.device, options.device == HARNESS
    if tiny:
        use_harness()

    def rows(columns: Sequence[str]) -> Rows:
        return Rows(folder / f"{part}.csv", columns)

    if part == "parity":
        sample = options.sample or (_TINY_SAMPLE if tiny else 0)
        return parity.run(device, rows(parity.COLUMNS), budget, sample)
    if part == "run":
        return run.run(device, rows(run.COLUMNS), budget)
    if part == "sanitizer":
        return sanitizer.run(device, rows(sanitizer.COLUMNS), budget, folder)
    return timings.run(device, rows(timings.COLUMNS), budget, facts)


def _note(folder: Path, part: str, verdict: Verdict) -> None:
    """A line in parts.txt, and on the terminal."""
    folder.mkdir(parents=True, exist_ok=True)
    line = f"{part}: {'good' if verdict.good else 'BAD'}: {verdict.text}"
    with (folder / "parts.txt").open("a") as file:
        file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ} {line}\n")
    print(line, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EvokernError as error:
        sys.exit(f"benchmarks.gpu: {error}")
