"""Single layers of many individuals, for embedding and for what the fused path cannot hold."""

from __future__ import annotations

import numpy as np

from evokern._arrays import Array, expect, expect_shape, like, output
from evokern._checks import batch_of, check_precision, images_of, merged, slots_of
from evokern._table import resolve
from evokern._values import one_of
from evokern.errors import LayoutError, ShapeError, message
from evokern.network import ACTIVATIONS, ActivationName, AvgPool2d, MaxPool2d, pool_output
from evokern.rules import Precision


def dense_forward(
    x: Array,
    w: Array,
    b: Array,
    *,
    index: Array | None = None,
    activation: ActivationName = "identity",
    negative_slope: float = 0.01,
    precision: Precision = "fp32",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """One dense layer of many individuals: activation(x W + b). float32 [S, B, O].

    Args:
        x: float32 [S, B, I], or [B, I] for one batch that all slots share.
        w: float32 [P, I, O], inner axes contiguous.
        b: float32 [P, O].
        index: int32 [S], the individual each slot runs; None means S = P, one each.
        activation: a name of ``evokern.network.ACTIVATIONS``.
        negative_slope: of ``leaky_relu``.
        precision: ``fp32`` (the bits of design section 5) or ``bf16`` (inputs rounded to bf16).
        out: float32 [S, B, O] to write to.
        backend: see the module.
    """
    one_of("activation", activation, ACTIVATIONS)
    check_precision(precision, backend)
    weights = expect("w", w, np.float32, "[P, I, O]", 3)
    population, inputs, outputs = weights.shape
    if inputs < 1:
        raise ShapeError(message("w", "[P, I, O] with I >= 1", f"{list(weights.shape)}"))
    if weights.size and inputs > 1 and weights.strides[1] != outputs * 4:
        mend = "try np.ascontiguousarray(w)"
        raise LayoutError(
            message("w", "[P, I, O], each [I, O] in one piece", f"{weights.strides}", mend)
        )
    bias = expect("b", b, np.float32, "[P, O]", 2)
    expect_shape("b", bias, "[P, O]", (population, outputs))
    values = expect("x", x, np.float32, "[S, B, I] or [B, I]", None)
    slots = slots_of(index, population)
    batch = batch_of(values, (inputs,), len(slots))
    shape = (len(slots), batch, outputs)
    target = output(out, shape, "[S, B, O]", x=values, w=weights, b=bias)
    compute = resolve("dense_forward", backend)
    if target.size:
        compute(
            values,
            weights,
            bias,
            index=slots,
            activation=activation,
            negative_slope=float(negative_slope),
            precision=precision,
            out=target,
        )
    return out if out is not None else like(x)(target)


def max_pool2d(
    x: Array,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    *,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Maximum over windows of images; NaN wins. float32 [..., C, H', W'].

    Args:
        x: float32 [..., C, H, W].
        kernel: window size, an int or (height, width).
        stride: step between windows; None means the kernel.
        padding: border that never wins, at most half the kernel.
        out: float32 [..., C, H', W'] to write to.
        backend: see the module.
    """
    return _pool(x, MaxPool2d(kernel, stride, padding), "max_pool2d", {}, out, backend)


def avg_pool2d(
    x: Array,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    *,
    count_include_pad: bool = True,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Mean over windows of images. float32 [..., C, H', W'].

    Args:
        x, kernel, stride, padding, out, backend: as in ``max_pool2d``.
        count_include_pad: whether padding counts as elements of a window (as in PyTorch).
    """
    layer = AvgPool2d(kernel, stride, padding, count_include_pad)
    options = {"count_include_pad": bool(count_include_pad)}
    return _pool(x, layer, "avg_pool2d", options, out, backend)


def affine(
    x: Array,
    scale: Array,
    shift: Array,
    *,
    index: Array | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """x * scale + shift per channel, two roundings: batch norm at inference. Shape of ``x``.

    Args:
        x: float32 [S, B, C, ...].
        scale: float32 [P, C]: gamma / sqrt(variance + epsilon).
        shift: float32 [P, C]: beta - mean * scale.
        index: int32 [S], the individual each slot runs; None means S = P, one each.
        out: float32 of x's shape to write to; may be ``x`` itself.
        backend: see the module.
    """
    values = expect("x", x, np.float32, "[S, B, C, ...]", None)
    if values.ndim < 3:
        raise ShapeError(message("x", "float32 [S, B, C, ...]", f"{list(values.shape)}"))
    gain = expect("scale", scale, np.float32, "[P, C]", 2)
    expect_shape("scale", gain, "[P, C]", (len(gain), values.shape[2]))
    offset = expect("shift", shift, np.float32, "[P, C]", 2)
    expect_shape("shift", offset, "[P, C]", gain.shape)
    slots = slots_of(index, len(gain))
    if len(slots) != len(values):
        raise ShapeError(message("x", f"[S={len(slots)}, B, C, ...]", f"{list(values.shape)}"))
    inputs = {"x": values, "scale": gain, "shift": offset}
    target = output(out, values.shape, "[S, B, C, ...]", in_place="x", **inputs)
    compute = resolve("affine", backend)
    if target.size:
        compute(merged("x", values, 3), gain, offset, index=slots, out=merged("out", target, 3))
    return out if out is not None else like(x)(target)


def _pool(
    x: Array,
    layer: MaxPool2d | AvgPool2d,
    op: str,
    options: dict[str, bool],
    out: Array | None,
    backend: str,
) -> Array:
    values = expect("x", x, np.float32, "[..., C, H, W]", None)
    if values.ndim < 3:
        raise ShapeError(message("x", "float32 [..., C, H, W]", f"{list(values.shape)}"))
    shape = (*values.shape[:-2], *pool_output(layer, *values.shape[-2:]))
    target = output(out, shape, "[..., C, H', W']", x=values)
    compute = resolve(op, backend)
    if target.size:
        images = images_of("x", values)
        results = images_of("out", target)
        compute(images, geometry=layer.geometry(), out=results, **options)
    return out if out is not None else like(x)(target)
