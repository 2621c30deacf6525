"""Calls of the ops of single layers, odd in size, memory or value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from cases import (
    MEMORY,
    ODD_SIZES,
    Call,
    Case,
    F,
    Values,
    case_maker,
    in_rows,
    numbers,
    padded,
    small_numbers,
    special_numbers,
)

from evokern.layers import ACTIVATIONS, Conv2d, MaxPool2d, pool_output

NEW_LAYERS = True
"""Whether the back ends have convolution, affine, recurrent and residual layers."""


def some_index(slots: int, population: int) -> np.ndarray:
    """Individuals for slots, with repeats and omissions."""
    return (np.arange(slots) * 3 % max(population - 1, 1)).astype(np.int32)[::-1].copy()


def _dense(
    slots: int = 3,
    batch: int = 5,
    inputs: int = 7,
    outputs: int = 4,
    *,
    shared: bool = False,
    indexed: bool = True,
    values: Values = numbers,
    memory: str = "aligned rows",
    out_memory: str | None = None,
    bias: bool = True,
    **options: Any,
) -> Call:
    population = 4 if indexed else slots
    x = MEMORY[memory](values(*(() if shared else (slots,)), batch, inputs))
    w = in_rows(values(population, inputs, outputs), 2, memory)
    b = MEMORY[memory](values(population, outputs)) if bias else None
    if indexed:
        options["index"] = some_index(slots, population)
    if out_memory is not None:
        options["out"] = MEMORY[out_memory](np.zeros((slots, batch, outputs), F))
    return (x, w, b), options


def dense_forward_cases() -> Iterator[Case]:
    case = case_maker("dense_forward", _dense)
    for activation, values in itertools.product(ACTIVATIONS, (numbers, special_numbers)):
        yield case(f"{activation}, {values.__name__}", activation=activation, values=values)
    for slope in (0.25, 0.0, -1.5, 1e-40):
        yield case(f"slope {slope}", activation="leaky_relu", negative_slope=slope)
    for inputs in (*ODD_SIZES, 127, 128, 129):
        yield case(f"{inputs} inputs", inputs=inputs)
    for outputs, batch in itertools.product(range(1, 26), (7, 35)):
        yield case(f"{outputs} outputs, batch {batch}", 2, batch, 300, outputs, activation="relu")
    for batch in (*ODD_SIZES, 31, 32, 33, 63, 64, 65, 130):
        yield case(f"batch {batch}", batch=batch)
    for inputs, outputs in ((4096, 1), (1, 4096), (4096, 7), (1000, 129), (129, 1000)):
        yield case(f"{inputs} to {outputs}", 1, 3, inputs, outputs)
    for slots, shared in itertools.product((0, *ODD_SIZES), (False, True)):
        yield case(f"{slots} slots, shared={shared}", slots, 2, 3, 2, shared=shared)
    for memory, shared in itertools.product(MEMORY, (False, True)):
        yield case(f"{memory}, shared={shared}", memory=memory, shared=shared, batch=35)
    for memory in MEMORY:
        yield case(f"out {memory}", out_memory=memory, batch=35)
    yield case("no index", indexed=False)
    yield case("small", values=small_numbers)
    for inputs, outputs in ((1, 1), (2, 3), (7, 4), (129, 5), (300, 13)):
        yield case(f"bf16, {inputs} to {outputs}", 3, 35, inputs, outputs, precision="bf16")
    for activation in ACTIVATIONS:
        yield case(f"bf16, {activation}", activation=activation, precision="bf16")
    yield case("bf16, special", values=special_numbers, precision="bf16")
    if NEW_LAYERS:
        for values in (numbers, special_numbers, small_numbers):
            yield case(f"no bias, {values.__name__}", bias=False, values=values)


Images = tuple[int, int, int]


def _convolution(
    outputs: int = 5,
    kernel: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    shape: Images = (2, 9, 7),
    slots: int = 3,
    batch: int = 5,
    *,
    shared: bool = False,
    indexed: bool = True,
    bias: bool = True,
    values: Values = numbers,
    memory: str = "aligned rows",
    out_memory: str | None = None,
    bytes_in: bool = False,
    **options: Any,
) -> Call:
    layer = Conv2d(outputs, kernel, stride, padding)
    population = 4 if indexed else slots
    rows = shape[0] * int(np.prod(layer.geometry()[:2]))
    x = in_rows(values(*(() if shared else (slots,)), batch, *shape), 3, memory)
    if bytes_in:
        x, options["x_scale"] = np.abs(x * 99).astype(np.uint8), 1 / 255
    w = in_rows(values(population, rows, outputs), 2, memory)
    b = MEMORY[memory](values(population, outputs)) if bias else None
    options |= {"stride": stride, "padding": padding}
    if not isinstance(kernel, int):
        options["kernel"] = kernel
    if indexed:
        options["index"] = some_index(slots, population)
    if out_memory is not None:
        size = pool_output(layer, *shape[1:])
        options["out"] = in_rows(np.zeros((slots, batch, outputs, *size), F), 3, out_memory)
    return (x, w, b), options


CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "plain": (5, 3),
    "padded": (5, 3, 1, 1),
    "strided": (4, 3, 2, 1),
    "1x1 kernel": (5, 1),
    "1x1 image": (3, 1, 1, 0, (2, 1, 1)),
    "1x1 image in padding": (3, 3, 1, 1, (2, 1, 1)),
    "one channel, one output": (1, 3, 1, 1, (1, 9, 7)),
    "kernel as large as the image": (26, (4, 5), 1, 0, (3, 4, 5)),
    "kernel as large as the padded image": (3, (6, 7), 1, 1, (1, 4, 5)),
    "stride beyond the kernel": (3, 2, 5, 0, (1, 13, 7)),
    "stride beyond the image": (3, 2, 99),
    "nothing square": (4, (3, 2), (2, 3), (1, 2)),
    "a row": (3, (1, 5), 1, (0, 2)),
    "a column": (3, (5, 1), 1, (2, 0)),
    "padding beyond the kernel": (2, 2, 1, 3, (1, 3, 2)),
    "windows of padding alone": (2, 1, 2, 2, (2, 2, 3)),
    "stride 4": (3, 8, 4, 0, (2, 21, 20)),
}
"""Outputs, kernel, stride, padding, image."""


def conv2d_forward_cases() -> Iterator[Case]:
    case = case_maker("conv2d_forward", _convolution)
    for (name, shape), shared in itertools.product(CONVOLUTIONS.items(), (False, True)):
        yield case(f"{name}, shared={shared}", *shape, shared=shared)
        options = {"shared": shared, "values": special_numbers}
        yield case(f"{name}, special, shared={shared}", *shape, **options)
    for activation, values in itertools.product(ACTIVATIONS, (numbers, special_numbers)):
        yield case(f"{activation}, {values.__name__}", activation=activation, values=values)
    for slope in (0.25, -1.5, 1e-40):
        yield case(f"slope {slope}", activation="leaky_relu", negative_slope=slope)
    for values in (numbers, special_numbers, small_numbers):
        yield case(f"no bias, {values.__name__}", padding=1, bias=False, values=values)
    for batch, shared in itertools.product((1, 2, 5, 8, 9, 33), (False, True)):
        yield case(f"batch {batch}, shared={shared}", batch=batch, shared=shared)
    for outputs in (*range(1, 35), 63, 64, 65):
        yield case(f"{outputs} outputs", outputs, 2, 1, 1, (2, 3, 5), 2, 3, activation="relu")
    for width in range(1, 35):
        yield case(f"width {width}", 3, 3, 1, 1, (1, 2, width), 2, 2)
        yield case(f"width {width}, stride 2", 3, 3, 2, 1, (2, 3, width), 2, 2, bias=False)
    for outputs in (16, 32, 65):  # all shapes of CUDA's tiles, more than one of each
        yield case(f"large image, {outputs} outputs", outputs, 2, 1, 0, (2, 12, 12), 2, 3)
    for channels in (3, 17, 65):
        yield case(f"{channels} channels", 3, 3, 1, 1, (channels, 5, 4), 2, 2)
    for slots, shared in itertools.product((0, 1, 2, 17), (False, True)):
        yield case(f"{slots} slots, shared={shared}", slots=slots, batch=2, shared=shared)
    for memory, shared in itertools.product(MEMORY, (False, True)):
        yield case(f"{memory}, shared={shared}", memory=memory, shared=shared)
    for memory in MEMORY:
        yield case(f"out {memory}", out_memory=memory)
    yield case("no index", indexed=False)
    yield case("small", values=small_numbers)
    for batch, shared in itertools.product((2, 9), (False, True)):
        options = {"batch": batch, "shared": shared, "bytes_in": True}
        yield case(f"uint8, batch {batch}, shared={shared}", **options)


def conv2d_bf16_cases() -> Iterator[Case]:
    case = case_maker("conv2d_forward", _convolution)
    for name, shape in CONVOLUTIONS.items():
        yield case(f"bf16, {name}", *shape, precision="bf16")
    for batch in (1, 9, 33):
        yield case(f"bf16, no bias, batch {batch}", batch=batch, bias=False, precision="bf16")
    yield case("bf16, special", padding=1, values=special_numbers, precision="bf16")


def dense_bf16_cases() -> Iterator[Case]:
    case = case_maker("dense_forward", _dense)
    for inputs, outputs in ((1, 1), (7, 4), (129, 5)):
        yield case(f"bf16, no bias, {inputs}", 3, 9, inputs, outputs, bias=False, precision="bf16")


def _image(
    *shape: int, values: Values = numbers, memory: str = "aligned rows", out_memory: str = ""
) -> Call:
    options = {"out": MEMORY[out_memory](np.zeros(shape[:-2], F))} if out_memory else {}
    return (in_rows(values(*shape), 3, memory),), options


def global_avg_pool_cases() -> Iterator[Case]:
    case = case_maker("global_avg_pool", _image)
    for shape in (
        *((1, 1, 1), (3, 1, 1), (2, 9, 7), (1, 1, 33), (5, 33, 1), (2, 3, 4, 5), (2, 2, 3, 4, 5)),
        *((17, 65, 2, 3), (0, 3, 2, 2), (3, 0, 2, 2), (2, 1, 64, 64)),
    ):
        yield case(f"{shape}", *shape)
    for values in (special_numbers, small_numbers):
        yield case(values.__name__, 5, 9, 2, 3, values=values)
    for memory in MEMORY:
        yield case(memory, 3, 5, 4, 3, memory=memory)
        yield case(f"out {memory}", 3, 5, 4, 3, out_memory=memory)


def _pair(
    *shape: int, values: Values = numbers, offset: int = 0, in_place: bool = False, **options: Any
) -> Call:
    """Arrays in one piece that start ``offset`` floats into an aligned one."""
    x, y, out = (
        padded(array.reshape(1, -1), 0, offset).reshape(shape)
        for array in (values(*shape), values(*shape)[..., ::-1], np.zeros(shape, F))
    )
    if offset or in_place:
        options["out"] = x if in_place else out
    return (x, y), options


def residual_cases() -> Iterator[Case]:
    case = case_maker("residual", _pair)
    for shape in ((1,), (257,), (3, 5), (2, 3, 5), (2, 3, 4, 5, 2), (0, 3), (2, 0, 3), (1, 70001)):
        yield case(f"{shape}", *shape)
        yield case(f"{shape}, in place", *shape, in_place=True)
    for activation, values in itertools.product(ACTIVATIONS, (numbers, special_numbers)):
        yield case(f"{activation}, {values.__name__}", 9, 33, activation=activation, values=values)
    for slope in (0.25, -1.5):
        yield case(f"slope {slope}", 9, 33, activation="leaky_relu", negative_slope=slope)
    for offset in (1, 3):
        yield case(f"{offset} floats off", 3, 5, 7, offset=offset)
    yield case("small", 9, 33, values=small_numbers, activation="identity")


_GEOMETRIES = [
    (1,),
    (2,),
    (3, 1),
    (2, 3),
    (3, 2, 1),
    ((3, 2), (1, 2), (1, 1)),
    ((2, 5), (3, 1), (1, 0)),
    (5, 5, 2),
    ((9, 7), None, 0),
]


def _images(
    *geometry: Any,
    shape: tuple[int, ...] = (2, 3, 9, 7),
    values: Values = numbers,
    memory: str = "aligned rows",
    out_pad: tuple[int, int, int] | None = None,
    **options: Any,
) -> Call:
    if out_pad is not None:
        size = pool_output(MaxPool2d(*geometry), *shape[-2:])
        whole = np.full(np.add((*shape[:-2], *size), (0, *out_pad)), np.nan, F)
        options["out"] = whole[:, : shape[1], : size[0], : size[1]]
    return (MEMORY[memory](values(*shape)), *geometry), options


def pool_cases(op: str, options: list[dict[str, bool]]) -> Iterator[Case]:
    case = case_maker(op, _images)
    for geometry, values, option in itertools.product(
        _GEOMETRIES, (numbers, special_numbers), options
    ):
        yield case(f"{geometry}, {values.__name__}, {option}", *geometry, values=values, **option)
    for shape in ((1, 1, 1), (0, 4, 4), (1, 9, 7), (2, 2, 3, 9, 7), (17, 3, 2, 2), (0, 2, 3, 3)):
        yield case(f"{shape}", 1, shape=shape)
    for memory in MEMORY:
        yield case(f"{memory}", 3, 2, 1, memory=memory)
    for out_pad in ((0, 0, 0), (0, 0, 1), (0, 2, 0), (1, 0, 0)):
        yield case(f"out with gaps {out_pad}", 3, 2, 1, out_pad=out_pad)
    yield case("small", 2, values=small_numbers)


def _channels(
    *shape: int,
    indexed: bool = True,
    in_place: bool = False,
    values: Values = numbers,
    memory: str = "aligned rows",
    out_memory: str | None = None,
) -> Call:
    slots, channels = shape[0], shape[2]
    population = 4 if indexed else slots
    x = in_rows(values(*shape), max(len(shape) - 3, 1), memory)
    options: dict[str, Any] = {"index": some_index(slots, population)} if indexed else {}
    if in_place:
        options["out"] = x
    if out_memory is not None:
        options["out"] = in_rows(np.zeros(shape, F), max(len(shape) - 3, 1), out_memory)
    scale, shift = (MEMORY[memory](values(population, channels)) for _ in range(2))
    return (x, scale, shift), options


def affine_cases() -> Iterator[Case]:
    case = case_maker("affine", _channels)
    for shape in ((2, 3, 5), (2, 3, 5, 4), (2, 1, 3, 5, 4), (3, 2, 257), (2, 2, 1, 255), (1, 1, 1)):
        yield case(f"{shape}", *shape)
        yield case(f"{shape}, in place", *shape, in_place=True)
    for shape in ((0, 3, 5), (2, 0, 5), (2, 3, 0)):
        yield case(f"{shape}", *shape)
    for memory, shape in itertools.product(MEMORY, ((3, 4, 5), (3, 4, 5, 2, 3))):
        yield case(f"{memory}, {shape}", *shape, memory=memory)
        yield case(f"out {memory}, {shape}", *shape, out_memory=memory)
    yield case("no index", 3, 2, 5, indexed=False)
    yield case("special", 9, 3, 33, values=special_numbers)
    yield case("small", 9, 3, 33, values=small_numbers)


CASES = {
    "dense_forward": list(dense_forward_cases()),
    "max_pool2d": list(pool_cases("max_pool2d", [{}])),
    "avg_pool2d": list(pool_cases("avg_pool2d", [{}, {"count_include_pad": False}])),
    "affine": list(affine_cases()),
}
if NEW_LAYERS:
    CASES |= {
        "conv2d_forward": list(conv2d_forward_cases()),
        "global_avg_pool": list(global_avg_pool_cases()),
        "residual": list(residual_cases()),
    }
