"""Kernels with mistakes, for tests of what finds them: prints what is found in each, as JSON."""

from __future__ import annotations

import json

import triton
import triton.language as tl
from triton_compiler import Variant, compile_for, wrong_with

from evokern.backends.triton.launch import Pointer

ARCH = "sm_80"
F32, BF16 = Pointer(1 << 20, "float32"), Pointer(1 << 20, "bfloat16")


@triton.jit
def exact_kernel(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    tl.store(out + i, tl.div_rn(a * a + 1.0, tl.sqrt_rn(a)))


@triton.jit
def spilling_kernel(x, out, N: tl.constexpr):
    """All of x is needed after its sum."""
    i = tl.arange(0, N)
    a = tl.load(x + i)
    tl.store(out + i, a - tl.sum(a))


@triton.jit
def fma_kernel(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    tl.store(out + i, tl.fma(a, a, a))


@triton.jit
def division_kernel(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, 1.0 / tl.load(x + i))


@triton.jit
def root_kernel(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.sqrt(tl.load(x + i)))


@triton.jit
def product_kernel(x, out, N: tl.constexpr):
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    a = tl.load(x + i)
    tl.store(out + i, tl.dot(a, a))


@triton.jit
def power_kernel(x, out, N: tl.constexpr):
    """A loop with nothing to copy ahead."""
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    a = tl.load(x + i)
    for _ in range(8):
        a = tl.dot(a, a).to(a.dtype)
    tl.store(out + i, a.to(tl.float32))


@triton.jit
def broken_kernel(x, out, N: tl.constexpr):
    tl.store(out + tl.arange(0, N), tl.load(x + tl.arange(0, 2 * N)))


def planted(kernel: str, size: int, x: Pointer = F32, *, stages: int = 1) -> Variant:
    options = {"num_warps": 1, "num_stages": stages, "enable_fp_fusion": False}
    return Variant("triton_planted", kernel, (x, F32), {"N": size} | options, "a test")


PLANTED = {
    "exact": planted("exact_kernel", 128),
    "spilling": planted("spilling_kernel", 1 << 14),
    "fma": planted("fma_kernel", 128),
    "division": planted("division_kernel", 128),
    "root": planted("root_kernel", 128),
    "product": planted("product_kernel", 32, BF16),
    "product in stages": planted("product_kernel", 32, BF16, stages=3),
    "power in stages": planted("power_kernel", 32, BF16, stages=3),
    "broken": planted("broken_kernel", 128),
}


def main() -> None:
    answers = {}
    for name, variant in PLANTED.items():
        found = compile_for(ARCH, variant)
        answers[name] = (
            {"error": found}
            if isinstance(found, str)
            else {"wrong": wrong_with(variant, found), "wide": found.wide, "dots": [*found.dots]}
        )
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
