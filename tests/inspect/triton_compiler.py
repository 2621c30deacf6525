"""Compiles Triton's kernels without a GPU and without a driver, and looks at what came out."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

from compilers import run
from listings import Function, functions_of, is_approximate, mistakes, occupancy

CAPABILITIES = {"sm_80": 80, "sm_90a": 90, "sm_100a": 100}
ARCHS = ("sm_80", "sm_90a")
NEWER = "sm_100a"
"""For which kernels must compile, whatever comes out."""

WIDE = 16
"""Bytes of the widest loads and stores of a thread."""


@dataclass(frozen=True)
class Variant:
    """A kernel as one launch compiles it.

    ``options`` are its ``tl.constexpr`` and what Triton takes beside them. ``call`` is where the
    launch was first met.
    """

    module: str
    kernel: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    call: str

    @property
    def constants(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name.isupper()}

    @property
    def warps(self) -> int:
        return int(self.options["num_warps"])

    @property
    def stages(self) -> int:
        return int(self.options["num_stages"])

    @property
    def fusion(self) -> bool:
        return bool(self.options["enable_fp_fusion"])

    def __str__(self) -> str:
        constants = ", ".join(f"{name}={value}" for name, value in self.constants.items())
        return f"{self.kernel}<{constants}> of {self.call}"


@dataclass(frozen=True)
class Found:
    """What came out for one architecture. ``shared``: bytes of a block, all of them.

    ``dots``: the types of ``tl.dot``, such as tf32. ``loops``: whether there is any loop; Triton
    unrolls those that run once. ``spills``: instructions that access a stack.
    """

    threads: int
    registers: int
    stack: int
    shared: int
    function: Function
    dots: frozenset[str]
    loops: bool
    spills: str

    def count(self, *starts: str) -> int:
        operations = self.function.operations
        return sum(n for name, n in operations.items() if name.startswith(starts))

    @property
    def products(self) -> int:
        """Instructions for tensor cores."""
        return self.count("mma.", "wgmma.mma_async")

    @property
    def wide(self) -> tuple[int, int]:
        """Loads of 16 bytes from global memory, and stores."""
        loads = stores = 0
        for name, count in self.function.operations.items():
            if name.startswith("cp.async.cg."):  # has no other size
                loads += count
            elif bytes_of(name) == WIDE:
                loads += count * name.startswith("ld.global")
                stores += count * name.startswith("st.global")
        return loads, stores


def bytes_of(operation: str) -> int:
    """Of a load or store, such as ld.global.v4.b32."""
    vector = re.search(r"\.v(\d)\b", operation)
    bits = re.search(r"\.[bsuf](\d+)$", operation)
    return (int(vector[1]) if vector else 1) * int(bits[1]) // 8 if bits else 0


class Driver:
    """Stands in for Triton's driver. The number of the device is its capability."""

    def __init__(self, arch: str) -> None:
        self.capability = CAPABILITIES[arch]

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


def use_arch(arch: str) -> None:
    """Lets Triton compile for it in this process."""
    import triton

    if triton.knobs.runtime.interpret:
        raise SystemExit("TRITON_INTERPRET is set: nothing would be compiled")
    triton.runtime.driver.set_active(Driver(arch))


def compile_for(arch: str, variant: Variant) -> Found | str:
    """What came out, or why nothing did."""
    use_arch(arch)
    try:
        kernel = getattr(import_module(variant.module), variant.kernel)
        compiled = kernel.warmup(*variant.arguments, grid=(1,), **variant.options)
    except Exception as error:
        return reason_of(error)
    return look_at(compiled)


def read_for(arch: str, variant: Variant) -> str:
    """Why Triton cannot read a kernel, that is make its first form of it; empty if it can.

    That is a hundredth of compiling it.
    """
    use_arch(arch)
    kernel = getattr(import_module(variant.module), variant.kernel)
    _ = kernel.device_caches[CAPABILITIES[arch]]  # sets what is replaced
    try:
        with mock.patch.object(kernel, "compile", _read):
            kernel.warmup(*variant.arguments, grid=(1,), **variant.options)
    except Exception as error:
        return reason_of(error)
    return ""


def _read(source: Any, target: Any, options: dict[str, Any]) -> None:
    """The beginning of ``triton.compile``."""
    from triton.compiler.compiler import ir, make_backend

    backend, context = make_backend(target), ir.context()
    given = backend.parse_options(options)
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(given)
    source.make_ir(target, given, functions, backend.get_module_map(), context)


def reason_of(error: BaseException) -> str:
    """What Triton says, helper by helper down to the line that it cannot compile."""
    told = f"{type(error).__name__}: {error}".rstrip()
    return told if error.__cause__ is None else f"{told}\n{reason_of(error.__cause__)}"


def compile_all(jobs: list[tuple[str, Variant]]) -> list[Found | str]:
    """Every job, an architecture and a variant, in processes beside this one."""
    archs = [arch for arch, _ in jobs]
    variants = [variant for _, variant in jobs]
    # A forked process would share what threads of Triton held when it was forked.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        return list(pool.map(compile_for, archs, variants))


def look_at(compiled: Any) -> Found:
    """A kernel that Triton compiled."""
    [function] = [f for f in functions_of(compiled.asm["ptx"]) if f.kernel]
    registers, stack, spills = resources_of(compiled.asm["cubin"])
    ttir = compiled.asm["ttir"]
    return Found(
        threads=32 * compiled.metadata.num_warps,
        registers=registers,
        stack=stack,
        shared=compiled.metadata.shared,
        function=function,
        dots=dots_of(ttir),
        loops="scf.for" in ttir,
        spills=spills,
    )


def resources_of(cubin: bytes) -> tuple[int, int, str]:
    """Registers and bytes of stack of a thread, and what spills.

    What it says of shared memory are the system's 1024 bytes, where there are any at all.
    """
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = run([str(tools / "cuobjdump"), "-res-usage", file.name])
        numbers = [int(n) for n in re.findall(r"\b(?:REG|STACK|LOCAL):(\d+)", report)]
        registers, stack, local = numbers
        spills = ""
        if stack + local:
            sass = run([str(tools / "nvdisasm"), "-c", file.name])
            found = Counter(re.findall(r"\b(LDL|STL)\b", sass))
            spills = f"{found['STL']} STL, {found['LDL']} LDL"
    return registers, stack + local, spills


def dots_of(ttir: str) -> frozenset[str]:
    """The types that ``tl.dot`` multiplies: ieee, tf32, bf16, ..."""
    found = set()
    for line in ttir.splitlines():
        if types := re.search(r"\btt\.dot\b.*: tensor<[\dx]+x(\w+)>", line):
            precision = re.search(r"inputPrecision = (\w+)", line)
            name = precision[1] if precision else "ieee"
            found.add(name if types[1] == "f32" else types[1])
    return frozenset(found)


def wrong_with(variant: Variant, found: Found) -> list[str]:
    """What there must not be in a kernel, and what there must be."""
    wrong = []
    if found.stack:
        wrong.append(f"{found.stack} bytes of stack: spills registers ({found.spills})")
    if variant.fusion:
        inexact = sorted(filter(is_approximate, found.function.operations))
        wrong += [f"{operation}: not exact" for operation in inexact]
    else:
        wrong += mistakes(found.function, fma=False)
    if (types := sorted(found.dots - {"ieee"})) and not found.products:
        wrong.append(f"a dot of {', '.join(types)} without tensor cores")
    if found.dots and found.loops and variant.stages > 1 and not found.count("cp.async"):
        wrong.append(f"a loop with a dot in {variant.stages} stages without asynchronous copies")
    return wrong


def occupancy_of(arch: str, found: Found) -> float:
    """As `listings.occupancy`, with dynamic shared memory."""
    return occupancy(arch, found.threads, found.registers, found.shared)


def limit_of(arch: str, found: Found) -> str:
    """What allows no more warps, if anything does."""
    limits = {
        "": 1.0,
        "the number of blocks": occupancy(arch, found.threads, 1, 0),
        "registers": occupancy(arch, found.threads, found.registers, 0),
        "shared memory": occupancy(arch, found.threads, 1, found.shared),
    }
    return min(limits, key=lambda limit: limits[limit])
