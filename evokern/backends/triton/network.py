"""Whole networks on a device, step by step as a `Plan` says (as ``csrc/cuda/layers.cu`` does)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.backends.device import Block, current_device
from evokern.backends.plan import Plan, dense_stack, plan_for, rows_to_send
from evokern.backends.step_table import (
    ADD,
    AFFINE,
    AVG_POOL,
    CONV,
    DENSE,
    ELMAN,
    GLOBAL_AVG_POOL,
    MAX_POOL,
    Step,
)
from evokern.backends.triton.conv import conv2d
from evokern.backends.triton.dense import MatmulTile, Product, dense
from evokern.backends.triton.elementwise import activation, add, affine, widen_bytes
from evokern.backends.triton.fused import FusedLayer, Labels, fused_layers, fused_tile
from evokern.backends.triton.launch import Parameter, Pointer, Samples, pointer, strides
from evokern.backends.triton.loss import mean_losses, sample_losses
from evokern.backends.triton.pool import pool
from evokern.layers import Layer
from evokern.network import Network

# Buffers of the plan that are the caller's arrays.
_INPUT, _OUT = 0, 1


def network_forward(
    banks: Sequence[Any],
    network: Network,
    x: Any,
    *,
    index: npt.NDArray[np.int32],
    precision: str,
    x_scale: float | None,
    out: Any,
) -> None:
    """See ``ops.network_forward``."""
    layers_forward(
        banks,
        network.layers,
        network.input_shape,
        x,
        index=index,
        precision=precision,
        x_scale=x_scale,
        out=out,
    )


def network_loss(
    banks: Sequence[Any],
    network: Network,
    x: Any,
    y: Any,
    *,
    index: npt.NDArray[np.int32],
    classes: npt.NDArray[np.int32] | None,
    sample_weights: Any | None,
    loss: str,
    precision: str,
    x_scale: float | None,
    out_loss: Any,
    out_correct: Any,
) -> None:
    """See ``ops.network_loss``."""
    block = Block()
    counts = None if classes is None else block.add(classes)
    call = _Call.of(
        banks, network.layers, network.input_shape, x, index, precision, x_scale, block, loss=True
    )
    mse = loss == "mse"
    shared = len(y.shape) == (2 if mse else 1)
    wanted = _Wanted(
        pointer(y),
        0 if shared else strides(y)[0],
        strides(y)[0 if shared else 1],
        None if counts is None else Pointer(call.base + counts, "int32"),
        mse,
        None if sample_weights is None else pointer(sample_weights),
        0 if sample_weights is None or sample_weights.ndim == 1 else strides(sample_weights)[0],
        pointer(out_loss),
        pointer(out_correct),
    )
    for run in call.runs():
        run.losses(wanted)


def layers_forward(
    banks: Sequence[Any],
    layers: tuple[Layer, ...],
    input_shape: tuple[int, ...],
    x: Any,
    *,
    index: npt.NDArray[np.int32],
    precision: str,
    x_scale: float | None,
    out: Any,
    bias_apart: bool = False,
) -> None:
    """``network_forward`` of layers; ``bias_apart``: the bias of the one layer is banks[1]."""
    call = _Call.of(
        banks,
        layers,
        input_shape,
        x,
        index,
        precision,
        x_scale,
        Block(),
        out=Samples(pointer(out), *strides(out)[:2]),
        bias_apart=bias_apart,
    )
    for run in call.runs():
        run.outputs()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Labels or targets of ``network_loss``, what belongs to them, and the results."""

    y: Pointer
    slot_stride: int
    sample_stride: int
    classes: Pointer | None
    mse: bool
    weights: Pointer | None
    weights_slot_stride: int
    out_loss: Pointer
    out_correct: Pointer


@dataclass(frozen=True, slots=True)
class _Call:
    """What is the same for all slots.

    ``tile``: of the fused kernel, where the plan has it; ``base`` is the block's address.
    """

    plan: Plan
    banks: tuple[Parameter, ...]
    x: Samples
    x_scale: float
    slots: int
    samples: int
    precision: str
    tile: MatmulTile | None
    out: Samples | None
    block: Block
    base: int
    memory: int

    @staticmethod
    def of(
        banks: Sequence[Any],
        layers: tuple[Layer, ...],
        input_shape: tuple[int, ...],
        x: Any,
        index: npt.NDArray[np.int32],
        precision: str,
        x_scale: float | None,
        block: Block,
        *,
        out: Samples | None = None,
        loss: bool = False,
        bias_apart: bool = False,
    ) -> _Call:
        """Places the block with index and the plan's memory."""
        index = rows_to_send(index)
        tile = fused_tile(
            dense_stack(layers, input_shape), x.shape[-1 - len(input_shape)], precision
        )
        plan = plan_for(
            layers,
            input_shape,
            x,
            index,
            of_bytes=x_scale is not None,
            loss=loss,
            bias_apart=bias_apart,
            fused=tile is not None,
        )
        rows = block.add(index)
        room = block.room(plan.bytes)
        base = block.upload(current_device())
        slots = index.shape[1]
        return _Call(
            plan,
            tuple(
                # One row of the index for each bank, or one for all.
                Parameter(
                    pointer(bank),
                    strides(bank)[0],
                    Pointer(base + rows + (4 * slots * number if len(index) > 1 else 0), "int32"),
                )
                for number, bank in enumerate(banks)
            ),
            Samples(pointer(x), 0, strides(x)[0])
            if plan.shared
            else Samples(pointer(x), *strides(x)[:2]),
            1.0 if x_scale is None else x_scale,
            slots,
            x.shape[0 if plan.shared else 1],
            precision,
            tile,
            out,
            block,
            base,
            base + room,
        )

    def runs(self) -> Iterator[_Run]:
        """Runs the steps, so many slots at a time; after each, what remains is the output's."""
        plan = self.plan
        head = _Run(self, 0, 1)
        if plan.shared:
            head.widen_bytes()
        head.run(plan.routes[: plan.head_routes])
        for first in range(0, self.slots, plan.slots):
            run = _Run(self, first, min(plan.slots, self.slots - first))
            if not plan.shared:
                run.widen_bytes()
            run.run(plan.routes[plan.head_routes :])
            yield run


@dataclass(frozen=True, slots=True)
class _Run:
    """Slots from ``first`` on; with the shared batch and one slot, the head."""

    call: _Call
    first: int
    slots: int

    def at(self, buffer: int) -> Samples:
        """Where a buffer of the plan lies."""
        call = self.call
        if buffer in (_INPUT, _OUT):
            array = call.x if buffer == _INPUT else call.out
            assert array
            return replace(array, pointer=_moved(array.pointer, self.first * array.slot_stride))
        offset, stride, per_slot = call.plan.places[buffer].tolist()
        memory = Pointer(call.memory + offset, "float32")
        return Samples(memory, call.samples * stride if per_slot else 0, stride)

    def parameter(self, bank_and_offset: tuple[int, int]) -> Parameter:
        """Of a bank and an offset in its rows, counted from the first slot on."""
        bank, offset = bank_and_offset
        whole = self.call.banks[bank]
        return Parameter(
            _moved(whole.pointer, offset), whole.stride, _moved(whole.rows, self.first)
        )

    def parameter_or_none(self, bank_and_offset: tuple[int, int]) -> Parameter | None:
        return self.parameter(bank_and_offset) if bank_and_offset[0] >= 0 else None

    def widen_bytes(self) -> None:
        call = self.call
        if call.plan.copy >= 0:
            widen_bytes(
                self.at(_INPUT),
                self.at(call.plan.copy),
                slots=self.slots,
                samples=call.samples,
                features=call.plan.inputs,
                scale=call.x_scale,
            )

    def run(self, routes: npt.NDArray[np.int64]) -> None:
        for number, source, other, target in routes.tolist():
            self.step(self.call.plan.program.steps[number], *map(self.at, (source, other, target)))

    def step(self, step: Step, x: Samples, other: Samples, out: Samples) -> None:
        sizes = {"slots": self.slots, "samples": self.call.samples}
        code, slope = step.activation, step.slope
        if step.kind == DENSE:
            product = Product(x, self.parameter(step.weights), step.inputs)
            self.dense(step, product, None, out, step.outputs)
        elif step.kind == ELMAN:
            self.elman(step, x, out)
        elif step.kind == CONV:
            self.conv(step, x, out)
        elif step.kind in (MAX_POOL, AVG_POOL, GLOBAL_AVG_POOL):
            # A global pool gives one number per channel, out_image [C, 1, 1].
            pool(
                x,
                out,
                **sizes,
                channels=step.image[0],
                geometry=step.geometry,
                image=step.image[1:],
                out_image=step.out_image[1:],
                largest=step.kind == MAX_POOL,
                count_include_pad=step.count_include_pad,
            )
        elif step.kind == ADD:
            add(x, other, out, **sizes, features=step.outputs, code=code, slope=slope)
        elif step.kind == AFFINE:
            affine(
                x,
                self.parameter(step.scale),
                self.parameter(step.shift),
                out,
                slots=self.slots,
                samples=self.call.samples,
                channels=step.image[0],
                length=step.image[1] * step.image[2],
                code=code,
                slope=slope,
            )
        else:
            activation(x, out, **sizes, features=step.outputs, code=code, slope=slope)

    def dense(
        self, step: Step, first: Product, second: Product | None, out: Samples, outputs: int
    ) -> None:
        dense(
            first,
            second,
            self.parameter_or_none(step.bias),
            out,
            slots=self.slots,
            samples=self.call.samples,
            outputs=outputs,
            code=step.activation,
            slope=step.slope,
            precision=self.call.precision,
        )

    def elman(self, step: Step, x: Samples, y: Samples) -> None:
        """One launch per step of the sequence.

        States lie in the output, or where it is only the last of them, there and in the plan's
        ``state`` by turns.
        """
        features, outputs = step.inputs // step.length, step.out_image[0]
        weights, recurrent = self.parameter(step.weights), self.parameter(step.recurrent)
        before = y  # not read in the first step: the state is +0
        for time in range(step.length):
            now = y
            if step.whole_sequence:
                now = _moved_samples(y, time * outputs)
            elif (step.length - 1 - time) % 2 == 1:
                now = self.at(self.call.plan.state)
            first = Product(_moved_samples(x, time * features), weights, features)
            second = Product(before, recurrent, outputs, there=time > 0)
            self.dense(step, first, second, now, outputs)
            before = now

    def conv(self, step: Step, x: Samples, out: Samples) -> None:
        affine = None
        if step.scale[0] >= 0:
            affine = self.parameter(step.scale), self.parameter(step.shift)
        conv2d(
            x,
            self.parameter(step.weights),
            self.parameter_or_none(step.bias),
            out,
            slots=self.slots,
            samples=self.call.samples,
            image=step.image,
            out_image=step.out_image,
            geometry=step.geometry,
            affine=affine,
            code=step.activation,
            slope=step.slope,
            precision=self.call.precision,
            x_scale=self.call.x_scale,
        )

    def fused(self, out: Samples | None, labels: Labels | None) -> None:
        """The dense layers behind the head."""
        call = self.call
        assert call.tile
        steps = call.plan.program.steps[call.plan.fused_step :]
        fused_layers(
            self.at(call.plan.output),
            [
                FusedLayer(
                    self.parameter(step.weights),
                    step.outputs,
                    step.bias[0] >= 0,
                    step.activation,
                    step.slope,
                )
                for step in steps
            ],
            out,
            labels,
            slots=self.slots,
            samples=call.samples,
            inputs=steps[0].inputs,
            tile=call.tile,
            precision=call.precision,
            x_scale=call.x_scale,
        )

    def outputs(self) -> None:
        """The output to the caller's array, where it does not lie there yet."""
        call = self.call
        if call.tile:
            self.fused(self.at(_OUT), None)
        elif call.plan.output != _OUT:
            activation(
                self.at(call.plan.output),
                self.at(_OUT),
                slots=self.slots,
                samples=call.samples,
                features=call.plan.program.outputs,
                code=0,
                slope=0.0,
            )

    def losses(self, wanted: _Wanted) -> None:
        """The output's losses, and their means."""
        call = self.call
        sizes = {"slots": self.slots, "samples": call.samples}
        losses = Pointer(call.memory + call.plan.losses, "float32")
        correct = Pointer(losses.address + 4 * self.slots * call.samples, "int32")
        labels = Labels(
            _moved(wanted.y, self.first * wanted.slot_stride),
            wanted.slot_stride,
            wanted.sample_stride,
            None if wanted.classes is None else _moved(wanted.classes, self.first),
            wanted.mse,
            losses,
            correct,
        )
        if call.tile:
            self.fused(None, labels)
        else:
            sample_losses(
                self.at(call.plan.output),
                labels.y,
                losses,
                correct,
                **sizes,
                outputs_count=call.plan.program.outputs,
                y_slot_stride=labels.slot_stride,
                y_sample_stride=labels.sample_stride,
                classes=labels.classes,
                mse=labels.mse,
            )
        out_loss, out_correct = (
            _moved(array, self.first) for array in (wanted.out_loss, wanted.out_correct)
        )
        mean_losses(
            losses,
            correct,
            out_loss,
            out_correct,
            **sizes,
            weights=None
            if wanted.weights is None
            else _moved(wanted.weights, self.first * wanted.weights_slot_stride),
            weights_slot_stride=wanted.weights_slot_stride,
        )


def _moved(pointer: Pointer, elements: int) -> Pointer:
    size = np.dtype(pointer.dtype).itemsize
    return Pointer(pointer.address + elements * size, pointer.dtype)


def _moved_samples(x: Samples, features: int) -> Samples:
    return replace(x, pointer=_moved(x.pointer, features))
