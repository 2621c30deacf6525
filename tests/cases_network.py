"""Calls of the ops of whole networks, odd in size, memory or value.

``CASES`` take genomes float32 [P, G] and x float32. ``FORMS`` are the same ops with a bank per
layer, genomes stored as bf16, x of bytes, and the bf16 calls of single layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import cases_layers
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
from cases_layers import NEW_LAYERS, some_index
from networks import FLAT, LAYERED, NATURE, WIDE, mlp

from evokern.layout import size_of
from evokern.network import Dense, Flatten, Network

NETWORKS = FLAT | LAYERED if NEW_LAYERS else FLAT


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
        options["index"] = some_index(slots, population)
    if out_pad is not None:
        whole = np.full((slots, batch + out_pad, *network.output_shape), np.nan, F)
        options["out"] = whole[:, :batch]
    return (genomes, network, x), options


def few_infinities(*shape: int) -> np.ndarray:
    """Normals; times the 0 of a padded weight, the few infinities are NaN."""
    values = numbers(*shape)
    values[np.random.default_rng(3).random(shape) < 0.03] = np.inf
    return values


def few_special_numbers(*shape: int) -> np.ndarray:
    """Mostly normals."""
    return special_numbers(*shape, share=0.01)


def network_forward_cases() -> Iterator[Case]:
    case = case_maker("network_forward", _evaluation)
    for (name, network), precision in itertools.product(FLAT.items(), ("fp32", "bf16")):
        slots, batch = (2, 3) if name in WIDE else (5, 35)
        for shared in (True, False):
            text = f"{name}, shared={shared}, {precision}"
            yield case(text, network, slots, batch, shared=shared, precision=precision)
    thesis, head = FLAT["thesis"], FLAT["head"]
    for batch, shared in itertools.product(
        (*ODD_SIZES, 31, 32, 33, 63, 64, 65, 130), (True, False)
    ):
        yield case(f"batch {batch}, shared={shared}", thesis, 2, batch, shared=shared)
    for slots, shared in itertools.product((0, *ODD_SIZES), (True, False)):
        yield case(f"{slots} slots, shared={shared}", mlp(2), slots, 2, shared=shared)
    for memory in MEMORY:
        yield case(f"genomes {memory}", thesis, memory=memory)
        yield case(f"x {memory}", head, x_memory=memory)
        yield case(f"x {memory}, per slot", head, x_memory=memory, shared=False)
    for name in ("thesis", "pools"):
        yield case(f"out with gaps, {name}", FLAT[name], out_pad=3)
    for values, precision in itertools.product((special_numbers, small_numbers), ("fp32", "bf16")):
        name = f"{values.__name__}, {precision}"
        yield case(name, FLAT["all activations"], values=values, precision=precision)
    for widths in ((5,), (16, 5), (5, 16), (17, 33, 5)):
        network = Network.mlp(4, widths, 3, activation="tanh")
        yield case(f"few infinities, {widths}", network, values=few_infinities)
    yield case("special_numbers, pools", FLAT["pools"], values=special_numbers)
    yield case("no index", thesis, indexed=False)
    if NEW_LAYERS:
        yield from _layered_cases()


_MIXED = ("residual images", "nested residuals", "elmans")
_BATCHES = (1, 2, 5, 8, 9, 33)


def _layered_cases() -> Iterator[Case]:
    case = case_maker("network_forward", _evaluation)
    for (name, network), precision in itertools.product(LAYERED.items(), ("fp32", "bf16")):
        for shared, batch in ((True, 9), (False, 3)):
            text = f"{name}, shared={shared}, {precision}"
            yield case(text, network, 5, batch, shared=shared, precision=precision)
    for name, network in LAYERED.items():
        for values in (special_numbers, small_numbers):
            yield case(f"{name}, {values.__name__}", network, 3, 5, values=values)
        yield case(f"{name}, sparse NaN", network, 4, 5, shared=False, values=few_special_numbers)
    for name, batch in itertools.product(_MIXED, _BATCHES):
        for shared, precision in itertools.product((True, False), ("fp32", "bf16")):
            options = {"shared": shared, "precision": precision}
            yield case(f"{name}, batch {batch}, {options}", LAYERED[name], 2, batch, **options)
    for name in _MIXED:
        network = LAYERED[name]
        for slots in (0, 1, 2, 17):
            yield case(f"{name}, {slots} slots", network, slots, 3)
        for memory in MEMORY:
            yield case(f"{name}, genomes {memory}", network, 3, 5, memory=memory)
            yield case(f"{name}, x {memory}", network, 3, 5, x_memory=memory)
            yield case(
                f"{name}, x {memory}, per slot", network, 3, 5, x_memory=memory, shared=False
            )
        yield case(f"{name}, no index", network, batch=3, indexed=False)
    for name in ("conv, padded", "elman, sequence", "global pool"):
        yield case(f"{name}, out with gaps", LAYERED[name], 3, 5, out_pad=3)
    yield case("nature", NATURE, 2, 1)


_LABELS = Network((Dense(9, "relu"), Dense(10)), (6,))
_LABEL_TYPES = (np.int8, np.uint8, np.int32, np.uint64, np.int64)


def _labelled(
    network: Network = _LABELS,
    slots: int = 5,
    batch: int = 35,
    *,
    labels_shared: bool = True,
    few_classes: int = 0,
    label_type: type = np.int64,
    weighted: str = "",
    make: Any = _evaluation,
    **options: Any,
) -> Call:
    """``few_classes``: slots have that many classes or more, not all the same.

    ``weighted``: the axes of the samples' weights, B or SB.
    """
    arguments, options = make(network, slots, batch, **options)
    rng = np.random.default_rng([2, slots, batch])
    outer = (batch,) if labels_shared else (slots, batch)
    outputs = network.output_shape[0]
    if options.get("loss") == "mse":
        y = numbers(*outer, outputs)
    else:
        y = rng.integers(0, few_classes or outputs, outer).astype(label_type)
    if few_classes:
        options["classes"] = rng.integers(few_classes, outputs + 1, slots, np.int32)
        options["classes"][::2] = few_classes
        options["classes"][1::4] = outputs
    if weighted:
        options["sample_weights"] = rng.random((batch,) if weighted == "B" else (slots, batch), F)
        options["sample_weights"][..., ::7] = 0
    return (*arguments, y), options


def network_loss_cases() -> Iterator[Case]:
    case = case_maker("network_loss", _labelled)
    flat = {name: network for name, network in NETWORKS.items() if len(network.output_shape) == 1}
    for (name, network), loss in itertools.product(flat.items(), ("cross_entropy", "mse")):
        slots, batch = (2, 3) if name in WIDE else (5, 9) if name in LAYERED else (5, 35)
        yield case(f"{name}, {loss}", network, slots, batch, loss=loss)
    axes = ("shared", "labels_shared", "few_classes")
    for choice, loss, precision in itertools.product(
        itertools.product((True, False), (True, False), (4, 0)),
        ("cross_entropy", "mse"),
        ("fp32", "bf16"),
    ):
        options = dict(zip(axes, choice, strict=True)) | {"loss": loss, "precision": precision}
        yield case(", ".join(map(str, options.values())), **options)
    for batch, loss in itertools.product(
        (*ODD_SIZES, 31, 32, 33, 63, 64, 65, 130), ("cross_entropy", "mse")
    ):
        yield case(f"batch {batch}, {loss}", batch=batch, loss=loss)
    for axes, loss, batch in itertools.product(
        ("B", "SB"), ("cross_entropy", "mse"), (1, 5, 33, 64)
    ):
        yield case(f"weights {axes}, {loss}, batch {batch}", batch=batch, loss=loss, weighted=axes)
    for network in ("thesis", "convs and pools"):
        if network in flat:
            for axes in ("B", "SB"):
                yield case(f"{network}, weights {axes}", flat[network], 3, 9, weighted=axes)
    for slots in (0, *ODD_SIZES):
        yield case(f"{slots} slots", slots=slots, batch=3, few_classes=4)
    for label_type in _LABEL_TYPES:
        yield case(f"labels {label_type.__name__}", label_type=label_type, labels_shared=False)
    for memory in MEMORY:
        yield case(f"{memory}", memory=memory, x_memory=memory, shared=False)
    for values, loss in itertools.product(
        (special_numbers, small_numbers), ("cross_entropy", "mse")
    ):
        yield case(f"{values.__name__}, {loss}", values=values, loss=loss)
        logits = FLAT["no layers"]
        yield case(f"{values.__name__} as logits, {loss}", logits, values=values, loss=loss)
        options = {"values": values, "loss": loss, "few_classes": 4}
        yield case(f"{values.__name__} as logits, {loss}, classes", logits, **options)
    if NEW_LAYERS:
        network = LAYERED["convs and pools"]
        for batch, classes in itertools.product(_BATCHES, (0, 3)):
            options = {"few_classes": classes, "shared": False, "labels_shared": False}
            yield case(f"26 classes, {classes} hidden, batch {batch}", network, 5, batch, **options)


def _form(
    network: Network,
    slots: int = 5,
    batch: int = 5,
    *,
    shared: bool = True,
    banks: bool = False,
    indexed: bool = True,
    stored: str = "float32",
    values: Values = numbers,
    memory: str = "aligned rows",
    x_memory: str = "aligned rows",
    **options: Any,
) -> Call:
    """``banks``: one per layer with its own height. ``x_scale`` in options: x is uint8."""
    rng = np.random.default_rng([3, slots, batch])
    sizes = [size_of(b) for b in network.layout.blocks] if banks else [network.layout.size]
    heights = [2 + 3 * number % 5 if indexed else slots for number in range(len(sizes))]
    genomes: list[np.ndarray] = []
    for height, size in zip(heights, sizes, strict=True):
        genes = values(height, size)
        genes = (genes.view(np.uint32) >> 16).astype(np.uint16) if stored == "bf16" else genes
        genomes.append(_in_memory(genes, memory))
    if indexed:
        rows = np.array([rng.integers(0, height, slots) for height in heights], np.int32)
        options["index"] = rows if banks else rows[0]
    outer = (batch,) if shared else (slots, batch)
    if "x_scale" in options:
        x = rng.integers(0, 256, (*outer, *network.input_shape), np.uint8)
    else:
        x = in_rows(values(*outer, *network.input_shape), len(network.input_shape), x_memory)
    return (genomes if banks else genomes[0], network, x), options


def _in_memory(genes: np.ndarray, memory: str) -> np.ndarray:
    if genes.dtype == F:
        return MEMORY[memory](genes)
    # Rows of 16-bit numbers start at odd places.
    pad = {"aligned rows": -genes.shape[1] % 32, "odd rows": 1}[memory]
    return np.pad(genes, ((0, 0), (0, pad)))[:, : genes.shape[1]]


_FORMED = (
    *("dense without bias", "convs and pools", "affine of channels", "affine of features"),
    *("residual images", "nested residuals", "elmans", "elman, sequence"),
)


def _form_options() -> Iterator[tuple[str, dict[str, Any]]]:
    for banks, stored, scale, precision in itertools.product(
        (False, True), ("float32", "bf16"), (None, 1 / 255), ("fp32", "bf16")
    ):
        options: dict[str, Any] = {"banks": banks, "stored": stored, "precision": precision}
        if scale is not None:
            options["x_scale"] = scale
        yield f"banks={banks}, {stored} genomes, x_scale={scale}, {precision}", options


def network_forward_forms() -> Iterator[Case]:
    case = case_maker("network_forward", _form)
    networks = {name: LAYERED[name] for name in _FORMED} | {"thesis": FLAT["thesis"]}
    for (name, network), (text, options) in itertools.product(networks.items(), _form_options()):
        yield case(f"{name}, {text}", network, **options)
        yield case(f"{name}, {text}, per slot", network, 3, 2, shared=False, **options)
    for batch, name in itertools.product((1, 8, 9, 33), ("thesis", "residual images")):
        options = {"banks": True, "stored": "bf16", "x_scale": 0.1}
        yield case(f"{name}, batch {batch}", networks[name], 3, batch, **options)
    # Samples of bytes that begin at multiples of 4, or anywhere.
    for inputs, shared in itertools.product((16, 18, 13, 3), (False, True)):
        network = Network.mlp(inputs, [9], 4)
        options = {"shared": shared, "x_scale": 1 / 255}
        yield case(f"{inputs} bytes, shared={shared}", network, 3, 33, **options)
    for scale in (1.0, 0.0, -3.5, 1e-45, 1e35):
        yield case(f"x_scale {scale}", LAYERED["conv, padded"], x_scale=scale)
    for name, values in itertools.product(_FORMED, (special_numbers, small_numbers)):
        options = {"banks": True, "stored": "bf16", "values": values}
        yield case(f"{name}, {values.__name__}", LAYERED[name], **options)
    for memory in MEMORY:
        yield case(f"banks {memory}", LAYERED["elmans"], banks=True, memory=memory)
    for banks in (False, True):
        options = {"banks": banks, "stored": "bf16", "memory": "odd rows"}
        yield case(f"odd bf16 rows, banks={banks}", LAYERED["residual images"], **options)
        yield case(f"no index, banks={banks}", LAYERED["elmans"], banks=banks, indexed=False)
    yield case("elman on bytes per slot", LAYERED["elman"], x_scale=0.5, shared=False)
    yield case("image of bytes without layers", Network((), (2, 3, 2)), x_scale=0.5)
    yield case("flat bytes", Network((Flatten(),), (2, 3, 2)), x_scale=0.5, shared=False)
    for slots in (0, 1, 17):
        yield case(f"{slots} slots", LAYERED["elmans"], slots, 2, banks=True)


def network_loss_forms() -> Iterator[Case]:
    case = case_maker("network_loss", _labelled)
    for name in ("convs and pools", "elmans", "nested residuals"):
        for text, options in _form_options():
            for loss in ("cross_entropy", "mse"):
                kept = options | {"make": _form, "loss": loss}
                yield case(f"{name}, {text}, {loss}", LAYERED[name], 5, 9, **kept)
    for shared, classes in itertools.product((False, True), (0, 3)):
        options = {"banks": True, "shared": shared, "few_classes": classes}
        network = LAYERED["convs and pools"]
        yield case(f"{options}", network, 5, 33, make=_form, **options)


def composed(genomes: np.ndarray | list[np.ndarray], index: np.ndarray | None) -> np.ndarray:
    """The genome of every slot, float32 [S, G], from what the ops of networks take."""
    banks = genomes if isinstance(genomes, list) else [genomes]
    rows = np.arange(len(banks[0]))[None] if index is None else np.atleast_2d(index)
    widened = [
        (bank.astype(np.uint32) << 16).view(F) if bank.dtype == np.uint16 else bank
        for bank in banks
    ]
    chosen = np.broadcast_to(rows, (len(banks), rows.shape[1]))
    return np.concatenate([bank[row] for bank, row in zip(widened, chosen, strict=True)], axis=1)


CASES = cases_layers.CASES | {
    "network_forward": list(network_forward_cases()),
    "network_loss": list(network_loss_cases()),
}
FORMS: dict[str, list[Case]] = {}
if NEW_LAYERS:
    FORMS = {
        "dense_forward": list(cases_layers.dense_bf16_cases()),
        "conv2d_forward": list(cases_layers.conv2d_bf16_cases()),
        "network_forward": list(network_forward_forms()),
        "network_loss": list(network_loss_forms()),
    }
