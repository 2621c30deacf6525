"""For ops of other packages: their row in the table, and the checks and dispatch of this one's.

``examples/custom_op`` is a whole package with such an op in NumPy, C++, CUDA and Triton.
"""

from __future__ import annotations

from pathlib import Path

from evokern._arrays import expect, expect_host, expect_range, expect_shape, like, output
from evokern._dispatch import choose
from evokern._table import add_op
from evokern._values import (
    counter_fields,
    integer,
    non_negative,
    non_negative_number,
    one_of,
    probability,
)
from evokern.backends.device import Block, current_device

__all__ = [
    "Block",
    "add_op",
    "choose",
    "counter_fields",
    "current_device",
    "expect",
    "expect_host",
    "expect_range",
    "expect_shape",
    "include_dir",
    "integer",
    "like",
    "non_negative",
    "non_negative_number",
    "one_of",
    "output",
    "probability",
]


def include_dir() -> str:
    """The folder for a compiler's ``-I``: ``#include "core/philox.h"`` and its like lie there."""
    package = Path(__file__).resolve().parent
    installed = package / "include"
    return str(installed if installed.is_dir() else package.parent / "csrc")
