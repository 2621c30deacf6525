"""Networks that nobody thought of: random stacks of layers, kernels against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evokern import _cpu, ops
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
    shapes_along,
)
from evokern.network import Network
from evokern.testing import assert_close, assert_same_bits, error_bound, fill_outputs_with_nan

pytestmark = pytest.mark.cpp

activations = st.sampled_from(ACTIVATIONS)


@st.composite
def convolutions(draw: st.DrawFn, shape: Shape, outputs: int | None = None) -> Layer:
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    kernel = tuple(
        draw(st.integers(1, min(4, size + 2 * pad)))
        for size, pad in zip(shape[1:], padding, strict=True)
    )
    return Conv2d(
        outputs or draw(st.integers(1, 19)),
        (kernel[0], kernel[1]),
        draw(st.integers(1, 3)),
        padding,
        draw(activations),
        bias=draw(st.booleans()),
    )


@st.composite
def layers_for(draw: st.DrawFn, shape: Shape, depth: int) -> Layer:
    """Any layer that takes ``shape``."""
    choices = ["activation"]
    if len(shape) == 3:
        choices += ["conv", "conv", "affine", "pool", "global", "flatten", "residual"]
    elif len(shape) == 2:
        choices += ["elman", "elman", "flatten"]
    else:
        choices += ["dense", "dense", "affine", "residual"]
    if depth == 0:
        choices = [choice for choice in choices if choice != "residual"]
    match draw(st.sampled_from(choices)):
        case "conv":
            return draw(convolutions(shape))
        case "affine":
            return Affine(draw(activations))
        case "pool":
            kernel = draw(st.integers(1, min(3, *shape[1:])))
            kind = draw(st.sampled_from([MaxPool2d, AvgPool2d]))
            padding = draw(st.integers(0, kernel // 2))
            return kind(kernel, draw(st.integers(1, 3)), padding)
        case "global":
            return GlobalAvgPool()
        case "flatten":
            return Flatten()
        case "dense":
            return Dense(draw(st.integers(1, 20)), draw(activations), bias=draw(st.booleans()))
        case "elman":
            return Elman(draw(st.integers(1, 9)), return_sequence=draw(st.booleans()))
        case "residual":
            return draw(residuals(shape, depth - 1))
        case _:
            return Activation(draw(activations))


@st.composite
def stacks(draw: st.DrawFn, shape: Shape, depth: int, most: int) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for _ in range(draw(st.integers(0, most))):
        layer = draw(layers_for(shape, depth))
        layers.append(layer)
        shape = output_shape(layer, shape)
    return tuple(layers)


@st.composite
def residuals(draw: st.DrawFn, shape: Shape, depth: int) -> Layer:
    """A body, and a shortcut that brings x to the body's shape."""
    body = draw(stacks(shape, depth, 3))
    after = shapes_along(body, shape)[-1]
    if after == shape and draw(st.booleans()):
        return Residual(body, None, draw(activations))
    if len(after) == 3:
        shortcut: tuple[Layer, ...] = (Conv2d(after[0], 1, padding=after[1:]),)
        grown = shapes_along(shortcut, shape)[-1]
        pool = (grown[1] - after[1] + 1, grown[2] - after[2] + 1)
        shortcut += (MaxPool2d(pool, 1),)
    else:
        shortcut = (Flatten(), Dense(after[0]))
    return Residual(body, shortcut, draw(activations))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    image = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))
    sequence = st.tuples(st.integers(1, 4), st.integers(1, 5))
    shape: Shape = draw(st.one_of(image, image, sequence, st.tuples(st.integers(1, 9))))
    return Network(draw(stacks(shape, 2, 6)), shape)


@settings(max_examples=150, deadline=None)
@given(networks(), st.sampled_from([1, 2, 5, 8, 13, 33]), st.booleans(), st.integers(0, 99))
def test_random_networks_have_the_reference_s_bits(network, batch, shared, seed):
    rng = np.random.default_rng(seed)
    genomes = rng.normal(0, 0.5, (3, network.layout.size)).astype(np.float32)
    index = np.array([2, 0, 2], np.int32)
    batch_axes = (batch,) if shared else (3, batch)
    x = rng.normal(size=(*batch_axes, *network.input_shape)).astype(np.float32)
    expected = ops.network_forward(genomes, network, x, index=index, backend="reference")
    with fill_outputs_with_nan():
        assert_same_bits(ops.network_forward(genomes, network, x, index=index), expected)
    if len(network.output_shape) == 1:
        y = rng.integers(0, network.output_shape[0], batch)
        wanted = ops.network_loss(genomes, network, x, y, index=index, backend="reference")
        got = ops.network_loss(genomes, network, x, y, index=index)
        for result, reference in zip(got, wanted, strict=True):
            assert_same_bits(result, reference)


@settings(max_examples=150, deadline=None)
@given(networks(), st.sampled_from([1, 2, 5, 13, 33]), st.booleans(), st.integers(0, 99))
def test_random_networks_in_bf16(network, batch, stored, seed):
    rng = np.random.default_rng(seed)
    genomes = rng.normal(0, 0.5, (2, network.layout.size)).astype(np.float32)
    if stored:
        genomes = (genomes.view(np.uint32) & 0xFFFF0000).view(np.float32)
    x = rng.normal(size=(batch, *network.input_shape)).astype(np.float32)
    given = (genomes.view(np.uint32) >> 16).astype(np.uint16) if stored else genomes
    with fill_outputs_with_nan():
        got = ops.network_forward(given, network, x, precision="bf16")
    assert_close(got, *error_bound(network, genomes, x, precision="bf16"))
    if not _cpu.native_bf16():
        expected = ops.network_forward(given, network, x, precision="bf16", backend="reference")
        assert_same_bits(got, expected)
