"""Runs the compilers of csrc/cuda/toolchain.txt, with the flags of setup.py."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from listings import read

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "setup.py"
CSRC = ROOT / "csrc"
CUDA = CSRC / "cuda"
REQUIREMENTS = CUDA / "toolchain.txt"
BUILD = ROOT / "build" / "inspect"
ARCHS = ("sm_80", "sm_90a")


def flags_of(setup: str, path: Path) -> list[str]:
    """NVCC_FLAGS of setup.py, which cannot be imported: it would build."""
    wanted = ("ROOT", "CSRC", "NVCC_FLAGS")
    names: dict[str, Any] = {"Path": Path, "__file__": str(path)}
    for node in ast.parse(setup).body:
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id in wanted:
                exec(compile(ast.Module([node], type_ignores=[]), str(path), "exec"), names)
    return list(names["NVCC_FLAGS"])


def nvcc_flags() -> list[str]:
    return flags_of(read(SETUP), SETUP)


def nvrtc_flags() -> list[str]:
    """The same without what is about the host and the driver program."""
    kept = ("-std", "--std", "-I", "--fmad", "-fmad", "-prec", "--prec", "-ftz", "--ftz", "-diag")
    return [flag for flag in nvcc_flags() if flag.startswith(kept)]


def pinned_version(package: str) -> str:
    for line in read(REQUIREMENTS).splitlines():
        name, _, version = line.partition("#")[0].strip().partition("==")
        if name == package:
            return version
    raise SystemExit(f"{REQUIREMENTS}: {package} is not pinned")


def find_nvcc() -> Path:
    """That of this Python's environment: another version would give another table."""
    version = pinned_version("nvidia-cuda-nvcc")
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    nvcc = packages / f"cu{version.partition('.')[0]}" / "bin" / "nvcc"
    if not nvcc.is_file():
        raise SystemExit(f"no {nvcc}: make cuda-toolchain")
    said = subprocess.run([nvcc, "--version"], stdout=subprocess.PIPE, text=True, check=True)
    if f"V{version}" not in said.stdout:
        raise SystemExit(f"{nvcc}: expected version {version}: make cuda-toolchain")
    return nvcc


@dataclass(frozen=True)
class Compiled:
    """One .cu for one architecture; where it did not compile, `error` says why."""

    source: Path
    arch: str
    report: str  # ptxas -v
    ptx: str
    split_ptx: str  # with -DEVK_SPLIT_FMA
    error: str = ""


def code_for(arch: str) -> str:
    number = arch.removeprefix("sm_")
    return f"-gencode=arch=compute_{number},code={arch}"


def run(command: list[str]) -> str:
    """What it says; raises RuntimeError with that where it fails."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{result.stdout}")
    return result.stdout


def compile_kernels(nvcc: Path, source: Path, arch: str) -> Compiled:
    """As setup.py does, and a second time without the fma of the source."""
    command = [str(nvcc), *nvcc_flags(), str(source)]
    folder = BUILD / arch
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / source.stem
    split = stem.with_suffix(".split.ptx")
    try:
        # What is kept is the PTX that ptxas gets.
        keep = ["-cubin", "--keep", "--keep-dir", str(folder), "-o", f"{stem}.cubin"]
        report = run([*command, code_for(arch), "-Xptxas=-v", *keep])
        number = arch.removeprefix("sm_")
        run([*command, f"-arch=compute_{number}", "-DEVK_SPLIT_FMA", "-ptx", "-o", str(split)])
    except RuntimeError as error:
        return Compiled(source, arch, "", "", "", str(error))
    return Compiled(source, arch, report, read(stem.with_suffix(".ptx")), read(split))


def compile_at_run_time(header: Path, kernels: list[str], arch: str) -> str:
    """The kernels of a .cuh by NVRTC, as a program without nvcc would; why not, or nothing."""
    from cuda.bindings import nvrtc

    def check(answer: tuple[Any, ...]) -> Any:
        status, *rest = answer
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(status.name)
        return rest[0] if rest else None

    source = f'#include "cuda/{header.name}"\n'.encode()
    program = check(nvrtc.nvrtcCreateProgram(source, b"program.cu", 0, [], []))
    options = [flag.encode() for flag in [*nvrtc_flags(), f"-arch={arch}"]]
    try:
        for kernel in kernels:
            check(nvrtc.nvrtcAddNameExpression(program, kernel.encode()))
        check(nvrtc.nvrtcCompileProgram(program, len(options), options))
        for kernel in kernels:
            check(nvrtc.nvrtcGetLoweredName(program, kernel.encode()))
    except RuntimeError as error:
        log = b" " * check(nvrtc.nvrtcGetProgramLogSize(program))
        check(nvrtc.nvrtcGetProgramLog(program, log))
        return f"{header.name} by NVRTC for {arch}: {error}\n{log.decode().rstrip(chr(0))}"
    return ""
