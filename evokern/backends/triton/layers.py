"""Single layers on a device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.backends import one_layer
from evokern.backends.device import Block, current_device
from evokern.backends.triton import elementwise
from evokern.backends.triton.launch import Parameter, Pointer, Samples, pointer, strides
from evokern.backends.triton.network import layers_forward
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
    block = Block()
    rows = block.add(index)
    of_slots = Pointer(block.upload(current_device()) + rows, "int32")
    slots, samples, channels, length = x.shape
    x_slot, x_sample, x_channel, _ = strides(x)
    out_slot, out_sample, out_channel, _ = strides(out)
    elementwise.affine(
        Samples(pointer(x), x_slot, x_sample),
        Parameter(pointer(scale), strides(scale)[0], of_slots),
        Parameter(pointer(shift), strides(shift)[0], of_slots),
        Samples(pointer(out), out_slot, out_sample),
        slots=slots,
        samples=samples,
        channels=channels,
        length=length,
        code=ACTIVATIONS.index("identity"),
        slope=0.0,
        x_channel=x_channel,
        out_channel=out_channel,
    )


def residual(x: Any, y: Any, *, activation: str, negative_slope: float, out: Any) -> None:
    """See ``ops.residual``."""
    elementwise.add(
        *(Samples(pointer(array), 0, 0) for array in (x, y, out)),
        slots=1,
        samples=1,
        features=math.prod(x.shape),
        code=ACTIVATIONS.index(activation),
        slope=negative_slope,
    )
