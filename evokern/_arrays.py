"""Any array in, the caller's kind out, no copy. Used by ``evokern.ops`` only."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from evokern import _devices
from evokern._devices import DeviceArray
from evokern.errors import ArgumentError, BackendError, DtypeError, LayoutError, ShapeError, message
from evokern.memory import check_fits

Array = Any
"""NumPy, torch or any array with DLPack on the host; torch or CuPy on a device."""

Host = npt.NDArray[Any]
"""An array on the host, or a DeviceArray in its stead where only the layout is looked at."""

_SURELY_SMALL = 1 << 20  # elements

_DTYPES: dict[npt.DTypeLike, np.dtype[Any]] = {
    element: np.dtype(element) for element in (np.float32, np.int32, np.bool_)
}


def to_view(name: str, value: Array) -> Host:
    """A NumPy view of ``value``, or a DeviceArray; refuses what is no array or requires grad."""
    if isinstance(value, DeviceArray):
        return cast(Host, value)
    if _is_tensor(value):
        _refuse_grad(name, value)
        try:
            view: Host = value.numpy()  # a quarter of the time of DLPack
        except (RuntimeError, TypeError) as error:
            if not _devices.on_device(value) and not _on_device(value):
                got = f"{value.dtype}: {error}"
                raise DtypeError(message(name, "a tensor that NumPy can take", got)) from error
        else:
            return view
    if _devices.on_device(value):
        _refuse_grad(name, value)
        return cast(Host, _devices.view(name, value))
    return _to_host(name, value)


def to_host(name: str, value: Array) -> Host:
    """A NumPy view of ``value``; refuses what is not an array on the host or requires grad."""
    view = value if type(value) is np.ndarray else to_view(name, value)
    return _to_host(name, value) if isinstance(view, DeviceArray) else view


def _to_host(name: str, value: Array) -> Host:
    if isinstance(value, np.ma.MaskedArray):
        mend = f"try {name}.filled(...)"
        raise DtypeError(message(name, "an array without a mask", "a masked array", mend))
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)  # a matrix has rules of its own
    _refuse_grad(name, value)
    if hasattr(value, "__cuda_array_interface__") or _on_device(value):
        raise BackendError(
            message(name, "an array on the host", "an array on a device", "copy it to the host")
        )
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:
            wanted = "an array that NumPy can take by DLPack"
            raise DtypeError(message(name, wanted, str(error))) from error
    mend = f"try np.asarray({name})"
    raise DtypeError(message(name, "an array", f"{type(value).__name__}", mend))


def _refuse_grad(name: str, value: Array) -> None:
    if getattr(value, "requires_grad", False):
        raise ArgumentError(
            message(name, "a tensor without grad", "requires_grad=True", f"try {name}.detach()")
        )


def _is_tensor(value: Array) -> bool:
    module = type(value).__module__
    if module == "torch" or module.startswith("torch."):
        return True
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(value, kind)


def _on_device(value: Array) -> bool:
    device = getattr(value, "device", None)
    return getattr(device, "type", "cpu") not in ("cpu",)


def like(value: Array) -> Callable[[Host], Array]:
    """What turns an op's result into the kind of ``value``, sharing its memory."""
    if _is_tensor(value):
        return _as_tensor
    if isinstance(value, np.ndarray):
        return lambda array: array
    if _devices.on_device(value):
        return lambda array: cast(DeviceArray, array).owner
    namespace = getattr(value, "__array_namespace__", None)
    if namespace is not None:
        from_dlpack: Callable[[Host], Array] = namespace().from_dlpack
        return from_dlpack
    return lambda array: array


def _as_tensor(array: Host) -> Array:
    if isinstance(array, DeviceArray):
        return array.owner
    return sys.modules["torch"].from_numpy(array)


def expect_host(
    name: str, value: Array, dtype: npt.DTypeLike, shape: str, ndim: int | None
) -> Host:
    """``expect`` for what has a number per individual, which is on the host always."""
    return expect(name, to_host(name, value), dtype, shape, ndim)


def expect(name: str, value: Array, dtype: npt.DTypeLike, shape: str, ndim: int | None) -> Host:
    """``value`` as a view after checks of type, axes and layout.

    ``shape`` is what the error shows, such as ``[P, G]``; ``ndim`` None skips the axis count.
    """
    array = value if type(value) is np.ndarray else to_view(name, value)
    if array.dtype is _DTYPES.get(dtype) and array.ndim == ndim:
        flags = array.flags
        if flags.c_contiguous and flags.aligned:
            return array
    wanted = np.dtype(dtype)
    if array.dtype != wanted:
        mend = f"try {name}.astype(np.{wanted.name})"
        got = f"{array.dtype} {list(array.shape)}"
        raise DtypeError(message(name, f"{wanted.name} {shape}", got, mend))
    if ndim is not None and array.ndim != ndim:
        raise ShapeError(
            message(name, f"{wanted.name} {shape}", f"{array.dtype} {list(array.shape)}")
        )
    if array.ndim and array.size and array.strides[-1] != array.itemsize and array.shape[-1] > 1:
        raise LayoutError(
            message(
                name,
                f"{shape} with a contiguous last axis",
                f"strides {array.strides} bytes",
                f"try np.ascontiguousarray({name})",
            )
        )
    if any(stride % array.itemsize for stride in array.strides) or not array.flags.aligned:
        raise LayoutError(
            message(
                name,
                f"addresses that are multiples of {array.itemsize} bytes",
                f"address {address_of(array)}, strides {array.strides}",
                f"try {name}.copy()",
            )
        )
    return array


def expect_weights(name: str, value: Array, shape: str) -> Host:
    """Weights [P, n]: float32, or the bits of bf16 as uint16 (the upper half of a float32).

    bf16 comes as a torch.bfloat16 tensor, as ml_dtypes.bfloat16 or as uint16 itself.
    """
    dtype = getattr(value, "dtype", None)
    if dtype == np.float32:
        return expect(name, value, np.float32, shape, 2)
    if str(dtype) in ("bfloat16", "torch.bfloat16"):
        value = _bits_of_bf16(name, value)
    is_bits = dtype == np.uint16 or str(dtype) in ("torch.uint16", "bfloat16", "torch.bfloat16")
    return expect(name, value, np.uint16 if is_bits else np.float32, shape, 2)


def _bits_of_bf16(name: str, value: Array) -> Array:
    if isinstance(value, np.ndarray):
        return value.view(np.uint16)
    if not _is_tensor(value):
        return value  # whose type is refused
    import torch

    _refuse_grad(name, value)
    return to_view(name, value.view(torch.uint16))


def expect_shape(name: str, array: Host, shape: str, expected: tuple[int, ...]) -> None:
    """Raises ShapeError unless ``array`` has exactly the ``expected`` shape."""
    if array.shape != expected:
        raise ShapeError(message(name, f"{shape} = {list(expected)}", f"{list(array.shape)}"))


def expect_range(name: str, array: Host, least: int, most: int, what: str) -> None:
    """Raises ArgumentError unless all entries lie in ``[least, most]``."""
    if array.size and (int(array.min()) < least or int(array.max()) > most):
        bad = array.min() if array.min() < least else array.max()
        raise ArgumentError(
            message(name, f"entries in [{least}, {most}] ({what})", f"an entry {bad}")
        )


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike, what: str) -> Host:
    """A new array that a kernel writes in full (tests fill it with NaN to prove that)."""
    if math.prod(shape) >= _SURELY_SMALL:
        check_fits(math.prod(map(int, shape)) * np.dtype(dtype).itemsize, what)
    return np.empty(shape, dtype)


def empty_beside(
    beside: Host | None, shape: tuple[int, ...], dtype: npt.DTypeLike, what: str
) -> Host:
    """A new array on the device that ``beside`` is on, or on the host."""
    if isinstance(beside, DeviceArray):
        return cast(Host, _devices.new(beside, shape, dtype))
    return empty(shape, dtype, what)


def output(
    out: Array | None,
    shape: tuple[int, ...],
    letters: str,
    *,
    dtype: npt.DTypeLike = np.float32,
    in_place: str = "",
    **inputs: Host | None,
) -> Host:
    """``out`` after checks, or a new array of ``shape`` beside the ``inputs``.

    These must lie apart from ``out``, but the one that ``in_place`` names may be ``out``.
    """
    given = {name: array for name, array in inputs.items() if array is not None}
    if out is None:
        return empty_beside(next(iter(given.values()), None), shape, dtype, f"out {letters}")
    array = expect("out", out, dtype, letters, len(shape))
    expect_shape("out", array, letters, shape)
    expect_writable(array)
    for name, other in given.items():
        if name != in_place or not _same_layout(array, other):
            expect_apart(array, name, other)
    return array


def expect_apart(out: Host, name: str, given: Host) -> None:
    """Raises ArgumentError where ``out`` and ``given`` have an element in common."""
    if may_share_memory(out, given) and np.shares_memory(layout_of(out), layout_of(given)):
        mend = "write to another array"
        raise ArgumentError(message("out", f"memory apart from {name}", "an overlap", mend))


def layout_of(array: Host) -> Host:
    """An ndarray of the same address, shape and strides, not to be read for a DeviceArray."""
    return array.layout if isinstance(array, DeviceArray) else array


def address_of(array: Host) -> int:
    return layout_of(array).ctypes.data


def may_share_memory(a: Host, b: Host) -> bool:
    """Whether the memory of two arrays overlaps, as far as their ends tell."""
    if isinstance(a, DeviceArray) != isinstance(b, DeviceArray):
        return False
    return np.may_share_memory(layout_of(a), layout_of(b))


def _same_layout(a: Host, b: Host) -> bool:
    return address_of(a) == address_of(b) and a.shape == b.shape and a.strides == b.strides


def expect_writable(array: Host) -> None:
    """Raises LayoutError for a read-only ``out`` or one whose rows overlap."""
    if not array.flags.writeable:
        raise LayoutError(message("out", "a writable array", "a read-only one"))
    if not array.size:  # such strides are 0
        return
    needed = array.itemsize
    for length, stride in sorted(zip(array.shape, array.strides, strict=True), key=_by_stride):
        if length > 1 and abs(stride) < needed:
            raise LayoutError(
                message("out", "rows that do not overlap", f"strides {array.strides} bytes")
            )
        needed += abs(stride) * (length - 1)


def _by_stride(axis: tuple[int, int]) -> int:
    return abs(axis[1])
