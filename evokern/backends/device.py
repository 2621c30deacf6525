"""Where kernels of a device run: what launches them, and the caller's allocator and stream."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.errors import BackendError, MemoryLimitError

_ALIGNMENT = 256  # bytes, what every allocator of a device gives

_current: ContextVar[Device] = ContextVar("device")


@dataclass(frozen=True)
class Device:
    """``natives`` gives, for each back end that may run there, its module, or a BackendError.

    ``native`` is that of the call: CUDA's kernels, or what Triton's need beside Triton.
    ``empty(bytes)`` gives uint8 [bytes] on the device. ``number`` is the device's, ``limit`` the
    bytes that ``empty`` can give, where they are few. ``checks``: ops wait for the device and say
    what it found wrong in arrays there.
    """

    natives: Mapping[str, Callable[[], Any]]
    empty: Callable[[int], Any]
    address: Callable[[Any], int]
    stream: int = 0
    checks: bool = False
    number: int = 0
    limit: int | None = None
    native: Any = None

    @property
    def checked(self) -> bool:
        """Whether ops look at values on the device, which waits for it."""
        return self.checks or os.environ.get("EVOKERN_CHECK") == "1"


@contextmanager
def use_device(device: Device, backend: str) -> Iterator[Any]:
    """Runs the block's kernels there; gives the back end's module.

    Raises BackendError where that cannot run.
    """
    native = device.natives[backend]()
    token = _current.set(replace(device, native=native))
    try:
        yield native
    finally:
        _current.reset(token)


def current_device() -> Device:
    """The device of the call; raises BackendError where there is none."""
    device = _current.get(None)
    if device is None:
        raise BackendError("backend: there is no device here; there are reference, cpu")
    return device


def _allocate(device: Device, count: int) -> Any:
    try:
        return device.empty(count)
    except (MemoryError, RuntimeError) as error:
        if "OutOfMemory" not in type(error).__name__:
            raise
        free, _ = device.native.memory_info()
        raise MemoryLimitError(
            f"workspace: {count / 1e9:.2f} GB asked for, {free / 1e9:.2f} GB free on device "
            f"{device.number}; fewer slots at a time would fit: {free / count:.0%} of these"
        ) from error


def add_fault(block: Block, rows: int) -> int:
    """Offset of the int64 in which kernels leave the least number of what they find wrong.

    Numbers below ``rows`` are those of wrong rows; ``rows`` stands for anything else.
    """
    return block.add(np.array([rows + 1], np.int64))


def fault_found(device: Device, address: int, rows: int) -> int:
    """What kernels left at the address of `add_fault`.

    -1: nothing is wrong, or the device is not checked, so that nobody waits for it to look.
    """
    if not device.checked:
        return -1
    first = int(np.frombuffer(device.native.download(address, 8, device.stream), np.int64)[0])
    return -1 if first > rows else first


class Block:
    """Small arrays of the host, and room for scratch, as one piece of the device's memory.

    ``add`` and ``room`` give offsets; ``upload`` allocates, copies and gives the address they
    count from. The memory must live as long as the block.
    """

    def __init__(self) -> None:
        self._arrays: list[tuple[int, npt.NDArray[Any]]] = []
        self._bytes = 0
        self._memory: Any = None

    def add(self, array: npt.NDArray[Any]) -> int:
        """Offset in bytes of what will be a contiguous copy of ``array``."""
        offset = self.room(array.nbytes)
        self._arrays.append((offset, array))
        return offset

    def room(self, count: int) -> int:
        """Offset of ``count`` bytes that hold anything."""
        offset = self._bytes
        self._bytes = offset + -(-count // _ALIGNMENT) * _ALIGNMENT
        return offset

    def upload(self, device: Device) -> int:
        """Address of the block on the device; its arrays are there once the stream comes by."""
        self._memory = _allocate(device, max(self._bytes, 1))
        address = device.address(self._memory)
        if self._arrays:
            # Arrays were added before room was asked for, so what is copied is one run.
            end = max(offset + array.nbytes for offset, array in self._arrays)
            staged = np.zeros(-(-end // 4) * 4, np.uint8)
            for offset, array in self._arrays:
                bytes_of = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                staged[offset : offset + array.nbytes] = bytes_of
            device.native.upload(address, staged, device.stream)
        return address
