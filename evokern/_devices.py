"""Arrays on devices as the ops see them, and the device, allocator and stream behind them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.backends.device import Device
from evokern.errors import BackendError, message


class _Described:
    """What NumPy makes an array of that it never reads."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface | {"version": 3}


class DeviceArray:
    """An array on a device: it answers as an ndarray does, but for its elements.

    ``owner`` is the caller's array, whose memory it is. Slices and ``reshape`` are views.
    """

    def __init__(self, owner: Any, layout: npt.NDArray[Any], device: Device) -> None:
        self.owner = owner
        self.device = device
        self.layout = layout
        """An ndarray at the device's address. Only its shape, strides and flags may be used."""

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self.owner, self.layout[key], self.device)

    def __array__(self, *_: Any, **__: Any) -> npt.NDArray[Any]:
        raise BackendError("an array on a device is no array of the host; copy it to the host")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.layout.__array_interface__

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def strides(self) -> tuple[int, ...]:
        return self.layout.strides

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layout.dtype

    @property
    def ndim(self) -> int:
        return self.layout.ndim

    @property
    def size(self) -> int:
        return self.layout.size

    @property
    def itemsize(self) -> int:
        return self.layout.itemsize

    @property
    def flags(self) -> Any:
        return self.layout.flags

    def reshape(self, *shape: int) -> DeviceArray:
        """A view; ValueError where that would take a copy."""
        return DeviceArray(self.owner, self.layout.reshape(*shape, copy=False), self.device)


@dataclass(frozen=True)
class Library:
    """What is asked of a library of arrays. A place is what it calls a device."""

    place: Callable[[Any], Any]
    """Of an array."""
    device: Callable[[Any], Device]
    """``device(place)``, with the library's current stream."""
    empty: Callable[[Any, tuple[int, ...], np.dtype[Any]], Any]
    """``empty(place, shape, dtype)``: a new array."""
    from_host: Callable[[Any, npt.NDArray[Any]], Any]
    """``from_host(place, array)``: a copy."""
    to_host: Callable[[Any], npt.NDArray[Any]]
    """A copy."""
    take: Callable[[Any, npt.NDArray[np.int64]], Any]
    """``take(array, rows)``: a copy of some rows."""


def on_device(value: Any) -> bool:
    """Whether ``value`` is an array in the memory of a CUDA device."""
    if isinstance(value, np.ndarray):
        return False
    kind = getattr(getattr(value, "device", None), "type", None)
    if isinstance(kind, str):  # of torch, whose other tensors have the interface in name only
        return kind == "cuda"
    return hasattr(value, "__cuda_array_interface__")


def view(name: str, value: Any) -> DeviceArray:
    """``value`` as the ops see it; BackendError where its library is unknown."""
    library = library_of(name, value)
    interface = value.__cuda_array_interface__
    fields = {key: interface[key] for key in ("shape", "typestr", "data")}
    layout = np.asarray(_Described(fields | {"strides": interface.get("strides")}))
    return DeviceArray(value, layout, library.device(library.place(value)))


def new(like: DeviceArray, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
    """A new array of the same library, on the same device."""
    library = library_of("out", like.owner)
    place = library.place(like.owner)
    return view("out", library.empty(place, shape, np.dtype(dtype)))


def allocate(device: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    """A new array on ``cpu``, ``cuda`` or ``cuda:1``."""
    if device == "cpu":
        return np.empty(shape, dtype)
    library, place = library_at(device)
    return library.empty(place, shape, np.dtype(dtype))


def from_host(device: str, array: npt.NDArray[Any]) -> Any:
    """The array itself on ``cpu``, else a copy there."""
    if device == "cpu":
        return array
    library, place = library_at(device)
    return library.from_host(place, array)


def moved(device: str, array: Any) -> Any:
    """An array of the host as ``from_host`` has it; one on a device stays where it is."""
    return array if on_device(array) else from_host(device, array)


def write(array: Any, values: npt.NDArray[Any]) -> None:
    """Copies values of the host to an array of their shape, wherever it is."""
    if not on_device(array):
        array[...] = values
        return
    library = library_of("array", array)
    array[...] = library.from_host(library.place(array), values)


def to_host(array: Any) -> npt.NDArray[Any]:
    """An array of the host as NumPy sees it, one of a device as a copy."""
    return library_of("array", array).to_host(array) if on_device(array) else np.asarray(array)


def take(array: Any, rows: npt.NDArray[np.int64]) -> Any:
    """A copy of some rows where the array is."""
    return library_of("array", array).take(array, rows) if on_device(array) else array[rows]


def library_at(device: str) -> tuple[Library, Any]:
    """The library that makes arrays on ``device``, and what it calls the place."""
    kind, _, number = device.partition(":")
    find = PLACES.get(kind)
    if find is None or not (number.isdigit() or device == kind):
        raise BackendError(message("device", f"cpu, {', '.join(PLACES)} or cuda:NUMBER", device))
    return find(int(number or 0))


def library_of(name: str, value: Any) -> Library:
    """The library of an array on a device."""
    library = LIBRARIES.get(_library_name(value))
    if library is None:
        wanted = f"an array of {', '.join(LIBRARIES)} on the device"
        raise BackendError(message(name, wanted, f"{type(value).__module__}"))
    return library


def _library_name(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _cuda_place(number: int) -> tuple[Library, Any]:
    """PyTorch where it sees a GPU, else CuPy."""
    reasons = []
    for name in ("torch", "cupy"):
        try:
            module = import_module(name)
        except ImportError as error:
            reasons.append(str(error))
            continue
        if module.cuda.is_available():
            place = module.device("cuda", number) if name == "torch" else module.cuda.Device(number)
            return LIBRARIES[name], place
        reasons.append(f"{name} sees no GPU")
    mend = "install PyTorch (evokern[torch]) or CuPy on a machine with one"
    raise BackendError(message("device", "cpu", f"cuda, but {'; '.join(reasons)}", mend))


def _torch_device(place: Any) -> Device:
    torch = sys.modules["torch"]

    def empty(count: int) -> Any:
        return torch.empty(count, dtype=torch.uint8, device=place)

    stream = torch.cuda.current_stream(place).cuda_stream
    return Device(NATIVES, empty, lambda memory: int(memory.data_ptr()), stream, number=place.index)


def _torch_empty(place: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=getattr(torch, dtype.name), device=place)


def _torch_take(tensor: Any, rows: npt.NDArray[np.int64]) -> Any:
    return tensor[sys.modules["torch"].from_numpy(rows).to(tensor.device)]


def _cupy_device(place: Any) -> Device:
    def empty(count: int) -> Any:
        return _cupy_empty(place, (count,), np.dtype(np.uint8))

    stream = sys.modules["cupy"].cuda.get_current_stream(place.id).ptr
    return Device(NATIVES, empty, lambda memory: int(memory.data.ptr), stream, number=place.id)


def _cupy_empty(place: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    with place:
        return sys.modules["cupy"].empty(shape, dtype)


def _cupy_from_host(place: Any, array: npt.NDArray[Any]) -> Any:
    with place:
        return sys.modules["cupy"].asarray(array)


LIBRARIES = {
    "torch": Library(
        place=lambda tensor: tensor.device,
        device=_torch_device,
        empty=_torch_empty,
        from_host=lambda place, array: sys.modules["torch"].from_numpy(array).to(place),
        to_host=lambda tensor: tensor.cpu().numpy(),
        take=_torch_take,
    ),
    "cupy": Library(
        place=lambda array: array.device,
        device=_cupy_device,
        empty=_cupy_empty,
        from_host=_cupy_from_host,
        to_host=lambda array: array.get(),
        take=lambda array, rows: array[rows],
    ),
}
"""By the package that the array's type comes from."""

PLACES = {"cuda": _cuda_place}
"""By the kind of device: who makes arrays there, for the device of a number."""


def why_not(backend: str) -> str:
    """Why nothing can run here on a back end of devices; empty if it can."""
    try:
        module = NATIVES[backend]()
    except BackendError as error:
        return str(error).removeprefix(f"backend: {backend} ").removeprefix("is ")
    count, reason = module.device_count()
    return "" if count else f"{_THERE[backend]}, but CUDA says: {reason or 'no device'}"


def _cuda_module() -> Any:
    """``evokern._cuda``; BackendError where it was not built."""
    try:
        from evokern import _cuda  # type: ignore[attr-defined, unused-ignore]
    except ImportError as error:
        mend = "install evokern where nvcc is, or after `make cuda-toolchain`"
        raise BackendError(f"backend: cuda is not built ({error}); {mend}") from error
    return _cuda


def _triton_driver() -> Any:
    """``evokern.backends.triton.driver``; BackendError where Triton is not installed."""
    return import_module("evokern.backends.triton.driver").load()


NATIVES = {"cuda": _cuda_module, "triton": _triton_driver}
"""By the back ends of devices, the preferred one first: the module that a call needs."""

_THERE = {"cuda": "built", "triton": "installed"}
