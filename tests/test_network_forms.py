"""Banks per layer, genomes of bf16, x of bytes and bf16 layers: every back end, the reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from cases import COLUMNS, Case, F, column_of, numbers, special_numbers
from cases_network import FORMS, composed
from networks import LAYERED

from evokern import ops
from evokern.layers import Conv2d, Dense
from evokern.network import Network
from evokern.testing import (
    Bounded,
    assert_close,
    assert_same_bits,
    error_bound,
    fill_outputs_with_nan,
    loss_bound,
)

CASES = [case for cases in FORMS.values() for case in cases]


def run(case: Case, column: str) -> tuple[np.ndarray, ...]:
    with fill_outputs_with_nan(), column_of(column) as backend:
        return case.run(backend)


@cache
def expected(case: Case) -> tuple[np.ndarray, ...]:
    return run(case, "reference")


def is_bf16(case: Case) -> bool:
    return case.options.get("precision") == "bf16"


@cache
def limits(case: Case) -> Bounded:
    arguments, options = case.make()
    index = options.get("index")
    if case.op in ("network_forward", "network_loss"):
        genomes, network, x, *labels = arguments
        genomes = composed(genomes, index)
    else:
        x, w, b = arguments
        network, labels = _one_layer(case.op, x, w, b, options), []
        flat = w.reshape(len(w), -1)
        genomes = (flat if b is None else np.concatenate([flat, b], axis=1))[index]
    scale, precision = options.get("x_scale"), options.get("precision", "fp32")
    result = error_bound(network, genomes, x, precision=precision, x_scale=scale)
    return loss_bound(result, labels[0], options.get("classes")) if labels else result


def _one_layer(op: str, x: np.ndarray, w: np.ndarray, b: Any, options: dict[str, Any]) -> Network:
    bias, outputs = b is not None, w.shape[2]
    if op == "dense_forward":
        return Network((Dense(outputs, bias=bias),), x.shape[-1:])
    side = round((w.shape[1] / x.shape[-3]) ** 0.5)
    place = options.get("kernel", side), options["stride"], options["padding"]
    return Network((Conv2d(outputs, *place, bias=bias),), x.shape[-3:])


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits_as_the_reference(case: Case, column: str) -> None:
    if is_bf16(case) and column in ("simt", "cpu-avx512_bf16"):
        pytest.skip("bits are not promised")
    for actual, reference in zip(run(case, column), expected(case), strict=True):
        assert_same_bits(actual, reference)


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if case.options.get("values", numbers) is not special_numbers
        and case.options.get("loss") != "mse"
        and case.options.get("slots") != 0
    ],
    ids=str,
)
@pytest.mark.parametrize("column", [*COLUMNS, "reference"])
def test_every_back_end_is_within_the_error_bound(case: Case, column: str) -> None:
    if not np.prod(expected(case)[0].shape) or (is_bf16(case) and column == "simt"):
        return
    assert_close(run(case, column)[0], *limits(case))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_banks_of_a_population_are_its_genomes(backend: str) -> None:
    network = LAYERED["residual images"]
    genomes, x = numbers(4, network.layout.size), numbers(5, *network.input_shape)
    ends = (*network.layout.offsets[1:], network.layout.size)
    banks = [genomes[:, a:b] for a, b in zip(network.layout.offsets, ends, strict=True)]
    plain = ops.network_forward(genomes, network, x, backend=backend)
    assert_same_bits(ops.network_forward(banks, network, x, backend=backend), plain)
    index = np.array([3, 0, 0], np.int32)
    rows = np.tile(index, (len(banks), 1))
    for given, order in ((banks, index), (banks, rows), (genomes, rows), (genomes, index)):
        result = ops.network_forward(given, network, x, index=order, backend=backend)
        assert_same_bits(result, plain[index])


@pytest.mark.torch
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bf16_tensors_are_their_bits(backend: str) -> None:
    torch = pytest.importorskip("torch")
    network = LAYERED["elmans"]
    tensor = torch.from_numpy(numbers(3, network.layout.size)).bfloat16()
    x = torch.from_numpy(numbers(5, *network.input_shape))
    result = ops.network_forward(tensor, network, x, backend=backend)
    assert isinstance(result, torch.Tensor)
    plain = ops.network_forward(tensor.float(), network, x, backend=backend)
    assert_same_bits(result.numpy(), plain.numpy())
    words = tensor.view(torch.int16).numpy().view(np.uint16)
    assert_same_bits(ops.network_forward(words, network, x.numpy(), backend=backend), plain.numpy())
    bits = tensor.view(torch.uint16)
    assert_same_bits(ops.network_forward(bits, network, x, backend=backend).numpy(), plain.numpy())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bytes_by_hand(backend: str) -> None:
    network = Network((Dense(1, bias=False),), (2,))
    genomes, x = np.array([[1, 10]], F), np.array([[255, 2]], np.uint8)
    result = ops.network_forward(genomes, network, x, x_scale=0.5, backend=backend)
    assert result.tolist() == [[[137.5]]]
