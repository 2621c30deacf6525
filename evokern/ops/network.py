"""Whole networks of many individuals in one pass."""

from __future__ import annotations

import numpy as np

from evokern import _arrays
from evokern._arrays import Array, expect, like, output
from evokern._checks import (
    check_precision,
    class_counts,
    evaluation,
    expect_either,
    labels_of,
    merged,
)
from evokern._table import resolve
from evokern._values import one_of
from evokern.errors import ShapeError, message
from evokern.network import Network
from evokern.rules import LOSSES, LossName, Precision


def network_forward(
    genomes: Array,
    network: Network,
    x: Array,
    *,
    index: Array | None = None,
    precision: Precision = "fp32",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Outputs of many networks of one architecture: float32 [S, B, *output_shape].

    Args:
        genomes: float32 [P, G] with G = ``network.layout.size``.
        network: the architecture.
        x: float32 [B, *input_shape], one batch for all slots, or [S, B, *input_shape].
        index: int32 [S], the individual each slot runs; None means S = P, one each.
        precision: ``fp32`` (the bits of design section 5) or ``bf16``.
        out: float32 [S, B, *output_shape] to write to.
        backend: see the module.
    """
    check_precision(precision, backend)
    pool, slots, values, batch = evaluation(genomes, network, x, index)
    shape = (len(slots), batch, *network.output_shape)
    target = output(out, shape, "[S, B, *output_shape]", genomes=pool, x=values)
    merged("out", target, 2)
    compute = resolve("network_forward", backend)
    if target.size:
        compute(pool, network, values, index=slots, precision=precision, out=target)
    return out if out is not None else like(genomes)(target)


def network_loss(
    genomes: Array,
    network: Network,
    x: Array,
    y: Array,
    *,
    index: Array | None = None,
    classes: Array | None = None,
    loss: LossName = "cross_entropy",
    precision: Precision = "fp32",
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Mean loss and number of correct predictions per slot: float32 [S], int32 [S].

    Args:
        genomes, network, x, index, precision, backend: as in ``network_forward``; the network's
            output must be flat.
        y: integer labels [B] or [S, B]; for ``mse`` float32 targets [B, O] or [S, B, O].
        classes: int32 [S]: outputs past a slot's class count take no part in loss and argmax.
        loss: ``cross_entropy`` (Eq. 5.5) or ``mse``; with ``mse`` no prediction counts as correct.
    """
    one_of("loss", loss, LOSSES)
    check_precision(precision, backend)
    if len(network.output_shape) != 1:
        got = f"{list(network.output_shape)}"
        raise ShapeError(message("network", "a flat output [O]", got, "add Flatten() at the end"))
    pool, slots, values, batch = evaluation(genomes, network, x, index)
    outputs = network.output_shape[0]
    counts = None if classes is None else class_counts(classes, len(slots), outputs)
    if loss == "mse":
        targets = expect("y", y, np.float32, "[B, O] or [S, B, O]", None)
        expect_either("y", targets, (batch, outputs), len(slots))
    else:
        targets = labels_of(y, batch, outputs, counts, len(slots))
    losses = _arrays.empty((len(slots),), np.float32, "loss [S]")
    correct = _arrays.empty((len(slots),), np.int32, "correct [S]")
    compute = resolve("network_loss", backend)
    if len(slots):
        compute(
            pool,
            network,
            values,
            targets,
            index=slots,
            classes=counts,
            loss=loss,
            precision=precision,
            out_loss=losses,
            out_correct=correct,
        )
    kind = like(genomes)
    return kind(losses), kind(correct)
