"""Networks that are a centre's but for some units of the first layer, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evokern.backends.reference.activation import activate
from evokern.backends.reference.layers import dense_sums, slot_chunks
from evokern.backends.reference.network import Banks, network_loss
from evokern.layers import Dense, Flatten
from evokern.network import Network

F32 = NDArray[np.float32]
Weights = tuple[F32, F32 | None]
"""Weights [P, I, O] and bias [P, O] of a layer."""


def mutant_loss(
    genes: F32,
    index: NDArray[np.int32],
    banks: Banks,
    network: Network,
    x: F32,
    y: NDArray[Any],
    *,
    sample_weights: F32 | None,
    loss: str,
    out_loss: F32,
    out_correct: NDArray[np.int32],
) -> None:
    """The mutated units' values, what they change in the next layer, then the layers behind it.

    Args:
        genes: float32 [S, g], weights [I, U] and bias [U] of the mutated units.
        index: int32 [S], which slice of U outputs they are.
        banks: the centre's, float32 [1, G_l] for every layer.
        network: dense layers.
        x: float32 [B, I].
        y, sample_weights, loss, out_loss, out_correct: as in `network_loss`.
    """
    layers = [layer for layer in network.layers if isinstance(layer, Dense)]
    centre = [_split(layer, bank) for layer, bank in zip(layers, banks, strict=True)]
    units = genes.shape[1] // (network.input_shape[0] + layers[0].bias)
    whole = 1 if units == layers[0].outputs else 2  # layers before those that all share
    width = network.shapes[whole][0]
    rest = Network(network.layers[whole:] or (Flatten(),), (width,))
    for slots in slot_chunks(len(index), len(x) * max(width, units), 1):
        own = _split(Dense(units, bias=layers[0].bias), genes[slots])
        values = _values(layers[0], x[None], own)
        if whole == 2:
            before = _values(layers[0], x[None], centre[0])
            values = _next_layer(layers[1], centre[1], before, values, index[slots])
        network_loss(
            banks[whole:],
            rest,
            values,
            y[slots] if y.ndim == (3 if loss == "mse" else 2) else y,
            index=np.zeros((max(1, len(banks) - whole), len(values)), np.int32),
            classes=None,
            sample_weights=_of_slots(sample_weights, slots),
            loss=loss,
            precision="fp32",
            x_scale=None,
            out_loss=out_loss[slots],
            out_correct=out_correct[slots],
        )


def _next_layer(
    layer: Dense, weights: Weights, before: F32, values: F32, index: NDArray[np.int32]
) -> F32:
    """Values [S, B, O] of the next layer: from those that the centre's units have, [1, B, H], and
    the mutated ones, [S, B, U]."""
    units = values.shape[2]
    columns = np.arange(units) + units * index[:, None]  # [S, U]
    sums = dense_sums(before, *weights, "fp32")
    with np.errstate(all="ignore"):
        change = values - before[0].T[columns].swapaxes(1, 2)
        added = dense_sums(change, weights[0][0][columns], None, "fp32")
        return activate(layer.activation, added + sums, layer.negative_slope)


def _values(layer: Dense, x: F32, weights: Weights) -> F32:
    return activate(layer.activation, dense_sums(x, *weights, "fp32"), layer.negative_slope)


def _split(layer: Dense, genes: NDArray[Any]) -> Weights:
    """Weights and bias of genes [P, g]."""
    rows = genes.shape[1] // layer.outputs
    parts = genes[:, : (rows - layer.bias) * layer.outputs], genes[:, -layer.outputs :]
    return parts[0].reshape(len(genes), -1, layer.outputs), parts[1] if layer.bias else None


def _of_slots(sample_weights: F32 | None, slots: slice) -> F32 | None:
    if sample_weights is None or sample_weights.ndim == 1:
        return sample_weights
    return sample_weights[slots]
