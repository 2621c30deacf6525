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
from evokern.errors import ArgumentError, DataError, message
from evokern.network import Activation, AvgPool2d, Dense, Flatten, MaxPool2d, Network, Pool2d
from evokern.rules import PRECISIONS, Precision

F64 = npt.NDArray[np.float64]

_UNIT = 2.0**-24
_INPUT_ROUNDING = dict(zip(PRECISIONS, (0.0, 2.0**-8, 2.0**-10), strict=True))
_SMALLEST_NORMAL = 2.0**-126  # exp gives +0 for results below, and so does AVX512-BF16

# Their slopes reach 1.13. They multiply the input with a factor in [0, 1], so that the factor's
# error counts as often as the input is large.
_SELF_GATED = ("gelu", "gelu_tanh", "silu")

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


class Bounded(NamedTuple):
    """A float64 result, and how far a kernel's may be from it, element by element."""

    value: F64
    bound: F64


def error_bound(
    network: Network,
    genomes: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32],
    *,
    index: npt.NDArray[np.int32] | None = None,
    precision: Precision = "fp32",
    zero_mean: bool = False,
) -> Bounded:
    """The network's outputs in float64 and a bound on a kernel's error: [S, B, *output_shape].

    The bound is carried along the layers (design section 5). It counts one rounding per operation
    and, for bf16 and tf32, the rounding of every dense layer's inputs and weights.

    Args:
        network, genomes, x, index: as in ``ops.network_forward``.
        precision: what the kernel computes in.
        zero_mean: the data are independent with mean 0, so that the errors of k sums grow with
            sqrt(k) and not with k.

    Raises:
        ArgumentError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ArgumentError(message("precision", f"one of {list(PRECISIONS)}", repr(precision)))
    rounding = _INPUT_ROUNDING[precision]
    slots = np.arange(len(genomes)) if index is None else index
    shared = x.ndim == 1 + len(network.input_shape)
    results = []
    for slot, individual in enumerate(slots):
        values = np.asarray(x if shared else x[slot], np.float64)
        current = Bounded(values, rounding * np.abs(values))
        parameters = iter(network.layout.split(genomes[individual].astype(np.float64)))
        for layer in network.layers:
            if isinstance(layer, Dense):
                current = _dense(current, *next(parameters), rounding, zero_mean)
                current = _activation(current, layer.activation, layer.negative_slope)
            elif isinstance(layer, Activation):
                current = _activation(current, layer.name, layer.negative_slope)
            elif isinstance(layer, Flatten):
                current = Bounded(*(part.reshape(len(part), -1) for part in current))
            else:
                current = _pool(current, layer)
        results.append(current)
    shape = (len(slots), x.shape[-1 - len(network.input_shape)], *network.output_shape)
    values, bounds = (np.array([r[i] for r in results]).reshape(shape) for i in range(2))
    return Bounded(values, bounds)


def loss_bound(
    outputs: Bounded, y: npt.NDArray[Any], classes: npt.NDArray[np.int32] | None = None
) -> Bounded:
    """The mean cross-entropy in float64 and a bound on a kernel's error: [S].

    Args:
        outputs: of `error_bound`, [S, B, O].
        y, classes: as in ``ops.network_loss``.
    """
    losses, bounds = [], []
    for slot, (logits, error) in enumerate(zip(*outputs, strict=True)):
        count = logits.shape[1] if classes is None else classes[slot]
        labels = y if y.ndim == 1 else y[slot]
        z = logits[:, :count]
        largest = z.max(axis=1)
        sums = np.log(np.exp(z - largest[:, None]).sum(axis=1)) + largest
        loss = (sums - z[np.arange(len(z)), labels]).mean()
        losses.append(loss)
        bounds.append(2 * error[:, :count].max() + 8 * _UNIT * (1 + abs(loss)))
    return Bounded(np.array(losses), np.array(bounds))


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


def require_data(name: str) -> Any:
    """The data set ``name`` of the data cache; skips the test where it is not there."""
    import pytest

    from evokern.problems import datasets

    try:
        return datasets.load(name, download=False)
    except DataError as error:
        pytest.skip(f"not in the data cache (make data): {error}")


def _dense(x: Bounded, w: F64, b: F64, rounding: float, zero_mean: bool) -> Bounded:
    inputs = len(w)
    count = (2 * math.sqrt(inputs) if zero_mean else inputs) + 4
    products = np.abs(x.value) @ np.abs(w)
    sums = _UNIT * (products + np.abs(b)) + _SMALLEST_NORMAL
    bound = x.bound @ np.abs(w) + count * sums + 2 * rounding * products
    return Bounded(x.value @ w + b, bound)


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


def _pool(x: Bounded, layer: MaxPool2d | AvgPool2d) -> Bounded:
    if isinstance(layer, MaxPool2d):
        value = _windows(x.value, layer, -np.inf).max((-2, -1))
        return Bounded(value, _windows(x.bound, layer, 0).max((-2, -1)))
    padding = 1.0 if layer.count_include_pad else 0.0
    sizes = _windows(np.ones_like(x.value), layer, padding).sum((-2, -1))
    windows = _windows(x.value, layer, 0)
    means = np.abs(windows).sum((-2, -1)) / sizes
    bound = _windows(x.bound, layer, 0).sum((-2, -1)) / sizes
    count = windows.shape[-2] * windows.shape[-1] + 1
    return Bounded(windows.sum((-2, -1)) / sizes, bound + count * _UNIT * means)


def _windows(x: F64, layer: Pool2d, padding: float) -> F64:
    """x [B, C, H, W] -> [B, C, H', W', kernel height, kernel width]."""
    kh, kw, sh, sw, ph, pw = layer.geometry()
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
