"""Builds the CUDA kernels for the processor, with g++: ``python tests/simt/build.py [variant]``.

Variants: ``release``; ``asan`` (AddressSanitizer and UBSan); ``race`` (instrumented: races, reads
of unwritten shared memory, counts). Objects and modules go to build/simt/<variant>.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pybind11
import reports

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
RUNTIME = HERE / "runtime"
BUILD = ROOT / "build" / "simt"
SHARED = RUNTIME / "shared.ld"

CXX = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++17", "-fPIC", "-DEVK_SIMT", f"-I{CSRC}", f"-I{RUNTIME}", "-Wall", "-Wextra"]
FLAGS += ["-Wno-unknown-pragmas", "-Wno-psabi"]
# What nvcc is told too, and what it does not assume.
ARITHMETIC = ["-ffp-contract=off", "-fno-fast-math", "-fno-math-errno", "-fno-strict-aliasing"]
# The symbols that dladdr names kernels by; modules of several variants in one process must not
# share the variables of templates.
KERNEL_FLAGS = [
    *ARITHMETIC,
    "-fvisibility=default",
    "-fno-gnu-unique",
    "-fno-semantic-interposition",
]
ASAN = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# Only the hooks of ThreadSanitizer: runtime/observe.cpp stands in for its library.
# Structs of 16 bytes stay in one piece, lest a copy of one count as four accesses.
RACE = ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", "-fno-tree-sra"]
VARIANTS = {
    "release": (["-O2"], []),
    "asan": (["-O1", "-g", "-fno-omit-frame-pointer", *ASAN], ASAN),
    "race": (["-O1", "-g1", *RACE], []),
}


def unavailable() -> str:
    """Why the harness cannot be built here; empty if it can."""
    if platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux":
        return "the harness runs on Linux on x86-64"
    if shutil.which(CXX) is None:
        return f"the harness needs {CXX}"
    return ""


@cache
def _native() -> list[str]:
    # An fma of the processor where it has one; libm's takes a hundred times as long.
    flags = Path("/proc/cpuinfo").read_text().split()
    return ["-march=native"] if "fma" in flags else []


@dataclass(frozen=True)
class Job:
    """One run of the compiler; its object is up to date while command and files are the same.

    The command names neither object nor, beside it, any file but the dependencies, ``<object>.d``.
    """

    source: Path
    object: Path
    command: tuple[str, ...]

    @property
    def _stamp(self) -> Path:
        return self.object.with_suffix(".stamp")

    def _dependencies(self) -> list[Path]:
        """What the last run read, the system's headers aside."""
        rule = self.object.with_suffix(".d").read_text().replace("\\\n", " ")
        paths = [Path(name) for name in rule.split(":", 1)[1].split()]
        return [path for path in paths if not path.is_relative_to("/usr")]

    def _digest(self) -> str:
        """Of the command and of every file that the last run read."""
        digest = hashlib.sha256(shlex.join(self.command).encode())
        for path in self._dependencies():
            digest.update(path.read_bytes() if path.exists() else b"gone")
        return digest.hexdigest()

    def _is_current(self) -> bool:
        return self._stamp.exists() and self._stamp.read_text() == self._digest()

    def run(self) -> bool:
        """Compiles if need be; whether it did."""
        with _alone(self.object):
            if self._is_current():
                return False
            self._stamp.unlink(missing_ok=True)
            begin = time.time()
            made = self.object.with_suffix(".new")
            _run((*self.command, "-o", str(made)))
            made.replace(self.object)
            # What was changed meanwhile may or may not be in the object.
            if all(path.stat().st_mtime < begin for path in self._dependencies()):
                self._stamp.write_text(self._digest())
            return True


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """No other process makes this file meanwhile."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: tuple[str, ...]) -> None:
    # The sanitizers are for the module; preloaded, they would look at the compiler too.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{result.stderr}")
    if result.stderr:
        print(result.stderr, file=sys.stderr)


def _job(source: Path, folder: str, flags: list[str]) -> Job:
    target = BUILD / folder / f"{source.name}.o"
    command = [CXX, *FLAGS, *flags, "-MD", "-MF", str(target.with_suffix(".d"))]
    return Job(source, target, (*command, "-x", "c++", "-c", str(source)))


def _jobs(variant: str, name: str, kernels: list[Path], bindings: list[Path]) -> list[Job]:
    """The bindings first, since they take longest; all variants share them."""
    include = [f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}"]
    # Whoever waits for a test waits for pybind11 first.
    binding_flags = ["-O0", "-fvisibility=hidden", *include]
    observe = ["-O2", "-DSIMT_OBSERVE"] if variant == "race" else []
    flags, _ = VARIANTS[variant]
    own_flags = [*(flag for flag in flags if flag not in RACE), *observe]
    named = [*binding_flags, f"-DEVK_MODULE={name}"]
    jobs = [_job(source, f"bindings{name}", named) for source in bindings]
    jobs += [
        _job(source, "bindings-race" if observe else "bindings", [*binding_flags, *observe[1:]])
        for source in RUNTIME.glob("bindings*.cpp")
    ]
    jobs += [_job(source, variant, [*KERNEL_FLAGS, *_native(), *flags]) for source in kernels]
    own = sorted(set(RUNTIME.glob("*.cpp")) - set(RUNTIME.glob("bindings*.cpp")))
    return jobs + [_job(source, variant, own_flags) for source in own]


def build(variant: str = "release", name: str = "_simt") -> Path:
    """The path of the extension module, built anew where a source has changed.

    ``name`` is ``_simt``, the kernels of csrc/cuda, or ``_planted``, those of the self-test.
    Raises RuntimeError with the compiler's words.
    """
    if name == "_simt":
        kernels = sorted((CSRC / "cuda").glob("*.cu"))
        bindings = sorted((CSRC / "cuda").glob("bindings*.cpp"))
    else:
        kernels, bindings = [HERE / "planted.cu"], [HERE / "bindings_planted.cpp"]
    jobs = _jobs(variant, name, kernels, bindings)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(Job.run, jobs))
    return _link(BUILD / variant / f"{name}.so", [job.object for job in jobs], VARIANTS[variant][1])


def _link(module: Path, objects: list[Path], flags: list[str]) -> Path:
    with _alone(module):
        listed = module.with_suffix(".objects")
        names = "\n".join(str(path) for path in objects)
        newest = max(path.stat().st_mtime_ns for path in [*objects, SHARED])
        if module.exists() and module.stat().st_mtime_ns > newest and listed.read_text() == names:
            return module
        linked = module.with_suffix(".new")
        flags = ["-shared", *flags, "-Wl,-Bsymbolic", f"-Wl,-T,{SHARED}", "-ldl", "-pthread"]
        _run((CXX, *map(str, objects), *flags, "-o", str(linked)))
        listed.write_text(names)
        linked.replace(module)  # a process that has the old one keeps it
    return module


def _load(package: str, name: str, path: Path) -> ModuleType:
    # pybind11 takes modules of the same full name for one.
    name = f"{package}.{name}"
    loader = ExtensionFileLoader(name, str(path))
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@cache
def load(variant: str = "release", name: str = "_simt") -> ModuleType:
    """The built module, with the harness's own functions (runtime/bindings_simt.cpp) in it.

    The order of the threads is that of EVOKERN_SIMT_ORDER: forward, reverse, random or random:SEED.
    """
    path = build(variant, name)
    package = f"simt_{variant}{name}"
    module = _load(package, name, path)
    harness = _load(package, "_simt_harness", path)
    for function in dir(harness):
        if not function.startswith("__"):
            setattr(module, function, getattr(harness, function))
    module.empty = lambda count: np.asarray(module.Memory(count))
    if variant == "race":
        for report in (reports.counts, reports.races, reports.unwritten_reads):
            setattr(module, report.__name__, partial(report, module))
    order, _, seed = os.environ.get("EVOKERN_SIMT_ORDER", "forward").partition(":")
    module.set_order(order, int(seed or 0))
    return module


if __name__ == "__main__":
    print(build(*sys.argv[1:]))
