"""Whole networks of many individuals in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from evokern._arrays import Array, empty_beside, like, output
from evokern._checks import (
    class_counts,
    evaluation,
    expect_mergeable,
    sample_weights_of,
    targets_of,
)
from evokern._dispatch import choose
from evokern._values import boolean, integer, one_of
from evokern.backends.plan import plan_bytes
from evokern.errors import DtypeError, ShapeError, message
from evokern.network import Network
from evokern.rules import LOSSES, PRECISIONS, LossName, Precision


def network_forward(
    genomes: Array,
    network: Network,
    x: Array,
    *,
    index: Array | None = None,
    precision: Precision = "fp32",
    x_scale: float | None = None,
    out: Array | None = None,
    workspace: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Outputs of many networks of one architecture: float32 [S, B, *output_shape].

    Args:
        genomes: float32 [P, G] with G = ``network.layout.size``, or a list of one bank [P_l, G_l]
            per layer with parameters, in genome order. bf16 (torch, ml_dtypes, or its bits as
            uint16) halves the memory that is read; sums are fp32 all the same.
        network: the architecture.
        x: float32 [B, *input_shape], one batch for all slots, or [S, B, *input_shape]; or uint8,
            times ``x_scale``.
        index: int32 [S], the individual each slot runs, or [layers, S], the row of each layer's
            bank; None means S = P, one each. Rows may repeat or be left out.
        precision: ``fp32`` (the bits of docs/bits.md), ``bf16`` (inputs and weights of products
            rounded to bf16) or, with Triton's kernels, ``tf32`` (to 10 bits of mantissa).
        x_scale: what uint8 inputs are multiplied with, one rounding to fp32.
        out: float32 [S, B, *output_shape] to write to.
        workspace: uint8 [bytes] on the device for what is between layers, of ``workspace_bytes``
            or less; None: memory of the arrays' library. Not on the host.
        backend: see the module.
    """
    one_of("precision", precision, PRECISIONS)
    given = evaluation(genomes, network, x, index, x_scale)
    shape = (given.slots, given.batch, *network.output_shape)
    inputs: dict[str, Any] = {f"genomes[{number}]": bank for number, bank in enumerate(given.banks)}
    target = output(out, shape, "[S, B, *output_shape]", x=given.x, **inputs, index=given.index)
    expect_mergeable("out", target, 2)
    names = " ".join(["x", *inputs, "out"])
    arrays = (given.x, *given.banks, target)
    compute = choose(
        "network_forward", backend, names, *arrays, workspace=workspace, precision=precision
    )
    if target.size:
        compute(
            given.banks,
            network,
            given.x,
            index=given.index,
            precision=precision,
            x_scale=x_scale,
            out=target,
        )
    return out if out is not None else like(_kind_of(genomes, x))(target)


def network_loss(
    genomes: Array,
    network: Network,
    x: Array,
    y: Array,
    *,
    index: Array | None = None,
    classes: Array | None = None,
    sample_weights: Array | None = None,
    loss: LossName = "cross_entropy",
    precision: Precision = "fp32",
    x_scale: float | None = None,
    workspace: Array | None = None,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Mean loss and number of correct predictions per slot: float32 [S], int32 [S].

    Args:
        genomes, network, x, index, precision, x_scale, workspace, backend: as in
            ``network_forward``; the network's output must be flat.
        y: integer labels [B] or [S, B]; for ``mse`` float32 targets [B, O] or [S, B, O].
            Labels on a device are not looked at (that would wait for it), unless EVOKERN_CHECK=1;
            one that is no output gives its slot the loss NaN.
        classes: int32 [S]: outputs past a slot's class count take no part in loss and argmax.
        sample_weights: float32 [B] or [S, B] beside x: each sample's loss is multiplied with its
            weight before the mean over B (the sum of the weights plays no part); None means 1.
        loss: ``cross_entropy`` (Eq. 5.5) or ``mse``; with ``mse`` no prediction counts as correct.
    """
    one_of("loss", loss, LOSSES)
    one_of("precision", precision, PRECISIONS)
    given = evaluation(genomes, network, x, index, x_scale)
    if len(network.output_shape) != 1:
        got = f"{list(network.output_shape)}"
        raise ShapeError(message("network", "a flat output [O]", got, "add Flatten() at the end"))
    slots, batch = given.slots, given.batch
    outputs = network.output_shape[0]
    counts = None if classes is None else class_counts(classes, slots, outputs)
    targets = targets_of(y, loss, batch, outputs, counts, slots)
    weights = sample_weights_of(sample_weights, batch, slots)
    losses = empty_beside(given.x, (slots,), np.float32, "loss [S]")
    correct = empty_beside(given.x, (slots,), np.int32, "correct [S]")
    names = " ".join([*(f"genomes[{number}]" for number in range(len(given.banks))), "x", "y"])
    arrays = [*given.banks, given.x, targets]
    if weights is not None:
        names += " sample_weights"
        arrays.append(weights)
    compute = choose(
        "network_loss", backend, names, *arrays, workspace=workspace, precision=precision
    )
    if slots:
        compute(
            given.banks,
            network,
            given.x,
            targets,
            index=given.index,
            classes=counts,
            sample_weights=weights,
            loss=loss,
            precision=precision,
            x_scale=x_scale,
            out_loss=losses,
            out_correct=correct,
        )
    kind = like(_kind_of(genomes, x))
    return kind(losses), kind(correct)


def workspace_bytes(
    network: Network, slots: int, batch: int, *, shared: bool = True, of_bytes: bool = False
) -> int:
    """Bytes of a ``workspace`` with which ``network_loss`` and ``network_forward`` run on a device.

    With fewer they run in more pieces, down to what one slot needs.

    Args:
        network: the architecture.
        slots, batch: S and B.
        shared: whether x is one batch for all slots.
        of_bytes: whether x is uint8.
    """
    if not isinstance(network, Network):
        raise DtypeError(message("network", "an evokern Network", type(network).__name__))
    slots = integer("slots", slots, 0, 2**31 - 1)
    batch = integer("batch", batch, 1, 2**31 - 1)
    return plan_bytes(
        network,
        slots,
        batch,
        shared=boolean("shared", shared),
        of_bytes=boolean("of_bytes", of_bytes),
    )


def _kind_of(genomes: Array, x: Array) -> Array:
    """The array whose kind results have: genomes, the first bank, or x where there is none."""
    if isinstance(genomes, list | tuple):
        return genomes[0] if genomes else x
    return genomes
