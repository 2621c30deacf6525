"""A network as the flat list of steps that compiled kernels run.

Tiles (many samples side by side) keep images channels first and need no buffers. Single samples
keep them channels last: every step reads and writes numbered buffers, a convolution takes a
following Affine and activation along, and tables say where each weight reads its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from evokern.errors import ArgumentError, message
from evokern.layers import (
    ACTIVATIONS,
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
    pool_output,
    shapes_along,
)

# StepKind of csrc/core/params.h.
(
    DENSE,
    ACTIVATION,
    MAX_POOL,
    AVG_POOL,
    CONV,
    AFFINE,
    ADD,
    GLOBAL_AVG_POOL,
    CHANNELS_FIRST,
    CHANNELS_LAST,
    ELMAN,
) = range(11)

MIN_TILE_SAMPLES = 12
"""Samples from which tiles are faster than single samples."""

MOST_TILE_FEATURES = 65536
"""Features that a layer on tiles may read or write: a tile is 32 or 64 samples of them."""

MOST_TILE_FEATURES_OF_IMAGES = 4096
"""The same for networks with convolutions: their tiles stay in the second cache."""

SMALL_GENOME = 8192
"""Genes of dense layers up to which tiles are always faster."""

MOST_BUFFERS = 64  # kMostBuffers of csrc/cpu/sample_steps.h

_NONE = (-1, 0)


@dataclass(frozen=True)
class Step:
    """One row of the table that ``csrc/core/step_table.h`` reads, in its order.

    Parameters are (bank, offset into its rows); ``tap_offsets`` and ``window_starts`` index the
    program's ``places``.
    """

    kind: int
    activation: int = 0
    inputs: int = 0
    outputs: int = 0
    source: int = 0
    other: int = 0
    target: int = 0
    weights: tuple[int, int] = _NONE
    bias: tuple[int, int] = _NONE
    recurrent: tuple[int, int] = _NONE
    scale: tuple[int, int] = _NONE
    shift: tuple[int, int] = _NONE
    length: int = 0
    whole_sequence: bool = False
    image: Shape = (0, 0, 0)
    channels_first: bool = False
    geometry: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    out_image: Shape = (0, 0, 0)
    count_include_pad: bool = False
    tap_offsets: int = 0
    window_starts: int = 0
    slope: float = 0.0

    def row(self) -> list[int]:
        """The step as integers, without the slope."""
        values: list[int] = []
        for name, value in self.__dict__.items():
            if name != "slope":
                values += [int(v) for v in value] if isinstance(value, tuple) else [int(value)]
        return values


@dataclass(frozen=True, eq=False)
class NetworkProgram:
    """A network as a flat list of steps, for all back ends.

    ``table`` int64 [steps, fields] and ``slopes`` float32 [steps] are ``steps`` as C++ reads them.
    ``places`` int32: tap offsets and window starts of convolutions. ``buffer_features`` int64
    [buffers]: floats per sample; buffer 0 is the input.
    The head, steps without parameters, ends in ``head_buffer``; images come before ``flat_step``.
    """

    tiles: bool
    steps: tuple[Step, ...]
    table: npt.NDArray[np.int64]
    slopes: npt.NDArray[np.float32]
    places: npt.NDArray[np.int32]
    buffer_features: npt.NDArray[np.int64]
    outputs: int
    head_steps: int = 0
    head_buffer: int = 0
    flat_step: int = 0
    output_buffer: int = 0
    output_channels: int = 1


@lru_cache(maxsize=256)
def compile_network(
    layers: tuple[Layer, ...],
    input_shape: Shape,
    tiles: bool,
    bias_apart: bool = False,
    operand_channels: int = 1,
) -> NetworkProgram:
    """The program of a network; ``tiles`` only where ``use_tiles`` says so.

    ``bias_apart``: the bias of the one layer is a bank of its own. ``operand_channels``: how many
    channels lie in the place of one float where convolutions read their input (2: native bf16).
    """
    if not tiles:
        return _SampleSteps(input_shape, operand_channels).compile(layers, bias_apart)
    steps, places = _tile_steps(layers, input_shape, operand_channels)
    outputs = math.prod(shapes_along(layers, input_shape)[-1])
    steps = _with_bias_apart(steps) if bias_apart else steps
    return _network_program(steps, tiles=True, places=places, outputs=outputs)


def use_tiles(layers: tuple[Layer, ...], input_shape: Shape, genes: int, samples: int) -> bool:
    """Whether a network of this genome is faster on tiles with so many samples."""
    least = MIN_TILE_SAMPLES
    if genes <= SMALL_GENOME and not _has(layers, Conv2d):
        least = 1  # the weights do not come from memory
    return samples >= least and _has_tiles(layers, input_shape)


def _has(layers: tuple[Layer, ...], kind: type[Layer]) -> bool:
    return any(isinstance(layer, kind) for layer in layers)


@lru_cache(maxsize=256)
def _has_tiles(layers: tuple[Layer, ...], input_shape: Shape) -> bool:
    """Whether tiles can run these layers, and hold what is between them."""
    if _has(layers, Residual) or _has(layers, Elman):
        return False
    sizes = [math.prod(shape) for shape in shapes_along(layers, input_shape)]
    most = MOST_TILE_FEATURES_OF_IMAGES if _has(layers, Conv2d) else MOST_TILE_FEATURES
    return max(sizes) <= most


def _network_program(
    steps: Sequence[Step],
    *,
    tiles: bool,
    places: Sequence[npt.NDArray[np.int32]] = (),
    buffer_features: Sequence[int] = (0,),
    **fields: int,
) -> NetworkProgram:
    rows = [step.row() for step in steps]
    slopes = np.array([step.slope for step in steps], np.float32)
    return NetworkProgram(
        tiles,
        tuple(replace(s, slope=slope) for s, slope in zip(steps, slopes.tolist(), strict=True)),
        np.array(rows, np.int64).reshape(len(rows), len(Step(ACTIVATION).row())),
        slopes,
        np.concatenate([np.zeros(1, np.int32), *places]).astype(np.int32),
        np.array(buffer_features, np.int64),
        **fields,
    )


def _with_bias_apart(steps: list[Step]) -> list[Step]:
    return [step if step.bias == _NONE else replace(step, bias=(1, 0)) for step in steps]


def _tile_steps(
    layers: tuple[Layer, ...], shape: Shape, operand_channels: int
) -> tuple[list[Step], list[npt.NDArray[np.int32]]]:
    steps: list[Step] = []
    tables: list[npt.NDArray[np.int32]] = []
    bank, place = 0, 1
    for layer in layers:
        after = output_shape(layer, shape)
        step = Step(
            ACTIVATION,
            inputs=math.prod(shape),
            outputs=math.prod(after),
            image=_image(shape),
            channels_first=True,
            out_image=_image(after),
        )
        match layer:
            case Dense():
                steps.append(_dense(layer, step, bank))
                bank += 1
            case Conv2d():
                found = _conv_places(layer, shape, True, operand_channels)
                steps.append(_conv(layer, step, bank, place, len(found[0])))
                tables += found
                place += sum(map(len, found))
                bank += 1
            case Affine():
                steps.append(_affine(layer, step, bank))
                bank += 1
            case GlobalAvgPool():
                steps.append(_global_pool(step))
            case Activation():
                steps.append(_activated(step, layer.name, layer.negative_slope))
            case MaxPool2d() | AvgPool2d():
                steps.append(_pool(layer, step))
            case _:
                pass
        shape = after
    return steps, tables


def _image(shape: Shape) -> Shape:
    """[C, H, W] of an image; [O, 1, 1] of what is flat or a sequence of states [T, O]."""
    return shape if len(shape) == 3 else (shape[-1], 1, 1)


def _activated(step: Step, name: str, slope: float) -> Step:
    return replace(step, activation=ACTIVATIONS.index(name), slope=slope)


def _dense(layer: Dense, step: Step, bank: int) -> Step:
    bias = (bank, step.inputs * step.outputs) if layer.bias else _NONE
    step = _activated(step, layer.activation, layer.negative_slope)
    return replace(step, kind=DENSE, weights=(bank, 0), bias=bias)


def _conv(layer: Conv2d, step: Step, bank: int, place: int, taps: int) -> Step:
    kernel_height, kernel_width, *_ = layer.geometry()
    depth = step.image[0] * kernel_height * kernel_width
    return replace(
        _activated(step, layer.activation, layer.negative_slope),
        kind=CONV,
        weights=(bank, 0),
        bias=(bank, depth * layer.outputs) if layer.bias else _NONE,
        geometry=layer.geometry(),
        tap_offsets=place,
        window_starts=place + taps,
    )


def _affine(layer: Affine, step: Step, bank: int) -> Step:
    step = replace(step, kind=AFFINE, scale=(bank, 0), shift=(bank, step.image[0]))
    return _activated(step, layer.activation, layer.negative_slope)


def _global_pool(step: Step) -> Step:
    whole = (step.image[1], step.image[2], 1, 1, 0, 0)
    return replace(step, kind=GLOBAL_AVG_POOL, geometry=whole, count_include_pad=True)


def _pool(layer: MaxPool2d | AvgPool2d, step: Step) -> Step:
    return replace(
        step,
        kind=AVG_POOL if isinstance(layer, AvgPool2d) else MAX_POOL,
        geometry=layer.geometry(),
        count_include_pad=isinstance(layer, AvgPool2d) and layer.count_include_pad,
    )


@dataclass(frozen=True)
class _Value:
    """What lies in a buffer: a sample's shape; images channels last unless said otherwise."""

    buffer: int
    shape: Shape
    channels_first: bool = False


@dataclass
class _SampleSteps:
    """Writes the steps of single samples. Buffers are taken again once nobody reads them."""

    input_shape: Shape
    operand_channels: int = 1
    steps: list[Step] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    places: list[npt.NDArray[np.int32]] = field(default_factory=list)
    place_count: int = 1
    banks: int = 0
    flat: bool = False

    def compile(self, layers: tuple[Layer, ...], bias_apart: bool) -> NetworkProgram:
        self.features = [math.prod(self.input_shape)]
        image = len(self.input_shape) == 3 and self.input_shape[0] > 1
        value = _Value(0, self.input_shape, channels_first=image)
        head_steps, head_buffer = 0, 0
        for layer in layers:
            value = self.add(layer, value)
            if self.banks == 0:
                head_steps, head_buffer = len(self.steps), value.buffer
                self.held = [head_buffer]  # all slots read it
        value = self.channels_last(value)
        if bias_apart:
            self.steps = _with_bias_apart(self.steps)
        images = [number for number, step in enumerate(self.steps) if step.kind == CONV]
        flat = range(images[-1] + 1 if images else 0, len(self.steps))
        first = (number for number in flat if self.steps[number].kind in (DENSE, ELMAN))
        return _network_program(
            self.steps,
            tiles=False,
            places=self.places,
            buffer_features=self.features,
            outputs=math.prod(value.shape),
            head_steps=head_steps,
            head_buffer=head_buffer,
            flat_step=next(first, len(self.steps)),
            output_buffer=value.buffer,
            output_channels=value.shape[0] if len(value.shape) == 3 else 1,
        )

    def add(self, layer: Layer, x: _Value) -> _Value:
        """The steps of ``layer``, which is the last reader of x unless x is held."""
        after = output_shape(layer, x.shape)
        match layer:
            case Flatten():
                return self.flattened(x)
            case Residual():
                return self.residual(layer, x)
            case Affine() if self.fuses(x) and self.steps[-1].scale == _NONE:
                bank, channels = self.bank(), x.shape[0]
                step = replace(self.steps[-1], scale=(bank, 0), shift=(bank, channels))
                self.steps[-1] = _activated(step, layer.activation, layer.negative_slope)
                return x
            case Activation() if self.fuses(x):
                self.steps[-1] = _activated(self.steps[-1], layer.name, layer.negative_slope)
                return x
        reads_any_order = isinstance(layer, Conv2d | MaxPool2d | AvgPool2d | GlobalAvgPool)
        if not reads_any_order:
            x = self.channels_last(x)
        step = Step(
            ACTIVATION,
            inputs=math.prod(x.shape),
            outputs=math.prod(after),
            source=x.buffer,
            image=_image(x.shape),
            channels_first=x.channels_first,
            out_image=_image(after),
        )
        match layer:
            case Dense():
                step = _dense(layer, step, self.bank())
            case Conv2d():
                step = self.conv(layer, step)
            case Affine():
                step = _affine(layer, step, self.bank())
            case Activation():
                step = _activated(step, layer.name, layer.negative_slope)
            case MaxPool2d() | AvgPool2d():
                step = _pool(layer, step)
            case GlobalAvgPool():
                step = _global_pool(step)
            case Elman():
                step = self.elman(layer, step, x.shape)
            case _:
                raise AssertionError(layer)
        return self.append(step, x, after)

    def append(self, step: Step, x: _Value, after: Shape) -> _Value:
        """Gives the step a buffer to write to, and x's back where nobody else reads it."""
        target = self.take(step.outputs, step.kind)
        self.steps.append(replace(step, target=target))
        self.give_back(x)
        return _Value(target, after)

    def take(self, features: int, kind: int) -> int:
        # Images run one by one, what follows them in groups: they share no buffers.
        if kind in (DENSE, ELMAN) and not self.flat:
            self.flat = True
            self.free.clear()
        if self.free:
            buffer = self.free.pop()
            self.features[buffer] = max(self.features[buffer], features)
            return buffer
        if len(self.features) == MOST_BUFFERS:
            wanted = f"at most {MOST_BUFFERS} values that are needed at once"
            raise ArgumentError(message("network", wanted, "more", "nest fewer residual blocks"))
        self.features.append(features)
        return len(self.features) - 1

    def give_back(self, x: _Value) -> None:
        if x.buffer != 0 and x.buffer not in self.held:
            self.free.append(x.buffer)

    def bank(self) -> int:
        self.banks += 1
        return self.banks - 1

    def fuses(self, x: _Value) -> bool:
        """Whether x is the sum of a convolution that nobody else reads."""
        if not self.steps or x.buffer in self.held:
            return False
        last = self.steps[-1]
        return last.kind == CONV and last.target == x.buffer and last.activation == 0

    def residual(self, layer: Residual, x: _Value) -> _Value:
        x = self.channels_last(x)
        body, other = x, x
        self.held.append(x.buffer)
        for inner in layer.body:
            body = self.add(inner, body)
        body = self.channels_last(body)
        self.held.append(body.buffer)
        for inner in layer.shortcut or ():
            other = self.add(inner, other)
        del self.held[-2:]
        size = math.prod(body.shape)
        step = Step(ADD, 0, size, size, body.buffer, other.buffer)
        step = _activated(step, layer.activation, layer.negative_slope)
        step = replace(step, out_image=(body.shape[0], 1, 1))
        value = self.append(step, body, body.shape)
        for read in {other.buffer, x.buffer} - {body.buffer}:
            self.give_back(_Value(read, x.shape))
        return value

    def channels_last(self, x: _Value) -> _Value:
        return self.reordered(CHANNELS_LAST, x, x.shape) if x.channels_first else x

    def flattened(self, x: _Value) -> _Value:
        flat = (math.prod(x.shape),)
        if len(x.shape) < 3 or x.channels_first or x.shape[0] == 1 or x.shape[1:] == (1, 1):
            return _Value(x.buffer, flat)
        return self.reordered(CHANNELS_FIRST, x, flat)

    def reordered(self, kind: int, x: _Value, after: Shape) -> _Value:
        size = math.prod(x.shape)
        step = Step(kind, 0, size, size, x.buffer, image=x.shape, out_image=x.shape)
        return self.append(step, x, after)

    def conv(self, layer: Conv2d, step: Step) -> Step:
        taps, windows = _conv_places(layer, step.image, step.channels_first, self.operand_channels)
        self.places += [taps, windows]
        first = self.place_count
        self.place_count += len(taps) + len(windows)
        return _conv(layer, step, self.bank(), first, len(taps))

    def elman(self, layer: Elman, step: Step, shape: Shape) -> Step:
        length, inputs = shape
        bank, outputs = self.bank(), layer.outputs
        return replace(
            _activated(step, layer.activation, layer.negative_slope),
            kind=ELMAN,
            weights=(bank, 0),
            recurrent=(bank, inputs * outputs),
            bias=(bank, (inputs + outputs) * outputs),
            length=length,
            whole_sequence=layer.return_sequence,
        )


def _conv_places(
    layer: Conv2d, image: Shape, channels_first: bool, operand_channels: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Offsets [C*KH*KW] of a window's inputs from its start, and starts [H'*W'] of the windows.

    Both count floats in the padded image, each of which holds ``operand_channels``.
    """
    channels, height, width = -(-image[0] // operand_channels), *image[1:]
    kh, kw, sh, sw, ph, pw = layer.geometry()
    height, width = height + 2 * ph, width + 2 * pw
    out_height, out_width = pool_output(layer, *image[1:])
    if channels_first:
        by_channel, by_row, by_column = height * width, width, 1
    else:
        by_channel, by_row, by_column = 1, width * channels, channels
    channel, row, column = np.ix_(range(channels), range(kh), range(kw))
    taps = channel * by_channel + row * by_row + column * by_column
    i, j = np.ix_(range(out_height), range(out_width))
    windows = i * sh * by_row + j * sw * by_column
    return taps.ravel().astype(np.int32), windows.ravel().astype(np.int32)
