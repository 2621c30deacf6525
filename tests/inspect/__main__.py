"""Compiles every CUDA kernel and looks at what came out: ``make inspect [ARGS=--write]``.

Fails for registers spilled, for approximations and fma that the source has not, for kernels that
NVRTC does not take, and where docs/cuda-kernels.md says anything else. Needs `make cuda-toolchain`,
but no GPU and no driver.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import listings
from compilers import (
    ARCHS,
    CSRC,
    CUDA,
    ROOT,
    Compiled,
    compile_at_run_time,
    compile_kernels,
    find_nvcc,
    pinned_version,
)
from listings import Function, read
from opinion import ARCH, Opinion, second_opinions
from table import Row, differences, opinion_part, resource_part

TABLE = ROOT / "docs" / "cuda-kernels.md"

NO_FMA = {"variation.cu", "lineage.cu", "categorical.cu"}
"""Whose rules have no fma, whatever their sources say."""


@contextmanager
def part(name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:6.1f} s  {name}", flush=True)


class Sources:
    """Which kernels the .cuh files have, and which of them may have an fma."""

    def __init__(self) -> None:
        self.texts = {path.name: read(path) for path in sorted(CUDA.glob("*.cuh"))}
        self.home = {
            kernel: header
            for header, text in self.texts.items()
            for kernel in listings.kernels_in(text)
        }
        paths = [*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh")]
        self.enumerators = listings.enumerators_of(read(path) for path in paths)

    def header_of(self, name: str) -> str:
        """The .cuh of a kernel, or nothing."""
        return self.home.get(listings.base_name(name), "")

    def calls_fma(self, header: str) -> bool:
        text = self.texts.get(header, "")
        return listings.calls_fma(text) or any(
            self.calls_fma(name) for name in listings.includes_of(text)
        )


def compile_all(nvcc: Path) -> list[Compiled]:
    jobs = [(source, arch) for source in sorted(CUDA.glob("*.cu")) for arch in ARCHS]
    # The longest first.
    jobs.sort(key=lambda job: -job[0].stat().st_size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda job: compile_kernels(nvcc, *job), jobs))


@dataclass(frozen=True)
class Names:
    """Of the kernels and functions in the PTX, by their symbols."""

    short: dict[str, str]
    full: dict[str, str]  # what NVRTC knows them by


def names_of(compiled: list[Compiled], sources: Sources) -> Names:
    listings_of = [one.ptx for one in compiled] + [one.split_ptx for one in compiled]
    symbols = {f.symbol for ptx in listings_of for f in listings.functions_of(ptx)}
    demangled = listings.demangled(sorted(symbols))
    return Names(
        {s: listings.short_name(full, sources.enumerators) for s, full in demangled.items()},
        {s: listings.without_parameters(full) for s, full in demangled.items()},
    )


def kernels_of(one: Compiled) -> list[Function]:
    return [function for function in listings.functions_of(one.ptx) if function.kernel]


def look_at(one: Compiled, sources: Sources, names: Names) -> list[str]:
    """What is wrong with the kernels of one .cu for one architecture."""
    where = f"{one.source.name} for {one.arch}"
    wrong = [
        f"{where}: {names.short[symbol]} {spill}"
        for symbol, spill in listings.spills(one.report).items()
    ]
    for ptx, split in ((one.ptx, False), (one.split_ptx, True)):
        for function in listings.functions_of(ptx):
            name = names.short[function.symbol]
            header = sources.header_of(name)
            fma = not split and one.source.name not in NO_FMA and sources.calls_fma(header)
            wrong += [
                f"{where}{' with EVK_SPLIT_FMA' if split else ''}: {name}: {mistake}"
                for mistake in listings.mistakes(function, fma=fma)
            ]
    for function in kernels_of(one):
        name = names.short[function.symbol]
        if not sources.header_of(name):
            wrong.append(f"{where}: {name} is a kernel of no .cuh")
        if not function.threads:
            wrong.append(f"{where}: {name} has no launch bounds")
    return wrong


def rows_of(compiled: list[Compiled], names: Names) -> list[Row]:
    rows = []
    for source in {one.source for one in compiled}:
        by_arch = {one.arch: one for one in compiled if one.source == source}
        reports = {arch: listings.resources_of(one.report) for arch, one in by_arch.items()}
        for function in kernels_of(by_arch[ARCHS[0]]):
            resources = {arch: reports[arch][function.symbol] for arch in ARCHS}
            name, fma = names.short[function.symbol], function.operations["fma.rn.f32"]
            rows.append(Row(source.name, name, function.threads, fma, resources))
    return rows


def by_nvrtc(sources: Sources, names: Names) -> list[str]:
    """Why .cuh files do not compile without nvcc, each by itself and with all of its kernels."""

    def compiled(job: tuple[str, str]) -> str:
        header, arch = job
        own = {
            full
            for symbol, full in names.full.items()
            if sources.header_of(names.short[symbol]) == header
        }
        return compile_at_run_time(CUDA / header, sorted(own), arch)

    jobs = [(header, arch) for header in sources.texts for arch in ARCHS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [error for error in pool.map(compiled, jobs) if error]


def opinions_on(nvcc: Path, compiled: list[Compiled], names: Names) -> dict[str, Opinion]:
    kernels = {
        names.short[function.symbol]: (function.symbol, one.ptx)
        for one in compiled
        if one.arch == ARCH
        for function in kernels_of(one)
    }
    return second_opinions(nvcc, kernels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="make inspect")
    parser.add_argument("--write", action="store_true", help="write docs/cuda-kernels.md")
    write = parser.parse_args().write

    nvcc = find_nvcc()
    sources = Sources()
    with part("nvcc: every kernel twice for each architecture"):
        everything = compile_all(nvcc)
    wrong = [one.error for one in everything if one.error]
    broken = {one.source for one in everything if one.error}
    compiled = [one for one in everything if one.source not in broken]
    with part("what ptxas reports, PTX"):
        names = names_of(compiled, sources)
        for one in compiled:
            wrong += look_at(one, sources, names)
        launched = {listings.base_name(name) for name in names.short.values()}
        idle = sorted(sources.home.keys() - launched) if not broken else []
        wrong += [f"{sources.home[kernel]}: no .cu launches {kernel}" for kernel in idle]
        rows = rows_of(compiled, names)
    with part("NVRTC: every .cuh for each architecture"):
        wrong += by_nvrtc(sources, names)
    with part("sentryward: every kernel"):
        opinions = opinions_on(nvcc, compiled, names)

    found = resource_part(rows, pinned_version("nvidia-cuda-nvcc"))
    second = opinion_part(opinions, pinned_version("sentryward"))
    print(f"\n{found}{second}")
    if write and not broken:
        TABLE.write_text(found + second, encoding="utf-8")
    elif changes := differences(read(TABLE) if TABLE.is_file() else "", found):
        wrong.append("\n".join(["docs/cuda-kernels.md: make inspect ARGS=--write", *changes]))
    for mistake in wrong:
        print(f"FAILED: {mistake}")
    print(f"{len(rows)} kernels, {len(wrong)} failures")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
