"""The element rules of the Triton kernels against the reference, bit for bit."""

from __future__ import annotations

import interpreter
import numpy as np
import pytest
from cases import SEED, F, special_numbers

from evokern._devices import DeviceArray
from evokern.backends.device import use_device
from evokern.backends.reference import activation as reference_activation
from evokern.backends.reference import random as reference
from evokern.network import ACTIVATIONS
from evokern.rules import DISTRIBUTIONS, bernoulli_threshold
from evokern.testing import assert_same_bits

pytestmark = pytest.mark.triton
if reason := interpreter.unavailable():
    pytest.skip(reason, allow_module_level=True)

import triton
import triton.language as tl

from evokern.backends.triton import activation, random
from evokern.backends.triton.launch import Pointer, launch, pointer

SLOPE = 0.3


@triton.jit
def activation_kernel(x, out, slope, CODE: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out + i, activation.activate(tl.load(x + i), CODE, slope))


@triton.jit
def function_kernel(x, out, FUNCTION: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out + i, FUNCTION(tl.load(x + i)))


def arguments() -> np.ndarray:
    """Special values, numbers of every size, and those that the functions look at closely."""
    edges = np.array([-87.3365402, 88.7228317, 9.5, 4, 2.0**-126, 1.41421356237, 0.5, 64], F)
    edges = np.concatenate([edges, np.nextafter(edges, F(-np.inf)), np.nextafter(edges, F(np.inf))])
    words = np.random.default_rng(1).integers(0, 1 << 32, 1 << 14, dtype=np.uint32)
    usual = np.random.default_rng(2).normal(0, 4, 1 << 14).astype(F)
    values = np.concatenate([special_numbers(256, share=0.9), edges, -edges, words.view(F), usual])
    return np.resize(values, 1 << 16)


def run(kernel, *arrays, **constants) -> None:
    with use_device(interpreter.DEVICE, "triton"):
        launch(kernel, 1, *arrays, **constants)


def test_arrays_without_elements_have_the_address_0() -> None:
    """NumPy has an address of the host for them, which Triton refuses on a GPU."""
    layout = np.empty((0, 3), np.int32)
    assert layout.ctypes.data != 0
    for array in (layout, DeviceArray(None, layout, interpreter.DEVICE)):
        assert pointer(array) == Pointer(0, "int32")
    assert pointer(np.ones(1, np.int32)).address != 0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    x = arguments()
    out = np.empty_like(x)
    run(activation_kernel, x, out, SLOPE, CODE=ACTIVATIONS.index(name), SIZE=x.size)
    assert_same_bits(out, reference_activation.activate(name, x, SLOPE))


@pytest.mark.parametrize("name", ["exp", "log", "erf"])
def test_functions(name: str) -> None:
    x = arguments()
    out = np.empty_like(x)
    run(function_kernel, x, out, FUNCTION=getattr(activation, name), SIZE=x.size)
    assert_same_bits(out, getattr(reference_activation, name)(x))


@triton.jit
def words_kernel(
    out, seed: tl.uint64, i: tl.uint32, g: tl.uint32, S: tl.constexpr, B: tl.constexpr
):
    block = tl.arange(0, B).to(tl.uint32)
    words = random.draw_words(seed, block, i.to(tl.uint32), g.to(tl.uint32), S)
    tl.store(out + 4 * tl.arange(0, B)[:, None] + tl.arange(0, 4)[None, :], words)


@triton.jit
def deviates_kernel(
    out,
    seed: tl.uint64,
    individual: tl.uint32,
    generation: tl.uint32,
    DISTRIBUTION: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    slot, block = tl.arange(0, SLOTS)[:, None], tl.arange(0, BLOCKS)[None, :]
    deviates = random.draw_deviates(
        seed,
        block.to(tl.uint32),
        individual.to(tl.uint32) + slot.to(tl.uint32),
        generation.to(tl.uint32),
        random.MUTATION,
        DISTRIBUTION,
    )
    place = (slot * BLOCKS + block)[:, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    tl.store(out + place, deviates)


@triton.jit
def choice_kernel(words, happen, below, last: tl.uint32, N: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    word = tl.load(words + i)
    tl.store(happen + i, random.happens(word, last.to(tl.uint32)).to(tl.int32))
    tl.store(below + i, random.draw_below(word, N))


def test_known_answer() -> None:
    """Of Random123's kat_vectors: counter and key 0."""
    out = np.zeros(4, np.uint32)
    run(words_kernel, out, 0, 0, 0, S=0, B=1)
    assert [hex(word) for word in out] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@pytest.mark.parametrize("seed", [0, 1, SEED, 2**32 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("place", [(0, 0), (3, 77), (2**31, 2**31), (2**32 - 1, 2**32 - 1)])
def test_words(seed: int, place: tuple[int, int]) -> None:
    out = np.zeros(256, np.uint32)
    run(words_kernel, out, seed, *place, S=int(reference.Stream.NES), B=64)
    draw = {"seed": seed, "individual": place[0], "generation": place[1]}
    assert (out == reference.draw_words(reference.Stream.NES, 256, **draw)).all()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_deviates(distribution: str) -> None:
    out = np.zeros((8, 4096), F)
    code = DISTRIBUTIONS.index(distribution)
    run(deviates_kernel, out, SEED, 2**32 - 3, 5, DISTRIBUTION=code, SLOTS=8, BLOCKS=1024)
    individuals = 2**32 - 3 + np.arange(8)
    draw = {"seed": SEED, "individual": individuals, "generation": 5}
    wanted = reference.draw_deviates(distribution, reference.Stream.MUTATION, 4096, **draw)
    assert_same_bits(out, wanted)


@pytest.mark.parametrize("chance", [2.0**-33, 2.0**-32, 0.3, 0.5, 1 - 2.0**-32, 1.0])
def test_choices(chance: float) -> None:
    threshold = bernoulli_threshold(chance)
    near = [word for word in (threshold - 2, threshold - 1, threshold) if 0 <= word < 2**32]
    words = np.random.default_rng(3).integers(0, 1 << 32, 1 << 10, dtype=np.uint32)
    words[:2], words[2 : 2 + len(near)] = (0, 2**32 - 1), near
    happen, below = (np.zeros(words.size, np.int32) for _ in range(2))
    run(choice_kernel, words, happen, below, threshold - 1, N=5, SIZE=words.size)
    assert (happen == reference.bernoulli(words, chance)).all()
    assert (below == reference.draw_index(words, 5)).all()
