"""Bytes and operations of the CUDA kernels by shape, and the least time that they leave a device.

The formulas follow the kernels of csrc/cuda; tests/test_gpu_script.py holds them to what the
harness counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from evokern.backends.plan import FEW_SAMPLES
from evokern.layers import Affine, Conv2d, Dense, Flatten, MaxPool2d, pool_output
from evokern.network import Network

SHARED_BYTES = 163 << 10
"""What a block of an A100 may have; H100 and H200 grant more, which changes no tile here."""

# Of csrc/cuda/network.cuh, network.cu.
_CHUNK_FLOATS = 4096
_WIDEST_FUSED = 1024
_MOST_TILE, _LEAST_TILE = 128, 16
_SUMS_OF_BLOCK = 512 * 8 * 8

# An fma counts 2; so does any other fp32 operation, which takes an fma's place.
_EACH = 2
_NORMAL_PAIR = 47  # normal_pair of csrc/core/distributions.h
_NORMAL_MUTATION = _NORMAL_PAIR / 2 + 2  # per gene, with gene + sigma * deviate
_INIT = 2  # per gene: symmetric_uniform, times the scale


class Rates(NamedTuple):
    """Bytes of global memory, and fp32 operations (an fma is 2), per second."""

    memory: float
    arithmetic: float


DEVICES = {
    "A100": Rates(2039e9, 19.5e12),
    "H100": Rates(3352e9, 66.9e12),
    "H200": Rates(4800e9, 66.9e12),
}
"""Data sheets: A100 SXM 80 GB, H100 SXM, H200."""


@dataclass(frozen=True)
class Kernel:
    """One kernel on one shape.

    ``least``: bytes that must move, every input once and every output once. ``read`` and
    ``written``: bytes that the kernel asks for, what the threads of a block share counted once.
    ``operations``: fp32, an fma is 2 and so is any other.
    """

    name: str
    least: int
    read: int
    written: int
    operations: int

    def floor(self, rates: Rates) -> float:
        """Least seconds."""
        return max(self.least / rates.memory, self.operations / rates.arithmetic)

    def is_bound_by_memory(self, rates: Rates) -> bool:
        """Whether bytes decide, not operations."""
        return self.least / rates.memory >= self.operations / rates.arithmetic


@dataclass(frozen=True)
class Work:
    """One call of an op: its kernels run one after the other."""

    what: str
    shape: str
    kernels: tuple[Kernel, ...]

    def floor(self, rates: Rates) -> float:
        """Least seconds: the sum over the kernels."""
        return sum(kernel.floor(rates) for kernel in self.kernels)

    def is_bound_by_memory(self, rates: Rates) -> bool:
        """Of the kernel that takes longest."""
        longest = max(self.kernels, key=lambda kernel: kernel.floor(rates))
        return longest.is_bound_by_memory(rates)

    @property
    def least(self) -> int:
        """Bytes, summed over the kernels."""
        return sum(kernel.least for kernel in self.kernels)

    @property
    def operations(self) -> int:
        """Summed over the kernels."""
        return sum(kernel.operations for kernel in self.kernels)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


# --- networks


def fused_tile(widest: int, samples: int, shared_bytes: int = SHARED_BYTES) -> int:
    """Samples of a block of the fused kernel, 0 where it cannot run (csrc/cuda/network.cu)."""
    if widest > _WIDEST_FUSED:
        return 0
    tile = _MOST_TILE
    while tile >= _LEAST_TILE and (
        (widest * tile + 2 * _CHUNK_FLOATS) * 4 > shared_bytes or widest * tile > _SUMS_OF_BLOCK
    ):
        tile //= 2
    while tile > _LEAST_TILE and tile // 2 >= samples:
        tile //= 2
    return tile if tile >= _LEAST_TILE else 0


def fused_loss(widths: Sequence[int], slots: int, samples: int) -> Work:
    """``network_loss`` of dense layers, one batch for all slots: a block per slot and tile."""
    tiles = _ceil(samples, fused_tile(max(widths), samples))
    products = sum(before * after for before, after in pairwise(widths))
    genes = products + sum(widths[1:])
    batch = samples * (4 * widths[0] + 8)  # x and labels
    written = slots * samples * 8
    kernel = Kernel(
        "fused_network_kernel",
        4 * slots * genes + batch + written,
        slots * (4 * tiles * genes + batch),
        written,
        _EACH * slots * samples * products,
    )
    shape = f"{'-'.join(map(str, widths))}, P {slots}, B {samples}"
    return Work("network_loss", shape, (kernel, _finish_losses(slots, samples)))


def _finish_losses(slots: int, samples: int) -> Kernel:
    read, written = slots * samples * 8, slots * 8
    return Kernel("finish_losses_kernel", read + written, read, written, _EACH * slots * samples)


def _sample_losses(slots: int, samples: int, outputs: int) -> Kernel:
    read = slots * samples * (4 * (2 * outputs + 1) + 8)
    written = slots * samples * 8
    return Kernel(
        "sample_losses_kernel", slots * samples * (4 * outputs + 8) + written, read, written, 0
    )


class _Values(NamedTuple):
    """What a layer reads: its floats, of ``slots`` slots (1: the same for all)."""

    slots: int
    features: int


def layered(
    name: str, network: Network, slots: int, samples: int, *, shared: bool, loss: bool
) -> Work:
    """A network by a kernel per layer (csrc/cuda/layers.cu): convolutions, pools, dense layers."""
    x = _Values(1 if shared else slots, math.prod(network.input_shape))
    kernels: list[Kernel] = []
    shapes = list(pairwise(network.shapes))
    for number, (layer, (before, after)) in enumerate(zip(network.layers, shapes, strict=True)):
        following = network.layers[number + 1 : number + 2]
        match layer:
            case Conv2d():
                affine = any(isinstance(other, Affine) for other in following)
                kernels.append(conv(layer, before, x, slots, samples, affine))
                x = _Values(slots, math.prod(after))
            case Dense():
                kernels.append(dense(layer, x, slots, samples))
                x = _Values(slots, layer.outputs)
            case MaxPool2d():
                kernels.append(_pool(layer, before, after, x.slots, samples))
                x = _Values(x.slots, math.prod(after))
            case Flatten() | Affine():  # a view; part of the convolution before it
                pass
            case _:
                raise NotImplementedError(str(layer))
    if loss:
        kernels.append(_sample_losses(slots, samples, x.features))
        kernels.append(_finish_losses(slots, samples))
    op = "network_loss" if loss else "network_forward"
    return Work(op, f"{name}, {slots} x {samples}", tuple(kernels))


def tile_of(rows: int, outputs: int) -> tuple[int, int]:
    """Rows and outputs of a block (``launch_dense``, ``launch_conv``)."""
    taken = _ceil(rows, 128) * 128
    if outputs <= 16:
        return 128, 16
    if 4 * (taken - rows) > taken:
        return 32, 64
    return (128, 32) if outputs <= 32 else (128, 64)


def dense(layer: Dense, x: _Values, slots: int, samples: int) -> Kernel:
    """By tiles; or, up to 8 samples, with weights read once and inputs once per part of outputs."""
    inputs, outputs = x.features, layer.outputs
    parameters = outputs * (inputs + layer.bias)
    if samples <= FEW_SAMPLES:
        name = "dense_few_kernel"
        vector = 4 if outputs % 4 == 0 else 1
        threads = min(128, _ceil(_ceil(outputs, vector), 32) * 32)
        down, across = 1, _ceil(outputs, threads * vector)
    else:
        name = "dense_kernel"
        rows, columns = tile_of(samples, outputs)
        down, across = _ceil(samples, rows), _ceil(outputs, columns)
    written = 4 * slots * samples * outputs
    return Kernel(
        f"{name}, {inputs} to {outputs}",
        4 * (slots * parameters + x.slots * samples * inputs) + written,
        4 * slots * (down * parameters + across * samples * inputs),
        written,
        _EACH * slots * samples * inputs * outputs,
    )


def conv(
    layer: Conv2d, image: tuple[int, ...], x: _Values, slots: int, samples: int, affine: bool
) -> Kernel:
    """By tiles of positions x channels; a row reads its window, but for the padding."""
    channels, height, width = image
    kernel_height, kernel_width, stride_height, stride_width, *padding = layer.geometry()
    out_height, out_width = pool_output(layer, height, width)
    depth, positions = channels * kernel_height * kernel_width, out_height * out_width
    rows, columns = tile_of(samples * positions, layer.outputs)
    down, across = _ceil(samples * positions, rows), _ceil(layer.outputs, columns)
    taps = channels * math.prod(
        _taps(*axis)
        for axis in (
            (out_height, kernel_height, stride_height, padding[0], height),
            (out_width, kernel_width, stride_width, padding[1], width),
        )
    )
    parameters = layer.outputs * (depth + layer.bias + 2 * affine)
    outputs = slots * samples * positions * layer.outputs
    return Kernel(
        f"conv_kernel, {channels} to {layer.outputs} channels",
        4 * (slots * parameters + x.slots * samples * x.features + outputs),
        4 * slots * (down * parameters + across * samples * taps),
        4 * outputs,
        _EACH * outputs * (depth + 2 * affine),
    )


def _taps(out: int, kernel: int, stride: int, padding: int, size: int) -> int:
    """Places of all windows along an axis that lie inside the image."""
    begins = (place * stride - padding for place in range(out))
    return sum(max(0, min(begin + kernel, size) - max(begin, 0)) for begin in begins)


def _pool(
    layer: MaxPool2d, before: tuple[int, ...], after: tuple[int, ...], slots: int, samples: int
) -> Kernel:
    kernel_height, kernel_width, stride_height, stride_width, *padding = layer.geometry()
    taps = before[0] * math.prod(
        (
            _taps(after[1], kernel_height, stride_height, padding[0], before[1]),
            _taps(after[2], kernel_width, stride_width, padding[1], before[2]),
        )
    )
    images = slots * samples
    written = 4 * images * math.prod(after)
    least = 4 * images * min(taps, math.prod(before)) + written
    return Kernel("pool_kernel", least, 4 * images * taps, written, 0)


# --- variation


@dataclass(frozen=True)
class Offspring:
    """How many offspring are copies, children of two parents, and mutants of one.

    ``parents``: different rows that they come from.
    """

    copied: int
    crossed: int
    mutated: int
    parents: int

    @property
    def count(self) -> int:
        return self.copied + self.crossed + self.mutated


def crossover_mutate(kind: str, genes: int, children: Offspring, rate: float = 0.5) -> Work:
    """Two parents, normal mutation of every gene of the mutants.

    A thread has four genes; of a parent that none of them comes from it reads nothing.
    """
    blends = kind == "arithmetic"
    # Of the two parents of a child: what is read of either, in genomes.
    both = 2.0 if blends else 2.0 - rate**4 - (1 - rate) ** 4
    controls = children.count * (3 + 2 * blends) * 4
    written = 4 * genes * children.count
    read = round(4 * genes * (children.copied + children.mutated + both * children.crossed))
    operations = children.mutated * _NORMAL_MUTATION + 3 * blends * children.crossed
    kernel = Kernel(
        "crossover_mutate_kernel",
        4 * genes * children.parents + written + controls,
        read + controls,
        written,
        round(_EACH * genes * operations),
    )
    return Work("crossover_mutate", f"{kind}, {children.count} x {genes:,} genes", (kernel,))


def replay(genes: int, lineages: int, mutations: int) -> Work:
    """Founders by ``glorot_uniform``, then so many normal mutations each; nothing is read."""
    written = 4 * genes * lineages
    operations = round(_EACH * genes * lineages * (_INIT + mutations * _NORMAL_MUTATION))
    kernel = Kernel("replay_kernel", written, 0, written, operations)
    shape = f"{lineages} lineages of {mutations} mutations, {genes:,} genes"
    return Work("replay", shape, (kernel,))


# --- search distributions


def nes_step(rows: int, choices: int, samples: int) -> Work:
    """``nes_sample``, then ``nes_update``, without a mask."""
    table, drawn = 4 * rows * choices, 4 * samples * rows
    # A thread for every row and sample adds the row up three times, the last time to its choice.
    sample = Kernel(
        "nes_sample_kernel",
        table + drawn,
        samples * 4 * rows * (3 * choices - 1),
        drawn,
        _EACH * samples * rows * 3 * (2 * choices - 1),
    )
    losses = 4 * samples
    utilities = Kernel(
        "nes_utilities_kernel", 2 * losses, samples * losses, losses, _EACH * 2 * samples
    )
    # A warp has a row; every entry goes through all samples. The result is written, added up,
    # and written anew.
    update = Kernel(
        "nes_update_kernel",
        2 * table + drawn + losses,
        4 * rows * (choices + samples + choices * (1 + 2 * samples) + 2 * choices),
        2 * table,
        _EACH * rows * choices * (2 * samples + 11),
    )
    return Work("nes", f"{rows} x {choices}, {samples} samples", (sample, utilities, update))
