"""Times of the kernels on a device, beside PyTorch's and as a share of the device's limits."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu import rivals
from benchmarks.gpu.contests import Place, contests, with_triton
from benchmarks.gpu.costs import Work
from benchmarks.gpu.report import HARNESS, NO_GPU, Budget, Rows, Verdict, backends_on
from benchmarks.gpu.timing import (
    EVOKERN,
    ROUNDS,
    Clock,
    Limit,
    Medians,
    cuda_clock,
    limits_of,
    measure,
    wall_clock,
)
from evokern import _devices

COLUMNS = (
    *("what", "shape", "evokern_ms", "evokern_wall_ms", "rival", "rival_ms", "rival_wall_ms"),
    *("ratio", "gb_per_s", "gflop_per_s", "percent_of_limit", "limit"),
    *("memory_limit_gb_per_s", "arithmetic_limit_gflop_per_s", "rounds", "note"),
    *("date", "commit", "device", "driver", "torch"),
)
"""Milliseconds are medians, of the device's time but for ``wall``. Above 1, ``ratio`` says that
evokern is faster. Rates are of the least bytes and the operations of costs.py, and
``percent_of_limit`` of the least time that these need at the measured limits."""

_TINY_ROUNDS = 2


def run(device: str, rows: Rows, budget: Budget, facts: Mapping[str, str]) -> Verdict:
    """Writes a row per work and rival, and one for every work or rival that is left out."""
    shown = {name: facts.get(name, "") for name in COLUMNS if name in facts}
    if device == HARNESS:
        shown["note"] = NO_GPU
        return compare(Place(device), rows, budget, shown, wall_clock, (), tiny=True)
    _, place = _devices.library_at(device)
    if type(place).__module__ != "torch":
        return Verdict(True, "left out: events and rivals are torch's, which sees no GPU")
    sys.modules["torch"].cuda.set_device(place)
    rivals.fp32_only()
    limits, missing = limits_of(place)
    for name, why in missing.items():
        rows.write(what=name, note=f"left out: {why}", **shown)
    clock = cuda_clock(place)
    return compare(Place(device, place), rows, budget, shown, clock, limits, tiny=False)


def compare(
    place: Place,
    rows: Rows,
    budget: Budget,
    shown: Mapping[str, str],
    clock: Clock,
    limits: tuple[Limit, ...],
    *,
    tiny: bool,
) -> Verdict:
    """All contests; ``shown`` stands in every row."""
    rounds = _TINY_ROUNDS if tiny else ROUNDS
    triton = "triton" in backends_on(place.device)
    timed = left_out = failed = 0
    for make in contests(place, tiny):
        title = {"what": make.func.__name__}
        note = "left out: out of time"
        medians: Medians | None = None
        if budget.left() > 0:
            try:
                contest = with_triton(make()) if triton else make()
                title = {"what": contest.work.what, "shape": contest.work.shape}
                medians = measure(contest, limits, clock, rounds, budget)
            except Exception as error:
                note = f"{'left out' if _is_memory(error) else 'failed'}: {_text(error)}"
                failed += not _is_memory(error)
        if medians is None:
            rows.write(**{**shown, **title, "note": note})
            left_out += 1
            continue
        for row in rows_of(contest.work, medians, rounds):
            rows.write(**{**shown, **row})
        timed += 1
        del contest
        _free(place)
    return Verdict(not failed, f"{timed} works timed, {left_out} left out or failed")


def _is_memory(error: Exception) -> bool:
    """Of the host, or as torch and CuPy have it."""
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _free(place: Place) -> None:
    """The device's memory of the contest before."""
    gc.collect()
    if place.torch is not None:
        sys.modules["torch"].cuda.empty_cache()


def rows_of(work: Work, medians: Medians, rounds: int) -> list[dict[str, Any]]:
    """One per rival that took part or did not; at least one."""
    ours = medians.device_ms[EVOKERN]
    common: dict[str, Any] = {
        "what": work.what,
        "shape": work.shape,
        "evokern_ms": _shown(ours),
        "evokern_wall_ms": _shown(medians.wall_ms[EVOKERN]),
        "rounds": rounds,
    }
    if ours:
        common["gb_per_s"] = _shown(work.least / ours * 1e-6)
        common["gflop_per_s"] = _shown(work.operations / ours * 1e-6)
    if ours and medians.rates:
        memory, arithmetic = medians.rates
        by_memory = work.is_bound_by_memory(medians.rates)
        common["percent_of_limit"] = _shown(1e5 * work.floor(medians.rates) / ours)
        common["limit"] = medians.limits[0 if by_memory else 1]
        common["memory_limit_gb_per_s"] = _shown(memory * 1e-9)
        common["arithmetic_limit_gflop_per_s"] = _shown(arithmetic * 1e-9)
    others = [name for name in medians.wall_ms if name != EVOKERN and not _is_limit(name)]
    rows = []
    for name in others:
        theirs = medians.device_ms[name]
        ratio = theirs / ours if theirs and ours else None
        rows.append(
            common
            | {
                "rival": name,
                "rival_ms": _shown(theirs),
                "rival_wall_ms": _shown(medians.wall_ms[name]),
                "ratio": _shown(ratio),
            }
        )
    rows += [
        common | {"rival": name, "note": f"left out: {why}"}
        for name, why in medians.missing.items()
    ]
    return rows or [common]


def _is_limit(name: str) -> bool:
    return name.startswith("limit: ")


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
