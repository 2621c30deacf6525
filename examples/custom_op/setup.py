"""Builds custom_op._cpu, and where there is an nvcc custom_op._cuda.

EVOKERN_CUDA=auto|1|0     whether to build the latter: where there is an nvcc, always, never
EVOKERN_ARCHS             what it is compiled for, 80;90 unless said otherwise; newer devices
                          compile the PTX of the last one
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

from evokern.extension import include_dir

HEADERS = [*Path("csrc").glob("*.h"), *Path(include_dir()).glob("c*/*.h")]
INCLUDE = ["csrc", include_dir(), pybind11.get_include()]

# Bits: nothing contracted, nothing approximate. Without traps to think of, GCC makes vectors of
# loops with `condition ? a : b`.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-fast-math", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math", "-fno-lto", "-fopenmp", "-fvisibility=hidden", "-g0"]
FLAGS += ["-Wall", "-Wextra"]
NVCC_FLAGS = ["-std=c++17", "-O3", "--fmad=false", "-prec-div=true", "-prec-sqrt=true"]
NVCC_FLAGS += ["-ftz=false", "-diag-suppress=1675", "-Xcompiler=-fPIC,-fvisibility=hidden"]


def find_nvcc() -> str | None:
    """nvcc of $CUDA_HOME, of the PATH, or of the usual place; None where EVOKERN_CUDA says so."""
    wish = os.environ.get("EVOKERN_CUDA") or "auto"
    if wish == "0":
        return None
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    if home := os.environ.get("CUDA_HOME"):
        path = os.pathsep.join([f"{home}/bin", path])
    nvcc = shutil.which("nvcc", path=path)
    if nvcc is None and wish == "1":
        raise SystemExit("EVOKERN_CUDA=1: no nvcc found; set CUDA_HOME")
    return nvcc


def architecture_flags() -> list[str]:
    """A binary for each, and PTX of the last."""
    names = (os.environ.get("EVOKERN_ARCHS") or "80;90").split(";")
    last = names[-1].rstrip("af")
    codes = [f"arch=compute_{name},code=sm_{name}" for name in names]
    return [f"-gencode={code}" for code in [*codes, f"arch=compute_{last},code=compute_{last}"]]


class Build(build_ext):
    """nvcc compiles the kernels and links their module, with CUDA's runtime inside."""

    def build_extension(self, ext: Extension) -> None:
        if not ext.name.endswith("_cuda"):
            super().build_extension(ext)
            return
        bindings = self.compiler.compile(
            ["csrc/bindings_cuda.cpp"], self.build_temp, include_dirs=INCLUDE, extra_postargs=FLAGS
        )
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        include = [f"-I{folder}" for folder in INCLUDE]
        # Where the toolkit of the package index has CUDA's runtime; others know their own place.
        library = f"-L{Path(NVCC).parents[1] / 'lib'}"
        command = [NVCC, *NVCC_FLAGS, *architecture_flags(), *include, "-shared", library]
        subprocess.run([*command, "csrc/laplace.cu", *bindings, "-o", str(target)], check=True)


NVCC = find_nvcc()
options = {"include_dirs": INCLUDE, "depends": ["setup.py", *map(str, HEADERS)], "language": "c++"}
extensions = [
    Extension(
        "custom_op._cpu",
        ["csrc/laplace.cpp"],
        extra_compile_args=FLAGS,
        extra_link_args=["-fopenmp"],
        **options,
    )
]
if NVCC:
    sources = ["csrc/laplace.cu", "csrc/bindings_cuda.cpp"]
    extensions.append(Extension("custom_op._cuda", sources, **options))

setup(ext_modules=extensions, cmdclass={"build_ext": Build})
