"""Shapes, genome layouts and errors of networks and their layers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from networks import FLAT, LAYERED

from evokern.errors import ArgumentError, DtypeError, EvokernError, ShapeError
from evokern.layers import (
    MAX_INPUTS,
    MAX_WIDTH,
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
    output_shape,
    pool_output,
)
from evokern.layout import AffineGenes, DenseGenes, ElmanGenes, GenomeLayout, rows_of, size_of
from evokern.network import Network


@pytest.mark.parametrize(
    ("layer", "before", "after"),
    [
        (Activation("relu"), (3, 2), (3, 2)),
        (Flatten(), (2, 3, 4), (24,)),
        (Flatten(), (5, 3), (15,)),
        (Flatten(), (5,), (5,)),
        (Dense(7), (5,), (7,)),
        (Dense(MAX_WIDTH), (MAX_INPUTS,), (MAX_WIDTH,)),
        (Conv2d(6, 3), (2, 9, 7), (6, 7, 5)),
        (Conv2d(6, 3, padding=1), (2, 9, 7), (6, 9, 7)),
        (Conv2d(6, 3, 2, 1), (2, 9, 7), (6, 5, 4)),
        (Conv2d(6, (3, 2), (2, 3), (1, 2)), (2, 9, 7), (6, 5, 4)),
        (Conv2d(1, 5, 9), (1, 5, 5), (1, 1, 1)),
        (Conv2d(1, 2, 1, 3), (1, 1, 1), (1, 6, 6)),
        (MaxPool2d(2), (3, 5, 4), (3, 2, 2)),
        (AvgPool2d(3, 1, 1), (3, 5, 4), (3, 5, 4)),
        (GlobalAvgPool(), (3, 5, 4), (3,)),
        (Affine(), (3, 5, 4), (3, 5, 4)),
        (Affine(), (6,), (6,)),
        (Elman(4), (6, 2), (4,)),
        (Elman(4, return_sequence=True), (6, 2), (6, 4)),
        (Residual((Dense(4), Dense(3))), (3,), (3,)),
        (Residual((Conv2d(4, 3, 2, 1),), (Conv2d(4, 1, 2),)), (2, 9, 7), (4, 5, 4)),
        (Residual(()), (2, 3), (2, 3)),
    ],
    ids=str,
)
def test_shapes(layer: Layer, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    assert output_shape(layer, before) == after
    assert Network((layer,), before).output_shape == after


@pytest.mark.parametrize(
    ("layers", "shape", "blocks"),
    [
        ((Dense(3), Dense(2, bias=False)), (5,), (DenseGenes(5, 3), DenseGenes(3, 2, False))),
        ((Conv2d(6, (3, 2)),), (4, 5, 5), (DenseGenes(24, 6, True, 6),)),
        ((Conv2d(6, 3, bias=False),), (1, 5, 5), (DenseGenes(9, 6, False, 9),)),
        ((Affine(), Flatten(), Affine()), (2, 3, 4), (AffineGenes(2), AffineGenes(24))),
        ((Elman(4, return_sequence=True), Elman(3)), (6, 2), (ElmanGenes(2, 4), ElmanGenes(4, 3))),
        (
            (Residual((Dense(3), Affine()), (Dense(3, bias=False),)), Dense(1)),
            (5,),
            (DenseGenes(5, 3), AffineGenes(3), DenseGenes(5, 3, False), DenseGenes(3, 1)),
        ),
        ((MaxPool2d(2), GlobalAvgPool(), Activation("relu")), (2, 4, 4), ()),
    ],
    ids=str,
)
def test_layouts(layers: tuple[Layer, ...], shape: tuple[int, ...], blocks: tuple) -> None:
    assert Network(layers, shape).layout == GenomeLayout(blocks)


def test_a_genome_by_hand() -> None:
    layout = GenomeLayout(
        (DenseGenes(2, 3, False), AffineGenes(2), ElmanGenes(1, 2), DenseGenes(2, 1))
    )
    assert [size_of(block) for block in layout.blocks] == [6, 4, 8, 3]
    assert [rows_of(block) for block in layout.blocks] == [2, 2, 4, 3]
    assert (layout.size, layout.offsets, layout.units) == (21, (0, 6, 10, 18), 8)
    units = [0, 1, 2, 0, 1, 2, 3, 4, 3, 4, 5, 6, 5, 6, 5, 6, 5, 6, 7, 7, 7]
    assert layout.unit_of_gene.tolist() == units
    (w,), (scale, shift), (w_in, w_rec, b), (v, c) = layout.split(np.arange(21))
    assert w.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (scale.tolist(), shift.tolist()) == ([6, 7], [8, 9])
    assert (w_in.tolist(), w_rec.tolist(), b.tolist()) == (
        [[10, 11]],
        [[12, 13], [14, 15]],
        [16, 17],
    )
    assert (v.tolist(), c.tolist()) == ([[18], [19]], [20])


def test_fans_of_init_schemes() -> None:
    conv = DenseGenes(2 * 9, 5, kernel_area=9)
    assert [(part.fan_in, part.fan_out) for part in conv.parts[:1]] == [(18, 45)]
    w_in, w_rec, bias = ElmanGenes(3, 4).parts
    assert ((w_in.fan_in, w_in.fan_out), (w_rec.fan_in, w_rec.fan_out)) == ((3, 4), (4, 4))
    assert bias.fan_in == 4


def test_split_gives_views_of_many_genomes() -> None:
    layout = LAYERED["residual images"].layout
    genomes = np.zeros((3, layout.size), np.float32)
    for number, parts in enumerate(layout.split(genomes), 1):
        for part in parts:
            assert len(part) == 3
            part += number
    assert (genomes > 0).all()
    for start, block, number in zip(layout.offsets, layout.blocks, range(1, 99), strict=False):
        assert (genomes[:, start : start + size_of(block)] == number).all()


def test_nature_has_the_parameters_of_the_paper() -> None:
    network = Network.nature_cnn(4, 18)
    assert network.shapes[1:] == ((32, 20, 20), (64, 9, 9), (64, 7, 7), (3136,), (512,), (18,))
    assert network.layout.size == 8224 + 32832 + 36928 + 1606144 + 9234


@pytest.mark.parametrize("name", list(FLAT | LAYERED))
def test_layouts_count_what_layers_hold(name: str) -> None:
    network = (FLAT | LAYERED)[name]
    layout = network.layout
    assert layout.size == sum(
        part.size for parts in layout.split(np.zeros(layout.size)) for part in parts
    )
    assert len(layout.unit_of_gene) == layout.size
    assert network.shapes[-1] == network.output_shape
    assert all(math.prod(shape) > 0 for shape in network.shapes)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Dense(0), ArgumentError, "Dense.outputs: expected an int in [1, 65536], got 0"),
        (lambda: Conv2d(MAX_WIDTH + 1, 3), ArgumentError, "Conv2d.outputs: expected"),
        (lambda: Elman(2.0), DtypeError, "Elman.outputs: expected an int, got float 2.0"),
        (lambda: Dense(1, "softmax"), ArgumentError, "activation: expected one of"),
        (lambda: Conv2d(1, 3, activation="no"), ArgumentError, "activation: expected one of"),
        (lambda: Affine("no"), ArgumentError, "activation: expected one of"),
        (lambda: Residual((), None, "no"), ArgumentError, "activation: expected one of"),
        (
            lambda: Conv2d(1, 0),
            ArgumentError,
            "kernel: expected an int or a pair of ints >= 1, got 0",
        ),
        (lambda: Conv2d(1, (3, 3, 3)), ArgumentError, "kernel: expected an int or a pair"),
        (lambda: Conv2d(1, 3, 0), ArgumentError, "stride: expected an int or a pair of ints >= 1"),
        (
            lambda: Conv2d(1, 3, 1, -1),
            ArgumentError,
            "padding: expected an int or a pair of ints >= 0",
        ),
        (lambda: MaxPool2d(3, 1, 2), ArgumentError, "padding: expected at most half the kernel"),
        (lambda: Network((Dense(1),), ()), ShapeError, "input_shape: expected"),
        (lambda: Network((Dense(1),), (2, 0)), ShapeError, "input_shape: expected"),
        (lambda: Network((Dense(1),), (1, 2, 3, 4)), ShapeError, "input_shape: expected"),
        (lambda: Network((object(),), (1,)), ArgumentError, "layers[0]"),
    ],
)
def test_layers_refuse(make: Callable[[], object], error: type[EvokernError], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        make()


@pytest.mark.parametrize(
    ("layers", "shape", "where", "words"),
    [
        ((Dense(1),), (2, 3), "layers[0] Dense(", "flat input [I], got [2, 3]; add Flatten()"),
        (
            (Dense(1),),
            (MAX_INPUTS + 1,),
            "layers[0] Dense(",
            "at most 16777216 features, got 16777217",
        ),
        ((Flatten(), Conv2d(1, 1)), (1, 2, 3), "layers[1] Conv2d(", "an image [C, H, W], got [6]"),
        ((Conv2d(1, 4),), (1, 3, 9), "layers[0] Conv2d(", "at most the padded input 3x9, got 4x4"),
        ((Conv2d(1, (2, 6), 1, 1),), (1, 3, 3), "layers[0]", "padded input 5x5, got 2x6"),
        ((MaxPool2d(4),), (1, 3, 9), "layers[0] MaxPool2d(", "at most the padded input 3x9"),
        ((GlobalAvgPool(),), (4,), "layers[0] GlobalAvgPool(", "an image [C, H, W], got [4]"),
        ((Affine(),), (4, 3), "layers[0] Affine(", "an image [C, H, W] or flat [C], got [4, 3]"),
        ((Elman(3),), (4,), "layers[0] Elman(", "a sequence [T, I], got [4]"),
        ((Elman(3), Elman(3)), (4, 2), "layers[1] Elman(", "a sequence [T, I], got [3]"),
        ((Residual((Dense(3),)),), (4,), "layers[0] Residual(", "body's output [3], got [4]; give"),
        (
            (Residual((Dense(3),), (Dense(2),)),),
            (4,),
            "layers[0] Residual(",
            "shortcut: expected the body's output [3], got [2]",
        ),
        ((Residual((Flatten(), Elman(3))),), (4,), "layers[0] Residual(", "body[1] Elman("),
        ((Residual((), (Conv2d(1, 1),)),), (4,), "layers[0] Residual(", "shortcut[0] Conv2d("),
    ],
)
def test_networks_name_the_layer_that_does_not_fit(
    layers: tuple[Layer, ...], shape: tuple[int, ...], where: str, words: str
) -> None:
    with pytest.raises(ShapeError) as error:
        Network(layers, shape)
    assert where in str(error.value)
    assert words in str(error.value)


def test_layers_are_values() -> None:
    body = [Dense(3)]
    layer = Residual(body, [Dense(3, bias=False)])
    assert layer == Residual((Dense(3),), (Dense(3, bias=False),))
    assert len({layer, Residual((Dense(3),))}) == 2
    network = Network([Conv2d(2, 3, (1, 1))], [1, 5, 5])
    assert network == Network((Conv2d(2, 3, (1, 1)),), (1, 5, 5))
    assert {network: 1}[network] == 1


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_output_size_counts_the_windows(kernel: int, stride: int, padding: int) -> None:
    for size in range(1, 9):
        first = range(-padding, size + padding - kernel + 1, stride)
        layer = Conv2d(1, kernel, stride, padding)
        if len(first):
            assert pool_output(layer, size, size + 9)[0] == len(first)
        else:
            with pytest.raises(ShapeError, match="kernel: expected at most the padded input"):
                pool_output(layer, size, size + 9)
