"""Calls of the ops of networks, odd in size, memory or value."""

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
    small_numbers,
    special_numbers,
)

from evokern.network import (
    ACTIVATIONS,
    Activation,
    AvgPool2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    pool_output,
)


def _index(slots: int, population: int) -> np.ndarray:
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
    **options: Any,
) -> Call:
    population = 4 if indexed else slots
    x = MEMORY[memory](values(*(() if shared else (slots,)), batch, inputs))
    w = in_rows(values(population, inputs, outputs), 2, memory)
    b = MEMORY[memory](values(population, outputs))
    if indexed:
        options["index"] = _index(slots, population)
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
    options: dict[str, Any] = {"index": _index(slots, population)} if indexed else {}
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


def _mlp(layers: int) -> Network:
    widths = [(7 * i) % 19 + 1 for i in range(1, layers)]
    return Network.mlp(5, widths, 3, "tanh")


NETWORKS = {
    "no layers": Network((), (5,)),
    "image without layers": Network((), (2, 3, 2)),
    "flatten": Network((Flatten(),), (2, 3, 2)),
    "pools": Network((MaxPool2d(2, 1), AvgPool2d((1, 2), padding=(0, 1))), (2, 4, 5)),
    "activations": Network((Activation("tanh"), Activation("leaky_relu", 0.3)), (17,)),
    "head": Network(
        (
            Activation("leaky_relu", 0.5),
            MaxPool2d(3, 2, 1),
            AvgPool2d(2, 1, 1, count_include_pad=False),
            Activation("gelu"),
            Flatten(),
            Dense(17, "silu"),
            Activation("sigmoid"),
            Dense(5),
        ),
        (2, 9, 7),
    ),
    "all activations": Network(tuple(Dense(11, name) for name in ACTIVATIONS), (6,)),
    "thesis": Network(
        (MaxPool2d(2), Flatten(), Dense(33, "relu"), Dense(17, "relu"), Dense(10)), (1, 12, 12)
    ),
    "widest in": Network((Dense(2, "relu"), Dense(130), Dense(1)), (4096,)),
    "widest out": Network((Dense(4096, "relu"), Dense(2)), (1,)),
    "wide": Network((Dense(129, "relu"), Dense(1000), Dense(1)), (300,)),
    **{f"{n} dense layers": _mlp(n) for n in range(1, 13)},
}
WIDE = ("widest in", "widest out", "wide")


def _evaluation(
    network: Network,
    slots: int = 5,
    batch: int = 35,
    *,
    shared: bool = True,
    indexed: bool = True,
    values: Values = numbers,
    memory: str = "aligned rows",
    x_memory: str = "aligned rows",
    out_pad: int | None = None,
    **options: Any,
) -> Call:
    population = 4 if indexed else slots
    genomes = MEMORY[memory](values(population, network.layout.size))
    outer = (batch,) if shared else (slots, batch)
    x = in_rows(values(*outer, *network.input_shape), len(network.input_shape), x_memory)
    if indexed:
        options["index"] = _index(slots, population)
    if out_pad is not None:
        whole = np.full((slots, batch + out_pad, *network.output_shape), np.nan, F)
        options["out"] = whole[:, :batch]
    return (genomes, network, x), options


def network_forward_cases() -> Iterator[Case]:
    case = case_maker("network_forward", _evaluation)
    for (name, network), precision in itertools.product(NETWORKS.items(), ("fp32", "bf16")):
        slots, batch = (2, 3) if name in WIDE else (5, 35)
        for shared in (True, False):
            text = f"{name}, shared={shared}, {precision}"
            yield case(text, network, slots, batch, shared=shared, precision=precision)
    thesis, head = NETWORKS["thesis"], NETWORKS["head"]
    for batch, shared in itertools.product(
        (*ODD_SIZES, 31, 32, 33, 63, 64, 65, 130), (True, False)
    ):
        yield case(f"batch {batch}, shared={shared}", thesis, 2, batch, shared=shared)
    for slots, shared in itertools.product((0, *ODD_SIZES), (True, False)):
        yield case(f"{slots} slots, shared={shared}", _mlp(2), slots, 2, shared=shared)
    for memory in MEMORY:
        yield case(f"genomes {memory}", thesis, memory=memory)
        yield case(f"x {memory}", head, x_memory=memory)
        yield case(f"x {memory}, per slot", head, x_memory=memory, shared=False)
    for name in ("thesis", "pools"):
        yield case(f"out with gaps, {name}", NETWORKS[name], out_pad=3)
    for values, precision in itertools.product((special_numbers, small_numbers), ("fp32", "bf16")):
        name = f"{values.__name__}, {precision}"
        yield case(name, NETWORKS["all activations"], values=values, precision=precision)
    yield case("special_numbers, pools", NETWORKS["pools"], values=special_numbers)
    yield case("no index", thesis, indexed=False)


_LABELS = Network((Dense(9, "relu"), Dense(10)), (6,))
_LABEL_TYPES = (np.int8, np.uint8, np.int32, np.uint64, np.int64)


def _labelled(
    network: Network = _LABELS,
    slots: int = 5,
    batch: int = 35,
    *,
    labels_shared: bool = True,
    few_classes: bool = False,
    label_type: type = np.int64,
    **options: Any,
) -> Call:
    arguments, options = _evaluation(network, slots, batch, **options)
    rng = np.random.default_rng([2, slots, batch])
    outer = (batch,) if labels_shared else (slots, batch)
    outputs = network.output_shape[0]
    if options.get("loss") == "mse":
        y = numbers(*outer, outputs)
    else:
        y = rng.integers(0, 4 if few_classes else outputs, outer).astype(label_type)
    if few_classes:
        options["classes"] = rng.integers(4, outputs + 1, slots, np.int32)
    return (*arguments, y), options


def network_loss_cases() -> Iterator[Case]:
    case = case_maker("network_loss", _labelled)
    flat = {name: network for name, network in NETWORKS.items() if len(network.output_shape) == 1}
    for (name, network), loss in itertools.product(flat.items(), ("cross_entropy", "mse")):
        slots, batch = (2, 3) if name in WIDE else (5, 35)
        yield case(f"{name}, {loss}", network, slots, batch, loss=loss)
    axes = ("shared", "labels_shared", "few_classes")
    for choice, loss, precision in itertools.product(
        itertools.product((True, False), repeat=3), ("cross_entropy", "mse"), ("fp32", "bf16")
    ):
        options = dict(zip(axes, choice, strict=True)) | {"loss": loss, "precision": precision}
        yield case(", ".join(map(str, options.values())), **options)
    for batch, loss in itertools.product(
        (*ODD_SIZES, 31, 32, 33, 63, 64, 65, 130), ("cross_entropy", "mse")
    ):
        yield case(f"batch {batch}, {loss}", batch=batch, loss=loss)
    for slots in (0, *ODD_SIZES):
        yield case(f"{slots} slots", slots=slots, batch=3, few_classes=True)
    for label_type in _LABEL_TYPES:
        yield case(f"labels {label_type.__name__}", label_type=label_type, labels_shared=False)
    for memory in MEMORY:
        yield case(f"{memory}", memory=memory, x_memory=memory, shared=False)
    for values, loss in itertools.product(
        (special_numbers, small_numbers), ("cross_entropy", "mse")
    ):
        yield case(f"{values.__name__}, {loss}", values=values, loss=loss)
        logits = NETWORKS["no layers"]
        yield case(f"{values.__name__} as logits, {loss}", logits, values=values, loss=loss)
        options = {"values": values, "loss": loss, "few_classes": True}
        yield case(f"{values.__name__} as logits, {loss}, classes", logits, **options)


CASES = {
    "dense_forward": list(dense_forward_cases()),
    "max_pool2d": list(pool_cases("max_pool2d", [{}])),
    "avg_pool2d": list(pool_cases("avg_pool2d", [{}, {"count_include_pad": False}])),
    "affine": list(affine_cases()),
    "network_forward": list(network_forward_cases()),
    "network_loss": list(network_loss_cases()),
}
