"""Triton's elementwise layers, pools and losses against the reference, in any memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import interpreter
import numpy as np
import pytest
from cases import F, Values, numbers, small_numbers, special_numbers

from evokern.backends.device import use_device
from evokern.backends.reference import layers, loss, pool
from evokern.backends.reference.activation import activate
from evokern.backends.reference.arithmetic import mean_of_samples, round_to_bf16
from evokern.network import ACTIVATIONS, Network
from evokern.testing import assert_same_bits

pytestmark = pytest.mark.triton
if reason := interpreter.unavailable():
    pytest.skip(reason, allow_module_level=True)
else:
    from evokern.backends.triton import elementwise
    from evokern.backends.triton import layers as triton_layers
    from evokern.backends.triton import loss as triton_loss
    from evokern.backends.triton import network as triton_network
    from evokern.backends.triton import pool as triton_pool
    from evokern.backends.triton.elementwise import ElementTile
    from evokern.backends.triton.launch import Parameter, Pointer, Samples, pointer, strides
SHAPES = [(1, 1, 1), (3, 5, 7), (2, 1, 257), (1, 33, 4), (17, 2, 64)]
"""Slots, samples, features."""

SLOPE = 0.3


def run(function: Callable[..., None], *arguments: Any, **options: Any) -> None:
    with use_device(interpreter.DEVICE, "triton"):
        function(*arguments, **options)


def with_gaps(values: np.ndarray, gap: int) -> np.ndarray:
    """The same [slots, samples, ...] with ``gap`` rows after each slot, and elements after each
    sample."""
    slots, samples = values.shape[:2]
    memory = np.full((slots, samples + gap, values[0, 0].size + gap), 5, values.dtype)
    view = memory[:, :samples, : values[0, 0].size]
    view[...] = values.reshape(view.shape)
    return view


def apart(x: np.ndarray) -> Samples:
    """Samples of each slot; of one batch for all where that is what x is."""
    return Samples(pointer(x), *((0, strides(x)[0]) if x.ndim == 2 else strides(x)[:2]))


def sizes(shape: tuple[int, ...]) -> dict[str, int]:
    return {"slots": shape[0], "samples": shape[1]}


def gaps_of(view: np.ndarray) -> np.ndarray:
    """What lies between the rows of `with_gaps`."""
    memory = view.base
    assert memory is not None
    written = np.zeros(memory.shape, bool)
    written[:, : view.shape[1], : view.shape[2]] = True
    return memory[~written]


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_activations_and_sums(shape: tuple[int, ...], gap: int) -> None:
    x, y = (with_gaps(special_numbers(*shape), gap) for _ in range(2))
    batch = special_numbers(*shape[1:])
    for name in ("identity", "leaky_relu", "gelu"):
        rule = {"features": shape[2], "code": ACTIVATIONS.index(name), "slope": SLOPE}
        out = with_gaps(np.zeros(shape, F), gap)
        run(elementwise.activation, apart(x), apart(out), **sizes(shape), **rule)
        assert_same_bits(out, activate(name, x, SLOPE))
        assert (gaps_of(out) == 5).all()
        for first in (x, batch):
            operands = apart(first), apart(y), apart(out)
            run(elementwise.add, *operands, **sizes(shape), **rule)
            with np.errstate(all="ignore"):
                assert_same_bits(out, activate(name, first + y, SLOPE))
            assert (gaps_of(out) == 5).all()


@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes(shape: tuple[int, ...], gap: int) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    x, out = with_gaps(values, gap), with_gaps(np.zeros(shape, F), gap)
    options = {"features": shape[2], "scale": 1 / 255}
    run(elementwise.widen_bytes, apart(x), apart(out), **sizes(shape), **options)
    assert_same_bits(out, layers.scaled(values, 1 / 255))
    assert (gaps_of(out) == 5).all()


@pytest.mark.parametrize("values", [numbers, special_numbers, small_numbers])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "shape", [(3, 5, 7, 1), (2, 3, 5, 4), (1, 2, 3, 35), (4, 1, 65, 9)], ids=str
)
def test_affine(shape: tuple[int, ...], bf16: bool, values: Values) -> None:
    slots, _, channels, length = shape
    rows = (np.arange(slots) % 2).astype(np.int32)
    bank = values(2, 2 * channels + 1)  # scale, then shift
    bank = round_to_bf16(bank) if bf16 else bank
    x = values(*shape)
    expected = np.empty(shape, F)
    scale, shift = bank[:, :channels], bank[:, channels:-1]
    layers.affine(x, scale, shift, index=rows, out=expected)
    stored = (bank.view(np.uint32) >> 16).astype(np.uint16) if bf16 else bank
    parameters = [
        Parameter(pointer(part), strides(stored)[0], pointer(rows))
        for part in (stored, stored[:, channels:])
    ]
    near, out = with_gaps(x, 2), with_gaps(np.zeros(shape, F), 2)
    rule = {"channels": channels, "length": length, "code": 1, "slope": 0.0}
    run(elementwise.affine, apart(near), *parameters, apart(out), **sizes(shape), **rule)
    assert_same_bits(out, activate("relu", expected).reshape(out.shape))
    assert (gaps_of(out) == 5).all()


def test_affine_of_channels_that_lie_apart() -> None:
    x, out = numbers(2, 3, 5, 6)[..., :4], np.full((2, 3, 5, 7), 5, F)
    index, scale, shift = np.array([2, 0], np.int32), numbers(3, 5), numbers(3, 5, seed=1)
    expected = np.empty(x.shape, F)
    layers.affine(x, scale, shift, index=index, out=expected)
    run(triton_layers.affine, x, scale, shift, index=index, out=out[..., :4])
    assert_same_bits(out[..., :4], expected)
    assert (out[..., 4:] == 5).all()
    columns = numbers(2, 3, 5, 2)[..., :1]
    ones = np.empty(columns.shape, F)
    layers.affine(columns, scale, shift, index=index, out=ones)
    run(triton_layers.affine, columns, scale, shift, index=index, out=out[..., :1])
    assert_same_bits(out[..., :1], ones)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_residual(activation: str) -> None:
    x, y = special_numbers(3, 5, 7), special_numbers(3, 5, 7)[::-1].copy()
    out = np.empty(x.shape, F)
    options: dict[str, Any] = {"activation": activation, "negative_slope": 0.0}
    run(triton_layers.residual, x, y, **options, out=out)
    expected = np.empty(x.shape, F)
    layers.residual(x, y, **options, out=expected)
    assert_same_bits(out, expected)


def test_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "BIG_TILES", False)
    assert elementwise.element_tile(1, 10**6, 1024) == ElementTile(1, 1024)
    assert elementwise.element_tile(128, 512, 1024) == ElementTile(4, 256)
    assert elementwise.element_tile(128, 512, 512) == ElementTile(2, 256)
    assert elementwise.element_tile(128 * 64, 49, 1024) == ElementTile(16, 64)
    assert elementwise.element_tile(128 * 64, 1, 512) == ElementTile(512, 1)
    assert elementwise.element_tile(1, 257, 1024) == ElementTile(1, 1024)
    assert ElementTile(16, 64).programs(17, 65) == 4


def test_axes_without_gaps_are_one() -> None:
    at = Pointer(1 << 20, "float32")
    whole, shared = Samples(at, 15, 5), Samples(at, 0, 5)
    assert elementwise.with_slots_merged([whole], 4, 3) == ([Samples(at, 0, 5)], 1, 12)
    assert elementwise.with_slots_merged([whole, shared], 4, 3) == ([whole, shared], 4, 3)
    assert elementwise.with_slots_merged([shared], 1, 3) == ([shared], 1, 3)
    assert elementwise.with_slots_merged([whole], 4, 1) == ([Samples(at, 0, 15)], 1, 4)


@pytest.mark.parametrize("kind", ["max", "avg", "avg without padding"])
@pytest.mark.parametrize("geometry", [(2, 2, 2, 2, 0, 0), (3, 2, 1, 3, 1, 1), (5, 6, 1, 1, 0, 0)])
def test_pools_of_slots(kind: str, geometry: tuple[int, ...]) -> None:
    slots, samples, channels, height, width = shape = (3, 2, 4, 5, 6)
    kernel, stride, padding = geometry[:2], geometry[2:4], geometry[4:]
    size = tuple(
        (full + 2 * p - k) // s + 1
        for full, k, s, p in zip((height, width), kernel, stride, padding, strict=True)
    )
    values = special_numbers(*shape)
    expected = np.empty((slots * samples, channels, *size), F)
    include = kind == "avg"
    images = values.reshape(-1, *shape[2:])
    if kind == "max":
        pool.max_pool2d(images, geometry=geometry, out=expected)  # type: ignore[arg-type]
    else:
        padded = {"geometry": geometry, "count_include_pad": include}
        pool.avg_pool2d(images, **padded, out=expected)  # type: ignore[arg-type]
    sizes_of = {"channels": channels, "image": (height, width), "out_image": size}
    rule = {"geometry": geometry, "largest": kind == "max", "count_include_pad": include}
    for gap in (0, 1):
        x = with_gaps(values, gap)
        out = with_gaps(np.zeros((slots, samples, channels, *size), F), gap)
        run(triton_pool.pool, apart(x), apart(out), **sizes(shape), **sizes_of, **rule)
        assert_same_bits(out, expected.reshape(out.shape))
        assert (gaps_of(out) == 5).all()
    out = with_gaps(np.zeros((slots, samples, channels, *size), F), 0)
    batch = values[0].reshape(samples, -1)
    run(triton_pool.pool, apart(batch), apart(out), **sizes(shape), **sizes_of, **rule)
    assert_same_bits(out, np.stack([expected[:samples].reshape(out.shape[1:])] * slots))


def test_global_averages_of_channels_that_lie_apart() -> None:
    x, out = numbers(3, 4, 5, 7)[:, ::2, 1:4, :6], np.full((3, 4), 5, F)
    run(triton_pool.global_avg_pool, x, out=out[:, 1:3])
    expected = np.empty((3, 2), F)
    pool.global_avg_pool(x, out=expected)
    assert_same_bits(out[:, 1:3], expected)
    assert (out[:, [0, 3]] == 5).all()


def losses_of(
    z: np.ndarray, y: np.ndarray, classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of z [slots, samples, outputs] and y [slots, samples, ...], or of one batch for all."""
    mse = y.dtype == F
    slots, samples, outputs = z.shape
    shared = y.ndim == (2 if mse else 1)
    losses, correct = np.full((slots, samples), np.nan, F), np.full((slots, samples), -1, np.int32)
    run(
        triton_loss.sample_losses,
        apart(z),
        pointer(y),
        pointer(losses),
        pointer(correct),
        slots=slots,
        samples=samples,
        outputs_count=outputs,
        y_slot_stride=0 if shared else strides(y)[0],
        y_sample_stride=strides(y)[0 if shared else 1],
        classes=None if classes is None else pointer(classes),
        mse=mse,
    )
    return losses, correct


def means_of(
    losses: np.ndarray, correct: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    slots, samples = losses.shape
    right = np.zeros(losses.shape, np.int32) if correct is None else correct
    means, counts = np.full(slots + 1, 5, F), np.full(slots + 1, 5, np.int32)
    arrays = (pointer(array) for array in (losses, right, means, counts))
    run(triton_loss.mean_losses, *arrays, slots=slots, samples=samples)
    assert means[-1] == counts[-1] == 5
    return means[:-1], counts[:-1]


def test_cross_entropy_of_a_few_logits() -> None:
    infinity = np.inf
    rows = [
        ([0, 0], 0, 0.6931472, 1),  # of equals the first
        ([0, 0], 1, 0.6931472, 0),
        ([0, 1], 1, 0.31326163, 1),  # what is left of 1.3132616
        ([3, np.nan], 1, np.nan, 0),
        ([np.nan, 3], 1, np.nan, 0),
        ([0, infinity], 1, np.nan, 1),
        ([0, -infinity], 1, infinity, 0),
        ([0, -infinity], 0, 0.0, 1),
        ([200, 0], 1, 200.0, 0),
        ([0, 1], 2, np.nan, 0),  # labels that are no output: on a device nobody looks at them
        ([0, 1], -1, np.nan, 0),
        ([0, 1], 10**12, np.nan, 0),
    ]
    z = np.array([[row[0] for row in rows]], F)
    losses, correct = losses_of(z, np.array([[row[1] for row in rows]]))
    assert_same_bits(losses, np.array([[row[2] for row in rows]], F))
    assert correct.tolist() == [[row[3] for row in rows]]


@pytest.mark.parametrize("samples", [3, 20])  # layer by layer, in one kernel
def test_a_label_that_is_no_output_gives_nan(samples: int) -> None:
    network = Network.mlp(5, [9], 4)
    bank, x = numbers(3, network.layout.size), numbers(samples, 5)
    banks = np.split(bank, network.layout.offsets[1:], axis=1)
    for label in (-(2**63), -1, 2, 4, 10**12):
        y = np.zeros((3, samples), np.int64)
        y[1, 2] = label
        loss, correct = np.empty(3, F), np.empty(3, np.int32)
        run(
            triton_network.network_loss,
            *(banks, network, x, y),
            index=np.tile(np.arange(3, dtype=np.int32), (2, 1)),
            classes=np.array([4, 2, 4], np.int32),
            sample_weights=None,
            loss="cross_entropy",
            precision="fp32",
            x_scale=None,
            out_loss=loss,
            out_correct=correct,
        )
        assert np.isnan(loss).tolist() == [False, True, False]
        assert correct[1] < samples


def test_squared_error_of_a_few_outputs() -> None:
    z = np.array([[[1, 3], [0, 0]], [[1, 3], [0, np.inf]]], F)
    y = np.array([[0, 1], [0, 2]], F)
    losses, correct = losses_of(z, y)
    assert_same_bits(losses, np.array([[2.5, 2], [2.5, np.inf]], F))
    assert (correct == 0).all()
    losses, _ = losses_of(z, y, np.array([2, 1], np.int32))
    assert_same_bits(losses, np.array([[2.5, 2], [1, 0]], F))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("values", [numbers, special_numbers])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 33, 2), (70, 65, 3)], ids=str)
def test_losses_of_samples(shape: tuple[int, ...], values: Values, shared: bool) -> None:
    slots, samples, outputs = shape
    z = with_gaps(values(*shape), 1)
    counts = np.full(slots, outputs, np.int32)
    fewer = (np.arange(slots) % outputs + 1).astype(np.int32)
    labels = np.arange(slots * samples).reshape(slots, samples) * 5
    targets = numbers(*shape, seed=3)
    for classes in (None, fewer):
        limits = counts if classes is None else classes
        wanted = labels[:1] % limits.min() if shared else labels % limits[:, None]
        expected, right = loss.cross_entropy(z, wanted, limits)
        losses, correct = losses_of(z, wanted[0] if shared else wanted, classes)
        assert_same_bits(losses, expected)
        assert (correct == right).all()
        aims = targets[:1] if shared else targets
        losses, correct = losses_of(z, aims[0] if shared else aims, classes)
        assert_same_bits(losses, loss.squared_error(z, aims, limits))
        assert (correct == 0).all()


def test_means_add_halves_of_blocks_then_blocks() -> None:
    large = 2.0**24
    halves = np.zeros((2, 18), F)
    halves[:, [0, 16]], halves[:, [1, 17]] = (large, -large), (1, 1)
    halves[1] = halves[1, ::-1]
    # Slot 1 has 1 + 1 in the last place of block sums that are added in order.
    means, _ = means_of(halves)
    assert_same_bits(means, np.array([2, 2], F) / F(18))
    blocks = np.zeros((2, 97), F)
    blocks[0, [0, 32, 64, 96]] = large, 1, 1, -large
    blocks[1, [0, 32, 64, 96]] = 1, 1, large, -large
    means, _ = means_of(blocks)
    assert_same_bits(means, np.array([0, 2], F) / F(97))


def test_means_start_at_positive_zero() -> None:
    means, _ = means_of(np.full((1, 64), -0.0, F))
    assert_same_bits(means, np.zeros(1, F))


@pytest.mark.parametrize("samples", [1, 31, 32, 33, 257])
@pytest.mark.parametrize("values", [numbers, special_numbers, small_numbers])
def test_means(values: Values, samples: int) -> None:
    for slots in (1, 5, 67):
        losses = values(slots, samples)
        correct = (numbers(slots, samples) > 0).astype(np.int32)
        means, counts = means_of(losses, correct)
        assert_same_bits(means, mean_of_samples(losses))
        assert (counts == correct.sum(axis=1)).all()
