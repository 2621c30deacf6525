"""What Triton's kernels need of the CUDA driver, with a driver whose memory is the host's."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evokern.backends.triton import driver
from evokern.errors import BackendError


class Driver:
    """Two devices; nothing waits. ``fails`` is the name of a function that returns 700."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.current: int | None = None
        self.fails = ""

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == self.fails:
                return 700
            own = getattr(type(self), f"_{name}", None)
            return int(own(self, *arguments) or 0) if own else 0

        return call

    def _cuGetErrorString(self, status: int, text: Any) -> None:
        text._obj.value = b"an illegal memory access was encountered"

    def _cuCtxGetDevice(self, device: Any) -> int:
        if self.current is None:
            return 201
        device._obj.value = self.current
        return 0

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = 2

    def _cuDeviceGet(self, device: Any, number: Any) -> None:
        device._obj.value = number.value

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> None:
        context._obj.value = 1000 + device.value

    def _cuCtxSetCurrent(self, context: Any) -> None:
        self.current = None if context.value is None else context.value - 1000

    def _cuDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> None:
        value._obj.value = {75: 9, 76: 0}[attribute.value]

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = 3 << 30, 8 << 30

    def _cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        ctypes.memmove(target.value, source, size.value)

    def _cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        ctypes.memmove(target, source.value, size.value)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Driver:
    library = Driver()
    monkeypatch.setattr(driver, "_library", lambda: library)
    for cached in (driver.capability, driver._context):
        cached.cache_clear()
    return library


def test_bytes_go_there_and_back(fake: Driver) -> None:
    memory = np.zeros(8, np.uint8)
    driver.upload(memory.ctypes.data, np.arange(8, dtype=np.uint8), 0)
    assert memory.tolist() == list(range(8))
    assert driver.download(memory.ctypes.data + 2, 3, 0) == bytes([2, 3, 4])
    assert fake.calls[-1] == "cuStreamSynchronize"


def test_devices_are_counted_and_described(fake: Driver) -> None:
    assert driver.device_count() == (2, "")
    assert driver.capability(1) == 90
    assert driver.memory_info() == (3 << 30, 8 << 30)
    fake.fails = "cuDeviceGetCount"
    assert driver.device_count()[0] == 0
    assert "cuDeviceGetCount returned 700" in driver.device_count()[1]


def test_a_device_is_selected_and_the_one_before_comes_back(fake: Driver) -> None:
    assert driver.select_device(1) == -1  # there was none
    assert fake.current == 1
    assert driver.select_device(0) == 1
    assert fake.current == 0
    assert driver.select_device(-1) == 0  # back to none
    assert fake.current is None
    assert driver.select_device(-1) == -1


def test_failures_name_the_op_and_what_the_driver_says(fake: Driver) -> None:
    fake.fails = "cuStreamSynchronize"
    words = "affine: backend: triton: cuStreamSynchronize returned 700 .an illegal memory access"
    with pytest.raises(BackendError, match=words):
        driver.synchronize("affine", 0)


def test_without_a_driver_it_says_so() -> None:
    driver._library.cache_clear()
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(BackendError, match="triton finds no CUDA driver"):
            driver._library()
    else:
        pytest.skip("there is a CUDA driver")


class Stream:
    """Of PyTorch; as a context it is the current one of its ``Torch`` meanwhile."""

    def __init__(self, torch: Torch, number: int) -> None:
        self.torch, self.cuda_stream = torch, number

    def __enter__(self) -> None:
        self.before, self.torch.current = self.torch.current, self

    def __exit__(self, *_: object) -> None:
        self.torch.current = self.before


class Torch:
    """PyTorch with ``current`` for its stream; a stream that it makes anew has the number 99."""

    def __init__(self, number: int, *, sees_gpu: bool = True) -> None:
        self.current = Stream(self, number)
        self.cuda = SimpleNamespace(
            is_available=lambda: sees_gpu,
            current_stream=self.current_stream,
            default_stream=lambda: Stream(self, 0),
            ExternalStream=lambda number: Stream(self, number or 99),
            stream=lambda stream: stream,
        )
        self.sees_gpu = sees_gpu

    def current_stream(self) -> Stream:
        assert self.sees_gpu, "Torch not compiled with CUDA enabled"
        return self.current


def use_libraries(monkeypatch: pytest.MonkeyPatch, torch: Torch | None, asks_torch: bool) -> None:
    """Triton's first kernel ran with PyTorch there, or not."""
    driver = SimpleNamespace(
        get_current_device=lambda: 1,
        get_current_stream=lambda device: torch.current.cuda_stream if asks_torch else 0,
    )
    runtime = SimpleNamespace(driver=SimpleNamespace(active=driver))
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_without_pytorch_there_is_the_default_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    use_libraries(monkeypatch, None, asks_torch=False)
    with driver.launching_on(0):
        pass
    words = "cannot launch on another library's stream; import torch"
    with pytest.raises(BackendError, match=words), driver.launching_on(77):
        pass


@pytest.mark.parametrize("stream", [5, 77, 0])
def test_streams_are_pytorch_s(monkeypatch: pytest.MonkeyPatch, stream: int) -> None:
    torch = Torch(5)
    use_libraries(monkeypatch, torch, asks_torch=True)
    with driver.launching_on(stream):
        assert torch.current.cuda_stream == stream
    assert torch.current.cuda_stream == 5


def test_pytorch_may_come_after_triton_s_first_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    use_libraries(monkeypatch, Torch(0), asks_torch=False)
    with driver.launching_on(0):
        pass
    words = "would launch on stream 0x0, not on 0x4d; import torch before Triton's first kernel"
    with pytest.raises(BackendError, match=words), driver.launching_on(77):
        pass


def test_a_pytorch_that_sees_no_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    use_libraries(monkeypatch, Torch(0, sees_gpu=False), asks_torch=True)
    words = "asks PyTorch for the stream, and this PyTorch sees no GPU; install one that does"
    with pytest.raises(BackendError, match=words), driver.launching_on(0):
        pass
