"""Networks that are a centre's but for a few units of one layer."""

from __future__ import annotations

import numpy as np

from evokern._arrays import (
    Array,
    empty_beside,
    expect,
    expect_host,
    expect_range,
    expect_shape,
    like,
)
from evokern._checks import evaluation, sample_weights_of, targets_of
from evokern._dispatch import choose
from evokern._values import one_of
from evokern.errors import ArgumentError, DtypeError, ShapeError, message
from evokern.layers import Dense
from evokern.network import Network
from evokern.rules import LOSSES, LossName


def mutant_loss(
    genes: Array,
    index: Array,
    centre: Array,
    network: Network,
    x: Array,
    y: Array,
    *,
    sample_weights: Array | None = None,
    loss: LossName = "cross_entropy",
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Mean loss and number of correct predictions of networks that differ from a centre in U units
    of the first dense layer: float32 [S], int32 [S].

    With U less than the layer's outputs, the next layer's sums are the centre's plus what the
    units add: (h - h0) W, ascending from +0 (this project). So a mutant costs
    I * U + U * O2 + ... products instead of I * O + O * O2 + .... Arrays are on the host; on a
    device ``problems.mutants`` composes the same of other ops.

    Args:
        genes: float32 [S, I * U + U], the units' weights [I, U], then their bias [U] (none where
            the layer has none).
        index: int32 [S]: the mutant's units are the outputs from index * U on; U divides them.
        centre: float32 [1, G], the genes of all that is not mutated.
        network: dense layers only; two or more unless U is all outputs.
        x: float32 [B, I], one batch for all.
        y, sample_weights, loss: as in ``network_loss``.
        backend: see the module.
    """
    one_of("loss", loss, LOSSES)
    mutated = expect("genes", genes, np.float32, "[S, I * U + U]", 2)
    units = _units_of(network, mutated.shape[1])
    whole = expect("centre", centre, np.float32, "[1, G]", 2)
    expect_shape("centre", whole, "[1, G]", (1, network.layout.size))
    values = expect("x", x, np.float32, "[B, I], one batch for all", 2)
    slots = len(mutated)
    given = evaluation(whole, network, values, np.zeros(slots, np.int32), None)
    count = network.shapes[1][0] // units
    slices = expect_host("index", index, np.int32, f"[S] with entries < {count}", 1)
    expect_shape("index", slices, "[S]", (slots,))
    expect_range("index", slices, 0, count - 1, f"slices of {units} units")
    outputs = network.output_shape[0]
    targets = targets_of(y, loss, given.batch, outputs, None, slots)
    weights = sample_weights_of(sample_weights, given.batch, slots)
    losses = empty_beside(given.x, (slots,), np.float32, "loss [S]")
    correct = empty_beside(given.x, (slots,), np.int32, "correct [S]")
    names = "genes centre x y sample_weights"
    compute = choose(
        "mutant_loss", backend, names, mutated, given.banks[0], given.x, targets, weights
    )
    if slots:
        compute(
            mutated,
            slices,
            given.banks,
            network,
            given.x,
            targets,
            sample_weights=weights,
            loss=loss,
            out_loss=losses,
            out_correct=correct,
        )
    kind = like(genes)
    return kind(losses), kind(correct)


def _units_of(network: Network, genes: int) -> int:
    """U of so many genes. Raises an error where the network or they will not do."""
    if not isinstance(network, Network):
        raise DtypeError(message("network", "an evokern Network", type(network).__name__))
    if not network.layers or not all(isinstance(layer, Dense) for layer in network.layers):
        got = str([type(layer).__name__ for layer in network.layers])
        raise ArgumentError(message("network", "dense layers only", got))
    first = network.layers[0]
    assert isinstance(first, Dense)
    rows = network.input_shape[0] + first.bias
    units = genes // rows
    if not units or units * rows != genes or first.outputs % units:
        wanted = f"[S, {rows} * U] with U a divisor of {first.outputs}"
        raise ShapeError(message("genes", wanted, f"[S, {genes}]"))
    if units < first.outputs and len(network.layers) == 1:
        wanted = f"all {first.outputs} outputs of the last layer"
        raise ShapeError(message("genes", wanted, f"{units} of them"))
    return units
