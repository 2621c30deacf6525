"""Single layers of many individuals, for embedding and for what the fused path cannot hold."""

from __future__ import annotations

import numpy as np

from evokern._arrays import Array, Host, expect, expect_shape, like, output
from evokern._checks import (
    batch_of,
    expect_mergeable,
    images_of,
    inputs_of,
    layer_weights,
    merged,
    rows_in_order,
    slots_of,
    square_kernel,
)
from evokern._dispatch import choose
from evokern._values import one_of
from evokern.errors import ShapeError, message
from evokern.layers import (
    ACTIVATIONS,
    ActivationName,
    AvgPool2d,
    Conv2d,
    MaxPool2d,
    pool_output,
    slope_of,
)
from evokern.rules import PRECISIONS, Precision


def dense_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
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
        b: float32 [P, O]; None: sums start at +0.
        index: int32 [S], the individual each slot runs; None means S = P, one each.
        activation: a name of ``evokern.layers.ACTIVATIONS``.
        negative_slope: of ``leaky_relu``.
        precision: ``fp32`` (the bits of docs/bits.md), ``bf16`` (inputs rounded to bf16) or,
            with Triton's kernels, ``tf32``.
        out: float32 [S, B, O] to write to.
        backend: see the module.
    """
    one_of("activation", activation, ACTIVATIONS)
    slope = slope_of(negative_slope)
    one_of("precision", precision, PRECISIONS)
    weights, bias = layer_weights(w, b, "[P, I, O]")
    population, inputs, outputs = weights.shape
    values = expect("x", x, np.float32, "[S, B, I] or [B, I]", None)
    slots = slots_of(index, population)
    batch = batch_of(values, (inputs,), len(slots))
    shape = (len(slots), batch, outputs)
    target = output(out, shape, "[S, B, O]", x=values, w=weights, b=bias, index=slots)
    compute = choose(
        "dense_forward", backend, "x w b out", values, weights, bias, target, precision=precision
    )
    if target.size:
        compute(
            values,
            weights,
            bias,
            index=slots,
            activation=activation,
            negative_slope=slope,
            precision=precision,
            out=target,
        )
    return out if out is not None else like(x)(target)


def conv2d_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    kernel: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    index: Array | None = None,
    activation: ActivationName = "identity",
    negative_slope: float = 0.01,
    precision: Precision = "fp32",
    x_scale: float | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """One convolution of many individuals: float32 [S, B, O, H', W'].

    Args:
        x: float32 [S, B, C, H, W], or [B, C, H, W] for one batch that all slots share; or uint8,
            times ``x_scale``.
        w: float32 [P, C*KH*KW, O], inner axes contiguous; rows by channel, kernel row, column.
        b: float32 [P, O]; None: sums start at +0.
        kernel: size, an int or (height, width); None: the square one that ``w`` has rows for.
        stride, padding: an int or (height, width); padding is multiplied like any input.
        index, activation, negative_slope, precision: as in ``dense_forward``.
        x_scale: what uint8 inputs are multiplied with, one rounding to fp32.
        out: float32 [S, B, O, H', W'] to write to.
        backend: see the module.
    """
    one_of("precision", precision, PRECISIONS)
    weights, bias = layer_weights(w, b, "[P, C*KH*KW, O]")
    population, depth, outputs = weights.shape
    values = inputs_of(x, "[S, B, C, H, W] or [B, C, H, W]", x_scale)
    if values.ndim not in (4, 5):
        wanted = "[S, B, C, H, W] or [B, C, H, W]"
        raise ShapeError(message("x", wanted, f"{list(values.shape)}"))
    size = square_kernel(depth, values.shape[-3]) if kernel is None else kernel
    layer = Conv2d(outputs, size, stride, padding, activation, negative_slope)
    slope, geometry = layer.negative_slope, layer.geometry()
    rows = values.shape[-3] * geometry[0] * geometry[1]
    if rows != depth:
        wanted = f"[P, C*KH*KW={rows}, O]"
        raise ShapeError(message("w", wanted, f"{list(weights.shape)}"))
    slots = slots_of(index, population)
    batch = batch_of(values, values.shape[-3:], len(slots))
    shape = (len(slots), batch, outputs, *pool_output(layer, *values.shape[-2:]))
    expect_mergeable("x", values, values.ndim - 3)
    target = output(out, shape, "[S, B, O, H', W']", x=values, w=weights, b=bias, index=slots)
    expect_mergeable("out", target, 2)
    compute = choose(
        "conv2d_forward", backend, "x w b out", values, weights, bias, target, precision=precision
    )
    if target.size:
        compute(
            values,
            weights,
            bias,
            index=slots,
            geometry=geometry,
            activation=activation,
            negative_slope=slope,
            precision=precision,
            x_scale=x_scale,
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
    options = {"count_include_pad": layer.count_include_pad}
    return _pool(x, layer, "avg_pool2d", options, out, backend)


def global_avg_pool(x: Array, *, out: Array | None = None, backend: str = "auto") -> Array:
    """Mean of every channel: ascending sum from +0, then one division. float32 [..., C].

    Args:
        x: float32 [..., C, H, W].
        out: float32 [..., C] to write to.
        backend: see the module.
    """
    values = _images("x", x)
    target = output(out, values.shape[:-2], "[..., C]", x=values)
    compute = choose("global_avg_pool", backend, "x out", values, target)
    if target.size:
        images = images_of("x", values)
        compute(images, out=rows_in_order("out", target))
    return out if out is not None else like(x)(target)


def residual(
    x: Array,
    y: Array,
    *,
    activation: ActivationName = "relu",
    negative_slope: float = 0.01,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """``activation(x + y)``, element by element: the end of a residual block. Shape of ``x``.

    Args:
        x, y: float32 of one shape, contiguous.
        activation, negative_slope: as in ``dense_forward``.
        out: float32 of x's shape to write to; may be ``x`` itself.
        backend: see the module.
    """
    one_of("activation", activation, ACTIVATIONS)
    slope = slope_of(negative_slope)
    first = expect("x", x, np.float32, "[...]", None)
    second = expect("y", y, np.float32, "[...]", None)
    expect_shape("y", second, "the shape of x", first.shape)
    target = output(out, first.shape, "[...]", in_place="x", x=first, y=second)
    for name, array in (("x", first), ("y", second), ("out", target)):
        expect_mergeable(name, array, 0)
    compute = choose("residual", backend, "x y out", first, second, target)
    if target.size:
        compute(first, second, activation=activation, negative_slope=slope, out=target)
    return out if out is not None else like(x)(target)


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
    inputs = {"x": values, "scale": gain, "shift": offset, "index": slots}
    target = output(out, values.shape, "[S, B, C, ...]", in_place="x", **inputs)
    compute = choose("affine", backend, "x scale shift out", values, gain, offset, target)
    if target.size:
        compute(merged("x", values, 3), gain, offset, index=slots, out=merged("out", target, 3))
    return out if out is not None else like(x)(target)


def _images(name: str, x: Array) -> Host:
    """x as float32 [..., C, H, W]."""
    values = expect(name, x, np.float32, "[..., C, H, W]", None)
    if values.ndim < 3 or min(values.shape[-2:]) < 1:
        wanted = "float32 [..., C, H, W] with H, W >= 1"
        raise ShapeError(message(name, wanted, f"{list(values.shape)}"))
    return values


def _pool(
    x: Array,
    layer: MaxPool2d | AvgPool2d,
    op: str,
    options: dict[str, bool],
    out: Array | None,
    backend: str,
) -> Array:
    values = _images("x", x)
    shape = (*values.shape[:-2], *pool_output(layer, *values.shape[-2:]))
    target = output(out, shape, "[..., C, H', W']", x=values)
    compute = choose(op, backend, "x out", values, target)
    if target.size:
        images = images_of("x", values)
        results = images_of("out", target)
        compute(images, geometry=layer.geometry(), out=results, **options)
    return out if out is not None else like(x)(target)
