"""What Triton kernels need of a device beside Triton: copies, and the device itself.

By the CUDA driver's library, so that neither PyTorch nor nvcc has to be there.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.errors import BackendError

_NO_DEVICE = -1
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # of CUdevice_attribute


def load() -> Any:
    """This module; raises BackendError where Triton or the driver is not there."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        mend = "pip install 'evokern[triton]'"
        raise BackendError(f"backend: triton is not installed ({error}); {mend}") from error
    _library()
    return sys.modules[__name__]


def select_device(number: int) -> int:
    """Makes the device this thread's, or with -1 none; returns the one before, or -1 for none."""
    before = _current()
    if number != before:
        context = ctypes.c_void_p() if number == _NO_DEVICE else _context(number)
        _call("cuCtxSetCurrent", context)
    return before


def upload(address: int, values: npt.NDArray[np.uint8], stream: int) -> None:
    """Copies to the device in the stream's order; ``values`` may change afterwards."""
    source = ctypes.c_void_p(values.ctypes.data)
    size = ctypes.c_size_t(values.nbytes)
    target = ctypes.c_uint64(address)
    _call("cuMemcpyHtoDAsync_v2", target, source, size, ctypes.c_void_p(stream))


def download(address: int, count: int, stream: int) -> bytes:
    """Bytes of the device, once the stream has come so far."""
    memory = ctypes.create_string_buffer(count)
    size = ctypes.c_size_t(count)
    _call("cuMemcpyDtoHAsync_v2", memory, ctypes.c_uint64(address), size, ctypes.c_void_p(stream))
    _call("cuStreamSynchronize", ctypes.c_void_p(stream))
    return memory.raw


def synchronize(op: str, stream: int) -> None:
    """Waits for the stream; BackendError names ``op`` where something failed."""
    try:
        _call("cuStreamSynchronize", ctypes.c_void_p(stream))
    except BackendError as error:
        raise BackendError(f"{op}: {error}") from error


def memory_info() -> tuple[int, int]:
    """Bytes that are free on the current device, and all."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def device_count() -> tuple[int, str]:
    """How many devices there are, or why not."""
    count = ctypes.c_int()
    try:
        _call("cuDeviceGetCount", ctypes.byref(count))
    except BackendError as error:
        return 0, str(error)
    return count.value, ""


@cache
def capability(number: int) -> int:
    """90 for compute capability 9.0."""
    device = _device(number)
    parts = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        _call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), device)
        parts.append(value.value)
    return 10 * parts[0] + parts[1]


@contextmanager
def launching_on(stream: int) -> Iterator[None]:
    """Triton launches on PyTorch's current stream, without PyTorch on the default one.

    Raises BackendError where it would be another stream.
    """
    with _current_in_torch(stream):
        _expect_stream(stream)
        yield


def _current_in_torch(stream: int) -> AbstractContextManager[Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        if stream:
            mend = "import torch, whose streams Triton uses, or work on the default stream"
            raise BackendError(f"backend: triton cannot launch on another library's stream; {mend}")
        return nullcontext()
    if not torch.cuda.is_available():
        mend = "install one that does, or do not import torch"
        got = "backend: triton asks PyTorch for the stream, and this PyTorch sees no GPU"
        raise BackendError(f"{got}; {mend}")
    if stream == torch.cuda.current_stream().cuda_stream:
        return nullcontext()
    # An external stream of address 0 would be a new one.
    wanted = torch.cuda.ExternalStream(stream) if stream else torch.cuda.default_stream()
    context: AbstractContextManager[Any] = torch.cuda.stream(wanted)
    return context


def _expect_stream(stream: int) -> None:
    """Triton decides only once, at its first kernel, whether it asks PyTorch."""
    import triton

    active = triton.runtime.driver.active
    used = active.get_current_stream(active.get_current_device())
    if used != stream:
        mend = "import torch before Triton's first kernel"
        got = f"backend: triton would launch on stream {used:#x}, not on {stream:#x}"
        raise BackendError(f"{got}; {mend}")


def _current() -> int:
    device = ctypes.c_int(_NO_DEVICE)
    try:
        _call("cuCtxGetDevice", ctypes.byref(device))
    except BackendError:  # no context yet
        return _NO_DEVICE
    return device.value


@cache
def _context(number: int) -> ctypes.c_void_p:
    """The device's primary context, which PyTorch and CuPy use too; kept for good."""
    context = ctypes.c_void_p()
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), _device(number))
    return context


def _device(number: int) -> ctypes.c_int:
    device = ctypes.c_int()
    _call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(number))
    return device


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BackendError(f"backend: triton finds no CUDA driver ({error})") from error
    if status := library.cuInit(0):
        raise BackendError(f"backend: triton: the CUDA driver's cuInit returned {status}")
    return library


def _call(name: str, *arguments: Any) -> None:
    """Calls the driver; raises BackendError with what it says."""
    library = _library()
    status = getattr(library, name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        library.cuGetErrorString(status, ctypes.byref(text))
        said = text.value.decode() if text.value else "unknown error"
        raise BackendError(f"backend: triton: {name} returned {status} ({said})")
