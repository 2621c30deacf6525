"""A call of an op moved to a device: the same bits, the same strides, the same overlaps."""

from __future__ import annotations

import ctypes
import inspect
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evokern import _devices, ops

ON_HOST = frozenset({"parents", "sigma", "weights", "out_rows", "index", "classes"})
"""Arguments with a number per individual, which ops take from the host."""

_ALIGNMENT = 128  # bytes: where an array starts among so many is kept


class NotPossible(Exception):
    """What the library of the device cannot hold."""


class _Span(NamedTuple):
    """Bytes [begin, end) of the host's memory."""

    begin: int
    end: int


def moved_call(
    device: str, op: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """All arguments by name, bulk arrays on the device.

    Arrays that overlap do so there, too. Raises NotPossible.
    """
    named = inspect.signature(getattr(ops, op)).bind(*arguments, **options).arguments
    on_host = ON_HOST - {"sigma"} if op == "mutate_sigma" else ON_HOST
    bulk = [value for name, value in named.items() if name not in on_host]
    spans = _joined([_span_of(array) for value in bulk for array in _arrays_in(value)])
    copies = {span: _copy(device, span) for span in spans}

    def move(value: Any) -> Any:
        if isinstance(value, list):
            return [move(each) for each in value]
        return _view(device, value, copies) if isinstance(value, np.ndarray) else value

    return {name: value if name in on_host else move(value) for name, value in named.items()}


def _arrays_in(value: Any) -> list[npt.NDArray[Any]]:
    values = value if isinstance(value, list) else [value]
    return [array for array in values if isinstance(array, np.ndarray)]


def _span_of(array: npt.NDArray[Any]) -> _Span:
    return _Span(*np.lib.array_utils.byte_bounds(array)) if array.size else _Span(0, 0)


def _joined(spans: list[_Span]) -> list[_Span]:
    """Those that overlap as one."""
    joined: list[_Span] = []
    for span in sorted(set(spans)):
        if joined and span.begin < joined[-1].end:
            joined[-1] = _Span(joined[-1].begin, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return joined


def _copy(device: str, span: _Span) -> Any:
    """uint8 [n] on the device: the bytes, behind as many as the span is past an aligned address."""
    count = span.end - span.begin
    memory = np.zeros(_ceil8(span.begin % _ALIGNMENT + count), np.uint8)
    if count:
        start = span.begin % _ALIGNMENT
        source = (ctypes.c_uint8 * count).from_address(span.begin)
        memory[start : start + count] = np.frombuffer(source, np.uint8)
    return _devices.from_host(device, memory)


def _ceil8(count: int) -> int:
    return -(-count // 8) * 8  # so that it can be seen as elements of any type


def _view(device: str, array: npt.NDArray[Any], copies: dict[_Span, Any]) -> Any:
    if not array.size:
        return _devices.allocate(device, array.shape, array.dtype)
    address = array.ctypes.data
    span = next(span for span in copies if span.begin <= address < span.end)
    offset = span.begin % _ALIGNMENT + address - span.begin
    return _strided(copies[span], array, offset)


def _strided(flat: Any, like: npt.NDArray[Any], offset: int) -> Any:
    """Bytes on the device as an array of this type, shape and strides."""
    library = type(flat).__module__.partition(".")[0]
    if library == "torch":
        import torch

        if min(like.strides, default=0) < 0:
            raise NotPossible("torch has no negative strides")
        size = like.itemsize
        # The bits of bf16, of which torch has the type.
        name = "bfloat16" if like.dtype == np.uint16 else like.dtype.name
        typed = flat.view(getattr(torch, name))
        return typed.as_strided(like.shape, [s // size for s in like.strides], offset // size)
    if library == "cupy":
        import cupy

        return cupy.ndarray(like.shape, like.dtype, flat.data + offset, like.strides)
    return flat.strided(like.dtype, like.shape, like.strides, offset)
