"""What the ops check of their arguments beyond type and layout. Used by ``evokern.ops`` only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from evokern import _devices, _values
from evokern._arrays import (
    Array,
    Host,
    address_of,
    expect,
    expect_host,
    expect_range,
    expect_shape,
    expect_weights,
    layout_of,
    may_share_memory,
    to_view,
)
from evokern._devices import DeviceArray
from evokern.errors import ArgumentError, DtypeError, LayoutError, ShapeError, message
from evokern.layers import MAX_INPUTS, MAX_WIDTH
from evokern.layout import GenomeLayout, size_of
from evokern.network import Network

_ANY_HEIGHT = 2**31 - 1
"""Of the banks of a network that has none."""


def expect_layout(layout: GenomeLayout) -> None:
    if not isinstance(layout, GenomeLayout):
        mend = "try network.layout"
        raise DtypeError(message("layout", "a GenomeLayout", type(layout).__name__, mend))


def layout_for_rows(layout: GenomeLayout | None, genes: int) -> GenomeLayout:
    if not isinstance(layout, GenomeLayout):
        mend = "pass layout=network.layout"
        got = "None" if layout is None else type(layout).__name__
        raise ArgumentError(message("layout", "a GenomeLayout for kind='rows'", got, mend))
    if layout.size != genes:
        raise ShapeError(message("layout", f"a layout of G={genes} genes", f"{layout.size} genes"))
    return layout


def arithmetic_weights(weights: Array | None, shape: tuple[int, ...]) -> Host:
    if weights is None:
        return np.full(shape, np.float32(1) / np.float32(shape[0]), np.float32)
    shares = expect_host("weights", weights, np.float32, "[R, S]", 2)
    expect_shape("weights", shares, "[R, S]", shape)
    sums = shares.astype(np.float64).sum(axis=0)
    near = np.abs(sums - 1) <= 1e-6
    if not near.all():
        slot = int((~near).argmax())
        raise ArgumentError(
            message(
                "weights",
                "finite numbers that sum to 1 within 1e-6 per offspring",
                f"weights[:, {slot}] = {shares[:, slot].tolist()}",
                "divide by their sum",
            )
        )
    return shares


def rows_of_out(out_rows: Array, out: Array | None, slots: int) -> Host:
    if out is None:
        raise ArgumentError(message("out", "an array [Q, G] with out_rows", "None"))
    rows = expect_host("out_rows", out_rows, np.int32, "[S]", 1)
    expect_shape("out_rows", rows, "[S]", (slots,))
    height = len(expect("out", out, np.float32, "[Q, G]", 2))
    expect_range("out_rows", rows, 0, height - 1, "rows of out")
    if len(np.unique(rows)) != slots:
        raise ArgumentError(message("out_rows", "distinct rows", "a row named twice"))
    return rows


def expect_no_parent_overwritten(
    out: Host, genomes: Host, parents: Host, rows: Host | None
) -> None:
    """Refuses an ``out`` whose written rows hold a parent of this call."""
    if not may_share_memory(out, genomes):
        return
    same_rows = (
        address_of(out) == address_of(genomes)
        and out.strides[0] == genomes.strides[0]
        and out.shape[1] == genomes.shape[1]
    )
    if same_rows and rows is not None:
        clash = np.intersect1d(rows, parents)
        if not clash.size:
            return
        got = f"row {clash[0]}, a parent of this call"
        raise ArgumentError(message("out_rows", "rows of out that are no parents", got))
    if np.shares_memory(layout_of(out), layout_of(genomes)):
        mend = "write to another array, or to genomes itself with out_rows that are no parents"
        raise ArgumentError(message("out", "memory apart from genomes", "an overlap", mend))


def layer_weights(w: Array, b: Array | None, shape: str) -> tuple[Host, Host | None]:
    """Weights [P, I, O], each [I, O] in one piece, and bias [P, O] if any."""
    weights = expect("w", w, np.float32, shape, 3)
    population, inputs, outputs = weights.shape
    if inputs < 1:
        wanted = f"{shape} with at least one row"
        raise ShapeError(message("w", wanted, f"{list(weights.shape)}"))
    if inputs > MAX_INPUTS or outputs > MAX_WIDTH:
        wanted = f"at most {MAX_INPUTS} rows and {MAX_WIDTH} outputs"
        raise ShapeError(message("w", wanted, f"{list(weights.shape)}"))
    if weights.size and inputs > 1 and weights.strides[1] != outputs * 4:
        mend = "try np.ascontiguousarray(w)"
        wanted = f"{shape}, each individual's in one piece"
        raise LayoutError(message("w", wanted, f"strides {weights.strides} bytes", mend))
    if b is None:
        return weights, None
    bias = expect("b", b, np.float32, "[P, O]", 2)
    expect_shape("b", bias, "[P, O]", (population, outputs))
    return weights, bias


def square_kernel(rows: int, channels: int) -> int:
    """The kernel that has ``rows`` weights for ``channels`` channels."""
    kernel = math.isqrt(rows // max(1, channels))
    if channels * kernel * kernel != rows:
        got = f"{rows} rows for {channels} channels"
        raise ShapeError(message("w", "[P, C*K*K, O]", got, "pass kernel=(height, width)"))
    return kernel


def slots_of(index: Array | None, population: int) -> Host:
    if index is None:
        return np.arange(population, dtype=np.int32)
    slots = expect_host("index", index, np.int32, f"[S] with entries < P={population}", 1)
    expect_range("index", slots, 0, population - 1, "individuals")
    return slots


def batch_of(x: Host, sample: tuple[int, ...], slots: int) -> int:
    """B of x [B, *sample] or [S, B, *sample]; the error shows both readings."""
    axes = len(sample)
    if x.ndim == axes + 1 and x.shape[1:] == sample:
        batch = x.shape[0]
    elif x.ndim == axes + 2 and x.shape[2:] == sample and x.shape[0] == slots:
        batch = x.shape[1]
    else:
        inner = ", ".join(str(n) for n in sample)
        raise ShapeError(
            message(
                "x",
                f"[B, {inner}] (one batch for all slots) or [S={slots}, B, {inner}]",
                f"{list(x.shape)}",
            )
        )
    if batch < 1:
        raise ShapeError(message("x", "a batch of B >= 1 samples", f"{list(x.shape)}"))
    return int(batch)


@dataclass(frozen=True)
class Evaluation:
    """Checked arguments of an evaluation, as back ends take them.

    ``banks``: one array [P_l, G_l] per layer with parameters; ``index`` int32 [L, S]: the row of
    each bank that each slot runs. x keeps its batch axes' strides.
    """

    banks: list[Host]
    index: Host
    x: Host
    slots: int
    batch: int


def evaluation(
    genomes: Array, network: Network, x: Array, index: Array | None, x_scale: float | None
) -> Evaluation:
    if not isinstance(network, Network):
        raise DtypeError(message("network", "an evokern Network", type(network).__name__))
    if isinstance(genomes, list | tuple):
        banks, rows = _banks(genomes, network, index)
    else:
        banks, rows = _views(genomes, network, index)
    slots = rows.shape[1]
    values = inputs_of(x, f"[B, {network.input_shape}]", x_scale)
    batch = batch_of(values, network.input_shape, slots)
    expect_mergeable("x", values, values.ndim - len(network.input_shape))
    return Evaluation(banks, rows, values, slots, batch)


def _views(genomes: Array, network: Network, index: Array | None) -> tuple[list[Host], Host]:
    """One bank of whole genomes [P, G] as views per layer, and index [L, S]."""
    layout = network.layout
    pool = expect_weights("genomes", genomes, f"[P, G={layout.size}]")
    expect_shape("genomes", pool, "[P, G]", (len(pool), layout.size))
    ends = (*layout.offsets[1:], layout.size)
    banks = [pool[:, a:b] for a, b in zip(layout.offsets, ends, strict=False)]
    if _axes_of(index) == 2:
        return banks, _layer_index(index, [len(pool)] * len(banks))
    slots = slots_of(index, len(pool))
    return banks, slots[None].repeat(max(1, len(banks)), axis=0)


def _banks(
    genomes: Sequence[Array], network: Network, index: Array | None
) -> tuple[list[Host], Host]:
    """One bank [P_l, G_l] per layer with parameters, and index [L, S]."""
    blocks = network.layout.blocks
    if len(genomes) != len(blocks):
        wanted = f"one bank per layer with parameters ({len(blocks)})"
        raise ShapeError(message("genomes", wanted, f"{len(genomes)} banks"))
    banks = []
    for number, (bank, block) in enumerate(zip(genomes, blocks, strict=True)):
        name = f"genomes[{number}]"
        array = expect_weights(name, bank, f"[P_l, G_l={size_of(block)}]")
        expect_shape(name, array, "[P_l, G_l]", (len(array), size_of(block)))
        banks.append(array)
    if len({bank.dtype for bank in banks}) > 1:
        got = ", ".join(str(bank.dtype) for bank in banks)
        raise DtypeError(message("genomes", "banks of one type", got))
    heights = [len(bank) for bank in banks]
    if index is None:
        if not heights:
            wanted = "int32 [S] for a network without parameters"
            raise ShapeError(message("index", wanted, "None"))
        if len(set(heights)) > 1:
            mend = "pass index int32 [layers, S]"
            raise ShapeError(
                message("genomes", "banks of one height without index", f"{heights}", mend)
            )
        index = np.arange(heights[0], dtype=np.int32)
    if _axes_of(index) == 2:
        return banks, _layer_index(index, heights)
    slots = slots_of(index, min(heights, default=_ANY_HEIGHT))
    return banks, slots[None].repeat(len(banks), axis=0)


def _axes_of(index: Array | None) -> int:
    return getattr(index, "ndim", 1)


def _layer_index(index: Array, heights: list[int]) -> Host:
    layers = len(heights)
    rows = expect_host("index", index, np.int32, f"[S] or [layers={layers}, S]", 2)
    expect_shape("index", rows, "[layers, S]", (layers, rows.shape[1]))
    for number, height in enumerate(heights):
        expect_range(f"index[{number}]", rows[number], 0, height - 1, f"rows of bank {number}")
    return rows


def inputs_of(x: Array, shape: str, x_scale: float | None) -> Host:
    """x as float32, or as uint8 with the scale that it needs."""
    values = to_view("x", x)
    if values.dtype != np.uint8:
        if x_scale is not None:
            got = f"x_scale={x_scale!r} for {values.dtype}"
            raise ArgumentError(message("x_scale", "None unless x is uint8", got))
        return expect("x", values, np.float32, shape, None)
    if x_scale is None:
        mend = "pass x_scale, such as 1/255"
        raise ArgumentError(message("x_scale", "a number for x of uint8", "None", mend))
    with np.errstate(over="ignore"):
        scale = np.float32(_values.number("x_scale", x_scale))
    if not np.isfinite(scale):
        raise ArgumentError(message("x_scale", "a number that float32 can hold", repr(x_scale)))
    return expect("x", values, np.uint8, shape, None)


def expect_mergeable(name: str, array: Host, axis: int) -> None:
    """Raises LayoutError where the axes from ``axis`` on are no single run of memory."""
    first: Any = (*(0,) * axis, ...)  # a view, whatever the axis
    if array.size and not array[first].flags.c_contiguous:
        raise LayoutError(
            message(
                name,
                "samples (channels) that lie in one piece",
                f"strides {array.strides} bytes",
                f"try np.ascontiguousarray({name})",
            )
        )


def merged(name: str, array: Host, axis: int) -> Host:
    """A view with all axes from ``axis`` on as one; LayoutError where that needs a copy."""
    expect_mergeable(name, array, axis)
    return array.reshape(*array.shape[:axis], math.prod(array.shape[axis:]))


def class_counts(classes: Array, slots: int, outputs: int) -> Host:
    counts = expect_host("classes", classes, np.int32, "[S]", 1)
    expect_shape("classes", counts, "[S]", (slots,))
    expect_range("classes", counts, 1, outputs, "outputs of the network")
    return counts


def expect_either(name: str, array: Host, shape: tuple[int, ...], slots: int) -> None:
    if array.shape not in (shape, (slots, *shape)):
        raise ShapeError(
            message(name, f"{list(shape)} or {[slots, *shape]}", f"{list(array.shape)}")
        )


def targets_of(
    y: Array, loss: str, batch: int, outputs: int, classes: Host | None, slots: int
) -> Host:
    """What ``loss`` compares outputs with: labels, or float32 [B, O] or [S, B, O] for ``mse``."""
    if loss != "mse":
        return labels_of(y, batch, outputs, classes, slots)
    targets = expect("y", y, np.float32, "[B, O] or [S, B, O]", None)
    expect_either("y", targets, (batch, outputs), slots)
    return targets


def sample_weights_of(sample_weights: Array | None, batch: int, slots: int) -> Host | None:
    if sample_weights is None:
        return None
    weights = expect("sample_weights", sample_weights, np.float32, "[B] or [S, B]", None)
    expect_either("sample_weights", weights, (batch,), slots)
    return weights


def labels_of(
    y: Array, batch: int, outputs: int, classes: Host | None, slots: int
) -> npt.NDArray[Any]:
    """int64 [B] or [S, B]. On a device they are looked at only where values are checked, since
    that waits for the device."""
    labels = to_view("y", y)
    if isinstance(labels, DeviceArray):
        there = expect("y", cast(Host, labels), np.int64, "[B] or [S, B]", None)
        expect_either("y", there, (batch,), slots)
        if labels.device.checked:
            _expect_labels(np.asarray(_devices.to_host(y)), outputs, classes, slots)
        return merged("y", there, there.ndim - 1)
    if labels.dtype.kind not in "iu":
        mend = "try y.astype(np.int64)"
        raise DtypeError(message("y", "integer labels [B] or [S, B]", str(labels.dtype), mend))
    expect_either("y", labels, (batch,), slots)
    labels = np.ascontiguousarray(labels, np.int64)
    _expect_labels(labels, outputs, classes, slots)
    return labels


def _expect_labels(labels: Host, outputs: int, classes: Host | None, slots: int) -> None:
    if classes is None:
        expect_range("y", labels, 0, outputs - 1, "classes of the network")
    elif slots:
        expect_range("y", labels, 0, outputs - 1, "classes of the network")
        largest = labels.max() if labels.ndim == 1 else labels.max(axis=1)
        if (largest >= classes).any():
            slot = int((np.broadcast_to(largest, classes.shape) >= classes).argmax())
            got = f"a label {np.broadcast_to(largest, classes.shape)[slot]} in slot {slot}"
            raise ArgumentError(message("y", f"labels < classes[{slot}]={classes[slot]}", got))


def images_of(name: str, array: Host) -> Host:
    """A view [N, C, H, W]; LayoutError where the leading axes are not one run of images."""
    return array if array.ndim == 4 else _in_order(name, array, 3, "images")


def rows_in_order(name: str, array: Host) -> Host:
    """A view [N, C]; LayoutError where the leading axes are not one run of rows."""
    return array if array.ndim == 2 else _in_order(name, array, 1, "rows")


def _in_order(name: str, array: Host, axes: int, what: str) -> Host:
    shape = (-1, *array.shape[array.ndim - axes :])
    try:
        view: Host | None = array.reshape(*shape)
    except ValueError:  # a DeviceArray never copies
        view = None
    if view is None or (view.size and not may_share_memory(view, array)):
        mend = f"try a contiguous {name}"
        raise LayoutError(message(name, f"{what} that follow each other", "gaps", mend))
    return view
