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
        self.current = context.value - 1000

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
    assert driver.select_device(-1) == 0  # back to none: stays
    assert fake.current == 0


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


def test_streams_are_pytorch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with driver.launching_on(0):
        pass
    words = "cannot launch on another library's stream; import torch"
    with pytest.raises(BackendError, match=words), driver.launching_on(77):
        pass

    entered: list[int] = []

    class Stream:
        def __init__(self, number: int) -> None:
            self.number = number

        def __enter__(self) -> None:
            entered.append(self.number)

        def __exit__(self, *_: object) -> None:
            entered.append(-self.number)

    current = SimpleNamespace(cuda_stream=5)
    cuda = SimpleNamespace(
        current_stream=lambda: current, ExternalStream=Stream, stream=lambda s: s
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with driver.launching_on(5):
        pass
    assert entered == []
    with driver.launching_on(77):
        assert entered == [77]
    assert entered == [77, -77]
