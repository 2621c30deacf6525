"""What networks compute that are a centre's but for some units of one dense layer (this project).

Before that layer all values are the centre's. The next layer's sums are the centre's plus what the
mutated units add, ``(h - h0) W`` over these units alone. Only what comes then is computed whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evokern import _devices, ops
from evokern.errors import ArgumentError, message
from evokern.layers import Dense, Flatten
from evokern.layout import size_of
from evokern.network import Network
from evokern.rules import Precision
from evokern.slices import Mutants, Slices

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
Weights = tuple[F32, F32 | None]

# Values of mutants at one time: on the host what the caches hold, elsewhere what fills a GPU.
_SCRATCH_BYTES = 4 << 20
_DEVICE_SCRATCH_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Piece:
    """Some mutants, halfway: from ``values`` [n, N, I] on, all are ``rest`` with the centre's
    ``genes`` [1, G']."""

    slots: slice
    values: F32
    rest: Network
    genes: F32


class Trace:
    """The values of a centre [1, G] in every layer, on samples x [N, ...].

    Raises ArgumentError unless the network is dense layers behind layers without genes.
    """

    def __init__(
        self, network: Network, centre: F32, x: F32, *, precision: Precision, device: str
    ) -> None:
        head, self._layers = dense_layers(network)
        self._layout, self._centre = network.layout, centre
        self._precision, self._device = precision, device
        if head.layers:
            x = ops.network_forward(centre[:, :0], head, x, precision=precision)[0]
        self._inputs = [x]  # of every layer, [N, I]
        for block, layer in enumerate(self._layers[:-1]):
            self._inputs.append(self._run(layer, x, self._weights(block))[0])
            x = self._inputs[-1]

    def from_layer(self, slices: Slices) -> tuple[F32, Network, F32]:
        """What the mutated layer takes [N, I], the network from there on, its genes [1, G']."""
        block = self._block(slices)
        rest = Network(self._layers[block:], (self._inputs[block].shape[1],))
        return self._inputs[block], rest, self._centre[:, self._layout.offsets[block] :]

    def pieces(self, mutants: Mutants) -> Iterator[Piece]:
        """All mutants in order, as many at a time as there is scratch for."""
        slices, block = mutants.slices, self._block(mutants.slices)
        layer, in_part = self._layers[block], slices.count > 1
        after = block + 2 if in_part else block + 1  # the first layer that is computed whole
        width = self._layers[after - 1].outputs
        rest = Network(self._layers[after:] or (Flatten(),), (width,))
        genes = self._centre[:, self._layout.size - rest.layout.size :]
        scratch = _SCRATCH_BYTES if self._device == "cpu" else _DEVICE_SCRATCH_BYTES
        step = max(1, scratch // (4 * max(width, slices.units) * len(self._inputs[0])))
        next_layer = self._next_layer(slices) if in_part else None
        for start in range(0, len(mutants), step):
            slots = slice(start, min(start + step, len(mutants)))
            own = matrices(mutants.genes[slots], slices.units, layer.bias)
            values = self._run(layer, self._inputs[block], own)
            if next_layer:
                values = next_layer(values, mutants.index[slots])
            yield Piece(slots, values, rest, genes)

    def _block(self, slices: Slices) -> int:
        """The mutated layer. Raises ArgumentError where it is a part of the last one."""
        assert slices.block is not None
        _check_last(slices, self._layers)
        return slices.block

    def _next_layer(self, slices: Slices) -> Callable[[F32, I32], F32]:
        """The function that takes the values [n, N, units] of mutated units of slices [n], and
        gives the next layer's [n, N, O]."""
        assert slices.block is not None
        block, x = slices.block + 1, self._inputs[slices.block + 1]
        layer = self._layers[block]
        weights, _ = self._weights(block)
        of_slices = weights.reshape(slices.count, slices.units, layer.outputs)
        before = x.reshape(len(x), slices.count, slices.units).swapaxes(0, 1)
        minus = _devices.allocate(self._device, before.shape, np.float32)
        minus[:] = -before
        sums = self._run(Dense(layer.outputs, bias=layer.bias), x, self._weights(block))

        def values_of(units: F32, index: I32) -> F32:
            taken = _devices.take(minus, index.astype(np.int64))
            ops.residual(units, taken, activation="identity", out=units)
            added = self._run(Dense(layer.outputs), units, (of_slices, None), index)
            centres = _devices.take(sums, np.zeros(len(index), np.int64))
            slope = layer.negative_slope
            ops.residual(
                added, centres, activation=layer.activation, negative_slope=slope, out=added
            )
            return added

        return values_of

    def _weights(self, block: int) -> Weights:
        first, size = self._layout.offsets[block], size_of(self._layout.blocks[block])
        layer = self._layers[block]
        return matrices(self._centre[:, first : first + size], layer.outputs, layer.bias)

    def _run(self, layer: Dense, x: F32, weights: Weights, index: I32 | None = None) -> F32:
        values: F32 = ops.dense_forward(
            x,
            *weights,
            index=index,
            activation=layer.activation,
            negative_slope=layer.negative_slope,
            precision=self._precision,
        )
        return values


def check_slices(network: Network, slices: Sequence[Slices]) -> None:
    """Raises ArgumentError where a Trace of the network would for mutants of these slices."""
    _, layers = dense_layers(network)
    for one in slices:
        _check_last(one, layers)


def _check_last(slices: Slices, layers: Sequence[Dense]) -> None:
    if slices.count > 1 and slices.block == len(layers) - 1:
        wanted = f"all {slices.outputs} outputs of the last layer"
        mend = f"try {slices.outputs} as the last number"
        raise ArgumentError(message("units", wanted, str(slices.units), mend))


def dense_layers(network: Network) -> tuple[Network, tuple[Dense, ...]]:
    """The layers before the first one with genes, and the dense layers from there on.

    Raises ArgumentError where there are others.
    """
    head, tail = network.split(0)
    layers = [layer for layer in tail.layers if isinstance(layer, Dense)]
    if len(layers) < len(tail.layers):
        got = str([type(layer).__name__ for layer in tail.layers])
        wanted = "dense layers only from the first with genes on, to mutate some units"
        raise ArgumentError(message("network", wanted, got, "mutate all genes"))
    return head, tuple(layers)


def matrices(genes: F32, outputs: int, bias: bool) -> Weights:
    """Weights [n, I, O] and bias [n, O] of dense layers with genes [n, g]; views."""
    n, size = genes.shape
    inputs = size // outputs - bias
    weights = genes[:, : inputs * outputs].reshape(n, inputs, outputs)
    return weights, genes[:, inputs * outputs :] if bias else None
