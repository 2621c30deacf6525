"""The reference's networks and losses against tiny scalar programs of their rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import numbers, small_numbers, special_numbers
from networks import LAYERED, NATURE
from scalar_layers import scalar_layers
from scalar_rules import F, bits, image, init, scalar_mean

from evokern.backends.reference import network as reference
from evokern.backends.reference.activation import exp, log
from evokern.backends.reference.layers import dense_forward
from evokern.backends.reference.pool import avg_pool2d, max_pool2d
from evokern.layers import (
    Activation,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    Flatten,
    GlobalAvgPool,
    MaxPool2d,
    Residual,
)
from evokern.layout import size_of
from evokern.network import Network
from evokern.testing import assert_close, assert_same_bits, error_bound


def _banks(network, genomes):
    layout = network.layout
    places = zip(layout.offsets, layout.blocks, strict=True)
    return [genomes[:, start : start + size_of(block)] for start, block in places]


def _forward(network, genomes, x, index, precision="fp32", x_scale=None):
    """``genomes`` [P, G] or one bank per block; ``index`` [S] or [L, S]."""
    banks = genomes if isinstance(genomes, list) else _banks(network, genomes)
    index = np.asarray(index, np.int32)
    index = index if index.ndim == 2 else np.tile(index, (max(1, len(banks)), 1))
    samples = x.shape[-1 - len(network.input_shape)]
    out = np.full((index.shape[1], samples, *network.output_shape), np.nan, F)
    options = {"index": index, "precision": precision, "x_scale": x_scale}
    reference.network_forward(banks, network, x, **options, out=out)
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
    hidden, expected = np.empty((4, 6, 5), F), np.empty((4, 6, 3), F)
    options = {"index": np.array(index), "negative_slope": 0.01, "precision": "fp32"}
    flat = averaged.reshape(6, 18)
    dense_forward(flat, w1, b1, activation="relu", out=hidden, **options)
    dense_forward(hidden, w2, b2, activation="identity", out=expected, **options)
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


@pytest.mark.parametrize("values", [numbers, special_numbers, small_numbers])
@pytest.mark.parametrize("name", list(LAYERED))
def test_networks_follow_the_scalar_rules(name, values):
    network = LAYERED[name]
    if values is small_numbers and network.layout.size > 300:
        pytest.skip("slow, and smaller networks show the same")
    genomes, x = values(2, network.layout.size), values(2, *network.input_shape)
    out = _forward(network, genomes, x, [1, 0])
    for slot, sample in ((0, 1), (1, 0)):
        expected = scalar_layers(network.layers, x[sample], iter(genomes[1 - slot]))
        assert_same_bits(out[slot, sample], expected)


@pytest.mark.parametrize("name", ["residual images", "elmans", "nested residuals", "elman, flat"])
def test_networks_in_bf16_follow_the_scalar_rules(name):
    network = LAYERED[name]
    genomes, x = numbers(2, network.layout.size), numbers(2, *network.input_shape)
    out = _forward(network, genomes, x, [0, 1], "bf16")
    expected = scalar_layers(network.layers, x[0], iter(genomes[1]), bf16=True)
    assert_same_bits(out[1, 0], expected)
    assert bits(out) != bits(_forward(network, genomes, x, [0, 1]))


def test_affine_rounds_twice_in_a_network():
    network = Network((LAYERED["affine of features"].layers[-1],), (2,))
    x = 1 + 2.0**-12
    genomes = np.array([[x, 10, -1 - 2.0**-11, 0.5]], F)
    assert _forward(network, genomes, np.array([[x, 4]], F), [0]).tolist() == [[[0, 40.5]]]


def test_elman_by_hand():
    """h = relu(2 x0 + 3 x1 + 0.5 h + 1) over two steps, and for a second unit -h0 - x0."""
    network = Network((Elman(2, "relu", return_sequence=True),), (2, 2))
    genome = [2, -1, 3, 0, 0.5, -1, 0, 0, 1, 0]
    x = np.array([[[1, 2], [-4, 1]]], F)
    out = _forward(network, np.array([genome], F), x, [0])
    assert out.tolist() == [[[[9, 0], [0.5, 0]]]]
    last = Network((Elman(2, "relu"),), (2, 2))
    assert _forward(last, np.array([genome], F), x, [0]).tolist() == [[[0.5, 0]]]


def test_elman_adds_the_bias_then_inputs_then_the_state():
    network = Network((Elman(1, "identity"),), (2, 1))
    # h_1 = 2^24 + 1, which rounds to 2^24; h_2 = (2^24 + 1) - h_1. Other orders give 1.
    out = _forward(network, np.array([[1, -1, 2.0**24]], F), np.ones((1, 2, 1), F), [0])
    assert out.item() == 0


def test_elman_multiplies_the_state_it_starts_from():
    network = Network((Elman(1, "identity"),), (1, 1))
    genomes = np.array([[1, np.inf, 2]], F)
    assert np.isnan(_forward(network, genomes, np.ones((1, 1, 1), F), [0])).all()


def test_residual_by_hand():
    """relu((x1 + x2) + x) where the body sums its two inputs into both outputs."""
    network = Network((Residual((Dense(2, bias=False),)),), (2,))
    genomes = np.ones((1, 4), F)
    assert _forward(network, genomes, np.array([[1, -3]], F), [0]).tolist() == [[[0, 0]]]
    assert _forward(network, genomes, np.array([[4, -3]], F), [0]).tolist() == [[[5, 0]]]


def test_residual_takes_genes_of_the_body_first():
    network = Network((Residual((Dense(1),), (Dense(1, bias=False),), "identity"),), (1,))
    genomes = np.array([[10, 100, 1]], F)
    assert _forward(network, genomes, np.full((1, 1), 2, F), [0]).item() == 10 * 2 + 100 + 2


def test_a_block_of_layers_without_parameters_is_run_once_for_a_shared_batch(monkeypatch):
    calls = []
    monkeypatch.setattr(reference, "max_pool2d", lambda x, **_: calls.append(x.shape))
    head = (Residual((Activation("relu"),)), MaxPool2d(1))
    network = Network((*head, Flatten(), Dense(1)), (1, 30, 30))
    genomes = np.zeros((3, network.layout.size), F)
    _forward(network, genomes, image(20, 1, 30, 30), [0, 1, 2])
    assert calls == [(20, 1, 30, 30)]


def test_nature_is_within_the_error_bound():
    genomes, x = init(NATURE.layout, "torch", n=1), image(1, *NATURE.input_shape)
    assert_close(_forward(NATURE, genomes, x, [0]), *error_bound(NATURE, genomes, x))


def test_banks_have_their_own_rows():
    network = LAYERED["residual images"]
    heights = [1 + number % 3 for number in range(len(network.layout.blocks))]
    blocks = zip(heights, network.layout.blocks, strict=True)
    banks = [image(height, size_of(block)) for height, block in blocks]
    index = np.array([[s * 5 % height for s in range(4)] for height in heights])
    x = image(2, *network.input_shape)
    out = _forward(network, banks, x, index)
    genomes = [
        np.concatenate([b[i[s]] for b, i in zip(banks, index, strict=True)]) for s in range(4)
    ]
    assert bits(out) == bits(_forward(network, np.stack(genomes), x, range(4)))


def test_genomes_of_bf16_are_the_upper_half_of_fp32():
    network = LAYERED["affine of channels"]
    genomes = special_numbers(3, network.layout.size, share=0.02)
    upper = (genomes.view(np.uint32) >> 16).astype(np.uint16)
    exact = (genomes.view(np.uint32) & 0xFFFF0000).view(F)
    x = image(2, *network.input_shape)
    out = _forward(network, upper, x, [2, 0, 1])
    assert_same_bits(out, _forward(network, exact, x, [2, 0, 1]))
    ones = np.full((1, 2), 0x3F80, np.uint16)
    assert _forward(Network((Dense(1),), (1,)), ones, np.full((1, 1), 5, F), [0]).item() == 6


@pytest.mark.parametrize("shared", [True, False])
def test_bytes_are_scaled_with_one_rounding(shared):
    network = Network((Conv2d(2, 3, 1, 1), GlobalAvgPool()), (1, 4, 4))
    genomes = image(3, network.layout.size)
    x = np.arange(3 * 5 * 16).reshape(3, 5, 1, 4, 4).astype(np.uint8)
    x = x[0] if shared else x
    scaled = x.astype(F) * F(1 / 255)
    out = _forward(network, genomes, x, [2, 1, 0], x_scale=1 / 255)
    assert bits(out) == bits(_forward(network, genomes, scaled, [2, 1, 0]))
    plain = Network((), (1,))
    out = _forward(plain, [], np.array([[255], [3]], np.uint8), np.zeros((0, 1)), x_scale=0.1)
    assert bits(out) == bits([[[F(255) * F(0.1)], [F(3) * F(0.1)]]])


def _loss(outputs, y, classes=None, loss="cross_entropy", weights=None):
    """Loss and right answers of slots whose networks give these outputs [S, B, O]."""
    outputs = np.asarray(outputs, F)
    slots = len(outputs)
    network = Network((Flatten(),), (outputs.shape[2],))
    out_loss, out_correct = np.full(slots, np.nan, F), np.full(slots, -1, np.int32)
    reference.network_loss(
        [],
        network,
        outputs,
        np.asarray(y, np.int64 if loss == "cross_entropy" else F),
        index=np.zeros((0, slots), np.int32),
        x_scale=None,
        classes=None if classes is None else np.array(classes, np.int32),
        sample_weights=None if weights is None else np.array(weights, F),
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


def test_weights_multiply_the_losses_of_samples_before_the_mean():
    outputs = [[[1, 1], [2, 2], [3, 3]]]
    targets = [[0, 0], [0, 0], [0, 0]]  # losses 1, 4, 9
    loss, _ = _loss(outputs, targets, loss="mse", weights=[3, 0.5, 0])
    assert bits(loss) == bits([F(5) / F(3)])  # over the samples, not over the weights' sum
    loss, _ = _loss(outputs * 2, targets, loss="mse", weights=[[1, 1, 1], [0, 0, 2]])
    assert bits(loss) == bits([F(14) / F(3), F(6)])
    _, correct = _loss([[[0, 1], [0, 1]]], [1, 1], weights=[0, 0])
    assert correct.tolist() == [2]


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
    reference.network_loss(
        _banks(network, genomes),
        network,
        x,
        y,
        index=np.stack([index, index]),
        x_scale=None,
        classes=None,
        sample_weights=None,
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
