"""Whole networks on a device: which steps run in which order, and where what they write lies.

Images lie channels first everywhere, so that the steps which reorder them fall away. What a step
writes has a buffer in the workspace: of all slots that run at a time, or, where the batch is shared
and no layer with parameters has come yet, one for all. One is used again once nobody reads it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.backends.device import current_device
from evokern.backends.step_table import (
    ADD,
    CHANNELS_FIRST,
    CHANNELS_LAST,
    CONV,
    ELMAN,
    NetworkProgram,
    Step,
)
from evokern.backends.steps import compile_network
from evokern.layers import Affine, Conv2d, Dense, Elman, Layer, Residual, shapes_along
from evokern.network import Network

I64 = npt.NDArray[np.int64]

WORKSPACE_BYTES = 1 << 30
"""What the buffers of the slots that run at a time may take; one slot may take more."""

FEW_SAMPLES = 8
"""Up to so many samples of a slot, layers stream their weights instead of sharing them."""

# Buffers that are the caller's arrays, as in csrc/cuda/kernels.h.
_INPUT, _OUT = 0, 1

_ALIGNMENT = 256  # bytes
_RESULT_BYTES = 8  # loss and correctness of a sample


@dataclass(frozen=True, eq=False)
class Plan:
    """What the kernels' launches take beside the arrays (``csrc/cuda/layers.cu``, Triton's).

    ``routes`` int64 [steps, 4]: number in the program; buffers that it reads, adds and writes; the
    first ``head_routes`` run once for all slots. ``places`` int64 [buffers, 3]: offset in bytes,
    floats from one sample to the next, whether every slot has one. ``output``, ``copy`` (of bytes
    as floats) and ``state`` (of recurrent layers) are buffers, -1 for none; ``losses`` an offset.
    ``fused_step``: from this step of the program on, one kernel that reads ``output``; -1: none.
    """

    program: NetworkProgram
    slots: int
    shared: bool
    inputs: int
    routes: I64
    head_routes: int
    places: I64
    output: int
    copy: int
    state: int
    losses: int
    bytes: int
    fused_step: int = -1


def plan_bytes(network: Network, slots: int, samples: int, *, shared: bool, of_bytes: bool) -> int:
    """See ``ops.workspace_bytes``: what the largest plan takes, control arrays included."""
    layers, shape = network.layers, network.input_shape
    plans = (
        make_plan(
            layers,
            shape,
            slots,
            samples,
            shared=shared,
            of_bytes=of_bytes,
            loss=loss,
            bias_apart=False,
            limit=WORKSPACE_BYTES,
            fused=False,
        )
        for loss in (False, True)
    )
    banks = len(network.layout.blocks)
    controls = _aligned(4 * max(1, banks) * slots) + _aligned(4 * slots)
    return controls + max(plan.bytes for plan in plans)


def rows_to_send(index: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """``index`` [banks, slots], or one row of it where all are equal; kernels take either."""
    return index[:1] if len(index) > 1 and (index[1:] == index[0]).all() else index


def plan_for(
    layers: tuple[Layer, ...],
    input_shape: tuple[int, ...],
    x: Any,
    index: npt.NDArray[np.int32],
    *,
    of_bytes: bool,
    loss: bool,
    bias_apart: bool,
    fused: bool,
) -> Plan:
    """The plan of a call in the memory that the current device has for it.

    ``fused``: one kernel runs the dense layers behind the head (``dense_stack``).
    """
    axes = len(x.shape) - len(input_shape)
    slots, samples = index.shape[1], x.shape[axes - 1]
    limit = current_device().limit
    if limit is None:
        limit = WORKSPACE_BYTES
    else:  # beside index and classes
        limit = max(0, limit - _aligned(index.nbytes) - _aligned(4 * slots))
    return make_plan(
        layers,
        input_shape,
        slots,
        samples,
        shared=axes == 1,
        of_bytes=of_bytes,
        loss=loss,
        bias_apart=bias_apart,
        limit=limit,
        fused=fused,
    )


@lru_cache(maxsize=1024)
def dense_stack(layers: tuple[Layer, ...], input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Features between dense layers that only layers without parameters precede; else nothing."""
    first = next((i for i, layer in enumerate(layers) if isinstance(layer, Dense)), len(layers))
    head, rest = layers[:first], layers[first:]
    if any(isinstance(layer, Conv2d | Affine | Residual | Elman) for layer in head):
        return ()
    if not all(isinstance(layer, Dense) for layer in rest):
        return ()
    shapes = shapes_along(layers, input_shape)
    return tuple(math.prod(shape) for shape in shapes[first:])


@dataclass
class _BufferPool:
    """Buffers in the workspace: floats of a sample, and whether every slot has one."""

    features: list[int] = field(default_factory=lambda: [0, 0])
    per_slot: list[bool] = field(default_factory=lambda: [False, False])
    free: list[int] = field(default_factory=list)

    def acquire(self, features: int, per_slot: bool) -> int:
        for buffer in self.free:
            if self.per_slot[buffer] == per_slot:
                self.free.remove(buffer)
                self.features[buffer] = max(self.features[buffer], features)
                return buffer
        self.features.append(features)
        self.per_slot.append(per_slot)
        return len(self.features) - 1

    def release(self, buffer: int) -> None:
        if buffer not in (_INPUT, _OUT):
            self.free.append(buffer)


@lru_cache(maxsize=1024)
def make_plan(
    layers: tuple[Layer, ...],
    input_shape: tuple[int, ...],
    slots: int,
    samples: int,
    *,
    shared: bool,
    of_bytes: bool,
    loss: bool,
    bias_apart: bool,
    limit: int,
    fused: bool,
) -> Plan:
    """Decides where what each step writes lies, and how many slots run at a time.

    As many as ``limit`` bytes of workspace hold, one at least, in chunks of nearly one size. With
    a shared batch the steps without parameters at the head run once for all of them.

    Args:
        of_bytes: whether x is uint8; it is copied as floats where a step needs that.
        loss: whether losses follow; otherwise the last step writes to the caller's array.
        bias_apart: see `compile_network`.
        fused: see `plan_for`.
    """
    program = compile_network(layers, input_shape, tiles=False, bias_apart=bias_apart)
    steps = program.steps
    kept, output = _values(program)
    fused_step = -1
    if fused:  # the dense layers behind the head
        output = sum(number < program.head_steps for number, _, _ in kept)
        fused_step = kept[output][0]
        kept = kept[:output]
    head = sum(number < program.head_steps for number, _, _ in kept) if shared else 0
    last_reader = {v: i for i, (_, *read) in enumerate(kept) for v in read}
    buffers = _BufferPool()
    copy = -1
    # Convolutions read bytes as they are.
    reads_floats = any(0 in read and steps[number].kind != CONV for number, *read in kept)
    if of_bytes and (reads_floats or (output == 0 and not fused)):
        copy = buffers.acquire(math.prod(input_shape), not shared)
    states = [steps[number].outputs for number, _, _ in kept if _alternates(steps[number])]
    state = buffers.acquire(max(states), True) if states else -1
    buffer_of = [_INPUT if copy < 0 else copy]
    routes = []
    for i, (number, source, other) in enumerate(kept):
        if i + 1 == output and i >= head and not loss and not fused:
            target = _OUT
        else:
            target = buffers.acquire(steps[number].outputs, i >= head)
        buffer_of.append(target)
        routes.append((number, buffer_of[source], buffer_of[other], target))
        for value in {source, other}:
            if last_reader[value] == i:
                buffers.release(buffer_of[value])
    chunk, offsets, total = _layout(buffers, slots, samples, loss, limit)
    strides = [_whole_fours(features) for features in buffers.features]
    return Plan(
        program,
        slots=chunk,
        shared=shared,
        inputs=math.prod(input_shape),
        routes=np.array(routes, np.int64).reshape(-1, 4),
        head_routes=head,
        places=np.array([offsets[:-1], strides, buffers.per_slot], np.int64).T.copy(),
        output=buffer_of[output],
        copy=copy,
        state=state,
        losses=offsets[-1],
        bytes=total,
        fused_step=fused_step,
    )


def _values(program: NetworkProgram) -> tuple[list[tuple[int, int, int]], int]:
    """Steps that do something, as (number, value read, value added), and the output's value.

    Value 0 is the input, value i + 1 what the i-th of these steps writes.
    """
    kept: list[tuple[int, int, int]] = []
    held = {0: 0}
    for number, step in enumerate(program.steps):
        source = held[step.source]
        if step.kind in (CHANNELS_FIRST, CHANNELS_LAST):
            held[step.target] = source
            continue
        kept.append((number, source, held[step.other] if step.kind == ADD else source))
        held[step.target] = len(kept)
    return kept, held[program.output_buffer]


def _alternates(step: Step) -> bool:
    """Whether the step's output has room for the last state only."""
    return step.kind == ELMAN and not step.whole_sequence and step.length > 1


def _layout(
    buffers: _BufferPool, slots: int, samples: int, loss: bool, limit: int
) -> tuple[int, list[int], int]:
    """Slots that run at a time, offsets of the buffers and of the losses, and all bytes."""

    def size(buffer: int, chunk: int) -> int:
        many = chunk if buffers.per_slot[buffer] else 1
        return _aligned(4 * many * samples * _whole_fours(buffers.features[buffer]))

    numbers = range(len(buffers.features))

    def offsets(chunk: int) -> list[int]:
        return list(accumulate((size(buffer, chunk) for buffer in numbers), initial=0))

    def total(chunk: int) -> int:
        return offsets(chunk)[-1] + (_aligned(chunk * samples * _RESULT_BYTES) if loss else 0)

    fit = max(1, bisect_right(range(slots + 1), limit, key=total) - 1)
    # Chunks of one size, as nearly as can be.
    chunk = -(-slots // -(-slots // fit)) if slots else 1
    return chunk, offsets(chunk), total(chunk)


def _whole_fours(features: int) -> int:
    """Floats between samples, so that each starts at a multiple of 16 bytes."""
    return -(-features // 4) * 4


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
