"""Forward passes and losses of many networks in NumPy (design section 5).

Slots are taken a few at a time, so that memory stays small whatever the number of slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evokern.backends.reference.activation import activate, exp, log
from evokern.backends.reference.arithmetic import add_product, mean_of_samples, round_to_bf16
from evokern.backends.reference.pool import avg_pool2d, max_pool2d
from evokern.network import (
    Activation,
    AvgPool2d,
    Dense,
    Flatten,
    Layer,
    MaxPool2d,
    Network,
    pool_output,
)

# Accumulators per step over the input axis: enough to hide NumPy's cost per call, few enough
# to stay in the cache.
_STEP_ELEMENTS = 16384


def dense_forward(
    x: NDArray[np.float32],
    w: NDArray[np.float32],
    b: NDArray[np.float32],
    *,
    index: NDArray[np.int32],
    activation: str,
    negative_slope: float,
    precision: str,
    out: NDArray[np.float32],
) -> None:
    """``activation(x w + b)`` of every slot's individual.

    Args:
        x: float32 [S, B, I], or [B, I] for a batch that all slots share.
        w: float32 [P, I, O].
        b: float32 [P, O].
        index: int32 [S], the individual that each slot runs.
        activation: name from `evokern.network.ACTIVATIONS`.
        negative_slope: of ``leaky_relu``.
        precision: "fp32", or "bf16": inputs and weights rounded to bf16, sums in fp32.
        out: float32 [S, B, O].
    """
    for slots in _slot_chunks(len(index), out[0].size):
        inputs = x[None] if x.ndim == 2 else x[slots]
        chosen = index[slots]
        sums = _multiply_add(inputs, w[chosen], b[chosen], precision)
        out[slots] = activate(activation, sums, negative_slope)


def affine(
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    *,
    index: NDArray[np.int32],
    out: NDArray[np.float32],
) -> None:
    """``x * scale + shift`` per channel, each operation rounded.

    Args:
        x: float32 [S, B, C, L].
        scale: float32 [P, C].
        shift: float32 [P, C].
        index: int32 [S], the individual that each slot runs.
        out: float32 [S, B, C, L].
    """
    with np.errstate(all="ignore"):
        np.multiply(x, scale[index][:, None, :, None], out=out)
        out += shift[index][:, None, :, None]


def network_forward(
    genomes: NDArray[np.float32],
    network: Network,
    x: NDArray[np.float32],
    *,
    index: NDArray[np.int32],
    precision: str,
    out: NDArray[np.float32],
) -> None:
    """The network's outputs for every slot.

    Args:
        genomes: float32 [P, G].
        network: the layers.
        x: float32 [S, B, *input_shape], or [B, *input_shape] for a batch that all slots share;
            layers before the first with parameters then run once.
        index: int32 [S], the individual that each slot runs.
        precision: "fp32" or "bf16", as in `dense_forward`.
        out: float32 [S, B, *output_shape].
    """
    for slots, outputs in _outputs(genomes, network, x, index, precision):
        out[slots] = outputs


def network_loss(
    genomes: NDArray[np.float32],
    network: Network,
    x: NDArray[np.float32],
    y: NDArray[Any],
    *,
    index: NDArray[np.int32],
    classes: NDArray[np.int32] | None,
    loss: str,
    precision: str,
    out_loss: NDArray[np.float32],
    out_correct: NDArray[np.int32],
) -> None:
    """Mean loss and number of right answers of every slot; the network's output is [O].

    Args:
        genomes: float32 [P, G].
        network: the layers.
        x: as in `network_forward`.
        y: labels int64 [B] or [S, B]; for "mse" targets float32 [B, O] or [S, B, O].
        index: int32 [S], the individual that each slot runs.
        classes: int32 [S], outputs of each slot that count (the first ones); None means all.
        loss: "cross_entropy" or "mse".
        precision: "fp32" or "bf16", as in `dense_forward`.
        out_loss: float32 [S].
        out_correct: int32 [S]; 0 for "mse".
    """
    if classes is None:
        classes = np.full(len(index), network.output_shape[0], np.int32)
    shared = y.ndim == (1 if loss == "cross_entropy" else 2)
    for slots, outputs in _outputs(genomes, network, x, index, precision):
        wanted = y[None] if shared else y[slots]
        if loss == "cross_entropy":
            losses, correct = _cross_entropy(outputs, wanted, classes[slots])
            out_correct[slots] = np.count_nonzero(correct, axis=1)
        else:
            losses = _squared_error(outputs, wanted, classes[slots])
            out_correct[slots] = 0
        out_loss[slots] = mean_of_samples(losses)


def _slot_chunks(slots: int, elements_per_slot: int) -> Iterator[slice]:
    step = max(1, _STEP_ELEMENTS // elements_per_slot)
    for start in range(0, slots, step):
        yield slice(start, min(start + step, slots))


def _multiply_add(
    x: NDArray[np.float32], w: NDArray[np.float32], b: NDArray[np.float32], precision: str
) -> NDArray[np.float32]:
    """x [S or 1, B, I], w [S, I, O], b [S, O] -> [S, B, O]: one fma per input, ascending."""
    if precision == "bf16":
        x, w = round_to_bf16(x), round_to_bf16(w)
    slots, inputs, outputs = w.shape
    columns = x.astype(np.float64)[..., None]
    rows = w.astype(np.float64)[:, None]
    total = np.broadcast_to(b[:, None], (slots, x.shape[1], outputs))
    with np.errstate(all="ignore"):
        for k in range(inputs):
            total = add_product(columns[:, :, k] * rows[:, :, k], total)
    return total


def _run(
    layers: tuple[Layer, ...],
    x: NDArray[np.float32],
    parameters: Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]],
    precision: str,
) -> NDArray[np.float32]:
    """x [S or 1, B, ...] through the layers; a dense layer takes the next (w, b) [S, ...]."""
    for layer in layers:
        if isinstance(layer, Dense):
            sums = _multiply_add(x, *next(parameters), precision)
            x = activate(layer.activation, sums, layer.negative_slope)
        elif isinstance(layer, Activation):
            x = activate(layer.name, x, layer.negative_slope)
        elif isinstance(layer, Flatten):
            x = x.reshape(*x.shape[:2], -1)
        else:
            x = _pool(layer, x)
    return x


def _pool(layer: MaxPool2d | AvgPool2d, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x [S, B, C, H, W] -> [S, B, C, H', W']."""
    images = x.reshape(-1, *x.shape[2:])
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


def _outputs(
    genomes: NDArray[np.float32],
    network: Network,
    x: NDArray[np.float32],
    index: NDArray[np.int32],
    precision: str,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The network's outputs [s, B, *output_shape], some slots at a time."""
    layers = network.layers
    head = next((i for i, layer in enumerate(layers) if isinstance(layer, Dense)), len(layers))
    shared = x.ndim == 1 + len(network.input_shape)
    x = _run(layers[:head], x[None] if shared else x, iter(()), precision)
    widest = max((block.outputs for block in network.layout.blocks), default=1)
    for slots in _slot_chunks(len(index), x.shape[1] * widest):
        chosen = index[slots]
        parameters = network.layout.split(genomes[chosen])
        outputs = _run(layers[head:], x if shared else x[slots], iter(parameters), precision)
        yield slots, np.broadcast_to(outputs, (len(chosen), *outputs.shape[1:]))


def _cross_entropy(
    logits: NDArray[np.float32], labels: NDArray[np.int64], classes: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Loss and whether it is right, per sample.

    logits [S, B, O], labels [S or 1, B], classes [S] -> float32 [S, B], bool [S, B].
    """
    limit = classes[:, None]
    largest = logits[..., 0]
    best = np.zeros(largest.shape, np.int64)
    total = np.zeros(largest.shape, np.float32)
    with np.errstate(all="ignore"):
        for c in range(1, logits.shape[2]):
            z = logits[..., c]
            take = ((z > largest) | np.isnan(z)) & (c < limit)
            largest = np.where(take, z, largest)
            best = np.where(take, c, best)
        for c in range(logits.shape[2]):
            summed = total + exp(logits[..., c] - largest)
            total = np.where(c < limit, summed, total)
        labels = np.broadcast_to(labels, best.shape)
        wanted = np.take_along_axis(logits, labels[..., None], axis=2)[..., 0]
        losses = (log(total) + largest) - wanted
    return losses, (best == labels) & ~np.isnan(largest)


def _squared_error(
    outputs: NDArray[np.float32], targets: NDArray[np.float32], classes: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Mean over the outputs that count.

    outputs [S, B, O], targets [S or 1, B, O], classes [S] -> float32 [S, B].
    """
    limit = classes[:, None]
    total: NDArray[np.float32] = np.zeros(outputs.shape[:2], np.float32)
    with np.errstate(all="ignore"):
        for c in range(outputs.shape[2]):
            error = outputs[..., c] - targets[..., c]
            total = np.where(c < limit, total + error * error, total)
        return np.divide(total, limit, dtype=np.float32)
