"""Categorical search distributions on a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from evokern.backends.device import Block, Device, current_device


def nes_sample(probabilities: Any, *, mask: Any | None, seed: int, step: int, out: Any) -> int:
    """See ``ops.nes_sample``.

    Returns what ``reference.categorical`` does where the device is checked, otherwise -1.
    """
    device, block = current_device(), Block()
    fault = _add_fault(block, probabilities)
    base = block.place(device)
    device.native.nes_sample(probabilities, mask, out, base + fault, seed, step, device.stream)
    return _found(device, base + fault, probabilities)


def nes_update(
    probabilities: Any,
    assignments: Any,
    losses: Any,
    *,
    learning_rate: float,
    min_probability: float,
    keep_minimum: bool,
    mask: Any | None,
    out: Any,
) -> int:
    """See ``ops.nes_update``; returns what ``nes_sample`` does."""
    device, block = current_device(), Block()
    fault = _add_fault(block, probabilities)
    utilities = block.room(losses.shape[0] * 4)
    base = block.place(device)
    device.native.nes_update(
        probabilities,
        mask,
        assignments,
        losses,
        out,
        base + fault,
        base + utilities,
        learning_rate,
        min_probability,
        keep_minimum,
        device.stream,
    )
    return _found(device, base + fault, probabilities)


def _add_fault(block: Block, probabilities: Any) -> int:
    """Offset of the number that kernels make smaller where they find a fault."""
    return block.add(np.array([probabilities.shape[0] + 1], np.int64))


def _found(device: Device, fault: int, probabilities: Any) -> int:
    if not device.checked:
        return -1
    first = int(np.frombuffer(device.native.download(fault, 8, device.stream), np.int64)[0])
    return -1 if first > probabilities.shape[0] else first
