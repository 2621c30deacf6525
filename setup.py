"""Builds evokern._cpu: every kernel file once per instruction set, joined by the bindings.

Two switches make development builds, each with objects of its own under build/:

EVOKERN_EMULATE_AVX512=1  AVX-512 kernels by SIMDe, for processors without AVX-512
EVOKERN_SANITIZE=1        AddressSanitizer and UndefinedBehaviorSanitizer
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
BINDINGS = sorted((CSRC / "cpu").glob("bindings*.cpp"))
KERNELS = sorted(set((CSRC / "cpu").glob("*.cpp")) - set(BINDINGS))


def switch(name: str) -> bool:
    """Whether the environment variable `name` is 1."""
    value = os.environ.get(name) or "0"
    if value not in ("0", "1"):
        raise SystemExit(f"{name}: expected 0 or 1, got {value!r}")
    return value == "1"


X86 = platform.machine() in ("x86_64", "AMD64")
EMULATE_AVX512 = X86 and switch("EVOKERN_EMULATE_AVX512")
SANITIZE = switch("EVOKERN_SANITIZE")
VARIANT = "-".join(name for name, on in [("emulate", EMULATE_AVX512), ("sanitize", SANITIZE)] if on)
BUILD = f"build/{VARIANT or 'release'}"

# These follow the flags Python was built with and those of the user, and take back what would
# change a result (fast-math, contraction) or mix code for different processors (LTO).
FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-lto",
    "-fopenmp",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    # GCC 12 takes the undefined operands of its own AVX-512 header for mistakes.
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    f"-I{CSRC}",
]
# Long chains of operations overlap better when GCC orders them before it assigns registers: 12 %
# less time for a mutation. The same order halves the speed of the matrix product.
LONG_CHAINS = ["-fschedule-insns", "-fsched-pressure"]
KERNEL_FLAGS = {"variation": LONG_CHAINS, "lineage": LONG_CHAINS}
LINK_FLAGS = ["-fopenmp", "-fno-lto"]
if SANITIZE:
    sanitizers = "-fsanitize=address,undefined"
    # Python's own -fwrapv would hide signed overflow.
    FLAGS += [sanitizers, "-fno-sanitize-recover=undefined", "-fno-wrapv"]
    FLAGS += ["-fno-omit-frame-pointer", "-O1", "-g"]
    LINK_FLAGS += [sanitizers]


def instruction_sets() -> dict[str, list[str]]:
    """Name of each instruction set that kernels are compiled for, and its compiler flags."""
    if not X86:
        return {"baseline": []}
    # An explicit -march, lest -march=native in the user's flags leaks into the lower sets.
    baseline = ["-march=x86-64"]
    avx2 = [*baseline, "-mavx2", "-mfma"]
    avx512 = ["-march=x86-64-v4"]
    avx512_bf16 = [*avx512, "-mavx512bf16"]
    if EMULATE_AVX512:
        # SIMDe's loops take minutes to compile at -O3.
        avx512 = avx512_bf16 = [*avx2, "-DEVK_EMULATE_AVX512", "-O1"]
    return {"baseline": baseline, "avx2": avx2, "avx512": avx512, "avx512_bf16": avx512_bf16}


@dataclass(frozen=True)
class Job:
    """One run of the compiler."""

    source: Path
    object: Path
    command: list[str]

    def run(self, newest_header: float) -> None:
        """Compiles unless the object is newer than its source and all headers."""
        newest = max(newest_header, self.source.stat().st_mtime)
        if self.object.exists() and self.object.stat().st_mtime > newest:
            return
        self.object.parent.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if result.returncode != 0:
            raise CompileError(f"{shlex.join(self.command)}\n{result.stdout}")
        print(self.object.relative_to(ROOT), result.stdout, flush=True)


class BuildKernels(build_ext):
    """Compiles all jobs side by side, then links them."""

    def build_extension(self, ext: Extension) -> None:
        jobs = list(self.jobs())
        newest_header = max(path.stat().st_mtime for path in [*CSRC.rglob("*.h"), Path(__file__)])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda job: job.run(newest_header), jobs))
        self.compiler.link_shared_object(
            [str(job.object) for job in jobs],
            self.get_ext_fullpath(ext.name),
            extra_postargs=LINK_FLAGS,
            target_lang="c++",
        )

    def jobs(self) -> Iterator[Job]:
        """The bindings first, since they take longest, then kernels by instruction set."""
        flags = [f"-I{path}" for path in [pybind11.get_include(), *self.include_dirs]]
        flags += ["-DEVK_X86=1"] if X86 else []
        flags += ["-DEVK_EMULATE_AVX512"] if EMULATE_AVX512 else []
        for source in BINDINGS:
            yield self.job(source, sys.implementation.cache_tag, flags)
        for isa, isa_flags in instruction_sets().items():
            for kernel in KERNELS:
                own = KERNEL_FLAGS.get(kernel.stem, [])
                macro = f"-DEVK_ISA={isa}"
                yield self.job(kernel, isa, [macro, "-fno-exceptions", *own, *isa_flags])

    def job(self, source: Path, folder: str, flags: list[str]) -> Job:
        target = ROOT / BUILD / folder / f"{source.stem}.o"
        compiler = self.compiler.compiler_so_cxx
        return Job(
            source, target, [*compiler, *FLAGS, *flags, "-c", str(source), "-o", str(target)]
        )


if sys.platform == "win32":
    raise SystemExit("evokern does not build on Windows yet: use Linux, or WSL on Windows")

setup(
    ext_modules=[
        Extension("evokern._cpu", [str(path.relative_to(ROOT)) for path in [*BINDINGS, *KERNELS]])
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"build": {"build_base": BUILD}},
)
