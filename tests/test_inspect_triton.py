"""The checks of `make inspect` on Triton kernels: each of them can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "inspect"))
import table
import triton_compiler
import triton_kernels
import triton_recorder
import triton_table
from listings import Function
from triton_compiler import Found, Variant


def found(
    operations: dict[str, int] | None = None,
    *,
    threads: int = 128,
    registers: int = 32,
    shared: int = 0,
    stack: int = 0,
    dots: str = "",
    loops: bool = True,
) -> Found:
    function = Function("kernel", True, threads, Counter(operations))
    types = frozenset(dots.split())
    spills = "1 STL, 1 LDL"
    return Found(threads, registers, stack, shared, function, types, loops, spills)


def variant(*, fusion: bool = False, stages: int = 1, warps: int = 4, **constants: Any) -> Variant:
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": fusion}
    return Variant("a.dense", "dense_kernel", (), constants | options, "a call")


COPY = "cp.async.cg.shared.global"
PRODUCT = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"


@pytest.mark.parametrize(
    ("one", "options", "mistake"),
    [
        (found(stack=8), {}, "8 bytes of stack: spills registers (1 STL, 1 LDL)"),
        (found({"fma.rn.f32": 2}), {}, "an fma that the source has not"),
        (found({"ex2.approx.f32": 1}), {"fusion": True}, "ex2.approx.f32: not exact"),
        (found({"add.rn.ftz.f32": 1}), {"fusion": True}, "add.rn.ftz.f32: not exact"),
        (found({"add.f32": 1}), {}, "ptxas may contract it"),
        (found({"fma.rn.f32": 8}, dots="tf32"), {"fusion": True}, "without tensor cores"),
        (found(dots="ieee bf16"), {}, "a dot of bf16 without tensor cores"),
        (found(dots="ieee"), {"stages": 3}, "a loop with a dot in 3 stages without"),
    ],
)
def test_what_triton_kernels_must_not_have(one, options, mistake):
    [told] = triton_compiler.wrong_with(variant(**options), one)
    assert mistake in told


@pytest.mark.parametrize(
    ("one", "options"),
    [
        (found({"add.rn.f32": 1, "div.rn.f32": 1}), {}),
        (found({"fma.rn.f32": 8, "add.f32": 1}), {"fusion": True}),
        (found({"fma.rn.f32": 8, COPY: 4}, dots="ieee"), {"fusion": True, "stages": 3}),
        (found({PRODUCT: 8}, dots="tf32"), {}),
        (found({PRODUCT: 8}, dots="tf32", loops=False), {"stages": 3}),
        (found({"wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32": 8}, dots="tf32"), {}),
        (found({"fma.rn.f32": 8}, dots="ieee"), {"fusion": True}),
    ],
)
def test_what_triton_kernels_may_have(one, options):
    assert triton_compiler.wrong_with(variant(**options), one) == []


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("ld.global.v4.b32", 16),
        ("ld.global.L1::evict_last.v2.b64", 16),
        ("st.global.v2.b32", 8),
        ("ld.global.b32", 4),
        ("ld.global.v2.b16", 4),
        ("bar.sync", 0),
    ],
)
def test_bytes_of_an_access(operation, expected):
    assert triton_compiler.bytes_of(operation) == expected


def test_wide_accesses():
    operations = {"ld.global.v4.b32": 3, "ld.global.b32": 9, "st.global.v2.b64": 2, COPY: 4}
    operations |= {"cp.async.ca.shared.global": 7, "ld.shared.v4.b32": 5, "st.global.v2.b32": 6}
    assert found(operations).wide == (7, 2)


def test_types_of_dots():
    line = "%t = tt.dot %a, %b, %c{} : tensor<32x16x{}> * tensor<16x32x{}> -> tensor<32x32xf32>"
    texts = (("", "f32"), (", inputPrecision = tf32", "f32"), ("", "bf16"))
    ttir = "\n".join(line.format(given, kind, kind) for given, kind in texts)
    assert triton_compiler.dots_of(ttir) == {"ieee", "tf32", "bf16"}
    assert triton_compiler.dots_of("%t = arith.addf %a, %b : tensor<32xf32>") == frozenset()


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (found(), ""),
        (found(registers=128), "registers"),
        (found(shared=80 * 1024), "shared memory"),
        (found(threads=32), "the number of blocks"),
    ],
)
def test_what_limits_occupancy(one, expected):
    assert triton_compiler.limit_of("sm_80", one) == expected


@dataclass(frozen=True, slots=True)
class Configuration:
    rows: int
    warps: int


TILES = {"fp32": (Configuration(1, 2), Configuration(3, 4)), "bf16": Configuration(1, 2)}


def test_entries_of_tables():
    module = ModuleType("a.dense")
    vars(module).update(TILES=TILES, DEFAULT=TILES["bf16"], Configuration=Configuration, WARPS=4)
    names = ("TILES['fp32'][0]", "TILES['fp32'][1]", "TILES['bf16']", "DEFAULT")
    entries = triton_recorder.entries_of(module)
    assert [*entries] == [f"a.dense.{name}" for name in names]
    assert entries["a.dense.TILES['fp32'][1]"] is TILES["fp32"][1]


def test_entries_are_used_once_their_warps_are_read():
    used: set[int] = set()
    noting = triton_recorder._noting(Configuration, used)
    first, second = TILES["fp32"]
    assert noting(first, "rows") == 1
    assert used == set()
    assert noting(second, "warps") == 4
    assert used == {id(second)}


def test_arrays_of_nothing():
    array = triton_recorder.array(3, 5, row=8, offset=1)
    assert (array.address % 256, array.strides) == (4, (32, 4))
    assert triton_recorder.array(2, 3, 4, dtype=np.uint8).strides == (12, 4, 1)
    bank = triton_recorder.bank(7, 33)
    assert (bank.address % 256, bank.shape, bank.strides) == (0, (7, 33), (256, 4))


def triton_rows(*sizes: int, worse: int = 40) -> list[triton_table.Row]:
    """One row of two variants for each size."""
    both = []
    for size in sizes:
        for code, registers in enumerate((32, worse)):
            by_arch = {"sm_80": found({COPY: 2}, registers=registers), "sm_90a": found()}
            both.append((variant(CODE=code, FEW=False, WIDE=True, BM=size, stages=3), by_arch))
    return triton_table.rows_of(both)


def test_table_of_triton_kernels():
    page = triton_table.page(triton_rows(64), "3.9.0", "sm_100a")
    row = "| `dense_kernel` | wide, BM=64 | 2 | 4 | 3 | 40 / 32 | 0 | 75 % / 100 % "
    assert f"{row}|  |  | 2 / | 2 / |  |" in page.splitlines()
    assert "## dense.py" in page.splitlines()
    assert "Most registers: 40, of `dense_kernel<wide, BM=64>` for sm_80." in page
    changed = triton_table.page(triton_rows(64, worse=64), "3.9.0", "sm_100a")
    assert any("| 64 / 32 |" in change for change in table.differences(page, changed))


def test_the_order_of_variants_does_not_matter():
    pages = [
        triton_table.page(triton_rows(*s), "3.9.0", "") for s in ((16, 64, 128), (128, 16, 64))
    ]
    assert pages[0] == pages[1]


def test_narrow_accesses_are_found(monkeypatch):
    monkeypatch.setattr(triton_kernels, "WIDE", {"dense_kernel": "loads stores"})
    name = "`dense_kernel<wide, BM=64>`"
    assert triton_kernels.narrow(triton_rows(64)) == [
        f"{name} for sm_80: no stores of 16 bytes",
        f"{name} for sm_90a: no loads of 16 bytes",
        f"{name} for sm_90a: no stores of 16 bytes",
    ]


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def compiled_apart(cache: Path, *arguments: str) -> str:
    """What Python says, in a process where Triton compiles. This one may be the interpreter's."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)
    program, folder = [sys.executable, *arguments], Path(triton_kernels.__file__).parent
    ran = subprocess.run(program, env=environment, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@needs_triton
def test_planted_triton_kernels(tmp_path):
    answers = json.loads(compiled_apart(tmp_path, "triton_planted.py"))
    for name in ("exact", "product", "product in stages"):
        assert answers[name]["wrong"] == []
    assert answers["exact"]["wide"] == [1, 1]
    assert answers["product"]["dots"] == ["bf16"]
    for name, mistake in {
        "spilling": "spills registers",
        "fma": "an fma that the source has not",
        "division": "div.full.f32",
        "root": "sqrt.approx",
        "power in stages": "without asynchronous copies",
    }.items():
        [told] = answers[name]["wrong"]
        assert mistake in told
    assert "incompatible dimensions" in answers["broken"]["error"]


@needs_triton
def test_calls_reach_every_triton_kernel_and_configuration(tmp_path):
    program = "import triton_kernels as t; print(*t.launched()[1], sep='\\n')"
    assert compiled_apart(tmp_path, "-c", program).strip() == ""


@needs_triton
def test_triton_reads_what_calls_of_sizes_of_1_launch(tmp_path):
    """Such sizes are constants to it, with other methods than a kernel's numbers have."""
    program = "import triton_kernels as t; print(*t.unreadable(), sep='\\n')"
    assert compiled_apart(tmp_path, "-c", program).strip() == ""
