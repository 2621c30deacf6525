"""``evokern bench``: the kernels against their rivals. The suite lives beside the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "benchmarks" / "report.py").exists():
        print("evokern bench: run it from a checkout; the package holds no benchmarks")
        return 2
    sys.path.insert(0, str(checkout))
    from benchmarks import report

    return int(report.main(list(arguments)) or 0)
