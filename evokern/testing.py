"""Comparisons for tests of kernels: same bits, error bounds, outputs that start as NaN.

``bits`` of a kernel means `assert_same_bits` with the NumPy reference. Where only ``close`` is
promised (bf16, tf32, PyTorch), `error_bound` says how close; there are no other tolerances.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt

from evokern import _arrays
from evokern.errors import ArgumentError, message
from evokern.layers import (
    Activation,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool2d,
    Residual,
)
from evokern.network import Network
from evokern.rules import PRECISIONS, LossName, Precision

F64 = npt.NDArray[np.float64]

_UNIT = 2.0**-24
_INPUT_ROUNDING = dict(zip(PRECISIONS, (0.0, 2.0**-8, 2.0**-10), strict=True))
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_ROUNDED = _LARGEST * (1 - 2.0**-9)  # what is larger may be infinite in bf16
_SMALLEST_SUBNORMAL = 2.0**-149
_SMALLEST_NORMAL = 2.0**-126  # exp gives +0 for results below, and so does AVX512-BF16

# Their slopes reach 1.13. They multiply the input with a factor in [0, 1], so that the factor's
# error counts as often as the input is large.
_SELF_GATED = ("gelu", "gelu_tanh", "silu")

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


class Bounded(NamedTuple):
    """A float64 result, and how far a kernel's may be from it, element by element."""

    value: F64
    bound: F64


class _Rounding(NamedTuple):
    """Relative rounding of a product's factors, and whether errors grow with sqrt(k) only."""

    inputs: float
    zero_mean: bool


def error_bound(
    network: Network,
    genomes: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32] | npt.NDArray[np.uint8],
    *,
    index: npt.NDArray[np.int32] | None = None,
    precision: Precision = "fp32",
    x_scale: float | None = None,
    zero_mean: bool = False,
) -> Bounded:
    """The network's outputs in float64 and a bound on a kernel's error: [S, B, *output_shape].

    The bound is carried along the layers (docs/bits.md); it is infinite or NaN where fp32 may
    overflow on the way, since the order of a sum matters then. It counts one rounding per operation
    and, for bf16 and tf32, the rounding of the inputs and weights of every dense, convolutional
    and recurrent layer.

    Args:
        network, x, x_scale: as in ``ops.network_forward``.
        genomes: float32 [P, G].
        index: int32 [S], the individual each slot runs; None means S = P, one each.
        precision: what the kernel computes in.
        zero_mean: the data are independent with mean 0, so that the errors of k sums grow with
            sqrt(k) and not with k.

    Raises:
        ArgumentError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ArgumentError(message("precision", f"one of {list(PRECISIONS)}", repr(precision)))
    rounding = _Rounding(_INPUT_ROUNDING[precision], zero_mean)
    slots = np.arange(len(genomes)) if index is None else index
    shared = x.ndim == 1 + len(network.input_shape)
    results = []
    for slot, individual in enumerate(slots):
        values = np.asarray(x if shared else x[slot], np.float64)
        entry = rounding.inputs
        if x_scale is not None:
            values = values * float(np.float32(x_scale))
            entry += _UNIT
        parameters = iter(network.layout.split(genomes[individual].astype(np.float64)))
        start = Bounded(values, entry * np.abs(values))
        results.append(_along(network.layers, start, parameters, rounding))
    shape = (len(slots), x.shape[-1 - len(network.input_shape)], *network.output_shape)
    values, bounds = (np.array([r[i] for r in results]).reshape(shape) for i in range(2))
    return Bounded(values, bounds)


def loss_bound(
    outputs: Bounded,
    y: npt.NDArray[Any],
    classes: npt.NDArray[np.int32] | None = None,
    *,
    sample_weights: npt.NDArray[np.float32] | None = None,
    loss: LossName = "cross_entropy",
) -> Bounded:
    """The mean loss in float64 and a bound on a kernel's error: [S].

    Args:
        outputs: of `error_bound`, [S, B, O].
        y, classes, sample_weights, loss: as in ``ops.network_loss``.
    """
    means = []
    shared = y.ndim == (2 if loss == "mse" else 1)
    for slot, (values, error) in enumerate(zip(*outputs, strict=True)):
        count = values.shape[1] if classes is None else classes[slot]
        wanted = y if shared else y[slot]
        if loss == "mse":
            losses = _squared(values[:, :count], error[:, :count], wanted[:, :count])
        else:
            losses = _cross_entropy(values[:, :count], error[:, :count], wanted)
        if sample_weights is not None:
            losses = _weighted(
                *losses, sample_weights if sample_weights.ndim == 1 else sample_weights[slot]
            )
        means.append([of_samples.mean() for of_samples in losses])
    return Bounded(np.array([m[0] for m in means]), np.array([m[1] for m in means]))


def _weighted(losses: F64, bound: F64, weights: npt.NDArray[np.float32]) -> tuple[F64, F64]:
    """One more rounding."""
    bound = bound + _UNIT * (np.abs(losses) + bound)
    return weights * losses, np.abs(weights) * bound + _SMALLEST_NORMAL


def _cross_entropy(z: F64, error: F64, labels: npt.NDArray[Any]) -> tuple[F64, F64]:
    """Of every sample."""
    largest = z.max(axis=1)
    sums = np.log(np.exp(z - largest[:, None]).sum(axis=1)) + largest
    losses = sums - z[np.arange(len(z)), labels.astype(np.int64)]
    return losses, 2 * error.max() + 8 * _UNIT * (1 + np.abs(losses))


def _squared(values: F64, error: F64, targets: npt.NDArray[Any]) -> tuple[F64, F64]:
    """Of every sample.

    One rounding of the difference, one of the square, one of each sum and of the means.
    """
    distance = np.abs(values - targets)
    roundings = 2 + values.shape[1] + math.log2(32) + len(values) / 32 + 2
    bound = 2 * distance * error + error * error + roundings * _UNIT * distance * distance
    return (distance * distance).mean(axis=1), bound.mean(axis=1) + _SMALLEST_NORMAL


def assert_same_bits(actual: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    """Fails unless both have the same type, shape and bits; any NaN equals any NaN.

    The message shows how many elements differ, the worst of them and the RMS of the difference.
    """
    a, b = np.asarray(actual), np.asarray(expected)
    assert a.dtype == b.dtype, f"type {a.dtype}, expected {b.dtype}"
    assert a.shape == b.shape, f"shape {list(a.shape)}, expected {list(b.shape)}"
    different = _bits(a) != _bits(b)
    if different.any():
        raise AssertionError(_describe(a, b, different, _distance(a, b)))


def assert_close(actual: npt.ArrayLike, reference: npt.ArrayLike, bound: npt.ArrayLike) -> None:
    """Fails unless |actual - reference| <= bound everywhere; NaN and infinities must be equal."""
    a, b = np.asarray(actual), np.asarray(reference)
    assert a.shape == b.shape, f"shape {list(a.shape)}, expected {list(b.shape)}"
    limit = np.broadcast_to(np.asarray(bound, np.float64), a.shape)
    distance = _distance(a, b)
    far = ~(distance <= limit) & (distance != 0)
    if far.any():
        with np.errstate(divide="ignore"):
            excess = distance / limit
        worst = np.unravel_index(np.where(far, excess, -1).argmax(), a.shape)
        text = _describe(a, b, far, excess)
        raise AssertionError(f"{text}; {excess[worst]:.3g} times the bound {limit[worst]:.3g}")


@contextmanager
def fill_outputs_with_nan() -> Iterator[None]:
    """Lets every output that an op makes start as NaN (integers: the least), not as garbage.

    An element that a kernel does not write is then seen by the comparison.
    """

    def filled(shape: tuple[int, ...], dtype: npt.DTypeLike, what: str) -> npt.NDArray[Any]:
        array = _arrays_empty(shape, dtype, what)
        array[...] = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).min
        return array

    _arrays_empty = _arrays.empty
    with mock.patch.object(_arrays, "empty", filled):
        yield


def _along(
    layers: tuple[Layer, ...], x: Bounded, parameters: Iterator[tuple[F64, ...]], by: _Rounding
) -> Bounded:
    """x [B, ...] through the layers, which take their parameters in genome order."""
    for layer in layers:
        match layer:
            case Dense():
                x = _dense(x, *_with_bias(next(parameters)), by)
            case Conv2d():
                x = _conv2d(x, layer, *_with_bias(next(parameters)), by)
            case Affine():
                x = _affine(x, by, *next(parameters))
            case Elman():
                x = _elman(x, layer, by, *next(parameters))
            case Residual():
                body = _along(layer.body, x, parameters, by)
                shortcut = _along(layer.shortcut or (), x, parameters, by)
                y = body.value + shortcut.value
                bound = body.bound + shortcut.bound + _UNIT * np.abs(y)
                x = Bounded(y, _unless_overflow(bound, np.abs(y) + bound))
            case Flatten():
                x = Bounded(*(part.reshape(len(part), -1) for part in x))
            case MaxPool2d() | AvgPool2d() | GlobalAvgPool():
                x = _pool(x, layer)
            case Activation():
                x = _activation(x, layer.name, layer.negative_slope)
        if isinstance(layer, Dense | Conv2d | Affine | Residual):
            x = _activation(x, layer.activation, layer.negative_slope)
    return x


def _with_bias(parts: tuple[F64, ...]) -> tuple[F64, F64]:
    return parts[0], parts[1] if len(parts) > 1 else np.zeros(parts[0].shape[1])


def _roundings(products: int, by: _Rounding) -> float:
    """c(k) of docs/bits.md: roundings that a sum of so many products counts for."""
    return (2 * math.sqrt(products) if by.zero_mean else products) + 4


def _dense(x: Bounded, w: F64, b: F64, by: _Rounding) -> Bounded:
    limit = _LARGEST_ROUNDED if by.inputs else np.inf
    sizes = [np.abs(x.value) + x.bound, np.abs(w)]
    sizes = [np.where(size > limit, np.inf, size) for size in sizes]
    products = np.abs(x.value) @ np.abs(w)
    sums = _UNIT * (products + np.abs(b)) + _SMALLEST_NORMAL
    rounded = _roundings(len(w), by) * sums + 2 * by.inputs * products
    bound = x.bound @ np.abs(w) + rounded
    return Bounded(x.value @ w + b, _unless_overflow(bound, sizes[0] @ sizes[1] + np.abs(b)))


def _unless_overflow(bound: F64, sizes: F64) -> F64:
    """The bound where numbers of these sizes are finite in fp32."""
    return np.where(sizes <= _LARGEST, bound, np.inf)


def _conv2d(x: Bounded, layer: Conv2d, w: F64, b: F64, by: _Rounding) -> Bounded:
    """A dense layer for each window."""
    windows = [_windows(part, layer.geometry(), 0) for part in x]
    batch, _, height, width = windows[0].shape[:4]
    rows = [part.transpose(0, 2, 3, 1, 4, 5).reshape(-1, len(w)) for part in windows]
    sums = _dense(Bounded(*rows), w, b, by)
    return Bounded(*(part.reshape(batch, height, width, -1).transpose(0, 3, 1, 2) for part in sums))


def _affine(x: Bounded, by: _Rounding, scale: F64, shift: F64) -> Bounded:
    """A dense layer with one input for each channel, without rounded factors."""
    shape = (len(scale), *(1 for _ in x.value.shape[2:]))
    scale, shift = scale.reshape(shape), shift.reshape(shape)
    products = np.abs(x.value * scale)
    sums = _UNIT * (products + np.abs(shift)) + _SMALLEST_NORMAL
    bound = x.bound * np.abs(scale) + _roundings(1, by) * sums
    size = products + np.abs(shift) + bound
    return Bounded(x.value * scale + shift, _unless_overflow(bound, size))


def _elman(x: Bounded, layer: Elman, by: _Rounding, w_in: F64, w_rec: F64, b: F64) -> Bounded:
    """Every step is a dense layer whose inputs are x_t and the state before."""
    w = np.concatenate([w_in, w_rec])
    state = Bounded(*(np.zeros((len(part), layer.outputs)) for part in x))
    states = []
    for step in range(x.value.shape[1]):
        pairs = zip(x, state, strict=True)
        inputs = Bounded(*(np.concatenate([part[:, step], h], axis=1) for part, h in pairs))
        state = _activation(_dense(inputs, w, b, by), layer.activation, layer.negative_slope)
        states.append(state)
    if not layer.return_sequence:
        return state
    return Bounded(*(np.stack(parts, axis=1) for parts in zip(*states, strict=True)))


def _activation(x: Bounded, name: str, slope: float) -> Bounded:
    y = _activate(name, x.value, float(np.float32(slope)))
    lipschitz = 1.13 if name in _SELF_GATED else 1.0
    if name == "leaky_relu":
        lipschitz = max(1.0, abs(slope))
    size = np.abs(x.value if name in _SELF_GATED else y)
    return Bounded(y, lipschitz * x.bound + 4 * _UNIT * size + _SMALLEST_NORMAL)


def _activate(name: str, x: F64, slope: float) -> F64:
    with np.errstate(over="ignore"):
        if name == "relu":
            return np.maximum(x, 0.0)
        if name == "leaky_relu":
            return np.where(x < 0, slope, 1.0) * x
        if name == "tanh":
            return np.tanh(x)
        if name == "gelu":
            tail: F64 = _erfc(-x / math.sqrt(2))
            return x * 0.5 * tail
        if name == "gelu_tanh":
            u = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
            gate: F64 = 1 / (1 + np.exp(-2 * u))
            return x * gate
        if name in ("sigmoid", "silu"):
            sigmoid: F64 = 1 / (1 + np.exp(-x))
            return x * sigmoid if name == "silu" else sigmoid
    return x


def _pool(x: Bounded, layer: MaxPool2d | AvgPool2d | GlobalAvgPool) -> Bounded:
    if isinstance(layer, GlobalAvgPool):
        height, width = x.value.shape[2:]
        means = _mean(x, (height, width, 1, 1, 0, 0), 1.0)
        return Bounded(*(part[..., 0, 0] for part in means))
    geometry = layer.geometry()
    if isinstance(layer, AvgPool2d):
        return _mean(x, geometry, 1.0 if layer.count_include_pad else 0.0)
    value = _windows(x.value, geometry, -np.inf).max((-2, -1))
    return Bounded(value, _windows(x.bound, geometry, 0).max((-2, -1)))


def _mean(x: Bounded, geometry: tuple[int, ...], padding: float) -> Bounded:
    """Means over windows, where an element of the padding counts as so many."""
    sizes = _windows(np.ones_like(x.value), geometry, padding).sum((-2, -1))
    windows = _windows(x.value, geometry, 0)
    sums = np.abs(windows).sum((-2, -1))
    bound = _windows(x.bound, geometry, 0).sum((-2, -1))
    count = windows.shape[-2] * windows.shape[-1] + 1
    rounded = (bound + count * _UNIT * sums) / sizes + _SMALLEST_SUBNORMAL
    return Bounded(windows.sum((-2, -1)) / sizes, _unless_overflow(rounded, sums + bound))


def _windows(x: F64, geometry: tuple[int, ...], padding: float) -> F64:
    """x [B, C, H, W] -> [B, C, H', W', kernel height, kernel width]."""
    kh, kw, sh, sw, ph, pw = geometry
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=padding)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(-2, -1))
    return windows[:, :, ::sh, ::sw]


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The bit patterns as unsigned integers, every NaN as the same one."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return np.asarray(array, order="C").view(f"u{array.itemsize}")


def _distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> F64:
    """|a - b| in float64: 0 for equal infinities and two NaN, infinite for one NaN."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.abs(x - y)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    distance = np.where(same, 0.0, distance)
    return np.where(np.isnan(distance), np.inf, distance)


def _describe(
    a: npt.NDArray[Any], b: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], badness: F64
) -> str:
    """How many of all elements are wrong, the worst of them with its bits, and the RMS."""
    worst = int(np.where(wrong, badness, -1).argmax())
    place = tuple(int(i) for i in np.unravel_index(worst, a.shape))
    finite = _distance(a, b)
    finite = finite[np.isfinite(finite)]
    rms = math.sqrt(np.square(finite).mean()) if finite.size else 0.0
    got, expected = (f"{array[place]!s} ({_hexadecimal(array[place])})" for array in (a, b))
    return (
        f"{np.count_nonzero(wrong)} of {a.size} elements differ; worst at {list(place)}: "
        f"got {got}, expected {expected}; RMS of the difference {rms:.3g}"
    )


def _hexadecimal(value: Any) -> str:
    return f"0x{int(value.view(f'u{value.itemsize}')):0{2 * value.itemsize}x}"
