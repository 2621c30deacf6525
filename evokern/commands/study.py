"""``evokern study``: the studies of chapter 5 of the thesis.

``OUT/SETTING/seed-S`` is a run (``commands/trials.py``); studies share those they have in common,
and keep no checkpoints of finished runs. ``OUT/FIGURE.png`` and ``OUT/FIGURE.json`` tell what came
out.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro

from evokern.archive import Archive
from evokern.checkpoint import write_json
from evokern.commands.ea import parse
from evokern.commands.trials import OWN_FLAGS, Trial, flag_of, remember, run_trials, without_threads
from evokern.comparison import Group, last_value, mann_whitney, scipy_stats, summarise
from evokern.drivers.run import CHECKPOINTS, difference, plain
from evokern.errors import ArgumentError, CheckpointError, message
from evokern.files import locked, make_folder, remove
from evokern.metrics import RunRecords, read_run
from evokern.plots import plot_boxes, plot_groups
from evokern.studies import DEFAULTS, HOLDOUT, SHARES, Cell, Claim, Study, flag, studies

SIGNIFICANT = 0.05
"""The largest p that counts. It is the least that three seeds can give, so it counts itself."""

_FORMAT = 1


@dataclass(frozen=True)
class StudyCommand:
    """Repeat a study of the thesis: what its figure crosses, over several seeds.

    Flags of evokern ea for all runs follow after two dashes: evokern study fig5.3 -- --batch 128.
    Giving the same command again goes on where it stopped: finished runs are not run again.
    """

    figure: tyro.conf.Positional[Literal["fig5.1", "fig5.2", "fig5.3", "fig5.4"]]
    """Batch size x inheritance x population, selection proportion, operators, self-adapted sigma.
    """
    populations: tuple[int, ...] = (100, 1000)
    """Population sizes."""
    shares: tuple[float, ...] = SHARES
    """Shares of crossover in Figures 5.3 and 5.4, 0 the first of them."""
    generations: int = 1000
    """Generations of every run."""
    seeds: int = 5
    """Runs per setting, with as many seeds in a row."""
    first_seed: int = 0
    """The first of the seeds."""
    jobs: int = 1
    """Runs at the same time; they share the processor's cores."""
    dataset: str = "mnist"
    """What to learn."""
    out: Path = Path("runs/study")
    """Folder for all runs and for what comes of them."""
    archive: Path | None = None
    """File to which finished runs are added, a line each. A run that is in there already is taken
    from it: a study may be made in parts, on several machines."""

    def __post_init__(self) -> None:
        least = {"seeds": 1, "first_seed": 0, "jobs": 1, "generations": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                wanted = f"at least {value}"
                raise ArgumentError(message(name, wanted, repr(getattr(self, name))))
        if not self.populations or len(set(self.populations)) < len(self.populations):
            wanted = "population sizes, each once"
            raise ArgumentError(message("populations", wanted, repr(self.populations)))
        if len(self.shares) < 2 or self.shares[0] != 0 or sorted({*self.shares}) != [*self.shares]:
            wanted = "ascending shares of crossover, 0 the first"
            raise ArgumentError(message("shares", wanted, repr(self.shares)))


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished, then compares; 1 if a run failed, 128 + N after signal N."""
    given = list(arguments)
    cut = given.index("--") if "--" in given else len(given)
    command = tyro.cli(StudyCommand, args=given[:cut], prog="evokern study")
    scipy_stats()  # lacking, it should fail now and not after the last run
    wanted = studies(command.figure, command.populations, command.shares)
    cells = {cell.name: cell for study in wanted for cell in study.cells}
    words = words_of(cells, command, given[cut + 1 :])
    make_folder(command.out)
    with locked(command.out):
        remember(command.out, words)
        trials = [
            Trial(name, seed, command.out / name / f"seed-{seed}", words[name])
            for seed in range(command.first_seed, command.first_seed + command.seeds)
            for name in cells
        ]
        archive = Archive(command.archive) if command.archive else None
        settle = partial(_settle, archive=archive)
        for trial in trials:
            if archive and not trial.finished and _archived(trial) in archive:
                _extract(archive, trial)
            if trial.finished:
                settle(trial)
        failed, stopped_by = run_trials(trials, command.jobs, after=settle)
        finished = all(trial.finished for trial in trials)
        if finished:
            runs: dict[str, list[RunRecords]] = {name: [] for name in cells}
            for trial in trials:
                runs[trial.variant].append(read_run(trial.folder))
            for study in wanted:
                report(study, runs, command.out)
    for trial in failed:
        print(f"failed: {trial.variant}, seed {trial.seed}: {trial.log}", file=sys.stderr)
    if stopped_by:
        print("stopped; the same command goes on from there", file=sys.stderr)
        return 128 + stopped_by
    return int(bool(failed))


def _archived(trial: Trial) -> str:
    """A run's name in an archive: its command, but for the threads it had, and its seed."""
    return f"{shlex.join(without_threads(trial.words))} --seed {trial.seed}"


def _extract(archive: Archive, trial: Trial) -> None:
    """The trial's folder. Raises CheckpointError where the archived run has other settings.

    Settings that came later than the run had their defaults.
    """
    command = parse([*trial.words[1:], "--seed", str(trial.seed)])
    wanted = plain({**asdict(command.problem), **asdict(command.config)})
    config = {**DEFAULTS, **archive.config(_archived(trial))}
    if differs := difference({name: config[name] for name in wanted}, wanted):
        raise CheckpointError(
            f"archive: the run {_archived(trial)!r} has other settings: {differs}; remove its line"
        )
    archive.extract(_archived(trial), trial.folder, config)


def _settle(trial: Trial, archive: Archive | None) -> None:
    """What becomes of a finished run."""
    drop_checkpoints(trial)
    if archive and _archived(trial) not in archive:
        archive.add(_archived(trial), trial.folder)


def drop_checkpoints(trial: Trial) -> None:
    """Those of a finished run, which nobody needs: many runs of 1,000 networks fill a disk."""
    folder = trial.folder / CHECKPOINTS
    if folder.is_dir():
        remove(folder.iterdir())
        folder.rmdir()


def words_of(
    cells: Mapping[str, Cell], command: StudyCommand, more: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The training command of each cell; ``more`` flags are for all of them.

    Raises ArgumentError for a flag that the study itself sets.
    """
    own = {flag(name) for cell in cells.values() for name in cell.settings}
    for word in more:
        if flag_of(word) in {*own, *OWN_FLAGS, "--generations", "--preset"}:
            wanted = f"flags other than those that {command.figure} sets"
            raise ArgumentError(message("flags after --", wanted, word))
    fixed = ("--preset", "thesis-validation", "--generations", str(command.generations))
    return {
        name: ("ea", command.dataset, *fixed, *more, *cell.flags) for name, cell in cells.items()
    }


def report(study: Study, runs: Mapping[str, Sequence[RunRecords]], out: Path) -> None:
    """Prints and writes what came out: FIGURE.json and FIGURE.png."""
    picture = out / f"{study.name}.png"
    draw(study, runs, picture)
    cells = [
        {
            **{name: getattr(cell, name) for name in ("name", "row", "column", "x")},
            "settings": dict(cell.settings),
            "seeds": [run.config["seed"] for run in runs[cell.name]],
            **{
                metric: {**asdict(summarise(sample)), "values": sample}
                for metric in metrics_of(study)
                for sample in [last_values(runs[cell.name], metric)]
            },
        }
        for cell in study.cells
    ]
    claims = [tested(claim, runs) for claim in study.claims]
    content = {"format": _FORMAT, "study": study.title, "cells": cells, "claims": claims}
    write_json(out / f"{study.name}.json", content)
    show(study, cells, claims)
    print(f"numbers  {out / study.name}.json\npicture  {picture}")


def draw(study: Study, runs: Mapping[str, Sequence[RunRecords]], picture: Path) -> None:
    """The figure."""
    if study.curves:
        groups = [Group(cell.column, tuple(runs[cell.name])) for cell in study.cells]
        plot_groups(groups, picture, metric=study.curves)
        return
    boxes = {
        (cell.row, cell.column, cell.x): last_values(runs[cell.name], HOLDOUT)
        for cell in study.cells
    }
    plot_boxes(boxes, picture, metric=HOLDOUT, x=study.x)


def metrics_of(study: Study) -> list[str]:
    """What is told of each cell."""
    return list(dict.fromkeys([HOLDOUT, *([study.curves] if study.curves else [])]))


def last_values(runs: Sequence[RunRecords], metric: str) -> list[float]:
    """The runs' last values. Raises CheckpointError where one has none."""
    values = []
    for run in runs:
        value = last_value(run, metric)
        if value is None:
            raise CheckpointError(f"{run.folder}: no record of {metric}")
        values.append(value)
    return values


def tested(claim: Claim, runs: Mapping[str, Sequence[RunRecords]]) -> dict[str, Any]:
    """Each pair's medians and one-sided Mann-Whitney U test, and in how many it holds.

    ``gain`` is the relative difference of the medians (Table 5.2).
    """
    pairs = []
    for greater, than in claim.pairs:
        samples = [last_values(runs[cell.name], claim.metric) for cell in (greater, than)]
        medians = [summarise(sample).median for sample in samples]
        pairs.append(
            {
                "greater": greater.name,
                "than": than.name,
                "medians": medians,
                "gain": medians[0] / medians[1] - 1 if medians[1] else None,
                **asdict(mann_whitney(*samples)),
            }
        )
    return {
        "claim": claim.text,
        "metric": claim.metric,
        "of": len(pairs),
        "holds": sum(pair["medians"][0] > pair["medians"][1] for pair in pairs),
        "significant": sum(pair["p"] <= SIGNIFICANT for pair in pairs),
        "pairs": pairs,
    }


def show(study: Study, cells: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]]) -> None:
    """Prints a table of the cells and one of the claims."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    metric = study.curves or HOLDOUT
    table = Table("plot", study.x, "n", "median", "min", "max")
    for cell in cells:
        s = cell[metric]
        numbers = (
            f"{s[name]:.4g}" if study.curves else f"{s[name]:.2%}"
            for name in ("median", "minimum", "maximum")
        )
        place = ", ".join(part for part in (cell["row"], cell["column"]) if part)
        table.add_row(place, cell["x"], str(s["n"]), *numbers)
    console.print(f"{study.title}: {metric} at the end, over seeds", table)
    table = Table("finding of the thesis", "pairs", "holds in", f"with p <= {SIGNIFICANT}")
    for claim in claims:
        numbers = (str(claim[name]) for name in ("of", "holds", "significant"))
        table.add_row(claim["claim"], *numbers)
    console.print("by medians and one-sided Mann-Whitney U tests", table)
