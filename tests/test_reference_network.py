"""The reference's layers, networks and losses against tiny scalar programs of their rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scalar_rules import F, bits, exact_fma, image, init, scalar_mean

from evokern.backends.reference.activation import exp, log
from evokern.backends.reference.network import (
    affine,
    dense_forward,
    network_forward,
    network_loss,
)
from evokern.backends.reference.pool import avg_pool2d, max_pool2d
from evokern.network import Activation, AvgPool2d, Dense, Flatten, MaxPool2d, Network


def _windows(image, geometry):
    """The real elements of every window in row order: [[window, ...], ...] of one channel."""
    kh, kw, sh, sw, ph, pw = geometry
    height, width = image.shape
    return [
        [
            [
                image[i, j]
                for i in range(top, top + kh)
                for j in range(left, left + kw)
                if 0 <= i < height and 0 <= j < width
            ]
            for left in range(-pw, width + pw - kw + 1, sw)
        ]
        for top in range(-ph, height + ph - kh + 1, sh)
    ]


def _scalar_max(window):
    m = window[0]
    for x in window[1:]:
        m = x if x > m or x != x else m
    return m


def _scalar_sum(window):
    total = F(0)
    for x in window:
        total = F(total + x)
    return total


GEOMETRIES = [(2, 2, 2, 2, 0, 0), (3, 2, 1, 2, 1, 1), (2, 3, 3, 1, 1, 0), (7, 6, 1, 1, 0, 3)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_pools_follow_the_scalar_rule(geometry):
    x = image(2, 3, 7, 6)
    x[0, 0, 2, 3] = np.nan
    x[0, 1, :4] = -np.inf
    x[1, 2] = np.where(x[1, 2] > 0, F(0), F(-0.0))
    expected = [[_windows(channel, geometry) for channel in image] for image in x]
    shape = np.shape([[[[0 for _ in row] for row in c] for c in image] for image in expected])
    area = geometry[0] * geometry[1]

    def apply(rule):
        flat = [rule(w) for image in expected for c in image for row in c for w in row]
        return np.array(flat, F).reshape(shape)

    out = np.empty(shape, F)
    max_pool2d(x, geometry=geometry, out=out)
    assert bits(out) == bits(apply(_scalar_max))
    avg_pool2d(x, geometry=geometry, count_include_pad=True, out=out)
    np.testing.assert_array_equal(out, apply(lambda w: F(_scalar_sum(w) / F(area))))
    assert (np.signbit(out) <= (out < 0) | np.isnan(out)).all()
    avg_pool2d(x, geometry=geometry, count_include_pad=False, out=out)
    np.testing.assert_array_equal(out, apply(lambda w: F(_scalar_sum(w) / F(len(w)))))


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
    x, w, b = (np.asarray(a, F) for a in (x, w, b))
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


def _forward(network, genomes, x, index, precision="fp32"):
    samples = x.shape[-1 - len(network.input_shape)]
    out = np.full((len(index), samples, *network.output_shape), np.nan, F)
    network_forward(
        genomes, network, x, index=np.array(index, np.int32), precision=precision, out=out
    )
    return out


def test_network_is_its_layers_one_after_another():
    network = Network(
        (
            Activation("leaky_relu", 0.5),
            MaxPool2d(2, 1),
            AvgPool2d((1, 2), padding=(0, 1), count_include_pad=False),
            Flatten(),
            Dense(5, "relu"),
            Activation("leaky_relu"),
            Dense(3),
        ),
        (2, 4, 5),
    )
    genomes = init(network.layout, "torch", n=3)
    x = image(6, 2, 4, 5)
    index = [2, 0, 0, 1]
    head = np.where(x < 0, x * F(0.5), x)
    pooled = np.empty((6, 2, 3, 4), F)
    max_pool2d(head, geometry=(2, 2, 1, 1, 0, 0), out=pooled)
    averaged = np.empty((6, 2, 3, 3), F)
    avg_pool2d(pooled, geometry=(1, 2, 1, 2, 0, 1), count_include_pad=False, out=averaged)
    (w1, b1), (w2, b2) = network.layout.split(genomes)
    hidden = _dense(averaged.reshape(6, 18), w1, b1, index, "relu")
    expected = _dense(hidden, w2, b2, index)
    assert bits(_forward(network, genomes, x, index)) == bits(expected)
    per_slot = np.stack([x, x[::-1], x, x])
    out = _forward(network, genomes, per_slot, index)
    assert bits(out[[0, 2, 3]]) == bits(expected[[0, 2, 3]])
    assert bits(out[1]) == bits(expected[1, ::-1])


def test_network_bf16_rounds_where_a_layer_is_entered():
    network = Network((Dense(1), Dense(1)), (1,))
    genomes = np.array([[1, 2.0**-8, 1, 2.0**-20]], F)
    x = np.ones((1, 1), F)
    assert _forward(network, genomes, x, [0], "bf16").item() == 1 + 2.0**-20
    assert _forward(network, genomes, x, [0]).item() == float(F(1 + 2.0**-8 + 2.0**-20))


def test_network_takes_genomes_with_padded_rows():
    network = Network((Dense(70, "relu"), Dense(3)), (4,))
    genomes = init(network.layout, "torch", n=6)
    padded = np.full((6, network.layout.size + 13), np.nan, F)
    padded[:, : network.layout.size] = genomes
    x = image(100, 4)
    expected = _forward(network, genomes, x, range(6))
    assert bits(_forward(network, padded[:, : network.layout.size], x, range(6))) == bits(expected)


def test_network_takes_slots_with_their_own_batches_in_parts():
    network = Network((Dense(70, "relu"), Dense(3)), (4,))
    genomes = init(network.layout, "torch", n=2)
    x, index = image(7, 100, 4), [1, 0, 0, 1, 1, 0, 1]
    out = _forward(network, genomes, x, index)
    for slot, individual in enumerate(index):
        assert bits(out[slot]) == bits(_forward(network, genomes, x[slot], [individual])[0])


def _loss(outputs, y, classes=None, loss="cross_entropy"):
    """Loss and right answers of slots whose networks give these outputs [S, B, O]."""
    outputs = np.asarray(outputs, F)
    slots = len(outputs)
    network = Network((Flatten(),), (outputs.shape[2],))
    out_loss, out_correct = np.full(slots, np.nan, F), np.full(slots, -1, np.int32)
    network_loss(
        np.zeros((1, 0), F),
        network,
        outputs,
        np.asarray(y, np.int64 if loss == "cross_entropy" else F),
        index=np.zeros(slots, np.int32),
        classes=None if classes is None else np.array(classes, np.int32),
        loss=loss,
        precision="fp32",
        out_loss=out_loss,
        out_correct=out_correct,
    )
    return out_loss, out_correct


def test_cross_entropy_of_two_equal_logits_is_log_two():
    loss, correct = _loss([[[0, 0]], [[5, 5]]], [0])
    assert bits(loss[0]) == 0x3F317218
    assert loss[1] == pytest.approx(math.log(2), abs=1e-6)
    assert correct.tolist() == [1, 1]
    assert _loss([[[0, 0]]], [1])[1].tolist() == [0]


def _scalar_cross_entropy(z, y):
    m = z[0]
    for value in z[1:]:
        m = value if value > m or value != value else m
    total = F(0)
    for value in z:
        total = F(total + exp(np.array([value - m], F))[0])
    return F(F(log(np.array([total], F))[0] + m) - z[y])


def test_cross_entropy_follows_the_scalar_rule():
    logits = image(3, 40, 7) * F(3)
    labels = (np.arange(120).reshape(3, 40) * 5 % 7).astype(np.int64)
    classes = [7, 7, 4]
    labels[2] %= 4
    expected, right = [], []
    for slot in range(3):
        rows = logits[slot, :, : classes[slot]]
        losses = [_scalar_cross_entropy(z, y) for z, y in zip(rows, labels[slot], strict=True)]
        expected.append(scalar_mean(losses))
        right.append(np.count_nonzero(rows.argmax(axis=1) == labels[slot]))
    loss, correct = _loss(logits, labels, classes)
    assert bits(loss) == bits(expected)
    assert correct.tolist() == right
    exact = logits[0].astype(float)
    exact = np.log(np.exp(exact).sum(1)) - exact[np.arange(40), labels[0]]
    assert loss[0] == pytest.approx(exact.mean(), abs=1e-6)
    shared = _loss(logits[:2], labels[0])[0]
    assert bits(shared[0]) == bits(loss[0])


def test_classes_hide_outputs_whatever_they_hold():
    loss, correct = _loss([[[1, 2, np.nan]], [[1, 2, np.inf]], [[1, 2, 3]]], [1], [2, 2, 3])
    assert bits(loss[0]) == bits(loss[1]) == bits(_loss([[[1, 2]]], [1])[0][0])
    assert correct.tolist() == [1, 1, 0]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_nan_logit_is_wrong_and_makes_the_loss_nan(place):
    logits = np.array([[[3, 2, 1]]], F)
    logits[0, 0, place] = np.nan
    for label in range(3):
        loss, correct = _loss(logits, [label])
        assert np.isnan(loss[0])
        assert correct[0] == 0


def test_the_first_of_equal_logits_is_the_answer():
    logits = [[[1, 4, 4, 0], [-np.inf, -np.inf, -np.inf, -np.inf], [-0.0, 0, 0, -0.0]]]
    assert _loss(logits, [1, 0, 0])[1].tolist() == [3]
    assert _loss(logits, [2, 1, 1])[1].tolist() == [0]


def test_mse_divides_the_ascending_sum_of_squares():
    outputs = [[[2.0**12, 1, 1], [0, 0, 3]]]
    targets = [[0, 0, 0], [0, 0, 0]]
    # 2^24 + 1 + 1 is 2^24 when added in order.
    first, second = F(2.0**24) / F(3), F(3)
    loss, correct = _loss(outputs, targets, loss="mse")
    assert bits(loss) == bits([F(F(first + second) / F(2))])
    assert correct.tolist() == [0]
    assert _loss(outputs, [targets], loss="mse")[0] == loss
    hidden = _loss([[[1, 2, np.nan]]], [[0, 0, 0]], [2], loss="mse")[0]
    assert hidden.tolist() == [2.5]


def test_network_loss_is_the_loss_of_the_networks_outputs():
    network = Network((Dense(90, "relu"), Dense(3)), (4,))
    genomes = init(network.layout, "torch", n=5)
    x, y = image(90, 4), np.arange(90) % 3
    index = np.array([4, 2, 2, 0, 1], np.int32)
    loss, correct = np.empty(5, F), np.empty(5, np.int32)
    network_loss(
        genomes,
        network,
        x,
        y,
        index=index,
        classes=None,
        loss="cross_entropy",
        precision="fp32",
        out_loss=loss,
        out_correct=correct,
    )
    outputs = _forward(network, genomes, x, index)
    expected_loss, expected_correct = _loss(outputs, y)
    assert bits(loss) == bits(expected_loss)
    assert correct.tolist() == expected_correct.tolist()
    assert len(set(correct.tolist())) > 1
