"""Launching Triton kernels: pointers to any array, fixed configurations, no contraction.

Nothing is autotuned: each file has a small table of configurations by classes of shapes, so that
results and compile times are the same on every machine. Under TRITON_INTERPRET=1 programs run one
after the other in NumPy, and cost what their number costs: those tables have big tiles for it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl

from evokern.backends.device import current_device

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter; settled when Triton is first imported."""

BIG_TILES: bool = INTERPRETED and os.environ.get("EVOKERN_TRITON_TILES") != "device"
"""Whether tiles are the interpreter's; EVOKERN_TRITON_TILES=device has it run those of a GPU."""

INTERPRETED_BF16 = tl.constexpr(INTERPRETED)
"""For kernels: the interpreter computes with the bits of bf16 as if they were integers."""

_TYPES = {"bool": "uint8"}
"""Types whose pointers have another name."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What Triton takes for an array: its address, and the name of its elements' type."""

    address: int
    dtype: str

    def data_ptr(self) -> int:
        return self.address


@dataclass(frozen=True, slots=True)
class Samples:
    """Features of sample b of slot s: ``slot_stride * s + sample_stride * b`` elements on.

    ``slot_stride`` is 0 where all slots share one batch.
    """

    pointer: Pointer
    slot_stride: int
    sample_stride: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """A layer's weights, or its bias, in a bank: ``stride * rows[s]`` elements on for slot s.

    Elements are float32, or uint16 for the bits of bf16; ``rows`` is int32 [slots].
    """

    pointer: Pointer
    stride: int
    rows: Pointer


def pointer(array: Any) -> Pointer:
    """To the first element of an array of the host or of a device; 0 where there is none.

    What describes an empty array of a device has an address of the host, which Triton refuses.
    """
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    name = array.dtype.name
    return Pointer(interface["data"][0] if array.size else 0, _TYPES.get(name, name))


def strides(array: Any) -> tuple[int, ...]:
    """In elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


def launch(
    kernel: Any,
    programs: int,
    *arguments: Any,
    warps: int = 4,
    stages: int = 1,
    fusion: bool = False,
    registers: int | None = None,
    **constants: Any,
) -> None:
    """Runs ``programs`` programs of a kernel on the current stream.

    Args:
        kernel: a function under ``triton.jit``.
        arguments: in the kernel's order; arrays become pointers, None stays None.
        warps, stages: of a program, as Triton counts them.
        fusion: whether products and sums may become fma. Never where bits are promised.
        registers: of a thread at most, for kernels where ptxas would rather have few and spill.
        constants: the kernel's ``tl.constexpr``.
    """
    if programs == 0:
        return
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": fusion}
    if registers is not None:
        options["maxnreg"] = registers
    _run(kernel, (programs,), [_argument(a) for a in arguments], constants | options)


def _run(kernel: Any, grid: tuple[int, ...], arguments: list[Any], options: dict[str, Any]) -> None:
    if INTERPRETED:
        arguments = [_interpreted(a) if isinstance(a, Pointer) else a for a in arguments]
    device = current_device()
    with device.native.launching_on(device.stream):
        kernel[grid](*arguments, **options)


def _argument(value: Any) -> Any:
    if value is None or isinstance(value, Pointer | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    return pointer(value)


def _interpreted(value: Pointer) -> Any:
    """What the interpreter makes of a pointer itself, but for tensors of PyTorch only."""
    from triton.runtime.interpreter import TensorHandle

    kind = tl.pointer_type(getattr(tl, value.dtype))
    return tl.tensor(TensorHandle(np.array([value.address], np.uint64), kind), kind)
