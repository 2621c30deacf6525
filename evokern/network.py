"""A network as a tuple of layer dataclasses. It describes shapes only; weights live in genomes.

>>> net = Network((MaxPool2d(2), Flatten(), Dense(256, "relu"), Dense(10)), (1, 28, 28))
>>> net.layout.size
52746
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from evokern.errors import ArgumentError, ShapeError, message
from evokern.layout import DenseGenes, GenomeLayout

ActivationName = Literal[
    "identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu"
]
ACTIVATIONS: tuple[str, ...] = get_args(ActivationName)
"""Names in the order of their codes in ``csrc/core/activation.h``."""

MAX_DENSE_LAYERS = 12
MAX_WIDTH = 4096


def _pair(value: int | tuple[int, int], name: str, minimum: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= minimum for v in pair):
        raise ArgumentError(message(name, f"an int or a pair of ints >= {minimum}", repr(value)))
    return pair[0], pair[1]


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise ArgumentError(message("activation", f"one of {list(ACTIVATIONS)}", repr(name)))


@dataclass(frozen=True)
class Dense:
    """``y = activation(x W + b)`` with W [I, O] and b [O]; the input must be flat."""

    outputs: int
    activation: ActivationName = "identity"
    negative_slope: float = 0.01
    """Slope of ``leaky_relu`` below zero; other activations ignore it."""

    def __post_init__(self) -> None:
        _check_activation(self.activation)
        if not 1 <= self.outputs <= MAX_WIDTH:
            raise ArgumentError(
                message("Dense.outputs", f"1 <= outputs <= {MAX_WIDTH}", repr(self.outputs))
            )


@dataclass(frozen=True)
class Activation:
    """An element-wise function as a layer of its own."""

    name: ActivationName
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        _check_activation(self.name)


@dataclass(frozen=True)
class Flatten:
    """``[C, H, W] -> [C*H*W]``, channel first; a flat input passes unchanged."""


@dataclass(frozen=True)
class Pool2d:
    """What both pools share: windows of ``kernel`` every ``stride`` over the padded image."""

    kernel: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    """Step between windows; None means the kernel."""
    padding: int | tuple[int, int] = 0

    def geometry(self) -> tuple[int, int, int, int, int, int]:
        """(kernel height, width, stride height, width, padding height, width), checked."""
        kernel = _pair(self.kernel, "kernel", 1)
        stride = kernel if self.stride is None else _pair(self.stride, "stride", 1)
        padding = _pair(self.padding, "padding", 0)
        if padding[0] * 2 > kernel[0] or padding[1] * 2 > kernel[1]:
            raise ArgumentError(
                message("padding", f"at most half the kernel {kernel}", repr(self.padding))
            )
        return (*kernel, *stride, *padding)

    def __post_init__(self) -> None:
        self.geometry()


@dataclass(frozen=True)
class MaxPool2d(Pool2d):
    """Maximum over windows; padding never wins. NaN wins (design section 5)."""


@dataclass(frozen=True)
class AvgPool2d(Pool2d):
    """Mean over windows: ascending sum from +0, then one division by the window's elements."""

    count_include_pad: bool = True
    """Whether padding counts as elements of the window (as in PyTorch)."""


Layer = Dense | Activation | Flatten | MaxPool2d | AvgPool2d
LAYERS: tuple[type[Layer], ...] = get_args(Layer)
"""Every kind of layer."""


def pool_output(layer: Pool2d, height: int, width: int) -> tuple[int, int]:
    """Output height and width of a pool (floor mode): ``(n + 2p - k) // s + 1``."""
    kh, kw, sh, sw, ph, pw = layer.geometry()
    if height + 2 * ph < kh or width + 2 * pw < kw:
        raise ShapeError(
            message(
                "kernel",
                f"at most the padded input {height + 2 * ph}x{width + 2 * pw}",
                f"{kh}x{kw}",
            )
        )
    return (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1


@dataclass(frozen=True)
class Network:
    """Layers applied in turn to one sample of ``input_shape`` ([I] or [C, H, W]).

    Raises ShapeError or ArgumentError with the layer's number when a layer does not fit what
    comes before it.
    """

    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "input_shape", tuple(int(n) for n in self.input_shape))
        if len(self.input_shape) not in (1, 3) or min(self.input_shape) < 1:
            raise ShapeError(
                message("input_shape", "(I,) or (C, H, W), each >= 1", repr(self.input_shape))
            )
        dense = sum(isinstance(layer, Dense) for layer in self.layers)
        if dense > MAX_DENSE_LAYERS:
            raise ArgumentError(
                message("layers", f"at most {MAX_DENSE_LAYERS} dense layers", str(dense))
            )
        _ = self.shapes

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of a sample before layer 0, after layer 0, after layer 1, ..."""
        shapes = [self.input_shape]
        for number, layer in enumerate(self.layers):
            try:
                shapes.append(_output_shape(layer, shapes[-1]))
            except (ShapeError, ArgumentError) as error:
                raise type(error)(f"layers[{number}] {layer}: {error}") from None
        return tuple(shapes)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one sample's output, without the batch axis."""
        return self.shapes[-1]

    @cached_property
    def layout(self) -> GenomeLayout:
        """The genome layout of this network."""
        blocks = [
            DenseGenes(shape[0], layer.outputs)
            for layer, shape in zip(self.layers, self.shapes[:-1], strict=True)
            if isinstance(layer, Dense)
        ]
        return GenomeLayout(tuple(blocks))

    @classmethod
    def mlp(
        cls,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        activation: ActivationName = "relu",
    ) -> Network:
        """Dense layers ``inputs -> hidden... -> outputs``; the last one has no activation."""
        layers = [Dense(width, activation) for width in hidden] + [Dense(outputs)]
        return cls(tuple(layers), (inputs,))

    @staticmethod
    def from_module(module: Any, input_shape: Sequence[int]) -> Network:
        """The architecture of a torch.nn.Sequential: see ``interop.from_module``."""
        from evokern import interop

        return interop.from_module(module, input_shape)

    def genome_of(self, module: Any) -> npt.NDArray[np.float32]:
        """The weights of a torch.nn.Sequential, float32 [G]: see ``interop.genome_of``."""
        from evokern import interop

        return interop.genome_of(self, module)

    def to_module(self, genome: npt.NDArray[np.float32]) -> Any:
        """A torch.nn.Sequential with the weights of ``genome`` [G]: see ``interop.to_module``."""
        from evokern import interop

        return interop.to_module(self, genome)


def _output_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(layer, Activation):
        return shape
    if isinstance(layer, Flatten):
        size = 1
        for n in shape:
            size *= n
        return (size,)
    if isinstance(layer, Dense):
        if len(shape) != 1:
            got = f"{list(shape)}"
            raise ShapeError(message("input", "a flat input [I]", got, "add Flatten()"))
        if shape[0] > MAX_WIDTH:
            raise ShapeError(message("input", f"at most {MAX_WIDTH} features", str(shape[0])))
        return (layer.outputs,)
    if isinstance(layer, Pool2d):
        if len(shape) != 3:
            raise ShapeError(message("input", "an image [C, H, W]", f"{list(shape)}"))
        return (shape[0], *pool_output(layer, shape[1], shape[2]))
    raise ArgumentError(message("layer", "a layer of evokern.network", repr(layer)))
