"""The command `python -m benchmarks` (`evokern bench`): runs, prints tables, appends to a CSV file.

Usage: NAME [--rounds N] [--threads 1 2] [--quick] [--csv PATH], with NAME all or one of BENCHMARKS.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import (
    bench_conv,
    bench_generation,
    bench_growth,
    bench_mutants,
    bench_nes,
    bench_network,
    bench_replay,
    bench_routing,
    bench_variation,
    limits,
    memory,
)
from benchmarks.harness import Cases, Result, measure
from evokern import _cpu
from evokern.doctor import processor, versions
from evokern.errors import ArgumentError, DataError, message

BENCHMARKS: dict[str, Callable[[bool], Cases]] = {
    "network": bench_network.cases,
    "mutants": bench_mutants.cases,
    "variation": bench_variation.cases,
    "generation": bench_generation.cases,
    "growth": bench_growth.cases,
    "conv": bench_conv.cases,
    "routing": bench_routing.cases,
    "replay": bench_replay.cases,
    "nes": bench_nes.cases,
    "limits": limits.cases,
}

NOTES: dict[str, Callable[[Sequence[Result]], list[str]]] = {
    "generation": bench_generation.notes,
    "growth": bench_growth.notes,
}
"""What a benchmark says below each of its tables."""

COLUMNS = (
    *("date", "commit", "cpu", "isa", "libraries", "contest", "contestant", "threads", "rounds"),
    *("wall_s", "cpu_s", "rate", "unit", "percent_of_limit", "wall_ratio", "cpu_ratio"),
)
"""Of the CSV file. A row holds medians; ratios are the contestant's time over evokern's."""

_FILE_COLUMNS = 120  # of tables that no terminal shows


@dataclass(frozen=True)
class Options:
    """Measure evokern beside its rivals and the limits of this machine."""

    name: tyro.conf.Positional[Literal["all", *BENCHMARKS, "memory"]] = "all"  # type: ignore[valid-type]
    """What to measure."""
    rounds: int = 9
    """How often every contestant runs; reported are medians."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads."""
    quick: bool = False
    """Sizes so small that times mean little: shows that everything runs."""
    csv: Path | None = None
    """File to append results to; made if it is not there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 if all contestants computed what they should.

    Raises ArgumentError or DataError for options that make no sense, MismatchError for a
    contestant with a wrong result.
    """
    options = tyro.cli(
        Options,
        args=None if arguments is None else list(arguments),
        prog="evokern bench",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    for name, values in (("rounds", (options.rounds,)), ("threads", options.threads)):
        if not values or min(values) < 1:
            raise ArgumentError(message(f"--{name}", "integers >= 1", f"{list(values)}"))
    if options.csv is not None:
        _check_header(options.csv)
    width = None if sys.stdout.isatty() else _FILE_COLUMNS
    console = Console(highlight=False, markup=False, width=width)
    facts = machine()
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), soft_wrap=True)
    for name, cases in BENCHMARKS.items():
        if options.name in ("all", name):
            _run(name, cases(options.quick), options, console, facts)
    if options.name in ("all", "memory"):
        for line in memory.report(options.quick):
            console.print(line, soft_wrap=True)
    return 0


def _run(
    name: str, cases: Cases, options: Options, console: Console, facts: Mapping[str, str]
) -> None:
    for title, contest in cases.items():
        with contest() as entered:
            results = measure(entered, options.rounds, options.threads)
        console.print(_table(title, options.rounds, results))
        lines = [f"left out: {who}: {why}" for who, why in entered.missing.items()]
        lines += NOTES[name](results) if name in NOTES else []
        for line in lines:
            console.print(line, soft_wrap=True)
        if options.csv is not None:
            _append(options.csv, facts, title, results)


def machine() -> dict[str, str]:
    """What results depend on, by the names of the CSV columns."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": _commit(),
        "cpu": f"{processor() or 'unknown'} x {len(os.sched_getaffinity(0))}",  # that it may use
        "isa": str(_cpu.instruction_set()),
        "libraries": " ".join(versions(("numpy", "torch", "jax"))),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        shown = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return shown.stdout.strip()


def _table(title: str, rounds: int, results: Sequence[Result]) -> Table:
    table = Table(
        title=f"{title} (medians of {rounds} rounds)", title_justify="left", box=box.SIMPLE
    )
    table.add_column("contestant")
    for column in ("threads", "wall s", "CPU s", "rate", "% of limit", "x wall", "x CPU"):
        table.add_column(column, justify="right", no_wrap=True)
    for number, r in enumerate(results):
        table.add_row(
            r.contestant,
            str(r.threads),
            f"{r.wall_s:.3g}",
            f"{r.cpu_s:.3g}",
            f"{_significant(r.rate)} {r.unit}",
            _shown(r.percent_of_limit, ".0f"),
            _shown(r.wall_ratio, ".2f"),
            _shown(r.cpu_ratio, ".2f"),
            end_section=[other.threads for other in results[number + 1 :][:1]] != [r.threads],
        )
    return table


def _significant(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.3g}"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _check_header(path: Path) -> None:
    if not path.exists():
        return
    with path.open(newline="") as file:
        header = next(csv.reader(file), [])
    if header != list(COLUMNS):
        raise DataError(
            message("--csv", f"a file with the columns {','.join(COLUMNS)}", ",".join(header))
        )


def _append(path: Path, facts: Mapping[str, str], contest: str, results: Sequence[Result]) -> None:
    fresh = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        for r in results:
            numbers = {
                "wall_s": r.wall_s,
                "cpu_s": r.cpu_s,
                "rate": r.rate,
                "percent_of_limit": r.percent_of_limit,
                "wall_ratio": r.wall_ratio,
                "cpu_ratio": r.cpu_ratio,
            }
            writer.writerow(
                {
                    **facts,
                    "contest": contest,
                    "contestant": r.contestant,
                    "threads": r.threads,
                    "rounds": len(r.wall_rounds),
                    "unit": r.unit,
                    **{name: _shown(value, ".6g") for name, value in numbers.items()},
                }
            )
