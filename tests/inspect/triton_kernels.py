"""Compiles every Triton kernel and looks at what came out: ``make inspect [ARGS=--write]``.

Fails for registers spilled, for approximations, for fma in kernels that promise bits, for matrix
products without tensor cores or copies ahead, for kernels and configurations that no call of
triton_calls.py reaches, and where docs/triton-kernels.md says anything else. Needs no GPU and no
driver.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from compilers import BUILD, ROOT
from listings import read
from table import differences
from triton_calls import WIDE, calls, ones
from triton_compiler import ARCHS, NEWER, Found, Variant, compile_all, read_for, wrong_with
from triton_recorder import Recorder, entries_of, kernels_of, modules, recorded
from triton_table import Row, page, rows_of

TABLE = ROOT / "docs" / "triton-kernels.md"
CONSTRAINTS = ROOT / "constraints.txt"


@contextmanager
def part(name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:6.1f} s  {name}", flush=True)


def pinned_triton() -> str:
    """The version that is here: another one would give another table."""
    here = version("triton")
    if f"triton=={here}" not in read(CONSTRAINTS).splitlines():
        raise SystemExit(f"triton {here} is not the version of {CONSTRAINTS}")
    return here


def launched() -> tuple[list[Variant], list[str]]:
    """What all calls launch; which of them fail, and what none of them reaches."""
    entries = [entry for module in modules() for entry in entries_of(module).values()]
    with recorded(entries) as recorder:
        wrong = _failures(recorder, calls())
    return list(recorder.variants.values()), wrong + unreached(recorder)


def unreadable() -> list[str]:
    """Which calls of sizes of 1 fail, or launch what Triton cannot read."""
    with recorded([]) as recorder:
        wrong = _failures(recorder, ones())
    variants = recorder.variants.values()
    read = [(variant, read_for(ARCHS[0], variant)) for variant in variants]
    return wrong + [f"{variant}: {reason}" for variant, reason in read if reason]


def _failures(recorder: Recorder, named: Iterable[tuple[str, Callable[[], object]]]) -> list[str]:
    """Runs the calls for the recorder; which of them fail."""
    wrong = []
    for name, call in named:
        recorder.call = name
        try:
            call()
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
    return wrong


def unreached(recorder: Recorder) -> list[str]:
    """Kernels that nothing launches, and configurations that nothing uses."""
    kernels = {(variant.module, variant.kernel) for variant in recorder.variants.values()}
    wrong = []
    for module in modules():
        name = module.__name__
        idle = [kernel for kernel in kernels_of(module) if (name, kernel) not in kernels]
        wrong += [f"{name}.{kernel}: no call of triton_calls.py launches it" for kernel in idle]
        unused = [n for n, entry in entries_of(module).items() if id(entry) not in recorder.used]
        wrong += [f"{entry}: no call of triton_calls.py uses it" for entry in unused]
    return wrong


def compiled(variants: list[Variant]) -> tuple[list[tuple[Variant, dict[str, Found]]], list[str]]:
    """What came out of each variant that compiles for both architectures, and what did not."""
    answers = iter(compile_all([(arch, variant) for variant in variants for arch in ARCHS]))
    good, wrong = [], []
    for variant in variants:
        found = {arch: next(answers) for arch in ARCHS}
        wrong += [f"{variant} for {a}: {f}" for a, f in found.items() if isinstance(f, str)]
        known = {arch: f for arch, f in found.items() if isinstance(f, Found)}
        if known.keys() == found.keys():
            good.append((variant, known))
    return good, wrong


def not_for_newer(rows: list[Row]) -> list[str]:
    """A variant of each kernel for the next architecture, of some one for each precision."""
    some = {(row.module, row.kernel, row.words): row.variants[0][0] for row in rows}
    jobs = [(NEWER, variant) for variant in some.values()]
    pairs = zip(jobs, compile_all(jobs), strict=True)
    return [f"{variant} for {NEWER}: {f}" for (_, variant), f in pairs if isinstance(f, str)]


def narrow(rows: list[Row]) -> list[str]:
    """Configurations that have no accesses of 16 bytes where they should."""
    wrong = []
    for row in rows:
        wanted = WIDE.get(row.kernel, "")
        for arch, found in row.numbers().items():
            for side, count in zip(("loads", "stores"), found.wide, strict=True):
                if side in wanted.split() and not count:
                    wrong.append(f"{row.name} for {arch}: no {side} of 16 bytes")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="make inspect")
    parser.add_argument("--write", action="store_true", help="write docs/triton-kernels.md")
    write = parser.parse_args().write

    triton = pinned_triton()
    # Before Triton is imported, here and in the processes that compile.
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = str(BUILD / "triton")
    with part("every call"):
        variants, wrong = launched()
    with part("calls of sizes of 1"):
        wrong += unreadable()
    with part(f"Triton: {len(variants)} variants for {' and '.join(ARCHS)}"):
        good, failures = compiled(variants)
        wrong += failures
    wrong += [
        f"{variant} for {arch}: {mistake}"
        for variant, by_arch in good
        for arch, found in by_arch.items()
        for mistake in wrong_with(variant, found)
    ]
    rows = rows_of(good)
    with part(f"Triton: every kernel for {NEWER}"):
        wrong += not_for_newer(rows)
    wrong += narrow(rows)

    text = page(rows, triton, NEWER)
    print(f"\n{text}")
    if write and len(good) == len(variants):
        TABLE.write_text(text, encoding="utf-8")
    elif changes := differences(read(TABLE) if TABLE.is_file() else "", text):
        wrong.append("\n".join(["docs/triton-kernels.md: make inspect ARGS=--write", *changes]))
    for mistake in wrong:
        print(f"FAILED: {mistake}")
    print(f"{len(rows)} configurations in {len(variants)} variants, {len(wrong)} failures")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
