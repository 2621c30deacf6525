"""``evokern repeat``: one training command over many seeds and variants, and the statistics.

``OUT/VARIANT/seed-S`` is a run (``commands/trials.py``); ``OUT/summary.json`` and
``OUT/curves.png`` tell about all of them.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any

import tyro

from evokern.checkpoint import write_json
from evokern.commands.trials import NOTES, OWN_FLAGS, Trial, flag_of, remember, run_trials
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
from evokern.files import locked, make_folder
from evokern.metrics import RESULT, RunRecords, read_run
from evokern.plots import plot_groups

METRIC = "holdout_accuracy/best"

_FORMAT = 1
_SUMMARY, _CURVES = "summary.json", "curves.png"
_TRAINING = ("ea", "adam")
_OWN_FILES = (NOTES, _SUMMARY, _CURVES)


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
        taken = name in variants or name in _OWN_FILES
        if not colon or taken or not re.fullmatch(r"[A-Za-z0-9][\w.,=+-]{0,99}", name):
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


def report(trials: Sequence[Trial], names: Sequence[str], out: Path) -> None:
    """Prints and writes the statistics of finished trials: summary.json and curves.png."""
    seeds: dict[str, list[int]] = {}
    runs: dict[str, list[RunRecords]] = {}
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
    write_json(out / _SUMMARY, summary)
    plot_groups([Group(name, tuple(runs[name])) for name in holdout], out / _CURVES)
    show({name: (summarise(holdout[name]), summarise(test[name])) for name in holdout}, ranks)
    print(f"summary  {out / _SUMMARY}\ncurves   {out / _CURVES}")


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


def _holdout(run: RunRecords) -> float:
    value = last_value(run, METRIC)
    if value is None:
        raise CheckpointError(f"{run.folder}: no record of {METRIC}")
    return value


def _test(run: RunRecords) -> float:
    value = (run.result or {}).get("test_accuracy")
    if value is None:
        raise CheckpointError(f"{run.folder}: no test_accuracy in {RESULT}")
    return float(value)


def _short_name(command: Sequence[str]) -> str:
    """The command's words before its first flag, and its preset."""
    first = next((i for i, word in enumerate(command) if word.startswith("-")), len(command))
    parts = list(command[:first])
    for word, following in zip(command, [*command[1:], ""], strict=False):
        if flag_of(word) == "--preset":
            parts.append(word.partition("=")[2] or following)
    return re.sub(r"[^\w.-]+", "-", "-".join(parts)) or "variants"
