"""A second opinion on every kernel: sentryward, a static verifier of PTX.

It proves that barriers are met alike and that no two accesses race, in every order of the threads,
for one launch. Its pointers have no addresses: tests whether one is a multiple of 16 are answered
for it, once with yes and once with no, and a kernel is proven when it is in both.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compilers import BUILD, nvcc_flags, run
from launches import ARRAY, LAUNCHES, Launch
from listings import base_name, read

ARCH = "sm_80"
ONE_RUN = 20.0  # seconds
ALL_RUNS = 150.0
MEMORY = 4096  # MiB

ALARMS = ("potential_race", "not_wellsynced", "invalid_lifecycle")
REPRESENTATIVE = {"representative_branches": True}


@dataclass(frozen=True)
class Opinion:
    verdict: str  # proved, alarm, unsupported, no answer
    remark: str = ""


def members_of(nvcc: Path, base: str, launch: Launch) -> dict[str, tuple[int, int]]:
    """Offset and size of the launch's fields, from the compiler's own constants."""
    entries = [
        f"(long long)__builtin_offsetof({launch.parameters}, {name}), "
        f"(long long)sizeof((({launch.parameters}*)0)->{name}),"
        for name in launch.fields
    ]
    source = [
        f'#include "cuda/{launch.header}.cuh"',
        "using namespace evk;",
        "using namespace evk::cuda;",
        "__device__ long long members[] = {",
        *entries,
        "};",
    ]
    folder = BUILD / "launches"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{base}.cu"
    path.write_text("\n".join(source), encoding="utf-8")
    output = path.with_suffix(".ptx")
    run([str(nvcc), *nvcc_flags(), f"-arch={ARCH}", "-w", "-ptx", str(path), "-o", str(output)])
    numbers = constants_of(read(output), "members", 2 * len(entries))
    return dict(zip(launch.fields, zip(numbers[::2], numbers[1::2], strict=True), strict=True))


def constants_of(ptx: str, name: str, count: int) -> list[int]:
    """`count` 64-bit constants of an array, which PTX writes as bytes without the last zeros."""
    found = re.search(rf"\.b8 {name}\[\d+\] = \{{([^}}]*)\}}", ptx)
    if found is None:
        raise RuntimeError(f"no constants {name} in the PTX")
    content = bytes(int(byte) for byte in found[1].split(",")).ljust(8 * count, b"\0")
    return list(struct.unpack(f"<{count}q", content))


def description(launch: Launch, members: dict[str, tuple[int, int]], symbol: str) -> dict[str, Any]:
    """The launch in sentryward's terms."""
    arguments, declarations, arrays = [], [], []
    for name, value in launch.fields.items():
        offset, size = members[name]
        place = {"parameter": f"{symbol}_param_0", "offset": offset}
        if value is None:
            arguments.append({**place, "type": "pointer", "value": None})
        elif isinstance(value, list) or value == ARRAY:
            pointer = {"type": "pointer", "space": "global", "object": name}
            declarations.append({**place, **pointer})
            if isinstance(value, list):
                arrays.append({**place, "shapes": [value]})
        else:
            kind = "f32" if isinstance(value, float) else f"u{8 * size}"
            arguments.append({**place, "type": kind, "value": value})
    return {
        "schema": "spverify.kernel-input/v1",
        "entry": symbol,
        "launch": {
            "grid_dim": launch.grid,
            "block_dim": launch.block,
            "dynamic_shared_bytes": launch.shared_bytes,
        },
        "arguments": arguments,
        "declarations": declarations,
        "shape_arrays": arrays,
    }


def with_addresses(ptx: str, remainder: int) -> str:
    """The PTX with the remainders of addresses by 16 known."""
    test = r"and\.b64(\s+)(%rd\d+), %rd\d+, 15;(\s*setp\.(?:eq|ne)\.s64\s+%p\d+, \2, 0;)"
    return re.sub(test, rf"mov.b64\1\2, {remainder};\3", ptx)


def opinion_on(ptx: str, config: dict[str, Any], folder: Path, deadline: float) -> Opinion:
    """Every way to test addresses; the worst answer counts."""
    texts = {with_addresses(ptx, remainder): None for remainder in (0, 4)}
    opinions = [ask(text, config, folder, i, deadline) for i, text in enumerate(texts)]
    ranks = ("alarm", "no answer", "unsupported", "proved")
    return min(opinions, key=lambda o: (ranks.index(o.verdict), o.remark == ""))


def ask(ptx: str, config: dict[str, Any], folder: Path, number: int, deadline: float) -> Opinion:
    """Exactly, then with one way taken wherever a branch depends on data."""
    from sentryward import verify

    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / f"{number}.ptx"
    listing.write_text(ptx, encoding="utf-8")
    opinion = Opinion("unsupported")
    for assumptions in ({}, REPRESENTATIVE):
        left = min(ONE_RUN, deadline - time.monotonic())
        if left <= 0:
            return Opinion("no answer", "the time for all of them was over")
        path = folder / f"{number}.json"
        path.write_text(json.dumps({**config, "assumptions": assumptions}), encoding="utf-8")
        report = verify(listing, input=path, timeout_seconds=left, memory_limit_mib=MEMORY)
        opinion = opinion_of(report, branches=bool(assumptions))
        if opinion.verdict != "unsupported" or "control" not in opinion.remark:
            break
    return opinion


def opinion_of(report: dict[str, Any], *, branches: bool) -> Opinion:
    """`branches`: on representative ways through branches that depend on data."""
    result = report["result"]
    codes = ", ".join(sorted({d["code"] for d in report.get("diagnostics", [])}))
    if result == "race_free":
        return Opinion("proved", "one way through branches on data" if branches else "")
    if result in ALARMS:
        return Opinion("alarm", f"{result}: {codes}")
    if result == "unsupported":
        met = report.get("checks", {}).get("synchronization") == "passed"
        return Opinion("unsupported", codes + (" (barriers proved)" if met else ""))
    if result == "timeout":
        return Opinion("no answer", f"in {ONE_RUN:.0f} s")
    return Opinion("no answer", f"{result}: {codes}")


def second_opinions(nvcc: Path, kernels: dict[str, tuple[str, str]]) -> dict[str, Opinion]:
    """Of kernels by their short names, given as symbol and PTX of the module."""
    if importlib.util.find_spec("sentryward") is None:
        return {name: Opinion("no answer", "sentryward is not installed") for name in kernels}
    deadline = time.monotonic() + ALL_RUNS
    described = sorted({base_name(name) for name in kernels} & LAUNCHES.keys())

    def members(base: str) -> dict[str, tuple[int, int]] | RuntimeError:
        try:
            return members_of(nvcc, base, LAUNCHES[base])
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        known = dict(zip(described, pool.map(members, described), strict=True))

        def opinion(name: str) -> Opinion:
            base, (symbol, ptx) = base_name(name), kernels[name]
            if base not in known:
                return Opinion("no answer", "launches.py has no launch of it")
            if isinstance(offsets := known[base], RuntimeError):
                print(f"launches.py: {base}: {offsets}")
                return Opinion("no answer", "its launch in launches.py does not compile")
            config = description(LAUNCHES[base], offsets, symbol)
            return opinion_on(ptx, config, BUILD / "launches" / symbol, deadline)

        return dict(zip(kernels, pool.map(opinion, kernels), strict=True))
