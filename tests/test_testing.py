"""The comparisons that other tests rest on: they must see what they are there to see."""

from __future__ import annotations

import math

import cases_network
import numpy as np
import pytest
from cases import Case, F, numbers, special_numbers
from cases_network import few_special_numbers
from networks import LAYERED
from real_data import require_data

from evokern import _arrays, ops
from evokern.errors import ArgumentError, DataError
from evokern.layers import (
    Activation,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    GlobalAvgPool,
    MaxPool2d,
    Residual,
)
from evokern.layout import DenseGenes, GenomeLayout
from evokern.network import Network
from evokern.problems import datasets
from evokern.testing import (
    Bounded,
    assert_close,
    assert_same_bits,
    error_bound,
    fill_outputs_with_nan,
    loss_bound,
)

UNIT = 2.0**-24


def test_same_bits_are_the_same() -> None:
    values = special_numbers(300)
    other_nan = np.where(np.isnan(values), np.array(0xFFFFFFFF, np.uint32).view(F), values)
    assert_same_bits(values, other_nan)
    assert_same_bits(np.arange(3), np.arange(3))
    assert_same_bits(np.zeros((0, 3), F), np.zeros((0, 3), F))
    assert_same_bits(F(1), F(1))


@pytest.mark.parametrize(
    ("actual", "expected", "words"),
    [
        (
            [0.0],
            [-0.0],
            "1 of 1 elements differ; worst at [0]: got 0.0 (0x00000000), expected -",
        ),
        ([1, 1, 1, 1], [1, 1 + 2.0**-23, 5, 1], "2 of 4 elements differ; worst at [2]: got 1.0"),
        ([1, 1, 1, 1], [1, 1, 5, 1], "expected 5.0 (0x40a00000); RMS of the difference 2"),
        ([1, np.nan], [9, 0], "worst at [1]: got nan (0x7fc00000), expected 0.0"),
        ([[1, 2]], [[1, 3]], "worst at [0, 1]: got 2.0"),
        ([1], [[1]], "shape [1], expected [1, 1]"),
        ([np.inf], [-np.inf], "got inf (0x7f800000), expected -inf (0xff800000)"),
    ],
)
def test_other_bits_are_described(actual: list[float], expected: list[float], words: str) -> None:
    with pytest.raises(AssertionError) as error:
        assert_same_bits(np.array(actual, F), np.array(expected, F))
    assert words in str(error.value)


def test_other_types_are_not_the_same() -> None:
    with pytest.raises(AssertionError, match="type float64, expected float32"):
        assert_same_bits(np.zeros(3), np.zeros(3, F))
    with pytest.raises(AssertionError, match=r"worst at \[1\]: got 7 \(0x0000000000000007\)"):
        assert_same_bits(np.array([1, 7]), np.array([1, 5]))


def test_close_is_within_the_bound() -> None:
    assert_close(np.array([1.5, np.nan, np.inf]), np.array([1.0, np.nan, np.inf]), 0.5)
    assert_close(np.array([1.0]), np.array([1.0]), np.array([0.0]))
    with pytest.raises(AssertionError, match=r"1 of 2 .* at \[1\]: got 1\.75 .*; 3 times the"):
        assert_close(np.array([1.5, 1.75]), np.array([1.0, 1.0]), np.array([0.5, 0.25]))
    with pytest.raises(AssertionError, match="got nan"):
        assert_close(np.array([np.nan]), np.array([1.0]), 1e9)
    with pytest.raises(AssertionError, match="got inf"):
        assert_close(np.array([np.inf]), np.array([-np.inf]), 1e9)
    with pytest.raises(AssertionError, match="got 2"):
        assert_close(np.array([2.0]), np.array([1.0]), np.nan)
    with pytest.raises(AssertionError, match=r"shape \[1\], expected \[2\]"):
        assert_close(np.zeros(1), np.zeros(2), 1)


FINITE = [
    case
    for op in ("network_forward", "network_loss")
    for case in cases_network.CASES[op]
    if case.options.get("values", numbers) not in (special_numbers, few_special_numbers)
    and case.options.get("loss") != "mse"
]


@pytest.mark.parametrize("case", FINITE, ids=str)
def test_the_reference_is_within_the_error_bound(case: Case) -> None:
    arguments, options = case.make()
    genomes, network, x, *labels = arguments
    precision = options.get("precision", "fp32")
    bound = error_bound(network, genomes, x, index=options.get("index"), precision=precision)
    if labels:
        kept = {name: options[name] for name in ("classes", "sample_weights") if name in options}
        bound = loss_bound(bound, labels[0], **kept)
    assert_close(case.run("reference")[0], *bound)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bound_is_not_far_above_the_errors(precision: str) -> None:
    network = Network((Dense(50, "relu"), Dense(10)), (100,))
    genomes, x = ops.init_genomes(network.layout, 3, seed=1), numbers(20, 100)
    bound = error_bound(network, genomes, x, precision=precision, zero_mean=True)
    outputs = ops.network_forward(genomes, network, x, precision=precision)
    assert (np.abs(outputs - bound.value) / bound.bound).max() > 1 / 200


def test_the_bound_sees_a_wrong_weight() -> None:
    network = Network((Dense(16, "tanh"), Dense(4)), (9,))
    genomes = ops.init_genomes(network.layout, 2, seed=1)
    x = numbers(11, 9)
    bound = error_bound(network, genomes, x)
    assert_close(ops.network_forward(genomes, network, x), *bound)
    genomes[1, 20] *= F(1.001)
    with pytest.raises(AssertionError, match=r"worst at \[1, "):
        assert_close(ops.network_forward(genomes, network, x), *bound)


def test_the_bound_by_hand() -> None:
    """One unit, y = 2 x0 - 3 x1 + 0.5 at x = (1, 2), then layers without parameters."""
    genomes, x = np.array([[2, -3, 0.5]], F), np.array([[1, 2]], F)
    sums = (6 * UNIT) * (2 + 6 + 0.5)
    dense = error_bound(Network((Dense(1),), (2,)), genomes, x)
    assert dense.value.tolist() == [[[-3.5]]]
    assert dense.bound[0, 0, 0] == pytest.approx(sums + 4 * UNIT * 3.5)
    rounded = error_bound(Network((Dense(1, "relu"),), (2,)), genomes, x, precision="bf16")
    assert rounded.value.tolist() == [[[0]]]
    assert rounded.bound[0, 0, 0] == pytest.approx(sums + 3 * 2.0**-8 * 8)
    mean = error_bound(Network((Dense(1),), (2,)), genomes, x, zero_mean=True)
    assert mean.bound[0, 0, 0] == pytest.approx(
        (2 * math.sqrt(2) + 4) * UNIT * 8.5 + 4 * UNIT * 3.5
    )


def test_the_bound_of_pools_by_hand() -> None:
    image, nothing = np.array([[[[1, 2], [3, -6]]]], F), np.zeros((1, 0), F)
    largest = error_bound(Network((MaxPool2d(2),), (1, 2, 2)), nothing, image, precision="bf16")
    assert (largest.value.item(), largest.bound.item()) == (3, 6 * 2.0**-8)
    mean = error_bound(Network((AvgPool2d(2),), (1, 2, 2)), nothing, image, precision="bf16")
    assert (mean.value.item(), mean.bound.item()) == (0, 3 * 2.0**-8 + 5 * UNIT * 3)
    steep = Network((Activation("leaky_relu", 4.0),), (1, 2, 2))
    assert error_bound(steep, nothing, image).value.tolist() == [[[[[1, 2], [3, -24]]]]]


def test_the_bound_of_convolutions_by_hand() -> None:
    """y = 2 x + 0.5 at every pixel, then y = x0 - 3 x1 over pairs of them."""
    x = np.array([[[[1, -2, 4]]]], F)
    one = error_bound(Network((Conv2d(1, 1),), (1, 1, 3)), np.array([[2, 0.5]], F), x)
    assert one.value.tolist() == [[[[[2.5, -3.5, 8.5]]]]]
    sizes = np.array([2.5, 4.5, 8.5])
    expected = 5 * UNIT * sizes + 4 * UNIT * np.abs(one.value[0, 0, 0, 0])
    np.testing.assert_allclose(one.bound[0, 0, 0, 0], expected)
    layer = Conv2d(1, (1, 2), 1, (0, 1), bias=False)
    pairs = error_bound(Network((layer,), (1, 1, 3)), np.array([[1, -3]], F), x, precision="bf16")
    assert pairs.value.tolist() == [[[[[-3, 7, -14, 4]]]]]
    rounded = 3 * 2.0**-8 * np.array([3, 7, 14, 4])
    exact = 6 * UNIT * np.array([3, 7, 14, 4]) + 4 * UNIT * np.array([3, 7, 14, 4])
    np.testing.assert_allclose(pairs.bound[0, 0, 0, 0], rounded + exact)


def test_the_bound_of_affine_residual_and_global_pool_by_hand() -> None:
    nothing, x = np.zeros((1, 0), F), np.array([[3, -5]], F)
    network = Network((Affine(),), (2,))
    affine = error_bound(network, np.array([[2, -4, -1, 0]], F), x, precision="bf16")
    assert affine.value.tolist() == [[[5, 20]]]
    expected = np.array([6, 20]) * 2.0**-8 + 5 * UNIT * np.array([7, 20])
    np.testing.assert_allclose(affine.bound[0, 0], expected + 4 * UNIT * np.array([5, 20]))
    double = Network((Residual((Activation("leaky_relu", -2.0),), None, "relu"),), (2,))
    bound = error_bound(double, nothing, x, precision="bf16")
    assert bound.value.tolist() == [[[6, 5]]]
    # The branch x * -2 below zero has a slope of 2 and an error of 4 units.
    body = np.array([2 * 3, 2 * 5]) * 2.0**-8 + 4 * UNIT * np.array([3, 10])
    expected = body + np.array([3, 5]) * 2.0**-8 + 5 * UNIT * np.array([6, 5])
    np.testing.assert_allclose(bound.bound[0, 0], expected)
    image = np.array([[[[1, 2], [3, -6]]]], F)
    mean = error_bound(Network((GlobalAvgPool(),), (1, 2, 2)), nothing, image, precision="bf16")
    assert (mean.value.tolist(), mean.bound.item()) == ([[[0]]], 3 * 2.0**-8 + 5 * UNIT * 3)


def test_the_bound_of_a_recurrent_layer_by_hand() -> None:
    """h = 2 x + 3 h + 0.5 over x = 1, 2: 2.5, then 12."""
    genomes, x = np.array([[2, 3, 0.5]], F), np.array([[[1], [2]]], F)
    first = 6 * UNIT * 2.5 + 4 * UNIT * 2.5
    second = 3 * first + 6 * UNIT * 12 + 4 * UNIT * 12
    bound = error_bound(Network((Elman(1, "identity", return_sequence=True),), (2, 1)), genomes, x)
    assert bound.value.tolist() == [[[[2.5], [12]]]]
    np.testing.assert_allclose(bound.bound.ravel(), [first, second])
    last = error_bound(Network((Elman(1, "identity"),), (2, 1)), genomes, x)
    assert (last.value.item(), last.bound.item()) == (12, bound.bound[0, 0, 1, 0])


def test_the_bound_of_scaled_bytes_by_hand() -> None:
    nothing, x = np.zeros((1, 0), F), np.array([[200]], np.uint8)
    bound = error_bound(Network((), (1,)), nothing, x, x_scale=0.25)
    assert (bound.value.item(), bound.bound.item()) == (50, 50 * UNIT)


@pytest.mark.parametrize("name", ["residual images", "elman, flat", "convs and pools"])
def test_the_bound_sees_one_wrong_gene_of_any_block(name: str) -> None:
    network = LAYERED[name]
    genomes = ops.init_genomes(network.layout, 1, seed=1, scheme="torch")
    x = numbers(20, *network.input_shape)
    bound = error_bound(network, genomes, x)
    for place in network.layout.offsets:
        changed = genomes.copy()
        changed[0, place] += F(0.5)
        outputs = ops.network_forward(changed, network, x, backend="reference")
        with pytest.raises(AssertionError, match="times the bound"):
            assert_close(outputs, *bound)


def test_the_bound_of_a_loss_by_hand() -> None:
    outputs = Bounded(np.array([[[0.0, 0.0, 9.0]]]), np.array([[[0.25, 0.5, 2.0]]]))
    loss = loss_bound(outputs, np.array([1]), np.array([2], np.int32))
    assert loss.value[0] == pytest.approx(math.log(2))
    assert loss.bound[0] == pytest.approx(1 + 8 * UNIT * (1 + math.log(2)))
    assert loss_bound(outputs, np.array([[2]])).bound[0] > 4


def test_an_unknown_precision_has_no_bound() -> None:
    network = Network((Dense(1),), (2,))
    with pytest.raises(ArgumentError, match="precision: expected one of"):
        error_bound(network, numbers(1, 3), numbers(1, 2), precision="fp8")


def test_outputs_start_as_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, network = GenomeLayout((DenseGenes(2, 3),)), Network.mlp(2, [], 3)
    for module in (ops.variation, ops.network):
        monkeypatch.setattr(module, "choose", lambda *names, **more: lambda *args, **options: None)
    with fill_outputs_with_nan():
        assert np.isnan(ops.init_genomes(layout, 5, seed=1)).all()
        loss, correct = ops.network_loss(numbers(4, 9), network, numbers(5, 2), np.arange(5) % 3)
    assert np.isnan(loss).all()
    assert (correct == -(2**31)).all()
    assert _arrays.empty.__name__ == "empty"


def test_missing_data_skip_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *, download: bool) -> None:
        assert not download
        raise DataError(f"{name} is not there")

    monkeypatch.setattr(datasets, "load", missing)
    with pytest.raises(pytest.skip.Exception, match=r"data cache .*: mnist is not there"):
        require_data("mnist")
    monkeypatch.setattr(datasets, "load", lambda name, download: name)
    assert require_data("mnist") == "mnist"
