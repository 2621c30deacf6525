"""Which kernels the library launches, and how: its own functions on arrays that hold nothing.

A stand-in for a device has addresses, aligned as a device's are, and no memory. So shapes may be
those of a real run, and no launch needs to be written down again.
"""

from __future__ import annotations

import faulthandler
import itertools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from triton_compiler import ARCHS, Variant, use_arch

from evokern import _devices
from evokern.backends.device import Device

PACKAGE = "evokern.backends.triton"

_ALIGNMENT = 256  # bytes, what every allocator of a device gives


class Native:
    """Stands in for ``evokern.backends.triton.driver``."""

    def upload(self, address: int, values: npt.NDArray[np.uint8], stream: int) -> None:
        pass

    def launching_on(self, stream: int) -> AbstractContextManager[None]:
        return nullcontext()

    def select_device(self, number: int) -> int:
        return number

    def capability(self, number: int) -> int:
        return 80


_next_address = itertools.count(1 << 40, 1 << 32)


def allocate(count: int) -> int:
    """An address; nothing has ``count`` bytes there."""
    return next(_next_address)


NATIVE = Native()
DEVICE = Device({"triton": lambda: NATIVE}, allocate, int)


@dataclass(frozen=True)
class Array:
    """An array of the stand-in: where it would be, strides in bytes."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        place = {"shape": self.shape, "typestr": self.dtype.str, "strides": self.strides}
        return place | {"data": (self.address, False), "version": 3}


def array(*shape: int, dtype: npt.DTypeLike = np.float32, row: int = 0, offset: int = 0) -> Array:
    """A new array; rows of the first axis are ``row`` elements apart, or without gaps.

    It begins ``offset`` elements after an aligned address.
    """
    kind = np.dtype(dtype)
    sizes = [kind.itemsize]
    for size in shape[:0:-1]:
        sizes.append(sizes[-1] * size)
    strides = (row * kind.itemsize or sizes[-1], *sizes[-2::-1])
    return Array(allocate(0) + offset * kind.itemsize, shape, kind, strides)


def bank(rows: int, genes: int, dtype: npt.DTypeLike = np.float32) -> Array:
    """Genomes as `evokern.population.allocate_genomes` has them."""
    return array(rows, genes, dtype=dtype, row=-(-genes // 32) * 32)


LIBRARY = _devices.Library(
    place=lambda array: 0,
    device=lambda number: DEVICE,
    empty=lambda number, shape, dtype: array(*shape, dtype=dtype),
    from_host=lambda number, values: array(*values.shape, dtype=values.dtype),
    to_host=lambda array: np.zeros(array.shape, array.dtype),
    take=lambda array, rows: array,
)


@dataclass
class Recorder:
    """What was launched while it watched; ``used`` are ids of entries of configuration tables."""

    variants: dict[str, Variant]
    used: set[int]
    call: str = ""

    def run(
        self, kernel: Any, grid: tuple[int, ...], arguments: list[Any], options: dict[str, Any]
    ) -> None:
        """In the place of `evokern.backends.triton.launch._run`."""
        *_, binder = kernel.device_caches[kernel_device()]
        _, specialization, parsed = binder(*arguments, **options, debug=False)
        name = kernel.fn.__name__
        key = f"{kernel.module}.{name} {specialization} {parsed}"
        found = Variant(kernel.module, name, tuple(arguments), options, self.call)
        self.variants.setdefault(key, found)


def kernel_device() -> int:
    from triton.runtime import driver

    return int(driver.active.get_current_device())


@contextmanager
def recorded(tables: Iterable[Any]) -> Iterator[Recorder]:
    """Ops on arrays of the stand-in launch nothing in the block, but are noted.

    ``tables`` are entries of configuration tables. The ones used are those whose ``warps`` were
    read: choosing reads other fields.
    """
    from evokern.backends.triton import launch

    # Whatever reads an array that has no memory ends the process: this says where.
    faulthandler.enable()
    use_arch(ARCHS[0])
    recorder = Recorder({}, set())
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(_devices.LIBRARIES, {__name__: LIBRARY}))
        stack.enter_context(mock.patch.object(launch, "_run", recorder.run))
        for kind in {type(entry) for entry in tables}:
            noting = _noting(kind, recorder.used)
            stack.enter_context(mock.patch.object(kind, "__getattribute__", noting))
        yield recorder


def _noting(kind: type, used: set[int]) -> Any:
    read = kind.__getattribute__

    def noting(entry: Any, name: str) -> Any:
        if name == "warps":
            used.add(id(entry))
        return read(entry, name)

    return noting


def modules() -> Iterator[ModuleType]:
    """Every module of the Triton kernels."""
    for found in iter_modules(import_module(PACKAGE).__path__, f"{PACKAGE}."):
        yield import_module(found.name)


def kernels_of(module: ModuleType) -> list[str]:
    """The kernels that a module defines; what they call has other names."""
    from triton.runtime.jit import JITFunction

    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, JITFunction)
        and name.endswith("_kernel")
        and value.module == module.__name__
    ]


def entries_of(module: ModuleType) -> dict[str, Any]:
    """Entries of a module's configuration tables by what to call them: those that have ``warps``.

    A table is a name in capitals: an entry, or a dict or tuple of tables.
    """

    def entries(name: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, part in value.items():
                yield from entries(f"{name}[{key!r}]", part)
        elif isinstance(value, tuple | list):
            for number, part in enumerate(value):
                yield from entries(f"{name}[{number}]", part)
        elif is_dataclass(value) and not isinstance(value, type) and hasattr(value, "warps"):
            yield name, value

    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.isupper():
            found |= {f"{module.__name__}.{text}": entry for text, entry in entries(name, value)}
    return found
