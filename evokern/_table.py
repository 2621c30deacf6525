"""THE TABLE: which function computes an op on which back end, and what is promised of it.

``bits``: every back end gives the same bits. ``close``: within ``testing.error_bound``. Tests,
benchmarks and the support matrix of `evokern doctor` are generated from this table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

from evokern.errors import BackendError, message

logger = logging.getLogger(__name__)

Promise = Literal["bits", "close"]
BACKENDS = ("reference", "cpu", "cuda", "triton")
ON_DEVICE = ("cuda", "triton")
"""Back ends whose arrays are on a device."""

MISSING = {
    "triton": "not written: this version holds no Triton kernels",
}
"""Why a whole back end has no functions."""

_REFERENCE = "evokern.backends.reference"
_CPU = "evokern.backends.cpu"
_CUDA = "evokern.backends.cuda"


@dataclass(frozen=True)
class Op:
    """One row: the promise in fp32 and ``module:function`` per back end."""

    promise: Promise
    functions: dict[str, str]


def _row(family: str, name: str, promise: Promise = "bits") -> Op:
    functions = {
        "reference": f"{_REFERENCE}.{family}:{name}",
        "cpu": f"{_CPU}:{name}",
        "cuda": f"{_CUDA}.{family}:{name}",
    }
    return Op(promise, functions)


TABLE: dict[str, Op] = {
    "init_genomes": _row("variation", "init_genomes"),
    "crossover_mutate": _row("variation", "crossover_mutate"),
    "mutate_sigma": _row("variation", "mutate_sigma"),
    "replay": _row("lineage", "replay"),
    "dense_forward": _row("layers", "dense_forward"),
    "max_pool2d": _row("pool", "max_pool2d"),
    "avg_pool2d": _row("pool", "avg_pool2d"),
    "affine": _row("layers", "affine"),
    "conv2d_forward": _row("layers", "conv2d_forward"),
    "global_avg_pool": _row("pool", "global_avg_pool"),
    "residual": _row("layers", "residual"),
    "network_forward": _row("network", "network_forward"),
    "network_loss": _row("network", "network_loss"),
    "nes_sample": _row("categorical", "nes_sample"),
    "nes_update": _row("categorical", "nes_update"),
}


def host_backends(op: str) -> list[str]:
    """The back ends that compute ``op`` on arrays of the host."""
    return [backend for backend in TABLE[op].functions if backend not in ON_DEVICE]


def reason_missing(op: str, backend: str) -> str:
    """Why ``backend`` has no function for ``op``; empty if it has one."""
    if backend in TABLE[op].functions:
        return ""
    return MISSING.get(backend, "not written")


@cache
def automatic(op: str, on_device: bool) -> str:
    """The back end of ``auto``: for arrays on the host the CPU kernels, on a device CUDA's."""
    backend = "cuda" if on_device else "cpu"
    logger.info("%s: backend auto is %s", op, backend)
    return backend


@cache
def resolve(op: str, backend: str) -> Callable[..., Any]:
    """The function that computes ``op``.

    Raises BackendError when the back end is unknown or has no such op.
    """
    if backend not in BACKENDS:
        raise BackendError(message("backend", f"auto or one of {list(BACKENDS)}", repr(backend)))
    reason = reason_missing(op, backend)
    if reason:
        there = ", ".join(TABLE[op].functions)
        raise BackendError(f"backend: {op} on {backend} is {reason}; there are {there}")
    module, function = TABLE[op].functions[backend].split(":")
    resolved: Callable[..., Any] = getattr(import_module(module), function)
    return resolved
