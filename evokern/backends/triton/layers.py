"""Single layers on a device."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from evokern.backends.triton.elementwise import affine_arrays, residual_arrays
from evokern.backends.triton.network import layers_forward
from evokern.network import ActivationName, Conv2d, Dense


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
    """See ``ops.dense_forward``: a network of one layer whose weights are two banks."""
    inputs, outputs = w.shape[1:]
    layer = Dense(outputs, cast(ActivationName, activation), negative_slope, b is not None)
    layers_forward(
        [w] if b is None else [w, b],
        (layer,),
        (inputs,),
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
    """See ``ops.conv2d_forward``: a network of one layer whose weights are two banks."""
    kernel, stride, padding = geometry[:2], geometry[2:4], geometry[4:]
    name = cast(ActivationName, activation)
    layer = Conv2d(w.shape[2], kernel, stride, padding, name, negative_slope, b is not None)
    layers_forward(
        [w] if b is None else [w, b],
        (layer,),
        tuple(x.shape[-3:]),
        x,
        index=index[None],
        precision=precision,
        x_scale=x_scale,
        out=out,
        bias_apart=True,
    )


def affine(x: Any, scale: Any, shift: Any, *, index: npt.NDArray[np.int32], out: Any) -> None:
    """See ``ops.affine``."""
    affine_arrays(x, scale, shift, index=index, out=out)


def residual(x: Any, y: Any, *, activation: str, negative_slope: float, out: Any) -> None:
    """See ``ops.residual``."""
    residual_arrays(x, y, activation=activation, negative_slope=negative_slope, out=out)
