"""What nvcc, ptxas and PTX say about kernels, and what must not be in there.

PTX is looked at, never SASS: a correctly rounded division or square root has fma and approximations
in SASS by right.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# --- ptxas -v ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resources:
    """Of a kernel on an architecture; bytes of a thread (stack, spills) or a block (shared)."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int  # static


def resources_of(report: str) -> dict[str, Resources]:
    """Symbol of each kernel and what `ptxas -v` says of it.

    Raises ValueError where ptxas says less than that.
    """
    found: dict[str, Resources] = {}
    entries = re.split(r"^ptxas info\s*: Compiling entry function ", report, flags=re.MULTILINE)
    for entry in entries[1:]:
        symbol = re.match(r"'(\w+)'", entry)
        if symbol is None:
            raise ValueError(f"ptxas names no kernel:\n{entry}")
        frame = re.search(
            rf"Function properties for {symbol[1]}\s+(\d+) bytes stack frame, "
            r"(\d+) bytes spill stores, (\d+) bytes spill loads",
            entry,
        )
        used = re.search(r"Used (\d+) registers(.*)", entry)
        if frame is None or used is None:
            raise ValueError(f"ptxas does not say all of {symbol[1]}:\n{entry}")
        shared = re.search(r"(\d+) bytes smem", used[2])
        stack, stores, loads = (int(number) for number in frame.groups())
        static = int(shared[1]) if shared else 0
        found[symbol[1]] = Resources(int(used[1]), stack, stores, loads, static)
    return found


def spills(report: str) -> dict[str, str]:
    """Symbol of each kernel that has too few registers, and how much it writes elsewhere."""
    return {
        symbol: f"spills registers: {r.spill_stores} bytes written, {r.spill_loads} read"
        for symbol, r in resources_of(report).items()
        if r.spill_stores or r.spill_loads
    }


# Of one multiprocessor, the same for compute capability 8.0 and 9.0 but for the shared memory.
REGISTERS = 65536
THREADS = 2048
BLOCKS = 32
WARP = 32
REGISTER_UNIT = 256  # registers are given to a warp in multiples of this
WARP_UNIT = 4  # as many warps can have registers as a multiple of this
SHARED = {"sm_80": 164 * 1024, "sm_90a": 228 * 1024}
SHARED_RESERVED = 1024  # of every block, for the system


def occupancy(arch: str, threads: int, registers: int, shared: int) -> float:
    """Warps that a multiprocessor holds of those it could, by registers and static shared memory.

    blocks = min(32, 2048 / threads, warps that get registers / warps of a block,
                 shared memory / (static + 1024 bytes)),
    each rounded down, where a warp gets 32 x registers, rounded up to 256, of 65,536, and the
    number of such warps is rounded down to 4. Dynamic shared memory is left out, as it depends on
    the shapes. (CUDA's occupancy calculator.)
    """
    warps = -(-threads // WARP)
    of_a_warp = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    with_registers = REGISTERS // of_a_warp // WARP_UNIT * WARP_UNIT
    blocks = min(
        BLOCKS,
        THREADS // WARP // warps,
        with_registers // warps,
        SHARED[arch] // (shared + SHARED_RESERVED),
    )
    return blocks * warps / (THREADS // WARP)


# --- PTX -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """A kernel, or a function that was not inlined, and how often it has each operation."""

    symbol: str
    kernel: bool
    threads: int  # of a block at most; 0: not said
    operations: Counter[str]


def functions_of(ptx: str) -> list[Function]:
    """Everything with a body."""
    # Comments, and places in the source, which no semicolon ends.
    ptx = re.sub(r"//.*|^\s*\.loc\s.*", "", ptx, flags=re.MULTILINE)
    head = re.compile(
        r"^(?:\.visible |\.weak |\.extern )*\.(entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)([^{};]*)\{",
        re.MULTILINE,
    )
    found = []
    for start in head.finditer(ptx):
        end = re.search(r"^\}", ptx[start.end() :], re.MULTILINE)
        body = ptx[start.end() : start.end() + end.start()] if end else ptx[start.end() :]
        most = re.search(r"\.maxntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", start[3])
        threads = 1 if most else 0
        for size in most.groups() if most else ():
            threads *= int(size or 1)
        operations = Counter(operations_of(body))
        found.append(Function(start[2], start[1] == "entry", threads, operations))
    return found


def operations_of(body: str) -> Iterator[str]:
    """The operation of each instruction, such as fma.rn.f32."""
    for statement in re.split(r"[;{}]", body):
        # In front of it: labels, and a predicate.
        found = re.match(r"\s*(?:[$\w]+:\s*)*(?:@!?%?\w+\s+)?([a-z]\w*(?:\.\w+|::\w+)*)", statement)
        if found:
            yield found[1]


FLOAT = re.compile(r"(?:f16|bf16|f32|f64)(?:x[24])?|tf32")
ROUNDINGS = {"rn", "rz", "rm", "rp", "rna"}


def is_fused(operation: str) -> bool:
    """Whether it rounds a product and a sum once."""
    root, *parts = operation.split(".")
    return root in ("fma", "mad") and any(FLOAT.fullmatch(part) for part in parts)


def is_approximate(operation: str) -> bool:
    """Whether its result may differ from the correctly rounded one, subnormals included."""
    return not {"approx", "full", "ftz"}.isdisjoint(operation.split("."))


def may_be_fused(operation: str) -> bool:
    """Whether ptxas may make an fma of it: sums and products that do not say how to round."""
    root, *parts = operation.split(".")
    return (
        root in ("add", "sub", "mul")
        and any(FLOAT.fullmatch(part) for part in parts)
        and ROUNDINGS.isdisjoint(parts)
    )


def mistakes(function: Function, *, fma: bool) -> list[str]:
    """What bit-exact code must not have; with `fma` an fma.rn.f32 is as it should be."""
    found = []
    for operation, count in sorted(function.operations.items()):
        if is_approximate(operation):
            found.append(f"{operation} ({count} times): not exact")
        elif is_fused(operation) and not (fma and operation == "fma.rn.f32"):
            found.append(f"{operation} ({count} times): an fma that the source has not")
        elif may_be_fused(operation):
            found.append(f"{operation} ({count} times): ptxas may contract it")
    return found


# --- sources and names ---------------------------------------------------------------------------


def without_comments(source: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)


def kernels_in(source: str) -> list[str]:
    """Names of the kernels that a .cuh defines, all of them by a macro EVK_..._KERNEL."""
    return re.findall(r"\bEVK_\w*KERNEL(?:\([^()]*\))?\s+(\w+)\(", without_comments(source))


def calls_fma(source: str) -> bool:
    """Whether it has the fma of cuda/device.h."""
    return re.search(r"\bfma\s*\(", without_comments(source)) is not None


def includes_of(source: str) -> list[str]:
    """What it includes of cuda/*.cuh."""
    return re.findall(r'^#include "cuda/(\w+\.cuh)"', source, re.MULTILINE)


def enumerators_of(sources: Iterable[str]) -> dict[tuple[str, int], str]:
    """Names of the values of every `enum class`."""
    found = {}
    for source in sources:
        text = without_comments(source)
        for name, body in re.findall(r"\benum class (\w+)[^;{]*\{([^}]*)\}", text):
            value = -1
            for entry in filter(None, (part.strip() for part in body.split(","))):
                label, _, given = (part.strip() for part in entry.partition("="))
                value = int(given, 0) if given else value + 1
                found[name, value] = label
    return found


def demangled(symbols: list[str]) -> dict[str, str]:
    """By binutils."""
    if not symbols:
        return {}
    result = subprocess.run(
        ["c++filt"], input="\n".join(symbols), stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(zip(symbols, result.stdout.splitlines(), strict=True))


def without_parameters(signature: str) -> str:
    """evk::cuda::kernel<(evk::Kind)1> of a demangled symbol, as NVRTC wants to be asked for it."""
    depth = 0
    for place, character in enumerate(signature):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return signature[:place].removeprefix("void ")
    return signature.removeprefix("void ")


def short_name(signature: str, enumerators: dict[tuple[str, int], str]) -> str:
    """kernel<kUniform> of a demangled symbol."""

    def label(cast: re.Match[str]) -> str:
        return enumerators.get((cast[1], int(cast[2])), cast[0])

    name = re.sub(r"\b(?:\w+::)+", "", without_parameters(signature))
    name = re.sub(r"\((\w+)\)(-?\d+)", label, name)
    return name.replace("> >", ">>").replace("unsigned short", "u16")


def base_name(short: str) -> str:
    return short.partition("<")[0]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
