"""The checks of `make inspect` on literal output of the compilers: each of them can fail."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "inspect"))
import compilers
import launches
import listings
import opinion
import table
from listings import Function, Resources

REPORT = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN3evk4cuda5firstEv' for 'sm_80'
ptxas info    : Function properties for _ZN3evk4cuda5firstEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 31 registers, used 1 barriers, 8448 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 12.345 ms
ptxas info    : Compiling entry function '_ZN3evk4cuda6secondEv' for 'sm_80'
ptxas info    : Function properties for _ZN3evk4cuda6secondEv
    1688 bytes stack frame, 3748 bytes spill stores, 3752 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 1688 bytes cumulative stack size
"""

PTX = """
.version 9.0
.target sm_80
.address_size 64

.extern .shared .align 16 .b8 evk_dynamic_shared[];
.extern .func declared(.param .b32 declared_param_0);

.func  (.param .b32 func_retval0) helper(
\t.param .b32 helper_param_0
)
{
\tmul.rn.f32 \t%f1, %f2, %f3;
\tret;

}
\t// .globl\tkernel
.visible .entry kernel(
\t.param .align 8 .b8 kernel_param_0[120]
)
.maxntid 32, 4, 1
.minnctapersm 8
{
\t.reg .pred \t%p<3>;

\tld.param.v2.u32 \t{%r1, %r2}, [kernel_param_0+8];
\t// fma.rn.f32 in a comment
\t@%p1 bra \t$L__BB0_2;
\t@!%p2 add.rn.f32 \t%f1, %f2, %f3;

$L__BB0_2:
\tmad.lo.s32 \t%r3, %r1, %r2, %r1;
\tdiv.rn.f32 \t%f4, %f1, %f2;
\tsqrt.rn.f32 \t%f5, %f4;
\tcvt.rn.f32.s64 \t%f6, %rd1;
\tret;

}
"""


def planted(instruction: str) -> Function:
    """The kernel above with one more instruction."""
    ptx = PTX.replace("\tdiv.rn", f"\t{instruction}\n\tdiv.rn")
    return next(f for f in listings.functions_of(ptx) if f.kernel)


def test_resources_of_every_kernel():
    assert listings.resources_of(REPORT) == {
        "_ZN3evk4cuda5firstEv": Resources(31, 0, 0, 0, 8448),
        "_ZN3evk4cuda6secondEv": Resources(255, 1688, 3748, 3752, 0),
    }


def test_spills_are_found():
    assert listings.spills(REPORT) == {
        "_ZN3evk4cuda6secondEv": "spills registers: 3748 bytes written, 3752 read"
    }


@pytest.mark.parametrize("line", ["bytes stack frame", "Used 31 registers"])
def test_a_report_that_says_less_is_refused(line):
    less = "\n".join(text for text in REPORT.splitlines() if line not in text)
    with pytest.raises(ValueError, match="first"):
        listings.resources_of(less)


def test_nothing_compiled_has_no_resources():
    assert listings.resources_of("ptxas info    : 0 bytes gmem\n") == {}


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "expected"),
    [
        ("sm_80", 128, 32, 0, 1.0),  # 64 warps have registers
        ("sm_80", 128, 33, 0, 0.75),  # 40 registers each: 51 warps, 48 in fours
        ("sm_80", 128, 127, 0, 0.25),
        ("sm_80", 512, 129, 0, 0.0),  # 15 warps in a block of 16
        ("sm_80", 32, 16, 0, 0.5),  # 32 blocks
        ("sm_80", 33, 16, 0, 1.0),  # a block of 2 warps
        ("sm_80", 128, 32, 40 * 1024, 0.25),  # 4 blocks of 41 KiB in 164
        ("sm_90a", 128, 32, 40 * 1024, 0.3125),  # 5 in 228
        ("sm_90a", 1024, 64, 0, 0.5),
    ],
)
def test_occupancy(arch, threads, registers, shared, expected):
    assert listings.occupancy(arch, threads, registers, shared) == expected


def test_functions_of_ptx():
    helper, kernel = listings.functions_of(PTX)
    assert helper == Function("helper", False, 0, Counter(["mul.rn.f32", "ret"]))
    assert (kernel.symbol, kernel.kernel, kernel.threads) == ("kernel", True, 128)
    operations = (
        "ld.param.v2.u32 bra add.rn.f32 mad.lo.s32 div.rn.f32 sqrt.rn.f32 cvt.rn.f32.s64 ret"
    )
    assert kernel.operations == Counter(operations.split())


def test_places_in_the_source_hide_no_operation():
    body = "{\n\t.loc\t1 26 9                 // a.py:26:9\n\tadd.rn.f32 \t%r1, %r2, %r3;\n}\n"
    [function] = listings.functions_of(f".visible .entry kernel(\n)\n.reqntid 128\n{body}")
    assert function.operations == Counter(["add.rn.f32"])


def test_exact_ptx_has_no_mistakes():
    for function in listings.functions_of(PTX):
        assert listings.mistakes(function, fma=False) == []


@pytest.mark.parametrize(
    ("instruction", "mistake"),
    [
        ("fma.rn.f32 %f1, %f2, %f3, %f4;", "fma that the source has not"),
        ("@%p1 fma.rn.f32 %f1, %f2, %f3, %f4;", "fma that the source has not"),
        ("$L__BB0_9: fma.rn.f64 %fd1, %fd2, %fd3, %fd4;", "fma that the source has not"),
        ("{ fma.rn.bf16x2 %r1, %r2, %r3, %r4; }", "fma that the source has not"),
        ("mad.rn.f32 %f1, %f2, %f3, %f4;", "fma that the source has not"),
        ("sqrt.approx.f32 %f1, %f2;", "not exact"),
        ("ex2.approx.ftz.f32 %f1, %f2;", "not exact"),
        ("div.full.f32 %f1, %f2, %f3;", "not exact"),
        ("add.rn.ftz.f32 %f1, %f2, %f3;", "not exact"),
        ("setp.lt.ftz.f32 %p1, %f2, %f3;", "not exact"),
        ("add.f32 %f1, %f2, %f3;", "may contract"),
        ("mul.f64 %fd1, %fd2, %fd3;", "may contract"),
        ("sub.f32x2 %rd1, %rd2, %rd3;", "may contract"),
    ],
)
def test_planted_instructions_are_found(instruction, mistake):
    [found] = listings.mistakes(planted(instruction), fma=False)
    assert mistake in found


@pytest.mark.parametrize(
    "instruction",
    [
        "fma.rn.f32 %f1, %f2, %f3, %f4;",
        "mad.wide.u32 %rd1, %r2, %r3, %rd4;",
        "add.s64 %rd1, %rd2, %rd3;",
        "mul.lo.s32 %r1, %r2, %r3;",
        "max.f32 %f1, %f2, %f3;",
        "neg.f32 %f1, %f2;",
    ],
)
def test_what_kernels_with_fma_may_have(instruction):
    assert listings.mistakes(planted(instruction), fma=True) == []


@pytest.mark.parametrize("operation", ["fma.rn.f64", "fma.rz.f32", "fma.rn.ftz.f32", "fma.rn.f16"])
def test_only_one_fma_is_ever_allowed(operation):
    assert listings.mistakes(planted(f"{operation} %f1, %f2, %f3, %f4;"), fma=True) != []


SOURCE = """
#include "core/pool.h"
#include "cuda/tiles.cuh"
#define EVK_SOME_KERNEL __global__ void __launch_bounds__(kThreads, 8)
// EVK_KERNEL(32) in_a_comment(int x) { fma(a, b, c); }
EVK_KERNEL(kThreads) one_kernel(const Params p) {}
template <class T>
EVK_SOME_KERNEL
two_kernel(const __grid_constant__ Params p) {}
"""


def test_kernels_and_fma_of_a_source():
    assert listings.kernels_in(SOURCE) == ["one_kernel", "two_kernel"]
    assert listings.includes_of(SOURCE) == ["tiles.cuh"]
    assert not listings.calls_fma(SOURCE)
    assert listings.calls_fma(SOURCE + "float f() { return fma(a, b, c); }")


def test_names():
    enumerators = listings.enumerators_of(
        ["enum class Kind : int { kNone, kUniform = 4, kRows, /* kGone, */ };"]
    )
    assert enumerators == {("Kind", 0): "kNone", ("Kind", 4): "kUniform", ("Kind", 5): "kRows"}
    full = "void evk::cuda::cross_kernel<(evk::Kind)4>(evk::CrossParams)"
    assert listings.without_parameters(full) == "evk::cuda::cross_kernel<(evk::Kind)4>"
    assert listings.short_name(full, enumerators) == "cross_kernel<kUniform>"
    full = "void evk::cuda::tile_kernel<evk::cuda::Tile<8, 4> >(evk::cuda::TileParams)"
    assert listings.short_name(full, {}) == "tile_kernel<Tile<8, 4>>"
    assert listings.short_name("void evk::cuda::pool_kernel<true>(evk::P)", {}) == (
        "pool_kernel<true>"
    )
    assert listings.base_name("tile_kernel<Tile<8, 4>>") == "tile_kernel"
    assert listings.short_name("evk::cuda::plain_kernel(evk::P)", {}) == "plain_kernel"


def test_flags_are_those_of_setup():
    setup = """
import os
raise SystemExit("must not run")
ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
NVCC_FLAGS = ["-O3", f"-I{CSRC}"]
NVCC_FLAGS += ["--fmad=false"]
"""
    path = Path("/somewhere/setup.py")
    assert compilers.flags_of(setup, path) == ["-O3", "-I/somewhere/csrc", "--fmad=false"]
    exact = {"--fmad=false", "-prec-div=true", "-prec-sqrt=true", "-ftz=false"}
    assert exact <= set(compilers.nvcc_flags())
    assert exact <= set(compilers.nvrtc_flags())
    assert not any(flag.startswith("-Xcompiler") for flag in compilers.nvrtc_flags())


def test_every_requirement_is_pinned():
    lines = [
        line.partition("#")[0].strip()
        for line in compilers.REQUIREMENTS.read_text().splitlines()
        if not line.startswith("#")
    ]
    for line in lines:
        name, _, version = line.partition("==")
        assert compilers.pinned_version(name) == version != ""
    with pytest.raises(SystemExit, match="not pinned"):
        compilers.pinned_version("nvidia-cuda")


def rows(registers: int) -> list[table.Row]:
    found = {"sm_80": Resources(registers, 0, 0, 0, 0), "sm_90a": Resources(40, 8, 0, 0, 0)}
    return [table.Row("a.cu", "one_kernel", 128, 3, found)]


def test_table_and_what_differs():
    committed = table.resource_part(rows(32), "13.0") + table.OPINIONS + "\nanything"
    row = "| `one_kernel` | 128 | 32 / 40 | 0 / 8 | 0 | 100 % / 75 % | 3 |"
    assert row in committed.splitlines()
    assert table.differences(committed, table.resource_part(rows(32), "13.0")) == []
    changed = table.resource_part(rows(64), "13.0")
    assert table.differences(committed, changed) == [
        f"-{row}",
        "+| `one_kernel` | 128 | 64 / 40 | 0 / 8 | 0 | 50 % / 75 % | 3 |",
    ]
    assert table.differences("", changed) != []


def test_launches_are_of_kernels_that_exist():
    sources = [listings.read(path) for path in compilers.CUDA.glob("*.cuh")]
    assert launches.LAUNCHES.keys() <= {name for s in sources for name in listings.kernels_in(s)}


def test_a_launch_in_the_words_of_the_verifier():
    launch = launches.Launch(
        "pool",
        "PoolParams",
        (2, 1, 1),
        (32, 1, 1),
        {"x": launches.ARRAY, "mask": None, "rows": [7, 8], "count": 5, "wide": 1, "slope": 0.5},
    )
    sizes = [(0, 8), (8, 8), (16, 8), (24, 8), (32, 1), (36, 4)]
    told = opinion.description(launch, dict(zip(launch.fields, sizes, strict=True)), "pool_kernel")
    place = {"parameter": "pool_kernel_param_0"}
    pointer = {"type": "pointer", "space": "global"}
    assert told["arguments"] == [
        {**place, "offset": 8, "type": "pointer", "value": None},
        {**place, "offset": 24, "type": "u64", "value": 5},
        {**place, "offset": 32, "type": "u8", "value": 1},
        {**place, "offset": 36, "type": "f32", "value": 0.5},
    ]
    assert told["declarations"] == [
        {**place, "offset": 0, **pointer, "object": "x"},
        {**place, "offset": 16, **pointer, "object": "rows"},
    ]
    assert told["shape_arrays"] == [{**place, "offset": 16, "shapes": [[7, 8]]}]


def test_constants_of_ptx():
    ptx = ".visible .global .align 8 .b8 members[24] = {16, 0, 0, 0, 0, 0, 0, 0, 0, 1};"
    assert opinion.constants_of(ptx, "members", 3) == [16, 256, 0]
    with pytest.raises(RuntimeError, match="others"):
        opinion.constants_of(ptx, "others", 3)


def test_addresses_are_known_where_they_are_tested():
    ptx = "\tand.b64  \t%rd4, %rd3, 15;\n\tsetp.eq.s64 \t%p1, %rd4, 0;\n\tand.b64 \t%rd5, %rd3, 15;"
    assert opinion.with_addresses(ptx, 4) == ptx.replace(
        "and.b64  \t%rd4, %rd3, 15", "mov.b64  \t%rd4, 4"
    )


@pytest.mark.parametrize(
    ("report", "branches", "expected"),
    [
        ({"result": "race_free"}, False, ("proved", "")),
        ({"result": "race_free"}, True, ("proved", "one way through branches on data")),
        (
            {"result": "potential_race", "diagnostics": [{"code": "unordered"}]},
            False,
            ("alarm", "potential_race: unordered"),
        ),
        (
            {
                "result": "unsupported",
                "checks": {"synchronization": "passed"},
                "diagnostics": [{"code": "b"}, {"code": "a"}, {"code": "b"}],
            },
            False,
            ("unsupported", "a, b (barriers proved)"),
        ),
        ({"result": "timeout"}, False, ("no answer", "in 20 s")),
        ({"result": "tool_failure", "diagnostics": []}, False, ("no answer", "tool_failure: ")),
    ],
)
def test_opinions(report, branches, expected):
    found = opinion.opinion_of(report, branches=branches)
    assert (found.verdict, found.remark) == expected
