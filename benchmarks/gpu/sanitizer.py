"""compute-sanitizer on a few small calls of every op, each tool in a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from benchmarks.gpu.report import HARNESS, Budget, Rows, Verdict, run_within

COLUMNS = ("tool", "outcome", "detail")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")

NO_TOOL = "no compute-sanitizer on the PATH or in CUDA_HOME"
NOT_HERE = "harness: its own detectors are `make simt-asan` and `make simt-race`"

_CASES = 3
"""Of each op."""

_FOUND = 99  # the tool's exit status


def run(device: str, rows: Rows, budget: Budget, folder: Path) -> Verdict:
    """What a tool says is in sanitizer-<tool>.txt."""
    tool = find()
    why = NOT_HERE if device == HARNESS else "" if tool else NO_TOOL
    outcomes = []
    for number, name in enumerate(TOOLS):
        if why or tool is None:
            outcome, detail = "left out", why
        else:
            share = budget.left() / (len(TOOLS) - number)
            outcome, detail = _checked(tool, name, device, folder, share)
        rows.write(tool=name, outcome=outcome, detail=detail)
        outcomes.append(outcome)
    good = not {"found", "failed"} & set(outcomes)
    shown = why or ", ".join(f"{name} {o}" for name, o in zip(TOOLS, outcomes, strict=True))
    return Verdict(good, shown)


def find() -> Path | None:
    """The tool, of the PATH or a CUDA toolkit."""
    on_path = shutil.which("compute-sanitizer")
    if on_path:
        return Path(on_path)
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [Path(home, "bin", "compute-sanitizer") for home in [*homes, "/usr/local/cuda"]]
    return next((place for place in places if place.is_file()), None)


def _checked(tool: Path, name: str, device: str, folder: Path, seconds: float) -> tuple[str, str]:
    """Outcome (clean, found, failed, left out) and detail."""
    if seconds <= 0:
        return "left out", "out of time"
    log = folder / f"sanitizer-{name}.txt"
    command = [str(tool), "--tool", name, "--error-exitcode", str(_FOUND)]
    command += ["--target-processes", "application-only", sys.executable]
    command += ["-m", "benchmarks.gpu", "--device", device, "--only", "parity"]
    command += ["--sample", str(_CASES), "--out", str(folder / f"sanitizer-{name}")]
    # Memory of its own for every array, so that the tool knows where it ends and what is written.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with log.open("w") as file:
        status = run_within(seconds, command, env=environment, stdout=file, stderr=file)
    if status is None:
        return "left out", f"not done in {seconds:.0f} s; see {log.name}"
    if status == _FOUND:
        return "found", f"see {log.name}"
    return ("clean", "") if status == 0 else ("failed", f"status {status}; see {log.name}")
