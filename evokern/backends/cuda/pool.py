"""Pools of images on a device."""

from __future__ import annotations

from typing import Any

from evokern.backends.device import current_device


def max_pool2d(x: Any, *, geometry: tuple[int, ...], out: Any) -> None:
    """See ``ops.max_pool2d``."""
    device = current_device()
    device.native.pool2d(x, out, list(geometry), True, True, device.stream)


def avg_pool2d(x: Any, *, geometry: tuple[int, ...], count_include_pad: bool, out: Any) -> None:
    """See ``ops.avg_pool2d``."""
    device = current_device()
    device.native.pool2d(x, out, list(geometry), False, count_include_pad, device.stream)


def global_avg_pool(x: Any, *, out: Any) -> None:
    """See ``ops.global_avg_pool``."""
    device = current_device()
    whole = [*x.shape[-2:], 1, 1, 0, 0]
    device.native.pool2d(x, out, whole, False, True, device.stream)
