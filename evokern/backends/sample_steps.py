"""A network as steps of single samples: numbered buffers, images channels last."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from evokern.backends.step_table import (
    ACTIVATION,
    ADD,
    CHANNELS_FIRST,
    CHANNELS_LAST,
    CONV,
    DENSE,
    ELMAN,
    NO_PARAMETER,
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
from evokern.errors import ArgumentError, message
from evokern.layers import (
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
)

MOST_BUFFERS = 64  # kMostBuffers of csrc/cpu/sample_steps.h


@dataclass(frozen=True)
class _Value:
    """What lies in a buffer: a sample's shape; images channels last unless said otherwise."""

    buffer: int
    shape: Shape
    channels_first: bool = False


@dataclass
class SampleSteps:
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
            self.steps = with_bias_apart(self.steps)
        images = [number for number, step in enumerate(self.steps) if step.kind == CONV]
        flat = range(images[-1] + 1 if images else 0, len(self.steps))
        first = (number for number in flat if self.steps[number].kind in (DENSE, ELMAN))
        return network_program(
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
            case Affine() if self.fuses(x) and self.steps[-1].scale == NO_PARAMETER:
                bank, channels = self.bank(), x.shape[0]
                step = replace(self.steps[-1], scale=(bank, 0), shift=(bank, channels))
                self.steps[-1] = activated(step, layer.activation, layer.negative_slope)
                return x
            case Activation() if self.fuses(x):
                self.steps[-1] = activated(self.steps[-1], layer.name, layer.negative_slope)
                return x
        reads_any_order = isinstance(layer, Conv2d | MaxPool2d | AvgPool2d | GlobalAvgPool)
        if not reads_any_order:
            x = self.channels_last(x)
        step = Step(
            ACTIVATION,
            inputs=math.prod(x.shape),
            outputs=math.prod(after),
            source=x.buffer,
            image=image_of(x.shape),
            channels_first=x.channels_first,
            out_image=image_of(after),
        )
        match layer:
            case Dense():
                step = dense_step(layer, step, self.bank())
            case Conv2d():
                step = self.conv(layer, step)
            case Affine():
                step = affine_step(layer, step, self.bank())
            case Activation():
                step = activated(step, layer.name, layer.negative_slope)
            case MaxPool2d() | AvgPool2d():
                step = pool_step(layer, step)
            case GlobalAvgPool():
                step = global_pool_step(step)
            case Elman():
                step = self.elman(layer, step, x.shape)
            case _:
                raise AssertionError(layer)
        return self.append(step, x, after)

    def append(self, step: Step, x: _Value, after: Shape) -> _Value:
        """Gives the step a buffer to write to, and x's back where nobody else reads it."""
        target = self.acquire(step.outputs, step.kind)
        self.steps.append(replace(step, target=target))
        self.release(x)
        return _Value(target, after)

    def acquire(self, features: int, kind: int) -> int:
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

    def release(self, x: _Value) -> None:
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
        step = activated(step, layer.activation, layer.negative_slope)
        step = replace(step, out_image=(body.shape[0], 1, 1))
        value = self.append(step, body, body.shape)
        for read in {other.buffer, x.buffer} - {body.buffer}:
            self.release(_Value(read, x.shape))
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
        taps, windows = conv_places(layer, step.image, step.channels_first, self.operand_channels)
        self.places += [taps, windows]
        first = self.place_count
        self.place_count += len(taps) + len(windows)
        return conv_step(layer, step, self.bank(), first, len(taps))

    def elman(self, layer: Elman, step: Step, shape: Shape) -> Step:
        length, inputs = shape
        bank, outputs = self.bank(), layer.outputs
        return replace(
            activated(step, layer.activation, layer.negative_slope),
            kind=ELMAN,
            weights=(bank, 0),
            recurrent=(bank, inputs * outputs),
            bias=(bank, (inputs + outputs) * outputs),
            length=length,
            whole_sequence=layer.return_sequence,
        )
