"""Categorical search distributions on a device."""

from __future__ import annotations

from typing import Any

from evokern.backends.device import Block, add_fault, current_device, fault_found


def nes_sample(probabilities: Any, *, mask: Any | None, seed: int, step: int, out: Any) -> int:
    """See ``ops.nes_sample``; returns what ``fault_found`` does, rows being distributions."""
    device, block = current_device(), Block()
    fault = add_fault(block, probabilities.shape[0])
    base = block.upload(device)
    device.native.nes_sample(probabilities, mask, out, base + fault, seed, step, device.stream)
    return fault_found(device, base + fault, probabilities.shape[0])


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
    fault = add_fault(block, probabilities.shape[0])
    utilities = block.room(losses.shape[0] * 4)
    base = block.upload(device)
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
    return fault_found(device, base + fault, probabilities.shape[0])
