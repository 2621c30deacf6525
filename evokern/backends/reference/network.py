"""Forward passes and losses of many networks in NumPy (docs/bits.md).

Slots are taken a few at a time, so that memory stays small whatever the number of slots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evokern.backends.reference.activation import activate
from evokern.backends.reference.arithmetic import mean_of_samples
from evokern.backends.reference.layers import (
    conv2d_sums,
    dense_sums,
    elman_states,
    scaled,
    slot_chunks,
)
from evokern.backends.reference.loss import cross_entropy, squared_error
from evokern.backends.reference.pool import avg_pool2d, global_avg_pool, max_pool2d
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
    genes_along,
    pool_output,
    shapes_along,
)
from evokern.layout import GenomeLayout
from evokern.network import Network

F32 = NDArray[np.float32]
Banks = list[NDArray[np.float32] | NDArray[np.uint16]]
"""One [P_l, G_l] per block of the layout; uint16: bf16, the upper half of fp32."""
Parameters = Iterator[tuple[F32, ...]]
"""The parts of a slot's blocks as `GenomeLayout.split` gives them, each [S, ...]."""


def network_forward(
    banks: Banks,
    network: Network,
    x: F32 | NDArray[np.uint8],
    *,
    index: NDArray[np.int32],
    precision: str,
    x_scale: float | None,
    out: F32,
) -> None:
    """The network's outputs for every slot.

    Args:
        banks: float32 or uint16 [P_l, G_l] for every block of ``network.layout``.
        network: the layers.
        x: float32 or uint8 [S, B, *input_shape], or [B, *input_shape] for a batch that all slots
            share; layers before the first with parameters then run once.
        index: int32 [L, S], the row of each block's bank that each slot runs.
        precision: "fp32" or "bf16", as in `dense_forward`.
        x_scale: what uint8 x are multiplied with, as fp32; None for float32 x.
        out: float32 [S, B, *output_shape].
    """
    for slots, outputs in _outputs(banks, network, x, index, precision, x_scale):
        out[slots] = outputs


def network_loss(
    banks: Banks,
    network: Network,
    x: F32 | NDArray[np.uint8],
    y: NDArray[Any],
    *,
    index: NDArray[np.int32],
    classes: NDArray[np.int32] | None,
    sample_weights: F32 | None,
    loss: str,
    precision: str,
    x_scale: float | None,
    out_loss: F32,
    out_correct: NDArray[np.int32],
) -> None:
    """Mean loss and number of right answers of every slot; the network's output is [O].

    Args:
        banks, network, x, index, precision, x_scale: as in `network_forward`.
        y: labels int64 [B] or [S, B]; for "mse" targets float32 [B, O] or [S, B, O].
        classes: int32 [S], outputs of each slot that count (the first ones); None means all.
        sample_weights: float32 [B] or [S, B], what each loss is multiplied with; None means 1.
        loss: "cross_entropy" or "mse".
        out_loss: float32 [S].
        out_correct: int32 [S]; 0 for "mse".
    """
    if classes is None:
        classes = np.full(index.shape[1], network.output_shape[0], np.int32)
    shared = y.ndim == (1 if loss == "cross_entropy" else 2)
    for slots, outputs in _outputs(banks, network, x, index, precision, x_scale):
        wanted = y[None] if shared else y[slots]
        if loss == "cross_entropy":
            losses, correct = cross_entropy(outputs, wanted, classes[slots])
            out_correct[slots] = np.count_nonzero(correct, axis=1)
        else:
            losses = squared_error(outputs, wanted, classes[slots])
            out_correct[slots] = 0
        if sample_weights is not None:
            with np.errstate(all="ignore"):
                losses = losses * (
                    sample_weights[slots] if sample_weights.ndim == 2 else sample_weights
                )
        out_loss[slots] = mean_of_samples(losses)


def _outputs(
    banks: Banks,
    network: Network,
    x: F32 | NDArray[np.uint8],
    index: NDArray[np.int32],
    precision: str,
    x_scale: float | None,
) -> Iterator[tuple[slice, F32]]:
    """The network's outputs [s, B, *output_shape], some slots at a time."""
    layers, layout = network.layers, network.layout
    shared = x.ndim == 1 + len(network.input_shape)
    batch = x.shape[0 if shared else 1]
    if shared:
        head = _parameter_free(network)
        common = _run(layers[:head], scaled(x[None], x_scale), iter(()), precision)
        layers = layers[head:]
    elements = batch * _widest(network.layers, network.input_shape)
    for slots in slot_chunks(index.shape[1], elements, layout.size):
        inputs = common if shared else scaled(x[slots], x_scale)
        outputs = _run(layers, inputs, _parameters(banks, layout, index[:, slots]), precision)
        yield slots, np.broadcast_to(outputs, (slots.stop - slots.start, *outputs.shape[1:]))


def _run(layers: tuple[Layer, ...], x: F32, parameters: Parameters, precision: str) -> F32:
    """x [S or 1, B, ...] through the layers, which take their parameters in genome order."""
    for layer in layers:
        match layer:
            case Dense():
                w, b = _with_bias(next(parameters))
                x = activate(layer.activation, dense_sums(x, w, b, precision), layer.negative_slope)
            case Conv2d():
                w, b = _with_bias(next(parameters))
                sums = conv2d_sums(x, w, b, layer.geometry(), precision)
                x = activate(layer.activation, sums, layer.negative_slope)
            case Affine():
                x = activate(layer.activation, _affine(x, *next(parameters)), layer.negative_slope)
            case Elman():
                w_in, w_rec, b = next(parameters)
                slope = layer.negative_slope
                x = elman_states(x, w_in, w_rec, b, layer.activation, slope, precision)
                x = x if layer.return_sequence else x[:, :, -1]
            case Residual():
                body = _run(layer.body, x, parameters, precision)
                shortcut = _run(layer.shortcut or (), x, parameters, precision)
                with np.errstate(all="ignore"):
                    x = activate(layer.activation, body + shortcut, layer.negative_slope)
            case Activation():
                x = activate(layer.name, x, layer.negative_slope)
            case Flatten():
                x = x.reshape(*x.shape[:2], -1)
            case _:
                x = _pool(layer, x)
    return x


def _affine(x: F32, scale: F32, shift: F32) -> F32:
    """x [S or 1, B, C, ...], scale and shift [S, C] -> [S, B, C, ...]."""
    shape = (len(scale), 1, scale.shape[1], *(1 for _ in x.shape[3:]))
    with np.errstate(all="ignore"):
        return x * scale.reshape(shape) + shift.reshape(shape)


def _pool(layer: MaxPool2d | AvgPool2d | GlobalAvgPool, x: F32) -> F32:
    """x [S, B, C, H, W] -> [S, B, C, H', W'], without H' and W' for the global pool."""
    images = x.reshape(-1, *x.shape[2:])
    if isinstance(layer, GlobalAvgPool):
        means = np.empty(images.shape[:2], np.float32)
        global_avg_pool(images, out=means)
        return means.reshape(x.shape[:3])
    shape = pool_output(layer, *images.shape[2:])
    out = np.empty((*images.shape[:2], *shape), np.float32)
    if isinstance(layer, MaxPool2d):
        max_pool2d(images, geometry=layer.geometry(), out=out)
    else:
        avg_pool2d(
            images,
            geometry=layer.geometry(),
            count_include_pad=layer.count_include_pad,
            out=out,
        )
    return out.reshape(*x.shape[:3], *shape)


def _with_bias(parts: tuple[F32, ...]) -> tuple[F32, F32 | None]:
    return parts[0], parts[1] if len(parts) > 1 else None


def _parameters(banks: Banks, layout: GenomeLayout, index: NDArray[np.int32]) -> Parameters:
    for block, bank, rows in zip(layout.blocks, banks, index, strict=True):
        genes = bank[rows]
        values: F32
        if genes.dtype == np.uint16:
            values = (genes.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            values = genes.astype(np.float32, copy=False)
        yield GenomeLayout((block,)).split(values)[0]


def _parameter_free(network: Network) -> int:
    """Number of layers before the first with parameters."""
    layers = zip(network.layers, network.shapes, strict=False)
    found = (i for i, (layer, shape) in enumerate(layers) if genes_along((layer,), shape))
    return next(found, len(network.layers))


def _widest(layers: tuple[Layer, ...], shape: tuple[int, ...]) -> int:
    """Elements of the largest output of a layer, inside residual layers too."""
    shapes = shapes_along(layers, shape)
    sizes = [math.prod(after) for after in shapes[1:]]
    for layer, before in zip(layers, shapes, strict=False):
        if isinstance(layer, Residual):
            sizes.append(_widest(layer.body, before))
            sizes.append(_widest(layer.shortcut or (), before))
    return max(sizes, default=1)
