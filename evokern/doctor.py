"""`evokern doctor`: what this installation has, and the reason for what it has not."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.table import Table

from evokern import _cpu
from evokern._default import chosen_backend
from evokern._devices import NATIVES, why_not
from evokern._table import BACKENDS, TABLE
from evokern._version import __version__
from evokern.memory import available_bytes

_LIBRARIES = ("numpy", "torch", "jax", "triton", "cupy-cuda13x", "scipy")


def report(console: Console | None = None) -> None:
    """Prints versions, instruction set, threads, memory and the op x backend matrix."""
    console = console or Console()
    absent = {backend: why_not(backend) for backend in NATIVES}
    absent = {backend: reason for backend, reason in absent.items() if reason}
    console.print(_facts())
    console.print(_matrix(absent))
    for backend, reason in absent.items():
        text = f"{backend}: {reason}"
        console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _facts() -> Table:
    table = Table(show_header=False, title=f"evokern {__version__}", title_justify="left")
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    table.add_row("Python", system)
    table.add_row("libraries", ", ".join(versions(_LIBRARIES)))
    table.add_row("processor", processor() or platform.processor())
    table.add_row("instruction set", _instruction_set())
    table.add_row("bf16", _bf16())
    table.add_row("back end", chosen_backend())
    table.add_row("threads", f"{_cpu.threads()} of {os.cpu_count()} processors")
    there = available_bytes()
    table.add_row("memory", "unknown" if there is None else f"{there / 1e9:.1f} GB available")
    return table


def versions(libraries: Iterable[str]) -> list[str]:
    """Name and version of those that are installed."""
    found = []
    for name in libraries:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def processor() -> str | None:
    """Its model name; None where Linux does not tell it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(
                (line.split(":", 1)[1].strip() for line in file if "model name" in line), None
            )
    except OSError:
        return None


def _instruction_set() -> str:
    active = _cpu.instruction_set()
    built, supported = _cpu.built_instruction_sets(), _cpu.supported_instruction_sets()
    text = f"{active} ({_cpu.lanes()} floats at a time)"
    if os.environ.get("EVOKERN_ISA"):
        text += ", forced by EVOKERN_ISA"
    if active == "baseline":
        text += "; for correctness only: fma is emulated, which is far slower"
    missing = [name for name in built if name not in supported]
    if missing:
        text += f"; built, but not on this processor: {', '.join(missing)}"
    if _cpu.emulates_avx512:
        text += "; AVX-512 is emulated in this build"
    return text


def _bf16() -> str:
    if _cpu.native_bf16():
        return "AVX512-BF16 dot products"
    return "inputs are rounded to bf16 and multiplied in fp32: right, but no faster than fp32"


def _matrix(absent: dict[str, str]) -> Table:
    table = Table(title="ops and what fp32 promises", title_justify="left")
    table.add_column("op")
    for backend in BACKENDS:
        table.add_column(backend)
    for name, op in TABLE.items():
        there = [backend in op.functions and backend not in absent for backend in BACKENDS]
        promises = map(op.promise, BACKENDS)
        table.add_row(name, *(p if yes else "-" for p, yes in zip(promises, there, strict=True)))
    return table
