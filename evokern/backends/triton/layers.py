"""Single layers on a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.backends import one_layer
from evokern.backends.triton.elementwise import affine_arrays, residual_arrays
from evokern.backends.triton.network import layers_forward


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
    affine_arrays(x, scale, shift, index=index, out=out)


def residual(x: Any, y: Any, *, activation: str, negative_slope: float, out: Any) -> None:
    """See ``ops.residual``."""
    residual_arrays(x, y, activation=activation, negative_slope=negative_slope, out=out)
