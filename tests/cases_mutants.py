"""Calls of ``mutant_loss``, odd in size, memory or value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from cases import (
    MEMORY,
    ODD_SIZES,
    Call,
    Case,
    F,
    Values,
    case_maker,
    in_rows,
    numbers,
    small_numbers,
    special_numbers,
)

from evokern.network import Dense, Network

PLAIN = Network((Dense(6, "relu"), Dense(9, "relu"), Dense(5)), (7,))
NETWORKS = {
    "plain": PLAIN,
    "two layers": Network.mlp(5, [6], 4),
    "one layer": Network((Dense(6),), (5,)),
    "without bias": Network(
        (Dense(6, "relu", bias=False), Dense(4, "tanh", bias=False), Dense(3)), (5,)
    ),
    "no bias of the first": Network((Dense(6, bias=False), Dense(4, "gelu"), Dense(3)), (5,)),
    "activations": Network(
        (Dense(6, "silu"), Dense(9, "leaky_relu", 0.25), Dense(6, "sigmoid"), Dense(4)), (3,)
    ),
    "thesis": Network.mlp(196, [256, 128, 64], 10),
}


def _mutants(
    network: Network = PLAIN,
    slots: int = 5,
    batch: int = 35,
    units: int = 2,
    *,
    loss: str = "cross_entropy",
    labels_shared: bool = True,
    weighted: str = "",
    values: Values = numbers,
    memory: str = "aligned rows",
    x_memory: str = "aligned rows",
) -> Call:
    """``weighted``: the axes of the samples' weights, B or SB."""
    rng = np.random.default_rng([5, slots, batch])
    first = network.layers[0]
    assert isinstance(first, Dense)
    genes = MEMORY[memory](values(slots, (network.input_shape[0] + first.bias) * units))
    index = rng.integers(0, first.outputs // units, slots, np.int32)
    centre = MEMORY[memory](values(1, network.layout.size))
    x = in_rows(values(batch, *network.input_shape), 1, x_memory)
    outer = (batch,) if labels_shared else (slots, batch)
    outputs = network.output_shape[0]
    y: Any = numbers(*outer, outputs) if loss == "mse" else rng.integers(0, outputs, outer)
    options: dict[str, Any] = {"loss": loss}
    if weighted:
        options["sample_weights"] = rng.random((batch,) if weighted == "B" else (slots, batch), F)
    return (genes, index, centre, network, x, y), options


def mutant_loss_cases() -> Iterator[Case]:
    case = case_maker("mutant_loss", _mutants)
    losses = ("cross_entropy", "mse")
    for (name, network), loss in itertools.product(NETWORKS.items(), losses):
        for units in (8, 256) if name == "thesis" else (1, 3, 6):
            if units == network.layers[0].outputs or len(network.layers) > 1:
                yield case(f"{name}, {units} units, {loss}", network, 3, units=units, loss=loss)
    for batch in (*ODD_SIZES, 31, 32, 33, 63, 64, 65, 130):
        yield case(f"batch {batch}", batch=batch)
    for slots in (0, *ODD_SIZES):
        yield case(f"{slots} slots", slots=slots, batch=3)
    yield case("one slot of many samples", slots=1, batch=257)
    for axes, loss in itertools.product(("B", "SB"), losses):
        yield case(f"weights {axes}, {loss}", weighted=axes, loss=loss, labels_shared=axes == "B")
    for memory in MEMORY:
        yield case(f"genes {memory}", memory=memory)
        yield case(f"x {memory}", x_memory=memory)
    for values, name in itertools.product(
        (special_numbers, small_numbers), ("plain", "two layers", "activations")
    ):
        yield case(f"{name}, {values.__name__}", NETWORKS[name], values=values)


CASES = {"mutant_loss": list(mutant_loss_cases())}
