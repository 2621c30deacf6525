"""``evokern doctor``: what this installation has."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    argparse.ArgumentParser(prog="evokern doctor").parse_args(list(arguments))
    from evokern.doctor import report

    report()
    return 0
