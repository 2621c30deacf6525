"""Builds evokern._cpu, every kernel file once per instruction set, and evokern._cuda.

EVOKERN_CUDA=auto|1|0     whether to build evokern._cuda: where there is an nvcc, always, never
EVOKERN_ARCHS             what it is compiled for, 80;86;89;90a;100 unless said otherwise; newer
                          devices compile the PTX of the last one

Two switches make development builds, each with objects of its own under build/:

EVOKERN_EMULATE_AVX512=1  AVX-512 kernels by SIMDe, for processors without AVX-512
EVOKERN_SANITIZE=1        AddressSanitizer and UndefinedBehaviorSanitizer
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
BINDINGS = sorted((CSRC / "cpu").glob("bindings*.cpp"))
KERNELS = sorted(set((CSRC / "cpu").glob("*.cpp")) - set(BINDINGS))
CUDA_BINDINGS = sorted((CSRC / "cuda").glob("bindings*.cpp"))
CUDA_KERNELS = sorted((CSRC / "cuda").glob("*.cu"))

# What ops of other packages are written with: evokern.include_dir() in a wheel.
PUBLIC_HEADERS = sorted((CSRC / "core").glob("*.h"))
PUBLIC_HEADERS += [CSRC / "cuda" / name for name in ("device.h", "launch.h")]


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


# The bits of docs/bits.md: nothing contracted, nothing approximate.
NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "--fmad=false",
    "-prec-div=true",
    "-prec-sqrt=true",
    "-ftz=false",
    "-diag-suppress=1675",  # a pragma of GCC
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    f"-I{CSRC}",
]


def find_nvcc() -> str | None:
    """nvcc of $CUDA_HOME, of the PATH, of the usual place, or of `make cuda-toolchain`."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [Path(home) / "bin/nvcc" for home in [*homes, "/usr/local/cuda"]]
    on_path = shutil.which("nvcc")
    places.insert(len(homes), Path(on_path or "nvcc"))
    places += sorted(ROOT.glob(".venv-cuda/lib/python*/site-packages/nvidia/cu*/bin/nvcc"))
    return next((str(place) for place in places if place.is_file()), None)


def wanted_nvcc() -> str | None:
    """The compiler of evokern._cuda; None: it is not built."""
    wish = os.environ.get("EVOKERN_CUDA") or "auto"
    if wish not in ("auto", "0", "1"):
        raise SystemExit(f"EVOKERN_CUDA: expected auto, 0 or 1, got {wish!r}")
    if wish == "0" or VARIANT:
        return None
    nvcc = find_nvcc()
    if nvcc is None and wish == "1":
        raise SystemExit("EVOKERN_CUDA=1: no nvcc found; set CUDA_HOME or try make cuda-toolchain")
    return nvcc


def architectures() -> list[str]:
    """What EVOKERN_ARCHS names, such as 80 or 90a."""
    names = (os.environ.get("EVOKERN_ARCHS") or "80;86;89;90a;100").split(";")
    for name in names:
        if not re.fullmatch(r"[0-9]{2,3}[af]?", name):
            raise SystemExit(f"EVOKERN_ARCHS: expected names such as 80;90a, got {name!r}")
    return names


def architecture_flags() -> list[str]:
    """A binary for each, and PTX of the last."""
    names = architectures()
    last = names[-1].rstrip("af")
    codes = [f"arch=compute_{name},code=sm_{name}" for name in names]
    return [f"-gencode={code}" for code in [*codes, f"arch=compute_{last},code=compute_{last}"]]


def toolkit_of(nvcc: str) -> Path:
    """The folder that holds the toolkit's lib or lib64."""
    report = subprocess.run(
        [nvcc, "--dryrun", "x.cu"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout
    top = re.search(r"^#\$ TOP=(.*)$", report, re.MULTILINE)
    if top is None:
        raise CompileError(f"{nvcc} does not say where its toolkit is:\n{report}")
    return Path(top[1])


NVCC = wanted_nvcc()


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


def cudart_flags() -> list[str]:
    """CUDA's runtime as part of the module, so that it is imported without one."""
    assert NVCC
    top = toolkit_of(NVCC)
    folders = [f"-L{top / name}" for name in ("lib64", "lib")]
    return [*folders, "-l:libcudart_static.a", "-lpthread", "-ldl", "-lrt", "-fno-lto"]


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
        cuda = ext.name.endswith("_cuda")
        jobs = list(self.cuda_jobs() if cuda else self.jobs())
        folders = [CSRC / "core", CSRC / ("cuda" if cuda else "cpu")]
        headers = [path for folder in folders for path in folder.glob("*.*h")]
        headers.append(Path(__file__))
        newest_header = max(path.stat().st_mtime for path in headers)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda job: job.run(newest_header), jobs))
        self.compiler.link_shared_object(
            [str(job.object) for job in jobs],
            self.get_ext_fullpath(ext.name),
            extra_postargs=cudart_flags() if cuda else LINK_FLAGS,
            target_lang="c++",
        )

    def python_flags(self) -> list[str]:
        return [f"-I{path}" for path in [pybind11.get_include(), *self.include_dirs]]

    def cuda_jobs(self) -> Iterator[Job]:
        """The kernels by nvcc, the bindings by the compiler of everything else."""
        assert NVCC
        for kernel in CUDA_KERNELS:
            folder = "cuda-" + "-".join(architectures())
            target = ROOT / BUILD / folder / f"{kernel.stem}.o"
            flags = [*NVCC_FLAGS, *architecture_flags()]
            yield Job(kernel, target, [NVCC, *flags, "-c", str(kernel), "-o", str(target)])
        for source in CUDA_BINDINGS:
            yield self.job(source, "cuda", [*self.python_flags(), "-DEVK_MODULE=_cuda"])

    def jobs(self) -> Iterator[Job]:
        """The bindings first, since they take longest, then kernels by instruction set."""
        flags = self.python_flags()
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


class CopyHeaders(build_py):
    """A source tree, and so an editable install, has csrc itself."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for header, copy in zip(PUBLIC_HEADERS, self.header_copies(), strict=True):
                self.mkpath(str(Path(copy).parent))
                self.copy_file(str(header), copy)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, *self.header_copies()]

    def header_copies(self) -> list[str]:
        folder = Path(self.build_lib) / "evokern" / "include"
        return [str(folder / header.relative_to(CSRC)) for header in PUBLIC_HEADERS]


if sys.platform == "win32":
    raise SystemExit("evokern does not build on Windows yet: use Linux, or WSL on Windows")


def extension(name: str, sources: list[Path]) -> Extension:
    return Extension(name, [str(path.relative_to(ROOT)) for path in sources])


extensions = [extension("evokern._cpu", [*BINDINGS, *KERNELS])]
if NVCC:
    extensions.append(extension("evokern._cuda", [*CUDA_BINDINGS, *CUDA_KERNELS]))

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildKernels, "build_py": CopyHeaders},
    options={"build": {"build_base": BUILD}},
)
