"""Arrays on a device, with the harness for one: stands in for torch or CuPy on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import column
import interpreter
import numpy as np
import numpy.typing as npt

from evokern import _devices
from evokern.backends.device import Device


class OnHarness:
    """An array as a library of the device would have it, in the harness' memory."""

    def __init__(self, values: np.ndarray, number: int = 0) -> None:
        self.values, self.number = values, number

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.values.__array_interface__

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> OnHarness:
        return OnHarness(self.values[key], self.number)

    def __setitem__(self, key: Any, other: OnHarness) -> None:
        self.values[key] = other.values

    def __neg__(self) -> OnHarness:
        return OnHarness(-self.values, self.number)

    def reshape(self, *shape: int) -> OnHarness:
        return OnHarness(self.values.reshape(*shape), self.number)

    def swapaxes(self, first: int, second: int) -> OnHarness:
        return OnHarness(self.values.swapaxes(first, second), self.number)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def strided(
        self, dtype: npt.DTypeLike, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
    ) -> OnHarness:
        """A view of the memory, strides and offset in bytes."""
        view = np.ndarray(shape, dtype, self.values, offset, strides)
        return OnHarness(view, self.number)


def empty(number: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> OnHarness:
    """NaN, or -1; the memory ends where the array does."""
    memory = column.device().empty(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return OnHarness(memory.view(dtype).reshape(shape), number)


def copied(values: np.ndarray, number: int = 0) -> OnHarness:
    array = empty(number, values.shape, values.dtype)
    array.values[...] = values
    return array


def _device(number: int) -> Device:
    """Of the CUDA kernels on the harness and, where its interpreter runs, of Triton's."""
    device = column.device()
    natives = dict(device.natives)
    if not interpreter.unavailable():
        natives["triton"] = lambda: interpreter.HOST
    return replace(device, number=number, natives=natives)


LIBRARY = _devices.Library(
    place=lambda array: array.number,
    device=_device,
    empty=empty,
    from_host=lambda number, array: copied(array, number),
    to_host=lambda array: array.values.copy(),
    take=lambda array, rows: copied(array.values[rows], array.number),
)


def harness_place(number: int) -> tuple[_devices.Library, int]:
    """The library that makes arrays on the harness, and its name for the device."""
    return LIBRARY, number


def register() -> None:
    """Lets ``evokern`` know these arrays, and ``harness`` be the name of a device."""
    _devices.LIBRARIES[__name__] = LIBRARY
    _devices.PLACES["harness"] = harness_place
