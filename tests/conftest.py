"""Settings of the whole suite.

EVOKERN_REQUIRE_EXTRAS=1 and EVOKERN_REQUIRE_DATA=1 turn tests that skip for want of an optional
library or of real data into failures.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

# Before Triton is first imported; kernels need a GPU otherwise.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest

# Ignored where the suite runs under nohup or in the background of a script.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# EVOKERN_SIMT=0: without the CUDA kernels on the harness, which takes a while to build.
sys.path.insert(0, str(Path(__file__).parent / "simt"))
if os.environ.get("EVOKERN_SIMT") != "0":
    import column

    column.add_column()

# EVOKERN_TRITON=0: without the Triton kernels in Triton's interpreter.
if os.environ.get("EVOKERN_TRITON") != "0":
    import interpreter

    interpreter.add_column()

hypothesis.settings.register_profile(
    "evokern", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("evokern")

REQUIRED = {
    "EVOKERN_REQUIRE_EXTRAS": ("torch", "onnx", "sklearn", "scipy", "tensorboard", "Triton"),
    "EVOKERN_REQUIRE_DATA": ("data cache",),
}


def fail_required(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip into a failure where its reason is one of those that may not occur."""
    if not (report.skipped and isinstance(report.longrepr, tuple)):
        return
    reason = report.longrepr[2]
    for variable, words in REQUIRED.items():
        if os.environ.get(variable) == "1" and any(word in reason for word in words):
            report.outcome = "failed"
            report.longrepr = f"{reason}\n{variable}=1: this skip counts as a failure"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_required(report)
    return report
