"""THE TABLE: which function computes an op on which back end, and what is promised of it.

``bits``: every back end gives the same bits. ``close``: within ``testing.error_bound``. Tests,
benchmarks and the support matrix of `evokern doctor` are generated from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

from evokern.errors import ArgumentError, BackendError, message

Promise = Literal["bits", "close"]
BACKENDS = ("reference", "cpu", "cuda", "triton")
ON_DEVICE = ("cuda", "triton")
"""Back ends whose arrays are on a device."""

_REFERENCE = "evokern.backends.reference"
_CPU = "evokern.backends.cpu"
_CUDA = "evokern.backends.cuda"
_TRITON = "evokern.backends.triton"


@dataclass(frozen=True)
class Op:
    """One row: ``module:function`` per back end, and what fp32 promises.

    ``close`` are the back ends that promise results within ``testing.error_bound`` only.
    """

    functions: dict[str, str]
    close: frozenset[str] = frozenset()

    def promise(self, backend: str) -> Promise:
        return "close" if backend in self.close else "bits"


def _row(family: str, name: str, *close: str) -> Op:
    functions = {
        "reference": f"{_REFERENCE}.{family}:{name}",
        "cpu": f"{_CPU}:{name}",
        "cuda": f"{_CUDA}.{family}:{name}",
        "triton": f"{_TRITON}.{family}:{name}",
    }
    return Op(functions, frozenset(close))


def _on_host(family: str, name: str) -> Op:
    """A row of an op that devices compose of others."""
    return Op({backend: _row(family, name).functions[backend] for backend in ("reference", "cpu")})


TABLE: dict[str, Op] = {
    "init_genomes": _row("variation", "init_genomes"),
    "crossover_mutate": _row("variation", "crossover_mutate"),
    "mutate_sigma": _row("variation", "mutate_sigma"),
    "replay": _row("lineage", "replay"),
    "dense_forward": _row("layers", "dense_forward", "triton"),
    "max_pool2d": _row("pool", "max_pool2d"),
    "avg_pool2d": _row("pool", "avg_pool2d"),
    "affine": _row("layers", "affine"),
    "conv2d_forward": _row("layers", "conv2d_forward", "triton"),
    "global_avg_pool": _row("pool", "global_avg_pool"),
    "residual": _row("layers", "residual"),
    "network_forward": _row("network", "network_forward", "triton"),
    "network_loss": _row("network", "network_loss", "triton"),
    "mutant_loss": _on_host("mutants", "mutant_loss"),
    "nes_sample": _row("categorical", "nes_sample"),
    "nes_update": _row("categorical", "nes_update"),
}


def add_op(name: str, functions: Mapping[str, str], *, close: Collection[str] = ()) -> None:
    """Gives an op of another package its row, so that `choose`, `which` and `doctor` know it.

    Args:
        name: of the op; that of no other one.
        functions: ``module:function`` for each back end that has it, the reference among them. A
            module is imported at the op's first call there.
        close: the back ends whose fp32 results are within a bound only, not the reference's bits.

    Raises:
        ArgumentError: the name is taken, a back end unknown, or the reference missing.
    """
    if TABLE.get(name, Op(dict(functions))).functions != dict(functions):
        raise ArgumentError(message("name", "a name that no op has", repr(name)))
    for backend, place in functions.items():
        if backend not in BACKENDS:
            raise ArgumentError(message("functions", f"back ends of {list(BACKENDS)}", backend))
        if place.count(":") != 1:
            raise ArgumentError(message("functions", "module:function", repr(place)))
    if "reference" not in functions:
        mend = "write the rule in NumPy first: the others are compared with it"
        raise ArgumentError(message("functions", "reference among them", str([*functions]), mend))
    if unknown := set(close) - set(functions):
        raise ArgumentError(message("close", "back ends of functions", str(sorted(unknown))))
    TABLE[name] = Op(dict(functions), frozenset(close))


@cache
def resolve(op: str, backend: str) -> Callable[..., Any]:
    """The function that computes ``op``.

    Raises BackendError when the back end is unknown or has no such op.
    """
    if backend not in BACKENDS:
        raise BackendError(message("backend", f"auto or one of {list(BACKENDS)}", repr(backend)))
    functions = TABLE[op].functions
    if backend not in functions:
        there = ", ".join(functions)
        raise BackendError(f"backend: {op} on {backend} is not written; there are {there}")
    module, function = functions[backend].split(":")
    try:
        resolved: Callable[..., Any] = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        if backend != error.name:
            raise
        mend = f"pip install 'evokern[{backend}]'"
        raise BackendError(f"backend: {op} on {backend}: {error}; {mend}") from error
    return resolved
