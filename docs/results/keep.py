"""Keeps what a run told, small: ``python docs/results/keep.py RUN... --as NAME``.

Writes config.json, result.json (of a finished run) and at most 150 records of metrics.jsonl to
docs/results/NAME, or to docs/results/NAME/seed-S for each of several runs, where `evokern plot`
reads them as it reads the runs themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from evokern.archive import thinned
from evokern.checkpoint import write_json
from evokern.metrics import CONFIG, METRICS, RESULT, read_run

RECORDS = 150


@dataclass(frozen=True)
class Keep:
    """Keep what runs told, small, under docs/results."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    name: Annotated[str, tyro.conf.arg(name="as")]
    """Folder under docs/results."""


def main() -> None:
    """Runs the command."""
    command = tyro.cli(Keep)
    for folder in command.runs:
        run = read_run(folder)
        place = Path(__file__).parent / command.name
        if len(command.runs) > 1:
            place /= f"seed-{run.config['seed']}"
        place.mkdir(parents=True, exist_ok=True)
        kept = thinned(run.records, RECORDS)
        (place / METRICS).write_text("".join(json.dumps(record) + "\n" for record in kept))
        write_json(place / CONFIG, run.config)
        if run.result is not None:
            write_json(place / RESULT, run.result)
        print(f"{place}: {len(kept)} of {len(run.records)} records")


if __name__ == "__main__":
    main()
