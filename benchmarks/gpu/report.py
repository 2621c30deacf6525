"""Where results go: files that grow row by row, the facts of the machine, the time that is left."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import machine
from evokern import _devices
from evokern.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
RESULTS = ROOT / "benchmarks" / "results"

HARNESS = "harness"
NO_GPU = "harness: no timing of a GPU"
"""Stands in every file where a device's name would."""


_INTERRUPT_S = 5.0  # what processes may take to end by themselves


class Verdict(NamedTuple):
    """How a part went."""

    good: bool
    text: str


@dataclass(frozen=True)
class Budget:
    """Time until ``end``, of ``time.monotonic``."""

    end: float

    @classmethod
    def of(cls, seconds: float) -> Budget:
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds, negative when it is over."""
        return self.end - time.monotonic()


def run_within(seconds: float, command: Sequence[str], **options: Any) -> int | None:
    """The exit status; None where it had to be ended, with every process that it started.

    They are a group of their own, which Ctrl-C does not reach either. A process that started
    another group ends that when it is interrupted.
    """
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **options) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.returncode is None:
                _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_INTERRUPT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Rows:
    """A new CSV file; every row is on the disk before the next is computed."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="")
        self._rows = csv.DictWriter(self._file, columns)
        self._rows.writeheader()
        self._file.flush()

    def write(self, **values: Any) -> None:
        """One row; what is not named stays empty."""
        self._rows.writerow(values)
        self._file.flush()


def importable(*folders: Path) -> None:
    """Lets tests' modules be imported."""
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def use_harness() -> None:
    """Lets ``evokern`` take the harness of tests/simt for a device."""
    importable(TESTS, TESTS / "simt")
    import standin

    standin.register()


def backends_on(device: str) -> list[str]:
    """CUDA's, and Triton's where it is installed (on the harness: where its interpreter runs)."""
    if device != HARNESS:
        return [name for name in _devices.NATIVES if not _devices.why_not(name)]
    importable(TESTS)
    import interpreter

    return ["cuda"] if interpreter.unavailable() else ["cuda", "triton"]


def why_not(device: str) -> str:
    """Why nothing can run on the device; empty if it can."""
    if device == HARNESS:
        importable(TESTS / "simt")
        import build

        return str(build.unavailable())
    try:
        reason = _devices.why_not("cuda")
        if not reason:
            _devices.library_at(device)
    except BackendError as error:
        return str(error)
    return reason


def facts_of(device: str) -> dict[str, str]:
    """What results depend on."""
    facts = machine()
    if device == HARNESS:
        return facts | {"device": NO_GPU, "driver": "", "torch": ""}
    facts |= {"driver": _driver(), "torch": ""}
    _, place = _devices.library_at(device)
    if type(place).__module__ == "torch":
        return facts | _facts_of_torch(place)
    found = sys.modules["cupy"].cuda.runtime.getDeviceProperties(place.id)
    return facts | {"device": found["name"].decode(), "cupy": sys.modules["cupy"].__version__}


def _facts_of_torch(place: Any) -> dict[str, str]:
    torch = sys.modules["torch"]
    found = torch.cuda.get_device_properties(place)
    return {
        "device": found.name,
        "torch": torch.__version__,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": str(found.multi_processor_count),
        "memory_bytes": str(found.total_memory),
        "l2_bytes": str(found.L2_cache_size),
        "cuda": str(torch.version.cuda),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return shown.stdout.splitlines()[0].strip()


def folder_of(device: str, facts: dict[str, str]) -> Path:
    """benchmarks/results/<device>; of the harness under build/, since it says nothing of a GPU."""
    if device == HARNESS:
        return ROOT / "build" / "gpu-harness"
    return RESULTS / "-".join(facts["device"].lower().split())


def write_facts(folder: Path, facts: dict[str, str]) -> None:
    """machine.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text(json.dumps(facts, indent=2) + "\n")
