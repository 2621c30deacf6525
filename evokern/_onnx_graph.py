"""A network or an ensemble as the nodes of an ONNX graph.

An ensemble of n networks is one chain of nodes. Behind the first weights, images are
[batch, n*C, H, W] (grouped convolutions), other tensors [n, batch, ...]; before them all networks
share one tensor without n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
    Shape,
    output_shape,
)
from evokern.network import Network

F32 = npt.NDArray[np.float32]


class _Tensor(NamedTuple):
    name: str
    shape: Shape
    """Of one sample of one network."""
    shared: bool
    """The same for all networks of an ensemble."""


class Graph:
    """The nodes and constants of a graph for one network (``n`` is None) or an ensemble of n."""

    def __init__(self, onnx: Any, n: int | None) -> None:
        self.onnx, self.n = onnx, n
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: npt.NDArray[Any]) -> str:
        """Gives the name of the constant; every method here gives a name or a tensor."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One node with one output."""
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def network(self, network: Network, parts: Sequence[tuple[F32, ...]], x: str) -> str:
        """The outputs [batch, *output_shape] for ``x``, of an ensemble their mean.

        ``parts`` are those of ``GenomeLayout.split``, with n in front for an ensemble.
        """
        start = _Tensor(x, network.input_shape, shared=True)
        outputs = self._along(network.layers, start, iter(parts))
        if outputs.shared:
            return outputs.name
        name, axis = outputs.name, 0
        if len(outputs.shape) == 3:
            sizes = np.array([0, self.n, *outputs.shape])
            name, axis = self.node("Reshape", name, self.constant(sizes)), 1
        return self.node("ReduceMean", name, self.constant(np.array([axis])), keepdims=0)

    def _along(
        self, layers: tuple[Layer, ...], x: _Tensor, parts: Iterator[tuple[F32, ...]]
    ) -> _Tensor:
        for layer in layers:
            shared = x.shared
            match layer:
                case Dense():
                    name, shared = self._dense(x.name, *next(parts)), self.n is None
                case Conv2d():
                    name, shared = self._conv(x, layer, *next(parts)), self.n is None
                case Affine():
                    name, shared = self._affine(x, *next(parts)), self.n is None
                case Elman():
                    name, shared = self._elman(x, layer, *next(parts)), self.n is None
                case Residual():
                    body = self._along(layer.body, x, parts)
                    shortcut = self._along(layer.shortcut or (), x, parts)
                    shared = body.shared and shortcut.shared
                    if not shared:
                        body, shortcut = self._for_each(body), self._for_each(shortcut)
                    name = self.node("Add", body.name, shortcut.name)
                case Activation():
                    name = self._activation(layer.name, x.name, layer.negative_slope)
                case MaxPool2d() | AvgPool2d():
                    name = self._pool(layer, x.name)
                case GlobalAvgPool():
                    name = self._flat(x._replace(name=self.node("GlobalAveragePool", x.name)))
                case Flatten():
                    name = self._flat(x)
            if isinstance(layer, Dense | Conv2d | Affine | Residual):
                name = self._activation(layer.activation, name, layer.negative_slope)
            x = _Tensor(name, output_shape(layer, x.shape), shared)
        return x

    def _dense(self, x: str, weights: F32, *bias: F32) -> str:
        """x [batch, I] or [n, batch, I] by weights [n, I, O] is [n, batch, O]."""
        x = self.node("MatMul", x, self.constant(weights))
        return self.node("Add", x, self.constant(bias[0][..., np.newaxis, :])) if bias else x

    def _conv(self, x: _Tensor, layer: Conv2d, weights: F32, *bias: F32) -> str:
        kernels = np.swapaxes(weights, -1, -2).reshape(-1, x.shape[0], *layer.geometry()[:2])
        constants = [self.constant(values) for values in (kernels, *(b.ravel() for b in bias))]
        groups = 1 if x.shared else self.n
        return self.node("Conv", x.name, *constants, group=groups, **_windows(layer))

    def _affine(self, x: _Tensor, scale: F32, shift: F32) -> str:
        if self.n is not None and len(x.shape) == 3:
            x = self._for_each(x)
            scale, shift = scale.ravel(), shift.ravel()
        axes = (..., *[np.newaxis] * 2) if len(x.shape) == 3 else (..., np.newaxis, slice(None))
        product = self.node("Mul", x.name, self.constant(scale[axes]))
        return self.node("Add", product, self.constant(shift[axes]))

    def _elman(self, x: _Tensor, layer: Elman, w_in: F32, w_rec: F32, bias: F32) -> str:
        recurrent, state, states = self.constant(w_rec), "", []
        for step in range(x.shape[0]):
            at = self.constant(np.array(step))
            state_before = state
            state = self._dense(self.node("Gather", x.name, at, axis=-2), w_in, bias)
            if state_before:
                state = self.node("Add", state, self.node("MatMul", state_before, recurrent))
            state = self._activation(layer.activation, state, layer.negative_slope)
            states.append(state)
        if not layer.return_sequence:
            return state
        axis = self.constant(np.array([-2]))
        return self.node("Concat", *(self.node("Unsqueeze", s, axis) for s in states), axis=-2)

    def _activation(self, name: str, x: str, slope: float) -> str:
        if name == "identity":
            return x
        if name == "leaky_relu":
            return self.node("LeakyRelu", x, alpha=slope)
        if name in ("gelu", "gelu_tanh"):
            return self.node("Gelu", x, approximate="tanh" if name == "gelu_tanh" else "none")
        if name == "silu":
            return self.node("Mul", x, self.node("Sigmoid", x))
        return self.node({"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[name], x)

    def _pool(self, layer: MaxPool2d | AvgPool2d, x: str) -> str:
        windows = _windows(layer)
        if isinstance(layer, MaxPool2d):
            return self.node("MaxPool", x, **windows)
        return self.node("AveragePool", x, **windows, count_include_pad=layer.count_include_pad)

    def _flat(self, x: _Tensor) -> str:
        if len(x.shape) == 1:
            return x.name
        if x.shared:
            return self.node("Flatten", x.name)
        if len(x.shape) == 2:
            return self.node("Reshape", x.name, self.constant(np.array([0, 0, -1])))
        flat = self.node("Reshape", x.name, self.constant(np.array([0, self.n, -1])))
        return self.node("Transpose", flat, perm=[1, 0, 2])

    def _for_each(self, x: _Tensor) -> _Tensor:
        """Copies of a shared image, one for each network; what is flat is broadcast anyway."""
        if not x.shared or self.n is None or len(x.shape) != 3:
            return x
        return _Tensor(self.node("Concat", *[x.name] * self.n, axis=1), x.shape, shared=False)


def _windows(layer: Conv2d | MaxPool2d | AvgPool2d) -> dict[str, Any]:
    kh, kw, sh, sw, ph, pw = layer.geometry()
    return {"kernel_shape": [kh, kw], "strides": [sh, sw], "pads": [ph, pw, ph, pw]}
