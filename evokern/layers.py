"""Layers as dataclasses: what they compute and which shapes they take. Weights live in genomes.

Images are ``[C, H, W]``, sequences ``[T, I]``, everything else is flat ``[I]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from evokern._values import assign, boolean, finite_number, integer
from evokern.errors import ArgumentError, DtypeError, ShapeError, message
from evokern.layout import AffineGenes, DenseGenes, ElmanGenes, Genes

ActivationName = Literal[
    "identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu"
]
ACTIVATIONS: tuple[str, ...] = get_args(ActivationName)
"""Names in the order of their codes in ``csrc/core/activation.h``."""

MAX_WIDTH = 65536
"""Outputs of a layer (channels of an image)."""

MAX_INPUTS = 2**24
"""Features that a dense layer takes."""

_MOST_PIXELS = 2**31 - 1


def slope_of(negative_slope: float) -> float:
    """A slope as a number whose equals have its bits: programs are looked up by it."""
    return finite_number("negative_slope", negative_slope) + 0.0  # -0.0 becomes 0.0


def _pair(value: int | tuple[int, int], name: str, minimum: int) -> tuple[int, int]:
    if type(value) is int and minimum <= value <= _MOST_PIXELS:
        return value, value
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    wanted = f"an int or a pair of ints >= {minimum}"
    if len(pair) != 2:
        raise ArgumentError(message(name, wanted, repr(value)))
    try:
        height, width = (integer(name, side, minimum, _MOST_PIXELS) for side in pair)
    except (ArgumentError, DtypeError):
        raise ArgumentError(message(name, wanted, repr(value))) from None
    return height, width


def _set_activation(layer: object, name: str, negative_slope: float) -> None:
    if name not in ACTIVATIONS:
        raise ArgumentError(message("activation", f"one of {list(ACTIVATIONS)}", repr(name)))
    assign(layer, "negative_slope", slope_of(negative_slope))


def _set_outputs(layer: object, outputs: int) -> None:
    name = f"{type(layer).__name__}.outputs"
    assign(layer, "outputs", integer(name, outputs, 1, MAX_WIDTH))


def _set_window(layer: object, names: tuple[str, ...]) -> None:
    """Sides become ints and pairs tuples, which can be hashed."""
    for name in names:
        value = getattr(layer, name)
        if isinstance(value, tuple | list):
            assign(layer, name, tuple(map(int, value)))
        elif value is not None and type(value) is not int:
            assign(layer, name, int(value))


@dataclass(frozen=True)
class Dense:
    """``y = activation(x W + b)`` with W [I, O] and b [O]; the input must be flat."""

    outputs: int
    activation: ActivationName = "identity"
    negative_slope: float = 0.01
    """Slope of ``leaky_relu`` below zero; other activations ignore it."""
    bias: bool = True
    """Without it the sum starts at +0."""

    def __post_init__(self) -> None:
        _set_activation(self, self.activation, self.negative_slope)
        _set_outputs(self, self.outputs)
        boolean("bias", self.bias)


@dataclass(frozen=True)
class Conv2d:
    """Convolution of an image with weights [C*K*K, O] and bias [O], then the activation."""

    outputs: int
    kernel: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    """Zeros around the image; they are multiplied like any input."""
    activation: ActivationName = "identity"
    negative_slope: float = 0.01
    bias: bool = True

    def geometry(self) -> tuple[int, int, int, int, int, int]:
        """(kernel height, width, stride height, width, padding height, width), checked."""
        return (
            *_pair(self.kernel, "kernel", 1),
            *_pair(self.stride, "stride", 1),
            *_pair(self.padding, "padding", 0),
        )

    def __post_init__(self) -> None:
        _set_activation(self, self.activation, self.negative_slope)
        _set_outputs(self, self.outputs)
        boolean("bias", self.bias)
        self.geometry()
        _set_window(self, ("kernel", "stride", "padding"))


@dataclass(frozen=True)
class Affine:
    """``x * scale + shift`` per channel: batch norm at inference; then the activation."""

    activation: ActivationName = "identity"
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        _set_activation(self, self.activation, self.negative_slope)


@dataclass(frozen=True)
class Elman:
    """A recurrent layer over a sequence: ``h_t = activation(x_t W_in + h_(t-1) W_rec + b)``.

    h_0 is +0. Each sum starts at b and takes first x_t, then h_(t-1). The output is the last h
    [O], or all of them [T, O].
    """

    outputs: int
    activation: ActivationName = "tanh"
    negative_slope: float = 0.01
    return_sequence: bool = False

    def __post_init__(self) -> None:
        _set_activation(self, self.activation, self.negative_slope)
        _set_outputs(self, self.outputs)
        boolean("return_sequence", self.return_sequence)


@dataclass(frozen=True)
class Activation:
    """An element-wise function as a layer of its own."""

    name: ActivationName
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        _set_activation(self, self.name, self.negative_slope)


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
        _set_window(self, ("kernel", "stride", "padding"))


@dataclass(frozen=True)
class MaxPool2d(Pool2d):
    """Maximum over windows; padding never wins. NaN wins (docs/bits.md)."""


@dataclass(frozen=True)
class AvgPool2d(Pool2d):
    """Mean over windows: ascending sum from +0, then one division by the window's elements."""

    count_include_pad: bool = True
    """Whether padding counts as elements of the window (as in PyTorch)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        boolean("count_include_pad", self.count_include_pad)


@dataclass(frozen=True)
class GlobalAvgPool:
    """Mean of each channel, [C, H, W] -> [C]: ascending sum from +0, then one division."""


@dataclass(frozen=True)
class Residual:
    """``activation(body(x) + shortcut(x))``; without a shortcut x itself is added."""

    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] | None = None
    activation: ActivationName = "relu"
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        assign(self, "body", tuple(self.body))
        if self.shortcut is not None:
            assign(self, "shortcut", tuple(self.shortcut))
        _set_activation(self, self.activation, self.negative_slope)


Layer = (
    Dense
    | Conv2d
    | Affine
    | Activation
    | Flatten
    | MaxPool2d
    | AvgPool2d
    | GlobalAvgPool
    | Residual
    | Elman
)
LAYERS: tuple[type[Layer], ...] = get_args(Layer)
"""Every kind of layer."""

Shape = tuple[int, ...]


def pool_output(layer: Pool2d | Conv2d, height: int, width: int) -> tuple[int, int]:
    """Output height and width of a pool or convolution (floor mode): ``(n + 2p - k) // s + 1``."""
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


def _expect_places(layer: Conv2d, channels: int, height: int, width: int) -> None:
    """Kernels count the places of a padded image in 32 bits."""
    *_, ph, pw = layer.geometry()
    places = channels * (height + 2 * ph) * (width + 2 * pw)
    if places > _MOST_PIXELS:
        wanted = f"a padded image of at most {_MOST_PIXELS} elements"
        got = f"{channels}x{height + 2 * ph}x{width + 2 * pw}"
        raise ShapeError(message("padding", wanted, got))


def output_shape(layer: Layer, shape: Shape) -> Shape:
    """Shape of a sample behind ``layer``; ShapeError where ``shape`` does not fit it."""
    match layer:
        case Activation():
            return shape
        case Flatten():
            return (math.prod(shape),)
        case Dense():
            if len(shape) != 1:
                raise _unfit("a flat input [I]", shape, "add Flatten()")
            if shape[0] > MAX_INPUTS:
                raise ShapeError(message("input", f"at most {MAX_INPUTS} features", str(shape[0])))
            return (layer.outputs,)
        case Conv2d():
            _expect_places(layer, *_image(shape))
            return (layer.outputs, *pool_output(layer, *shape[1:]))
        case MaxPool2d() | AvgPool2d():
            return (shape[0], *pool_output(layer, *_image(shape)[1:]))
        case GlobalAvgPool():
            return _image(shape)[:1]
        case Affine():
            if len(shape) == 2:
                raise _unfit("an image [C, H, W] or flat [C]", shape)
            return shape
        case Elman():
            if len(shape) != 2:
                raise _unfit("a sequence [T, I]", shape)
            return (shape[0], layer.outputs) if layer.return_sequence else (layer.outputs,)
        case Residual():
            body = shapes_along(layer.body, shape, "body")[-1]
            other = shapes_along(layer.shortcut or (), shape, "shortcut")[-1]
            if body != other:
                mend = "give shortcut=(Conv2d(...),)" if layer.shortcut is None else None
                wanted = f"the body's output {list(body)}"
                raise ShapeError(message("shortcut", wanted, f"{list(other)}", mend or ""))
            return body
        case _:
            raise ArgumentError(message("layer", "a layer of evokern.layers", repr(layer)))


def shapes_along(layers: tuple[Layer, ...], shape: Shape, name: str = "layers") -> list[Shape]:
    """Shape of a sample before layer 0, after layer 0, after layer 1, ...

    Raises ShapeError or ArgumentError that names the layer as ``name``[number].
    """
    shapes = [shape]
    for number, layer in enumerate(layers):
        try:
            shapes.append(output_shape(layer, shapes[-1]))
        except (ShapeError, ArgumentError) as error:
            raise type(error)(f"{name}[{number}] {layer}: {error}") from None
    return shapes


def genes_along(layers: tuple[Layer, ...], shape: Shape) -> list[Genes]:
    """The parameters of every layer that has some, in genome order."""
    blocks: list[Genes] = []
    for layer, before in zip(layers, shapes_along(layers, shape), strict=False):
        match layer:
            case Dense():
                blocks.append(DenseGenes(before[0], layer.outputs, layer.bias))
            case Conv2d():
                area = math.prod(layer.geometry()[:2])
                blocks.append(DenseGenes(before[0] * area, layer.outputs, layer.bias, area))
            case Affine():
                blocks.append(AffineGenes(before[0]))
            case Elman():
                blocks.append(ElmanGenes(before[1], layer.outputs))
            case Residual():
                blocks += genes_along(layer.body, before)
                blocks += genes_along(layer.shortcut or (), before)
            case _:
                pass
    return blocks


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise _unfit("an image [C, H, W]", shape)
    return shape


def _unfit(expected: str, shape: Shape, mend: str = "") -> ShapeError:
    return ShapeError(message("input", expected, f"{list(shape)}", mend))
