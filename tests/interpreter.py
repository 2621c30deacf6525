"""The column ``triton-interpreter`` of the table: the Triton kernels, run by Triton's interpreter.

TRITON_INTERPRET must be 1 before Triton is first imported: conftest.py sees to that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np

from evokern import _table
from evokern.backends.device import Device, use_device

NAME = "triton-interpreter"


def empty(count: int) -> np.ndarray:
    """NaN, or -1, at a multiple of 256 bytes: uint8 [count]."""
    memory = np.full(count + 256, 0xFF, np.uint8)
    start = -memory.ctypes.data % 256
    return memory[start : start + count]


class HOST:
    """Stands in for ``evokern.backends.triton.driver``: the processor's memory is the device's."""

    @staticmethod
    def upload(address: int, values: np.ndarray, stream: int) -> None:
        ctypes.memmove(address, values.ctypes.data, values.nbytes)

    @staticmethod
    def download(address: int, count: int, stream: int) -> bytes:
        return ctypes.string_at(address, count)

    launching_on = staticmethod(lambda stream: nullcontext())
    select_device = staticmethod(lambda number: number)
    synchronize = staticmethod(lambda op, stream: None)
    memory_info = staticmethod(lambda: (1 << 40, 1 << 40))
    capability = staticmethod(lambda number: 80)
    device_count = staticmethod(lambda: (1, ""))


DEVICE = Device(
    {"triton": lambda: HOST}, empty, lambda memory: int(memory.ctypes.data), checks=True
)


def unavailable() -> str:
    """Why there is no such column; empty if there is."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    import triton

    return "" if triton.knobs.runtime.interpret else "TRITON_INTERPRET=1 came too late"


@cache
def _function(op: str) -> Callable[..., Any]:
    return _table.resolve(op, "triton")


def __getattr__(op: str) -> Any:
    if op not in _table.TABLE:
        raise AttributeError(op)

    def interpreted(*arguments: Any, **options: Any) -> Any:
        with use_device(DEVICE, "triton"):
            return _function(op)(*arguments, **options)

    return interpreted


def _speed_up() -> None:
    """Several times as fast, with the same results.

    The interpreter takes over Triton's language at every call of a kernel and of every function in
    it; once is enough. It computes integers twice, to assert that they do not overflow. It makes
    a table of all types to look up one, and what it knows of types and shapes anew for every value.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    language = {"tl": tl, "core": tl.core}
    interpreter._patch_lang(SimpleNamespace(__globals__=language))
    interpreter._patch_lang = lambda function: SimpleNamespace(restore=lambda: None)
    object.__setattr__(interpreter.interpreter_builder.options, "sanitize_overflow", False)

    look_up, found = interpreter._get_np_dtype, {}

    def numpy_type(kind: Any) -> np.dtype[Any]:
        if kind.scalar.name not in found:
            found[kind.scalar.name] = look_up(kind.scalar)
        return found[kind.scalar.name]

    interpreter._get_np_dtype = numpy_type
    _remember_types(tl)
    interpreter.InterpretedFunction.rewritten_fn[tl.philox.fn] = _philox


def _remember_types(tl: Any) -> None:
    """Types of blocks, and the shapes of values, are made once for all of the same name."""
    make_type, make_value = tl.block_type.__init__, tl.tensor.__init__
    types: dict[Any, dict[str, Any]] = {}
    shapes: dict[str, tuple[Any, Any]] = {}

    def type_init(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(getattr(size, "value", size) for size in shape)
        key = (element_ty.name, getattr(element_ty, "const", False), sizes)
        if key not in types:
            make_type(self, element_ty, shape)
            types[key] = dict(self.__dict__)
        self.__dict__.update(types[key])

    def value_init(self: Any, handle: Any, type: Any) -> None:
        if type.name not in shapes:
            make_value(self, handle, type)
            shapes[type.name] = (self.shape, self.numel)
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = shapes[type.name]

    tl.block_type.__init__, tl.tensor.__init__ = type_init, value_init


def _philox(seed: Any, *counters: Any) -> tuple[Any, ...]:
    """``tl.philox`` by the reference, at once; test_triton_rules.py runs Triton's own."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    from evokern.backends.reference.random import philox

    arrays = [np.asarray(_value(word)).astype(np.uint32) for word in counters]
    key = int(np.asarray(_value(seed)).item())
    words = philox(tuple(arrays), (key & 0xFFFFFFFF, key >> 32))
    blocks = any(isinstance(word, tl.tensor) and word.type.is_block() for word in counters)
    kind = tl.block_type(tl.uint32, list(words.shape[:-1])) if blocks else tl.uint32
    return tuple(
        tl.tensor(TensorHandle(np.ascontiguousarray(words[..., j]), tl.uint32), kind)
        for j in range(4)
    )


def _value(word: Any) -> Any:
    """Of a tensor, a constant or a number."""
    return word.handle.data if hasattr(word, "handle") else int(getattr(word, "value", word))


def add_column() -> None:
    """Gives every op that has a Triton function its function here."""
    if unavailable():
        return
    _speed_up()
    if NAME not in _table.BACKENDS:
        _table.BACKENDS = (*_table.BACKENDS, NAME)
    for op, row in _table.TABLE.items():
        if "triton" in row.functions:
            row.functions[NAME] = f"interpreter:{op}"
