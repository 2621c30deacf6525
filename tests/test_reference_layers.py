"""The reference's layers against tiny scalar programs of their rules, and against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from cases import special_numbers
from cases_layers import CONVOLUTIONS
from scalar_layers import scalar_conv, scalar_max, scalar_sum, scalar_windows
from scalar_rules import F, bits, exact_fma, image

from evokern.backends.reference.activation import activate
from evokern.backends.reference.layers import affine, conv2d_forward, dense_forward, residual
from evokern.backends.reference.pool import avg_pool2d, global_avg_pool, max_pool2d
from evokern.layers import ACTIVATIONS, Conv2d, pool_output
from evokern.network import Network
from evokern.testing import assert_close, error_bound

GEOMETRIES = [(2, 2, 2, 2, 0, 0), (3, 2, 1, 2, 1, 1), (2, 3, 3, 1, 1, 0), (7, 6, 1, 1, 0, 3)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_pools_follow_the_scalar_rule(geometry):
    x = image(2, 3, 7, 6)
    x[0, 0, 2, 3] = np.nan
    x[0, 1, :4] = -np.inf
    x[1, 2] = np.where(x[1, 2] > 0, F(0), F(-0.0))
    expected = [[scalar_windows(channel, geometry) for channel in image] for image in x]
    shape = np.shape([[[[0 for _ in row] for row in c] for c in image] for image in expected])
    area = geometry[0] * geometry[1]

    def apply(rule):
        flat = [rule(w) for image in expected for c in image for row in c for w in row]
        return np.array(flat, F).reshape(shape)

    out = np.empty(shape, F)
    max_pool2d(x, geometry=geometry, out=out)
    assert bits(out) == bits(apply(scalar_max))
    avg_pool2d(x, geometry=geometry, count_include_pad=True, out=out)
    np.testing.assert_array_equal(out, apply(lambda w: F(scalar_sum(w) / F(area))))
    assert (np.signbit(out) <= (out < 0) | np.isnan(out)).all()
    avg_pool2d(x, geometry=geometry, count_include_pad=False, out=out)
    np.testing.assert_array_equal(out, apply(lambda w: F(scalar_sum(w) / F(len(w)))))


def test_max_pool_keeps_the_first_of_equals_and_lets_nan_win():
    x = np.array([[-0.0, 0.0, np.nan, np.inf], [-0.0, -1, 2, 3]], F)[None, None]
    out = np.empty((1, 1, 1, 2), F)
    max_pool2d(x, geometry=(2, 2, 2, 2, 0, 0), out=out)
    assert bits(out)[0][0][0][0] == 0x80000000
    assert np.isnan(out[0, 0, 0, 1])


def test_average_pool_adds_in_row_order_and_divides_once():
    x = np.array([[2.0**24, 1], [-(2.0**24), 1]], F)[None, None]
    out = np.empty((1, 1, 1, 1), F)
    avg_pool2d(x, geometry=(2, 2, 2, 2, 0, 0), count_include_pad=True, out=out)
    assert out.item() == 0.25


def _dense(x, w, b, index, activation="identity", precision="fp32", negative_slope=0.01):
    x, w, b = (a if a is None else np.asarray(a, F) for a in (x, w, b))
    out = np.full((len(index), x.shape[-2], w.shape[2]), np.nan, F)
    dense_forward(
        x,
        w,
        b,
        index=np.array(index, np.int32),
        activation=activation,
        negative_slope=negative_slope,
        precision=precision,
        out=out,
    )
    return out


def test_dense_starts_at_the_bias_and_goes_up():
    assert _dense([[1, 1]], [[[1], [-(2.0**24)]]], [[2.0**24]], [0]).item() == 0
    assert _dense([[1, 1]], [[[-(2.0**24)], [1]]], [[2.0**24]], [0]).item() == 1


def test_dense_fuses_product_and_sum():
    x = 1 + 2.0**-12
    assert _dense([[x]], [[[x]]], [[-1 - 2.0**-11]], [0]).item() == 2.0**-24


def test_dense_follows_the_scalar_rule_for_every_slot():
    x, w, b = image(3, 4, 5), image(2, 5, 6), image(2, 6)
    index = [1, 0, 1]
    expected = np.empty((3, 4, 6))
    for s, row, o in np.ndindex(3, 4, 6):
        total = b[index[s], o]
        for k in range(5):
            total = exact_fma(x[s, row, k], w[index[s], k, o], total)
        expected[s, row, o] = total
    assert bits(_dense(x, w, b, index)) == bits(expected)
    relu = np.where(expected < 0, 0, expected)
    assert bits(_dense(x, w, b, index, "relu")) == bits(relu)
    leaky = np.where(expected < 0, expected.astype(F) * F(0.25), expected.astype(F))
    assert bits(_dense(x, w, b, index, "leaky_relu", negative_slope=0.25)) == bits(leaky)


def test_dense_shares_a_batch_and_takes_slots_in_parts():
    x, w, b = image(70, 3), image(4, 3, 120), image(4, 120)
    index = [3, 1, 1, 0, 2]
    shared = _dense(x, w, b, index)
    assert bits(shared) == bits(_dense(np.stack([x] * 5), w, b, index))
    for slot, individual in enumerate(index):
        assert bits(shared[slot]) == bits(_dense(x, w, b, [individual])[0])


def test_dense_bf16_rounds_inputs_and_weights_only():
    x, w, b = 1 + 2.0**-8, 1 + 3 * 2.0**-8, 2.0**-20
    assert _dense([[x]], [[[w]]], [[b]], [0], precision="bf16").item() == 1 + 2.0**-6 + 2.0**-20
    assert _dense([[x]], [[[w]]], [[b]], [0]).item() == float(F(exact_fma(x, w, b)))


def test_affine_rounds_twice():
    x = np.array([[1 + 2.0**-12, 2], [3, 4]], F).reshape(1, 1, 2, 2)
    scale = np.array([[9, 9], [1 + 2.0**-12, 10]], F)
    shift = np.array([[9, 9], [-1 - 2.0**-11, 0.5]], F)
    out = np.empty((2, 1, 2, 2), F)
    affine(np.concatenate([x, x]), scale, shift, index=np.array([1, 0], np.int32), out=out)
    assert out[0, 0].tolist() == [[0, 1 - 2.0**-11 + 2.0**-11], [30.5, 40.5]]
    assert out[1, 0].tolist() == [[18 + 9 * 2.0**-12, 27], [36, 45]]


def test_dense_without_bias_starts_at_positive_zero():
    w = np.array([[[-1.0, 2, np.inf]]], F)
    out = _dense([[0.0]], w, None, [0])
    assert bits(out[0, 0, :2]) == [0, 0]
    assert np.isnan(out[0, 0, 2])
    assert bits(_dense([[0.0]], [[[-1.0]]], [[-0.0]], [0])) == [[[0x80000000]]]


def _conv(x, w, b, index, geometry, activation="identity", precision="fp32", negative_slope=0.01):
    x, w, b = (a if a is None else np.asarray(a, F) for a in (x, w, b))
    kh, kw, sh, sw, ph, pw = geometry
    height, width = x.shape[-2:]
    size = ((height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1)
    out = np.full((len(index), x.shape[-4], w.shape[2], *size), np.nan, F)
    conv2d_forward(
        x,
        w,
        b,
        index=np.array(index, np.int32),
        geometry=geometry,
        activation=activation,
        negative_slope=negative_slope,
        precision=precision,
        x_scale=None,
        out=out,
    )
    return out


def test_convolution_by_hand():
    """Two channels, a 2x2 kernel over 2x3 images, two outputs."""
    x = [[[1, 2, 3], [4, 5, 6]], [[10, 20, 30], [40, 50, 60]]]
    w = [[1, 0], [2, 0], [3, 0], [4, 1], [0, 1], [0, 0], [0, 0], [100, 0]]
    b = [0.5, -1]
    first = [1 + 4 + 12 + 20 + 5000.5, 2 + 6 + 15 + 24 + 6000.5]
    second = [5 + 10 - 1, 6 + 20 - 1]
    out = _conv([x], [w], [b], [0], (2, 2, 1, 1, 0, 0))
    assert out.tolist() == [[[[first], [second]]]]


def test_convolution_starts_at_the_bias_and_goes_by_channel_row_column():
    big = 2.0**24
    for order, expected in (([-big, 1, 0, 0], 1), ([1, -big, 0, 0], 0), ([0, 0, -big, 1], 1)):
        w = np.reshape(order, (1, 4, 1))
        for shape, geometry in (((1, 2, 2), (2, 2)), ((4, 1, 1), (1, 1)), ((2, 1, 2), (1, 2))):
            out = _conv(np.ones((1, *shape)), w, [[big]], [0], (*geometry, 1, 1, 0, 0))
            assert out.tolist() == [[[[[expected]]]]]


def test_padding_takes_part_as_zero():
    x, geometry = np.ones((1, 1, 1, 1)), (1, 3, 1, 1, 0, 1)
    assert np.isnan(_conv(x, [[[np.inf], [1], [1]]], [[0]], [0], geometry)).all()
    # -0 + 0 * 5 is +0: padding changes the bits of a sum that stands at -0.
    out = _conv(x, [[[5]]], [[-0.0]], [0], (1, 1, 1, 1, 1, 1))
    assert bits(out[0, 0, 0, 0]) == [0, 0, 0]


@pytest.mark.parametrize("name", list(CONVOLUTIONS))
def test_convolution_follows_the_scalar_rule_for_every_slot(name):
    geometry = Conv2d(*CONVOLUTIONS[name][:4]).geometry()
    outputs = min(CONVOLUTIONS[name][0], 3)
    shape = (*CONVOLUTIONS[name][4:], (2, 9, 7))[0]
    rows = shape[0] * geometry[0] * geometry[1]
    for values, bias in ((image, True), (special_numbers, True), (image, False)):
        x, w, b = values(2, 1, *shape), values(2, rows, outputs), values(2, outputs)
        b = b if bias else None
        expected = [
            scalar_conv(x[slot, 0], w[row], b if b is None else b[row], geometry)
            for slot, row in ((0, 1), (1, 0))
        ]
        actual = _conv(x, w, b, [1, 0], geometry)
        np.testing.assert_array_equal(actual[:, 0], expected)
        assert (np.signbit(actual[:, 0]) == np.signbit(expected))[~np.isnan(expected)].all()


def test_convolution_shares_a_batch_and_takes_slots_and_batch_in_parts():
    x, w, b = image(41, 2, 9, 8), image(3, 18, 20), image(3, 20)
    index, geometry = [2, 0, 0, 1], (3, 3, 1, 1, 1, 1)
    shared = _conv(x, w, b, index, geometry)
    assert bits(shared) == bits(_conv(np.stack([x] * 4), w, b, index, geometry))
    for sample in (0, 17, 40):
        alone = _conv(x[sample : sample + 1], w, b, index, geometry)
        assert bits(shared[:, sample]) == bits(alone[:, 0])
    assert bits(shared[1]) == bits(_conv(x, w, b, [0], geometry)[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_convolution_ends_in_the_activation(activation):
    x, w, b = image(2, 2, 4, 3), image(1, 8, 3), image(1, 3)
    sums = _conv(x, w, b, [0], (2, 2, 1, 1, 0, 0))
    out = _conv(x, w, b, [0], (2, 2, 1, 1, 0, 0), activation, negative_slope=0.3)
    assert bits(out) == bits(activate(activation, sums, 0.3))


def test_convolution_bf16_rounds_inputs_and_weights_only():
    x, w, b = 1 + 2.0**-8, 1 + 3 * 2.0**-8, 2.0**-20
    arguments = ([[[[x]]]], [[[w]]], [[b]], [0], (1, 1, 1, 1, 0, 0))
    assert _conv(*arguments, precision="bf16").item() == 1 + 2.0**-6 + 2.0**-20
    assert _conv(*arguments).item() == float(F(exact_fma(x, w, b)))


@pytest.mark.torch
@pytest.mark.parametrize("name", list(CONVOLUTIONS))
def test_convolution_is_that_of_pytorch(name):
    torch = pytest.importorskip("torch")
    layer = Conv2d(*CONVOLUTIONS[name][:4])
    shape = (*CONVOLUTIONS[name][4:], (2, 9, 7))[0]
    network = Network((layer,), shape)
    genomes, x = image(2, network.layout.size), image(3, *shape)
    bound = error_bound(network, genomes, x)
    ((w, b),) = network.layout.split(genomes)
    out = _conv(x, w, b, [0, 1], layer.geometry())
    assert out.shape[3:] == pool_output(layer, *shape[1:])
    kh, kw, sh, sw, ph, pw = layer.geometry()
    for slot in range(2):
        kernels = w[slot].T.reshape(layer.outputs, shape[0], kh, kw)
        exact = torch.nn.functional.conv2d(
            *(torch.from_numpy(a.astype(np.float64)) for a in (x, kernels, b[slot])),
            stride=(sh, sw),
            padding=(ph, pw),
        ).numpy()
        np.testing.assert_allclose(exact, bound.value[slot], rtol=1e-12, atol=1e-12)
        assert_close(out[slot], exact, bound.bound[slot])


def test_global_average_adds_rows_then_columns_and_divides_once():
    x = np.array([[2.0**24, 1], [-(2.0**24), 1]], F)
    out = np.full((2, 1), np.nan, F)
    global_avg_pool(np.stack([x, x.T])[:, None], out=out)
    assert out.tolist() == [[0.25], [0.5]]
    x = image(3, 2, 5, 4)
    x[1, 1, 3, 2] = np.nan
    out = np.full((3, 2), np.nan, F)
    global_avg_pool(x, out=out)
    expected = [[F(scalar_sum(c.ravel()) / F(20)) for c in sample] for sample in x]
    np.testing.assert_array_equal(out, np.array(expected, F))
    global_avg_pool(np.full((3, 2, 1, 1), -0.0, F), out=out)
    assert bits(out) == [[0, 0]] * 3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_residual_adds_once_then_activates(activation):
    x, y = image(5, 7), special_numbers(5, 7)
    out = np.full((5, 7), 9, F)
    residual(x, y, activation=activation, negative_slope=0.3, out=out)
    with np.errstate(all="ignore"):
        expected = activate(activation, x + y, 0.3)
    np.testing.assert_array_equal(out, expected)


def test_residual_by_hand():
    x, y = np.array([1, -3, 2.0**24, -0.0], F), np.array([2, 1, 1, -0.0], F)
    out = np.empty(4, F)
    residual(x, y, activation="leaky_relu", negative_slope=0.5, out=out)
    assert bits(out) == bits([3, -1, 2.0**24, -0.0])
    residual(x, y, activation="relu", negative_slope=0.5, out=x)
    assert bits(x) == bits([3, 0, 2.0**24, -0.0])
