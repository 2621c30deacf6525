"""One step of a network as a row of the table that compiled kernels read, and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evokern.layers import (
    ACTIVATIONS,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    MaxPool2d,
    Shape,
    pool_output,
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

NO_PARAMETER = (-1, 0)


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
    weights: tuple[int, int] = NO_PARAMETER
    bias: tuple[int, int] = NO_PARAMETER
    recurrent: tuple[int, int] = NO_PARAMETER
    scale: tuple[int, int] = NO_PARAMETER
    shift: tuple[int, int] = NO_PARAMETER
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


def network_program(
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


def with_bias_apart(steps: list[Step]) -> list[Step]:
    return [step if step.bias == NO_PARAMETER else replace(step, bias=(1, 0)) for step in steps]


def image_of(shape: Shape) -> Shape:
    """[C, H, W] of an image; [O, 1, 1] of what is flat or a sequence of states [T, O]."""
    return shape if len(shape) == 3 else (shape[-1], 1, 1)


def activated(step: Step, name: str, slope: float) -> Step:
    return replace(step, activation=ACTIVATIONS.index(name), slope=slope)


def dense_step(layer: Dense, step: Step, bank: int) -> Step:
    bias = (bank, step.inputs * step.outputs) if layer.bias else NO_PARAMETER
    step = activated(step, layer.activation, layer.negative_slope)
    return replace(step, kind=DENSE, weights=(bank, 0), bias=bias)


def conv_step(layer: Conv2d, step: Step, bank: int, place: int, taps: int) -> Step:
    kernel_height, kernel_width, *_ = layer.geometry()
    depth = step.image[0] * kernel_height * kernel_width
    return replace(
        activated(step, layer.activation, layer.negative_slope),
        kind=CONV,
        weights=(bank, 0),
        bias=(bank, depth * layer.outputs) if layer.bias else NO_PARAMETER,
        geometry=layer.geometry(),
        tap_offsets=place,
        window_starts=place + taps,
    )


def affine_step(layer: Affine, step: Step, bank: int) -> Step:
    step = replace(step, kind=AFFINE, scale=(bank, 0), shift=(bank, step.image[0]))
    return activated(step, layer.activation, layer.negative_slope)


def global_pool_step(step: Step) -> Step:
    whole = (step.image[1], step.image[2], 1, 1, 0, 0)
    return replace(step, kind=GLOBAL_AVG_POOL, geometry=whole, count_include_pad=True)


def pool_step(layer: MaxPool2d | AvgPool2d, step: Step) -> Step:
    return replace(
        step,
        kind=AVG_POOL if isinstance(layer, AvgPool2d) else MAX_POOL,
        geometry=layer.geometry(),
        count_include_pad=isinstance(layer, AvgPool2d) and layer.count_include_pad,
    )


def conv_places(
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
