"""``evokern plot``: curves over several runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from evokern.comparison import Group, X, first_reached, group_runs, summarise
from evokern.drivers.adam import AdamConfig
from evokern.drivers.config import EAConfig
from evokern.drivers.es_config import ESConfig
from evokern.drivers.run import plain
from evokern.errors import CheckpointError, message
from evokern.metrics import CONFIG, METRICS, RunRecords, read_metrics, read_run
from evokern.plots import plot_groups
from evokern.problems.classification import ClassificationConfig

_SETTINGS: dict[str, tuple[type, ...]] = {
    "ea": (ClassificationConfig, EAConfig),
    "es": (ClassificationConfig, ESConfig),
    "adam": (ClassificationConfig, AdamConfig),
}


@dataclass(frozen=True)
class PlotCommand:
    """Draw the curves of runs: a line for one run, median and inter-quartile band for several.

    Runs that differ only in the seed are one group. Its curve covers what all its runs have.
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]]
    """Folders of runs, or folders that hold such folders (as evokern repeat makes them)."""
    out: Path = Path("curves.png")
    """Picture to write: .png, .pdf or .svg."""
    metric: str = "holdout_accuracy/best"
    """Which number of metrics.jsonl to draw."""
    x: X = "generation"
    """What to draw it over; an iteration of gradient training counts as a generation."""
    group_by: tuple[str, ...] = ()
    """Settings (of config.json) that tell groups apart; default all but the seed."""
    y_range: tuple[float, float] | None = None
    """Lowest and highest value to show; default all."""
    reach: tuple[float, ...] = ()
    """Levels of the metric: where over x each is reached first, at the median of a group's runs."""


def main(arguments: Sequence[str]) -> int:
    """Draws the picture and prints what it holds."""
    command = tyro.cli(PlotCommand, args=list(arguments), prog="evokern plot")
    runs = [_with_defaults(run) for run in find_runs(command.runs)]
    groups = group_runs(runs, command.group_by)
    plot_groups(groups, command.out, metric=command.metric, x=command.x, y_range=command.y_range)
    for group in groups:
        print(f"{group.label}: {len(group.runs)} run{'s' * (len(group.runs) != 1)}")
        for level in command.reach:
            print(f"  {level:g}: {reached(group, command.metric, level, command.x)}")
    print(f"curves  {command.out}")
    return 0


def _with_defaults(run: RunRecords) -> RunRecords:
    """The run with the defaults of settings that are younger than it: its runs had them."""
    kinds = _SETTINGS.get(run.config.get("algorithm", ""), ())
    defaults = plain({field.name: field.default for kind in kinds for field in fields(kind)})
    return replace(run, config={**defaults, **run.config})


def reached(group: Group, metric: str, level: float, x: X) -> str:
    """Where the group's runs first reach a level, in words."""
    places = [first_reached(run, metric, level, x) for run in group.runs]
    there = [place for place in places if place is not None]
    if len(there) < len(places):
        return f"reached by {len(there)} of {len(places)}"
    s = summarise(there)
    unit = {"seconds": "s", "cpu_seconds": "CPU s", "generation": "generations"}.get(x, x)
    return f"after {s.median:,.0f} {unit} ({s.minimum:,.0f} to {s.maximum:,.0f})"


def find_runs(folders: Sequence[Path]) -> list[RunRecords]:
    """The runs in the folders, which are runs or hold runs up to two levels below; each once.

    Raises CheckpointError if there is none. Below a folder, runs without records are left out
    with a line on stderr.
    """
    if not folders:
        raise CheckpointError(message("RUN", "at least one folder of a run", "none"))
    found: dict[Path, RunRecords] = {}
    for folder in folders:
        below = [] if (folder / CONFIG).exists() else _runs_below(folder)
        for path in below or [folder]:
            if below and not _has_records(path / METRICS):
                print(f"{path}: no records yet, left out", file=sys.stderr)
            elif path.resolve() not in found:
                found[path.resolve()] = read_run(path)
    if not found:
        raise CheckpointError("no run has records yet")
    return list(found.values())


def _has_records(metrics: Path) -> bool:
    return metrics.is_file() and bool(read_metrics(metrics))


def _runs_below(folder: Path) -> list[Path]:
    configs = [*folder.glob(f"*/{CONFIG}"), *folder.glob(f"*/*/{CONFIG}")]
    return sorted(path.parent for path in configs)
