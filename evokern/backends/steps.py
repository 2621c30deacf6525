"""A network as the flat list of steps that compiled kernels run.

Tiles (many samples side by side) keep images channels first and need no buffers. Single samples
keep them channels last: every step reads and writes numbered buffers, a convolution takes a
following Affine and activation along, and tables say where each weight reads its input.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from evokern.backends.sample_steps import SampleSteps
from evokern.backends.step_table import (
    ACTIVATION,
    NetworkProgram,
    Step,
    activated,
    affine_step,
    conv_places,
    conv_step,
    dense_step,
    global_pool_step,
    image_of,
    network_program,
    pool_step,
    with_bias_apart,
)
from evokern.layers import (
    Activation,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    GlobalAvgPool,
    Layer,
    MaxPool2d,
    Residual,
    Shape,
    output_shape,
    shapes_along,
)

MIN_TILE_SAMPLES = 12
"""Samples from which tiles are faster than single samples."""

MIN_TILE_SAMPLES_OF_SMALL = 5
"""The same for small genomes, whose weights do not come from memory."""

MOST_TILE_FEATURES = 65536
"""Features that a layer on tiles may read or write: a tile is 32 or 64 samples of them."""

MOST_TILE_FEATURES_OF_IMAGES = 4096
"""The same for networks with convolutions: their tiles stay in the second cache."""

SMALL_GENOME = 8192
"""Genes of dense layers up to which a genome is small."""


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
        return SampleSteps(input_shape, operand_channels).compile(layers, bias_apart)
    steps, places = _tile_steps(layers, input_shape, operand_channels)
    outputs = math.prod(shapes_along(layers, input_shape)[-1])
    steps = with_bias_apart(steps) if bias_apart else steps
    return network_program(steps, tiles=True, places=places, outputs=outputs)


def use_tiles(layers: tuple[Layer, ...], input_shape: Shape, genes: int, samples: int) -> bool:
    """Whether a network of this genome is faster on tiles with so many samples."""
    least = MIN_TILE_SAMPLES
    if genes <= SMALL_GENOME and not _has(layers, Conv2d):
        least = MIN_TILE_SAMPLES_OF_SMALL
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
            image=image_of(shape),
            channels_first=True,
            out_image=image_of(after),
        )
        match layer:
            case Dense():
                steps.append(dense_step(layer, step, bank))
                bank += 1
            case Conv2d():
                found = conv_places(layer, shape, True, operand_channels)
                steps.append(conv_step(layer, step, bank, place, len(found[0])))
                tables += found
                place += sum(map(len, found))
                bank += 1
            case Affine():
                steps.append(affine_step(layer, step, bank))
                bank += 1
            case GlobalAvgPool():
                steps.append(global_pool_step(step))
            case Activation():
                steps.append(activated(step, layer.name, layer.negative_slope))
            case MaxPool2d() | AvgPool2d():
                steps.append(pool_step(layer, step))
            case _:
                pass
        shape = after
    return steps, tables
