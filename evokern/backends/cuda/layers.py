"""Single layers on a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.backends import one_layer
from evokern.backends.cuda.network import layers_forward
from evokern.backends.device import Block, current_device
from evokern.layers import ACTIVATIONS


def dense_forward(
    x: Any,
    w: Any,
    b: Any | None,
    *,
    index: npt.NDArray[np.int32],
    activation: str,
    negative_slope: float,
    precision: str,
    out: Any,
) -> None:
    """See ``ops.dense_forward``."""
    layers_forward(
        *one_layer.dense(w, b, activation, negative_slope),
        x,
        index=index[None],
        precision=precision,
        x_scale=None,
        out=out,
        bias_apart=True,
    )


def conv2d_forward(
    x: Any,
    w: Any,
    b: Any | None,
    *,
    index: npt.NDArray[np.int32],
    geometry: tuple[int, int, int, int, int, int],
    activation: str,
    negative_slope: float,
    precision: str,
    x_scale: float | None,
    out: Any,
) -> None:
    """See ``ops.conv2d_forward``."""
    layers_forward(
        *one_layer.conv2d(x, w, b, geometry, activation, negative_slope),
        x,
        index=index[None],
        precision=precision,
        x_scale=x_scale,
        out=out,
        bias_apart=True,
    )


def affine(x: Any, scale: Any, shift: Any, *, index: npt.NDArray[np.int32], out: Any) -> None:
    """See ``ops.affine``."""
    device, block = current_device(), Block()
    rows = block.add(index)
    base = block.upload(device)
    device.native.affine(x, scale, shift, base + rows, out, device.stream)


def residual(x: Any, y: Any, *, activation: str, negative_slope: float, out: Any) -> None:
    """See ``ops.residual``."""
    device = current_device()
    code = ACTIVATIONS.index(activation)
    device.native.residual(x, y, code, negative_slope, out, device.stream)
