"""Which function computes an op: by the table, and by where the arrays are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from evokern._arrays import Array, Host, address_of, expect, to_view
from evokern._default import device_backend, host_backend
from evokern._devices import DeviceArray
from evokern._table import ON_DEVICE, TABLE, resolve
from evokern.backends.device import Device, use_device
from evokern.errors import ArgumentError, BackendError, LayoutError, MemoryLimitError, message

WORKSPACE_ALIGNMENT = 16  # bytes

LEAST_CAPABILITY = 80
"""The kernels copy to shared memory asynchronously."""

_COPY_MEND = "copy it there, or choose another backend"


def choose(
    op: str,
    backend: str,
    names: str,
    *arrays: Host | None,
    workspace: Array | None = None,
    precision: str = "fp32",
) -> Callable[..., Any]:
    """The function of ``op`` for these arrays; ``auto`` follows from where they are.

    ``names`` are theirs, with spaces between. ``workspace`` stands in for the memory that the op
    would ask of the arrays' library. Raises BackendError for a back end that is unknown or lacks
    the op, for arrays that are not all where it works, and for tf32 on the host.
    """
    if not isinstance(backend, str):
        raise BackendError(message("backend", "a name", f"{type(backend).__name__} {backend!r}"))
    for array in arrays:
        if isinstance(array, DeviceArray):
            given = dict(zip(names.split(), arrays, strict=True))
            return _choose_device(op, backend, given, workspace)
    if workspace is not None:
        raise ArgumentError(message("workspace", "None for arrays on the host", "an array"))
    function = _choose_host(op, host_backend(op) if backend == "auto" else backend)
    if function is None:
        wanted = f"an array on a device for backend={backend!r}"
        raise BackendError(message(names.split()[0], wanted, "on the host", _COPY_MEND))
    if precision == "tf32":
        raise BackendError("precision: tf32 is a GPU format; on the host there are fp32 and bf16")
    return function


def which(op: str, *arrays: Array) -> str:
    """The back end that ``op`` runs on with ``backend="auto"`` for arrays like these.

    That of the host without arrays. Raises BackendError as the op would.
    """
    if op not in TABLE:
        raise BackendError(message("op", f"one of {list(TABLE)}", repr(op)))
    views = {f"arrays[{number}]": to_view("arrays", array) for number, array in enumerate(arrays)}
    if any(isinstance(view, DeviceArray) for view in views.values()):
        return device_backend(op, _common_device(views))
    return host_backend(op)


@cache
def _choose_host(op: str, backend: str) -> Callable[..., Any] | None:
    """None for a back end that works on a device."""
    if backend in ON_DEVICE and backend in TABLE[op].functions:
        return None
    return resolve(op, backend)


def _choose_device(
    op: str, backend: str, arrays: dict[str, Host | None], workspace: Array | None
) -> Callable[..., Any]:
    device = _common_device(arrays)
    name = device_backend(op, device) if backend == "auto" else backend
    if name in TABLE[op].functions and name not in ON_DEVICE:
        wanted = f"an array on the host for backend={name!r}"
        raise BackendError(message(next(iter(arrays)), wanted, "on a device", _COPY_MEND))
    if name in ON_DEVICE and name not in device.natives:
        raise BackendError(f"backend: {name} does not run where {next(iter(arrays))} is")
    native = device.natives[name]() if name in ON_DEVICE else None
    function = resolve(op, name)
    _expect_capability(native, device.number)
    if workspace is not None:
        device = _with_workspace(device, workspace)
    return _bind(op, name, device, function)


def _with_workspace(device: Device, workspace: Array) -> Device:
    """The device with the workspace for its memory."""
    memory = expect("workspace", workspace, np.uint8, "[bytes]", 1)
    if not isinstance(memory, DeviceArray) or memory.device.number != device.number:
        got = "on another device" if isinstance(memory, DeviceArray) else "on the host"
        raise BackendError(message("workspace", f"an array on device {device.number}", got))
    address = address_of(memory)
    if address % WORKSPACE_ALIGNMENT:
        wanted = f"an address that is a multiple of {WORKSPACE_ALIGNMENT}"
        raise LayoutError(message("workspace", wanted, str(address)))

    def empty(count: int) -> int:
        if count > memory.size:
            mend = "ask evokern.ops.workspace_bytes"
            raise MemoryLimitError(
                message("workspace", f"at least {count} bytes", str(memory.size), mend)
            )
        return address

    return replace(device, empty=empty, address=int, limit=memory.size)


def _common_device(arrays: Mapping[str, Host | None]) -> Device:
    """The device that all of them are on."""
    first, chosen = "", None
    for name, array in arrays.items():
        if isinstance(array, DeviceArray) and chosen is None:
            first, chosen = name, array.device
    assert chosen
    for name, array in arrays.items():
        if isinstance(array, DeviceArray):
            if array.device.number != chosen.number:
                wanted = f"an array on device {chosen.number}, as {first}"
                raise BackendError(message(name, wanted, f"on device {array.device.number}"))
        elif array is not None:
            wanted = f"an array on a device, as {first}"
            raise BackendError(message(name, wanted, "on the host", f"copy {name} to the device"))
    return chosen


def _bind(
    op: str, backend: str, device: Device, function: Callable[..., Any]
) -> Callable[..., Any]:
    """The function with ``device`` as this thread's; afterwards it is what it was before.

    With EVOKERN_CHECK=1 it waits for the device, so that a failure there is told here.
    """

    def run(*arguments: Any, **options: Any) -> Any:
        with use_device(device, backend) as native:
            before = native.select_device(device.number)
            try:
                result = function(*arguments, **options)
                if os.environ.get("EVOKERN_CHECK") == "1":
                    native.synchronize(op, device.stream)
                return result
            finally:
                native.select_device(before)

    return run


@cache
def _expect_capability(native: Any, device: int) -> None:
    found = native.capability(device)
    if found < LEAST_CAPABILITY:
        wanted = f"compute capability {LEAST_CAPABILITY / 10} or newer"
        raise BackendError(message("device", wanted, f"device {device} with {found / 10}"))
