"""Banks per layer, genomes of bf16, x of bytes and bf16 layers: every back end, the reference."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from bounds import assert_within_bounds, with_columns
from cases import Case, F, column_of, numbers
from cases_network import FORMS
from networks import LAYERED

from evokern import ops
from evokern.layers import Dense
from evokern.network import Network
from evokern.testing import assert_same_bits, fill_outputs_with_nan

CASES = [case for cases in FORMS.values() for case in cases]


def run(case: Case, column: str) -> tuple[np.ndarray, ...]:
    with fill_outputs_with_nan(), column_of(column) as backend:
        return case.run(backend)


@cache
def expected(case: Case) -> tuple[np.ndarray, ...]:
    return run(case, "reference")


@pytest.mark.parametrize(("case", "column"), with_columns(CASES, bits=True))
def test_same_bits_as_the_reference(case: Case, column: str) -> None:
    for actual, reference in zip(run(case, column), expected(case), strict=True):
        assert_same_bits(actual, reference)


@pytest.mark.parametrize(("case", "column"), with_columns(CASES, bits=False))
def test_within_the_error_bound(case: Case, column: str) -> None:
    assert_within_bounds(case, run(case, column))


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
