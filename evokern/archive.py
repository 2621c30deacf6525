"""Finished runs in one file, a line each: what a study needs of them, small enough to commit.

A run that is in the file need not be made again, wherever it was made: fp32 runs have the same bits
on every machine. Several processes may add to one file.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evokern.checkpoint import write_json
from evokern.errors import CheckpointError, message
from evokern.files import append, make_folder, open_to_append, replace_file, sync
from evokern.metrics import CONFIG, METRICS, RESULT, read_run

RECORDS = 9
"""Records that are kept of a run: evenly spread, the last one among them."""

_BEGIN = b'{"name": '  # of every line


def thinned(records: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most ``most`` records, evenly spread, with the last one."""
    last = len(records) - 1
    step = max(1, -(-last // max(1, most - 1)))
    return [*records[:last:step], records[last]]


class Archive:
    """The file, read when it is opened. Runs are known by names.

    Raises CheckpointError when a line is not one that ``add`` wrote. A last line that breaks off is
    of a process that was stopped; it is left out, and the next ``add`` removes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: dict[str, dict[str, Any]] = {}
        if path.exists() and not path.is_file():
            raise CheckpointError(message("archive", "a file", f"{path}, which is none"))
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                run = json.loads(line)
                self._runs[run["name"]] = {key: run[key] for key in ("config", "records", "result")}
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines) and line.startswith(_BEGIN[: len(line)]):
                    break
                got = repr(line[:80])
                raise CheckpointError(
                    message(f"{path}, line {number}", "a run of an archive", got)
                ) from error

    def __contains__(self, name: str) -> bool:
        return name in self._runs

    def add(self, name: str, folder: Path) -> None:
        """Appends a finished run. Raises CheckpointError when it is none."""
        run = read_run(folder)
        if run.result is None:
            raise CheckpointError(f"{folder}: the run is not finished")
        content = {
            "config": run.config,
            "records": thinned(run.records, RECORDS),
            "result": run.result,
        }
        make_folder(self._path.parent)
        with open_to_append(self._path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # goes when the file is closed
            written = self._path.read_bytes()
            end = written.rfind(b"\n") + 1
            line = json.dumps({"name": name, **content}, allow_nan=False) + "\n"
            if _is_json(written[end:]):  # an editor took the last newline away
                line = "\n" + line
            else:
                file.truncate(end)
            append(file, self._path, line.encode())
            sync(file, self._path)
        self._runs[name] = content

    def config(self, name: str) -> dict[str, Any]:
        """The settings of a run, as its config.json had them."""
        return dict(self._runs[name]["config"])

    def extract(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Makes the folder of a run, with this ``config``, as ``metrics.read_run`` reads it."""
        run = self._runs[name]
        make_folder(folder)
        write_json(folder / CONFIG, dict(config))
        records = "".join(json.dumps(record) + "\n" for record in run["records"])
        replace_file(folder / METRICS, records.encode())
        write_json(folder / RESULT, run["result"])


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
