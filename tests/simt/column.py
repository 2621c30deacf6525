"""The column ``simt`` of the table: the functions of ``evokern.backends.cuda`` on the harness.

EVOKERN_SIMT_VARIANT names the build (release, asan, race); in the last one an op raises for what
its kernels do wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import reports

import build
from evokern import _table
from evokern.backends.device import Device, use_device

_MODULES = ("variation", "lineage", "categorical", "layers", "pool", "network")


@cache
def device() -> Device:
    """The processor as a device; builds the module at first. The memory it gives is NaN."""
    native = build.load(os.environ.get("EVOKERN_SIMT_VARIANT", "release"))
    return Device({"cuda": lambda: native}, native.empty, address=_address, checks=True)


def _address(memory: np.ndarray) -> int:
    return memory.ctypes.data


@cache
def _function(op: str) -> Callable[..., Any] | None:
    for name in _MODULES:
        try:
            module = import_module(f"evokern.backends.cuda.{name}")
        except ModuleNotFoundError:
            continue
        if hasattr(module, op):
            function: Callable[..., Any] = getattr(module, op)
            return function
    return None


def __getattr__(op: str) -> Any:
    if op == "DEVICE":
        return device()
    function = _function(op) if op in _table.TABLE else None
    if function is None:
        raise AttributeError(op)

    def on_the_harness(*arguments: Any, **options: Any) -> Any:
        with use_device(device(), "cuda") as native:
            if not hasattr(native, "races"):
                return function(*arguments, **options)
            return _watched(native, function, *arguments, **options)

    return on_the_harness


def _watched(native: Any, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Raises KernelError for races and unwritten reads; the counts are those of the last call."""
    native.reset()
    result = function(*arguments, **options)
    found = [*native.races(), *native.unwritten_reads()]
    if found:
        raise native.KernelError("\n".join(map(reports.describe, found)))
    return result


def add_column() -> None:
    """Gives every op that has a CUDA function its function here, under the name ``simt``.

    Does nothing where the harness cannot be built.
    """
    if build.unavailable():
        return
    if "simt" not in _table.BACKENDS:
        _table.BACKENDS = (*_table.BACKENDS, "simt")
    for op, row in _table.TABLE.items():
        if _function(op) is not None:
            row.functions["simt"] = f"column:{op}"
