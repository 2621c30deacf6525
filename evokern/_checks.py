"""What the ops check of their arguments beyond type and layout. Used by ``evokern.ops`` only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern._arrays import Array, Host, expect, expect_range, expect_shape, to_host
from evokern._values import one_of
from evokern.errors import ArgumentError, BackendError, DtypeError, LayoutError, ShapeError, message
from evokern.layout import GenomeLayout
from evokern.network import Network
from evokern.rules import PRECISIONS


def check_precision(precision: str, backend: str) -> None:
    one_of("precision", precision, PRECISIONS)
    if precision == "tf32" and backend in ("auto", "cpu", "reference"):
        raise BackendError("precision: tf32 is a GPU format; on the host there are fp32 and bf16")


def genome_layout(layout: GenomeLayout) -> None:
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
    shares = expect("weights", weights, np.float32, "[R, S]", 2)
    expect_shape("weights", shares, "[R, S]", shape)
    sums = shares.astype(np.float64).sum(axis=0)
    if not ((shares >= 0).all() and (abs(sums - 1) <= 1e-6).all()):
        slot = int((~((shares >= 0).all(axis=0) & (abs(sums - 1) <= 1e-6))).argmax())
        raise ArgumentError(
            message(
                "weights",
                "non-negative shares that sum to 1 within 1e-6 per offspring",
                f"weights[:, {slot}] = {shares[:, slot].tolist()}",
                "divide by their sum",
            )
        )
    return shares


def rows_of_out(out_rows: Array, out: Array | None, slots: int) -> Host:
    if out is None:
        raise ArgumentError(message("out", "an array [Q, G] with out_rows", "None"))
    rows = expect("out_rows", out_rows, np.int32, "[S]", 1)
    expect_shape("out_rows", rows, "[S]", (slots,))
    expect_range("out_rows", rows, 0, len(to_host("out", out)) - 1, "rows of out")
    if len(np.unique(rows)) != slots:
        raise ArgumentError(message("out_rows", "distinct rows", "a row named twice"))
    return rows


def expect_apart(out: Host, genomes: Host, parents: Host, rows: Host | None) -> None:
    """Refuses an ``out`` whose written rows hold a parent of this call."""
    if not np.may_share_memory(out, genomes):
        return
    same_rows = (
        out.ctypes.data == genomes.ctypes.data
        and out.strides[0] == genomes.strides[0]
        and out.shape[1] == genomes.shape[1]
    )
    if same_rows and rows is not None:
        clash = np.intersect1d(rows, parents)
        if not clash.size:
            return
        got = f"row {clash[0]}, a parent of this call"
        raise ArgumentError(message("out_rows", "rows of out that are no parents", got))
    if np.shares_memory(out, genomes):
        mend = "write to another array, or pass out_rows without parents"
        raise ArgumentError(message("out", "memory apart from genomes", "an overlap", mend))


def slots_of(index: Array | None, population: int) -> Host:
    if index is None:
        return np.arange(population, dtype=np.int32)
    slots = expect("index", index, np.int32, f"[S] with entries < P={population}", 1)
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


def evaluation(
    genomes: Array, network: Network, x: Array, index: Array | None
) -> tuple[Host, Host, Host, int]:
    """Checked genomes [P, G], index [S], x and B. x keeps its batch axes' strides."""
    if not isinstance(network, Network):
        raise DtypeError(message("network", "an evokern Network", type(network).__name__))
    genes = network.layout.size
    pool = expect("genomes", genomes, np.float32, f"[P, G={genes}]", 2)
    expect_shape("genomes", pool, "[P, G]", (len(pool), genes))
    values = expect("x", x, np.float32, f"[B, {network.input_shape}]", None)
    slots = slots_of(index, len(pool))
    batch = batch_of(values, network.input_shape, len(slots))
    merged("x", values, values.ndim - len(network.input_shape))
    return pool, slots, values, batch


def merged(name: str, array: Host, axis: int) -> Host:
    """A view with all axes from ``axis`` on as one; LayoutError where that needs a copy."""
    shape = array.shape[:axis]
    size = math.prod(array.shape[axis:])
    if array.size and not array[(0,) * axis].flags.c_contiguous:
        raise LayoutError(
            message(
                name,
                "samples (channels) that lie in one piece",
                f"strides {array.strides} bytes",
                f"try np.ascontiguousarray({name})",
            )
        )
    return array.reshape(*shape, size)


def class_counts(classes: Array, slots: int, outputs: int) -> Host:
    counts = expect("classes", classes, np.int32, "[S]", 1)
    expect_shape("classes", counts, "[S]", (slots,))
    expect_range("classes", counts, 1, outputs, "outputs of the network")
    return counts


def expect_either(name: str, array: Host, shape: tuple[int, ...], slots: int) -> None:
    if array.shape not in (shape, (slots, *shape)):
        raise ShapeError(
            message(name, f"{list(shape)} or {[slots, *shape]}", f"{list(array.shape)}")
        )


def labels_of(
    y: Array, batch: int, outputs: int, classes: Host | None, slots: int
) -> npt.NDArray[Any]:
    labels = to_host("y", y)
    if labels.dtype.kind not in "iu":
        mend = "try y.astype(np.int64)"
        raise DtypeError(message("y", "integer labels [B] or [S, B]", str(labels.dtype), mend))
    expect_either("y", labels, (batch,), slots)
    labels = np.ascontiguousarray(labels, np.int64)
    if classes is None:
        expect_range("y", labels, 0, outputs - 1, "classes of the network")
    elif slots:
        expect_range("y", labels, 0, outputs - 1, "classes of the network")
        largest = labels.max() if labels.ndim == 1 else labels.max(axis=1)
        if (largest >= classes).any():
            slot = int((np.broadcast_to(largest, classes.shape) >= classes).argmax())
            got = f"a label {np.broadcast_to(largest, classes.shape)[slot]} in slot {slot}"
            raise ArgumentError(message("y", f"labels < classes[{slot}]={classes[slot]}", got))
    return labels


def images_of(name: str, array: Host) -> Host:
    """A view [N, C, H, W]; LayoutError where the leading axes are not one run of images."""
    view = array.reshape(-1, *array.shape[-3:]) if array.ndim != 4 else array
    if view.size and not np.may_share_memory(view, array):
        mend = f"try np.ascontiguousarray({name})"
        raise LayoutError(message(name, "images that follow each other", "gaps", mend))
    return view
