"""How far results may be from float64 where bits are not promised: bf16, tf32, Triton's forward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from cases import COLUMNS, Case, numbers
from cases_network import composed

from evokern._table import TABLE
from evokern.layers import Conv2d, Dense
from evokern.network import Network
from evokern.testing import Bounded, assert_close, error_bound, loss_bound

BOUNDED_OPS = ("dense_forward", "conv2d_forward", "network_forward", "network_loss")
"""All others promise bits on every back end."""


def promises_bits(case: Case, column: str) -> bool:
    if case.options.get("precision", "fp32") != "fp32":
        return column.startswith("cpu") and column != "cpu-avx512_bf16"
    backend = "triton" if column == "triton-interpreter" else column
    return TABLE[case.op].promise(backend) == "bits"


def runs(case: Case, column: str) -> bool:
    """Devices compose some ops of others; the CUDA kernels compute in fp32 only."""
    if "cuda" not in TABLE[case.op].functions and not column.startswith("cpu"):
        return False
    return column != "simt" or case.options.get("precision", "fp32") == "fp32"


def with_columns(cases: Iterable[Case], *, bits: bool) -> list[Any]:
    """Parameters (case, column) for pytest: the columns that promise bits, or those that do not.

    Among the latter is the reference, which shows that its bounds are large enough.
    """
    params = []
    for case in cases:
        for param in [*COLUMNS, pytest.param("reference")]:
            (column,) = param.values
            if column == "reference":
                wanted = not bits and case.op in BOUNDED_OPS
            else:
                wanted = promises_bits(case, column) == bits and runs(case, column)
            if wanted:
                params.append(pytest.param(case, column, marks=param.marks, id=f"{case}-{column}"))
    return params


def assert_within_bounds(case: Case, results: tuple[np.ndarray, ...]) -> None:
    """Fails where a result is farther from float64 than the bound.

    Elements are left alone where infinities, NaN or overflow of a partial sum make the order of a
    sum matter.
    """
    arguments, options = case.make()
    with np.errstate(all="ignore"):
        outputs = _outputs(case, arguments, options)
        limits = outputs
        if case.op == "network_loss":
            labels, classes = arguments[3], options.get("classes")
            kept = {k: options[k] for k in ("sample_weights", "loss") if k in options}
            limits = loss_bound(outputs, labels, classes, **kept)
        sure = np.isfinite(limits.bound)
    assert results[0].shape == limits.value.shape
    assert_close(results[0][sure], limits.value[sure], limits.bound[sure])
    if case.op == "network_loss":
        if options.get("loss") == "mse":
            assert not results[1].any()
            return
        right, possible = _correct(outputs, labels, classes)
        assert (right <= results[1]).all()
        assert (results[1] <= possible).all()


def _outputs(case: Case, arguments: tuple[Any, ...], options: dict[str, Any]) -> Bounded:
    index = options.get("index")
    if case.op in ("network_forward", "network_loss"):
        genomes, network, x = arguments[:3]
        genomes = composed(genomes, index)
    else:
        x, w, b = arguments
        network = _one_layer(case.op, x, w, b, options)
        flat = w.reshape(len(w), w.shape[1] * w.shape[2])
        genomes = flat if b is None else np.concatenate([flat, b], axis=1)
        genomes = genomes if index is None else genomes[index]
    return error_bound(
        network,
        genomes,
        x,
        precision=options.get("precision", "fp32"),
        x_scale=options.get("x_scale"),
        zero_mean=case.options.get("values", numbers) is numbers,
    )


def _one_layer(op: str, x: np.ndarray, w: np.ndarray, b: Any, options: dict[str, Any]) -> Network:
    bias, outputs = b is not None, w.shape[2]
    after = options.get("activation", "identity"), options.get("negative_slope", 0.01)
    if op == "dense_forward":
        return Network((Dense(outputs, *after, bias=bias),), x.shape[-1:])
    side = round((w.shape[1] / x.shape[-3]) ** 0.5)
    place = options.get("kernel") or side, options.get("stride", 1), options.get("padding", 0)
    return Network((Conv2d(outputs, *place, *after, bias=bias),), x.shape[-3:])


def _correct(
    outputs: Bounded, labels: np.ndarray, classes: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that are surely right, and that may be: int64 [S] each."""
    slots, samples, count = outputs.value.shape
    counted = np.full(slots, count) if classes is None else classes
    there = np.arange(count) < counted[:, None, None]  # [S, 1, O]
    wanted = np.broadcast_to(labels, (slots, samples)).astype(np.int64)[..., None]
    own = np.arange(count) == wanted
    low, high = outputs.value - outputs.bound, outputs.value + outputs.bound
    with np.errstate(invalid="ignore"):
        known = np.isfinite(outputs.bound) | ~there
        others = there & ~own
        beats = np.take_along_axis(low, wanted, 2) > np.where(others, high, -np.inf)
        loses = np.take_along_axis(high, wanted, 2) < np.where(others, low, -np.inf)
    right = (beats | ~others).all(axis=2) & known.all(axis=2)
    wrong = (loses & others).any(axis=2) & known.all(axis=2)
    return np.count_nonzero(right, axis=1), np.count_nonzero(~wrong, axis=1)
