"""Whole networks on a device: what ``csrc/cuda/layers.cu`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.backends.device import Block, current_device
from evokern.backends.plan import FEW_SAMPLES, Plan, dense_stack, plan_for, rows_to_send
from evokern.errors import BackendError
from evokern.layers import Layer
from evokern.network import Network


def network_forward(
    banks: Sequence[Any],
    network: Network,
    x: Any,
    *,
    index: npt.NDArray[np.int32],
    precision: str,
    x_scale: float | None,
    out: Any,
) -> None:
    """See ``ops.network_forward``."""
    layers_forward(
        banks,
        network.layers,
        network.input_shape,
        x,
        index=index,
        precision=precision,
        x_scale=x_scale,
        out=out,
    )


def network_loss(
    banks: Sequence[Any],
    network: Network,
    x: Any,
    y: Any,
    *,
    index: npt.NDArray[np.int32],
    classes: npt.NDArray[np.int32] | None,
    sample_weights: Any | None,
    loss: str,
    precision: str,
    x_scale: float | None,
    out_loss: Any,
    out_correct: Any,
) -> None:
    """See ``ops.network_loss``."""
    fp32_only(precision)
    device, block, index = current_device(), Block(), rows_to_send(index)
    plan = _plan_for(banks, network.layers, network.input_shape, x, index, x_scale, loss=True)
    rows = block.add(index)
    counts = None if classes is None else block.add(classes)
    room = block.room(plan.bytes)
    base = block.upload(device)
    device.native.network_loss(
        list(banks),
        plan,
        x,
        1.0 if x_scale is None else x_scale,
        base + rows,
        *index.shape,
        base + room,
        y,
        loss == "mse",
        0 if counts is None else base + counts,
        sample_weights,
        out_loss,
        out_correct,
        device.stream,
    )


def layers_forward(
    banks: Sequence[Any],
    layers: tuple[Layer, ...],
    input_shape: tuple[int, ...],
    x: Any,
    *,
    index: npt.NDArray[np.int32],
    precision: str,
    x_scale: float | None,
    out: Any,
    bias_apart: bool = False,
) -> None:
    """``network_forward`` of layers; ``bias_apart``: the bias of the one layer is banks[1]."""
    fp32_only(precision)
    device, block, index = current_device(), Block(), rows_to_send(index)
    plan = _plan_for(
        banks, layers, input_shape, x, index, x_scale, loss=False, bias_apart=bias_apart
    )
    rows = block.add(index)
    room = block.room(plan.bytes)
    base = block.upload(device)
    device.native.network_forward(
        list(banks),
        plan,
        x,
        1.0 if x_scale is None else x_scale,
        base + rows,
        *index.shape,
        base + room,
        out,
        device.stream,
    )


def fp32_only(precision: str) -> None:
    """Raises BackendError for any other precision."""
    if precision != "fp32":
        raise BackendError(f"precision: {precision}: the CUDA kernels compute in fp32 only so far")


def _plan_for(
    banks: Sequence[Any],
    layers: tuple[Layer, ...],
    input_shape: tuple[int, ...],
    x: Any,
    index: npt.NDArray[np.int32],
    x_scale: float | None,
    *,
    loss: bool,
    bias_apart: bool = False,
) -> Plan:
    samples = x.shape[-1 - len(input_shape)]
    fused = _tile_of(banks, layers, input_shape, samples) > 0
    options = {"of_bytes": x_scale is not None, "loss": loss, "bias_apart": bias_apart}
    return plan_for(layers, input_shape, x, index, fused=fused, **options)


def _tile_of(
    banks: Sequence[Any], layers: tuple[Layer, ...], input_shape: tuple[int, ...], samples: int
) -> int:
    """Samples of a block of the fused kernel; 0 where it cannot run the layers with parameters."""
    native = current_device().native
    stack = dense_stack(layers, input_shape)
    if samples <= FEW_SAMPLES or not 1 <= len(stack) - 1 <= native.most_fused_steps:
        return 0
    if banks[0].dtype != np.float32:
        return 0
    tile: int = native.fused_tile(max(stack), samples)
    return tile
