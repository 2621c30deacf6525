"""Arrays on a device, with the harness for one: what the ops take, refuse and give back."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "simt"))

import column
import interpreter
from standin import LIBRARY, OnHarness, copied, harness_place
from tiny import dataset

from evokern import _devices, ops
from evokern.backends import plan
from evokern.drivers.ea import EA, EAConfig, first_generation, next_generation
from evokern.drivers.es import ES, ESConfig
from evokern.drivers.es import next_generation as next_es_generation
from evokern.errors import (
    ArgumentError,
    BackendError,
    DtypeError,
    LayoutError,
    MemoryLimitError,
    ShapeError,
)
from evokern.network import Conv2d, Dense, Flatten, Network
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.testing import assert_same_bits

pytestmark = pytest.mark.simt

NETWORK = Network.mlp(5, [9], 4)
F = np.float32


@pytest.fixture(autouse=True)
def _harness_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_devices.LIBRARIES, "standin", LIBRARY)
    monkeypatch.setitem(_devices.PLACES, "harness", harness_place)


def genomes() -> np.ndarray:
    return ops.init_genomes(NETWORK.layout, 3, seed=4)


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((7, 5), F), rng.integers(0, 4, 7)


def test_results_are_of_the_caller_s_kind_with_the_bits_of_the_host() -> None:
    x, y = batch()
    index = np.array([2, 0], np.int32)
    device = copied(genomes()), NETWORK, copied(x)
    outputs = ops.network_forward(*device, index=index)
    assert isinstance(outputs, OnHarness)
    assert_same_bits(outputs.values, ops.network_forward(genomes(), NETWORK, x, index=index))
    results = ops.network_loss(*device, copied(y), index=index)
    expected = ops.network_loss(genomes(), NETWORK, x, y, index=index)
    for result, reference in zip(results, expected, strict=True):
        assert_same_bits(result.values, reference)


def test_variation_writes_rows_of_a_population_on_the_device() -> None:
    bank, own = copied(np.zeros((6, NETWORK.layout.size), F)), np.zeros((6, NETWORK.layout.size), F)
    for place in (bank, own):
        ops.init_genomes(NETWORK.layout, 3, seed=4, out=place[:3])
        ops.crossover_mutate(
            place,
            np.array([[0, 1, 2], [1, 1, 0]], np.int32),
            np.array([0, 0.5, 0.1], F),
            seed=1,
            generation=2,
            out=place,
            out_rows=np.array([5, 3, 4], np.int32),
        )
    assert_same_bits(bank.values, own)


def test_sigma_on_the_device() -> None:
    sigma = np.array([0.5, 0, 2.0**-40], F)
    adapted = ops.mutate_sigma(copied(sigma), tau=0.1, seed=1, generation=2)
    assert_same_bits(adapted.values, ops.mutate_sigma(sigma, tau=0.1, seed=1, generation=2))


def test_nes_on_the_device() -> None:
    table = np.array([[0.25, 0.75, 0], [0.5, 0.25, 0.25]], F)
    losses = np.array([3, 1, 2, 2], F)
    chosen = ops.nes_sample(copied(table), 4, seed=1, step=2)
    assert_same_bits(chosen.values, ops.nes_sample(table, 4, seed=1, step=2))
    result = ops.nes_update(copied(table), chosen, copied(losses), learning_rate=0.1)
    expected = ops.nes_update(table, chosen.values, losses, learning_rate=0.1)
    assert_same_bits(result.values, expected)


def test_nes_with_a_mask_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 1/K may be the least probability where rows have fewer entries."""
    table, mask = np.array([[0.25, 0.75, 0]], F), np.array([[False, False, True]])
    chosen, losses = np.array([[0], [1]], np.int32), np.array([3, 1], F)
    device = [copied(a) for a in (table, chosen, losses)]
    options = {"learning_rate": 0.1, "min_probability": 0.4}
    expected = ops.nes_update(table, chosen, losses, mask=mask, **options)
    result = ops.nes_update(*device, mask=copied(mask), **options)
    assert_same_bits(result.values, expected)
    options["min_probability"] = 0.6
    with pytest.raises(ArgumentError, match="min_probability: expected at most 1/2 for rows of 2"):
        ops.nes_update(*device, mask=copied(mask), **options)
    library = replace(LIBRARY, device=lambda number: replace(column.device(), checks=False))
    monkeypatch.setitem(_devices.LIBRARIES, "standin", library)
    ops.nes_update(*device, mask=copied(mask), **options)  # nobody looks


def test_arrays_in_different_places_are_refused() -> None:
    x, y = batch()
    with pytest.raises(BackendError, match=r"genomes\[0\]: expected an array on a device, as x"):
        ops.network_forward(genomes(), NETWORK, copied(x))
    with pytest.raises(BackendError, match=r"x: expected an array on a device, as genomes.*host"):
        ops.network_forward(copied(genomes()), NETWORK, x)
    with pytest.raises(BackendError, match="y: expected an array on a device"):
        ops.network_loss(copied(genomes()), NETWORK, copied(x), y)
    with pytest.raises(
        BackendError, match=r"genomes.*: expected an array on device 1, as x, got on device 0"
    ):
        ops.network_forward(copied(genomes()), NETWORK, copied(x, number=1))


def test_a_back_end_works_where_the_arrays_are_or_not_at_all() -> None:
    x, _ = batch()
    with pytest.raises(BackendError, match="an array on the host for backend='cpu', got on a dev"):
        ops.network_forward(copied(genomes()), NETWORK, copied(x), backend="cpu")


def test_numbers_per_individual_are_on_the_host() -> None:
    x, _ = batch()
    index = copied(np.zeros(2, np.int32))
    with pytest.raises(BackendError, match="index: expected an array on the host"):
        ops.network_forward(copied(genomes()), NETWORK, copied(x), index=index)
    parents, sigma = np.zeros((1, 2), np.int32), copied(np.zeros(2, F))
    with pytest.raises(BackendError, match="sigma: expected an array on the host"):
        ops.crossover_mutate(copied(genomes()), parents, sigma, seed=1, generation=1)


def test_layouts_are_checked_on_the_device_too() -> None:
    x, y = batch()
    with pytest.raises(DtypeError, match=r"x: expected float32 .*got float64 \[7, 5\]"):
        ops.network_forward(copied(genomes()), NETWORK, copied(x.astype(np.float64)))
    with pytest.raises(ShapeError, match=r"genomes: expected \[P, G\] = \[3, 94\]"):
        ops.network_forward(copied(genomes()[:, :-1]), NETWORK, copied(x))
    with pytest.raises(LayoutError, match=r"x: .*contiguous last axis"):
        ops.network_forward(copied(genomes()), NETWORK, OnHarness(np.asfortranarray(x)))
    with pytest.raises(DtypeError, match="y: expected int64"):
        ops.network_loss(copied(genomes()), NETWORK, copied(x), copied(y.astype(np.int32)))
    memory = copied(np.zeros((3, 7, 5), F))
    out = OnHarness(memory.values[:, :, :4])
    with pytest.raises(ArgumentError, match="out: expected memory apart from x, got an overlap"):
        ops.network_forward(copied(genomes()), NETWORK, memory, out=out)


def test_an_array_on_a_device_is_never_read_by_numpy() -> None:
    view = _devices.view("x", copied(np.zeros((2, 3), F)))
    with pytest.raises(BackendError, match="copy it to the host"):
        np.asarray(view)
    with pytest.raises(ValueError, match="copy"):
        view[:, :2].reshape(4)


def test_devices_by_name() -> None:
    with pytest.raises(BackendError, match=r"device: expected cpu, cuda, .*got gpu"):
        EA(NETWORK.layout, EAConfig(population=4), device="gpu")


@pytest.mark.parametrize(
    ("crossover", "sampling"),
    [("uniform", "epochs"), ("rows", "epochs"), ("uniform", "importance")],
)
def test_the_ea_on_a_device_is_the_ea_on_the_host(crossover: Any, sampling: Any) -> None:
    config = EAConfig(population=12, generations=3, crossover=crossover, sigma=0.05, seed=5)
    layers = (Flatten(), Dense(17, "relu"), Dense(8, "relu"), Dense(3))
    network = Network(layers, dataset().image_shape)
    runs = []
    for device in ("cpu", "harness"):
        settings = ClassificationConfig(batch=32, sampling=sampling, importance_every=2)
        problem = Classification(dataset(), network, settings, seed=5, device=device)
        population = first_generation(problem, config, device)
        for generation in range(1, 4):
            population = next_generation(population, problem, config, generation)
        runs.append((population, _devices.to_host(population.genomes)))
    (own, own_genomes), (there, genomes_there) = runs
    assert isinstance(there.genomes, OnHarness)
    assert_same_bits(there.fitness, own.fitness)
    assert_same_bits(genomes_there[there.rows], own_genomes[own.rows])


@pytest.mark.parametrize("units", [(), (1, 4, 3)])
@pytest.mark.parametrize("sampling", ["epochs", "importance"])
def test_the_evolution_strategy_on_a_device_is_the_one_on_the_host(
    sampling: Any, units: tuple[int, ...]
) -> None:
    config = ESConfig(population=12, sigma=0.05, units=units, weight_decay=0.01, seed=5)
    layers = (Flatten(), Dense(17, "relu"), Dense(8, "relu"), Dense(3))
    network = Network(layers, dataset().image_shape)
    states = []
    for device in ("cpu", "harness"):
        settings = ClassificationConfig(
            batch=32, sampling=sampling, importance_every=2, shift_share=0.5
        )
        problem = Classification(dataset(), network, settings, seed=5, device=device)
        es = ES(network.layout, config, device)
        for _ in range(4):
            next_es_generation(es, problem)
        asked = _devices.to_host(es.ask())
        assert asked.shape == (12, network.layout.size)
        other = ES(network.layout, config, device)
        other.restore(es.state(), 4)
        assert_same_bits(_devices.to_host(other.ask()), asked)
        states.append(es.state())
    for name, values in states[0].items():
        assert_same_bits(states[1][name], values)


WORKSPACES = {
    "fused": (Network.mlp(5, [9], 4), 12),
    "few samples": (Network.mlp(5, [9], 4), 3),
    "layers": (Network((Conv2d(3, 3, activation="relu"), Flatten(), Dense(4)), (2, 5, 5)), 9),
}


@pytest.mark.parametrize("name", WORKSPACES)
def test_any_workspace_that_holds_a_slot_will_do(name: str) -> None:
    network, count = WORKSPACES[name]
    genomes = ops.init_genomes(network.layout, 7, seed=4)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((count, *network.input_shape), F), rng.integers(0, 4, count)
    expected = ops.network_loss(genomes, network, x, y)
    device = copied(genomes), network, copied(x), copied(y)
    whole = ops.workspace_bytes(network, 7, count)
    with pytest.raises(MemoryLimitError, match=r"workspace: expected at least \d+ bytes, got 0"):
        ops.network_loss(*device, workspace=_bytes(0))
    least = next(size for size in range(0, whole + 1, 16) if _runs(device, size))
    for size in {whole, (whole + least) // 2, least}:
        results = ops.network_loss(*device, workspace=_bytes(size))
        for result, reference in zip(results, expected, strict=True):
            assert_same_bits(result.values, reference)


@pytest.mark.parametrize("slots", [1, 7, 1000])
@pytest.mark.parametrize("name", WORKSPACES)
@pytest.mark.parametrize("most", [plan.WORKSPACE_BYTES, 100_000])
def test_slots_run_in_as_few_pieces_in_the_workspace_asked_for(
    name: str, slots: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, count = WORKSPACES[name]
    monkeypatch.setattr(plan, "WORKSPACE_BYTES", most)
    controls = -(-4 * len(network.layout.blocks) * slots // 256) * 256 + -(-4 * slots // 256) * 256
    asked = ops.workspace_bytes(network, slots, count) - controls
    for loss in (False, True):
        whole = (network.layers, network.input_shape, slots, count)
        rest = {"shared": True, "of_bytes": False, "bias_apart": False, "fused": False}
        one = plan.make_plan(*whole, loss=loss, limit=most, **rest)
        two = plan.make_plan(*whole, loss=loss, limit=asked, **rest)
        assert two.slots >= one.slots
        assert two.bytes <= asked


def _runs(device: tuple[Any, ...], size: int) -> bool:
    try:
        ops.network_loss(*device, workspace=_bytes(size))
    except MemoryLimitError:
        return False
    return True


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_rows_of_the_index_that_are_equal_are_sent_once(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "triton" and interpreter.unavailable():
        pytest.skip(interpreter.unavailable())
    native: Any = interpreter.HOST if backend == "triton" else column.device().natives["cuda"]()
    sent, upload = [], native.upload

    def counting(address: int, values: np.ndarray, stream: int) -> None:
        sent.append(values.nbytes)
        upload(address, values, stream)

    x, y = batch()
    host = genomes()
    split = [host[:, : 6 * 9], host[:, 6 * 9 :]]
    index = np.arange(100, dtype=np.int32) % 3
    turned = np.stack([index, index[::-1]])
    expected = ops.network_loss(split, NETWORK, x, y, index=turned)
    monkeypatch.setattr(native, "upload", counting)
    for rows, size in ((index, 400), (np.stack([index, index]), 400), (turned, 800)):
        ops.network_forward(copied(host), NETWORK, copied(x), index=rows, backend=backend)
        assert sent.pop() == size
    banks = [copied(bank) for bank in split]
    labelled = banks, NETWORK, copied(x), copied(y)
    for rows, results in (
        (turned, expected),
        (index, ops.network_loss(host, NETWORK, x, y, index=index)),
    ):
        found = ops.network_loss(*labelled, index=rows, backend=backend)
        for result, reference in zip(found, results, strict=True):
            np.testing.assert_allclose(result.values, reference, rtol=1e-6)


def _bytes(size: int) -> OnHarness:
    memory = np.full(size + 256, 0xFF, np.uint8)
    start = -memory.ctypes.data % 256
    return OnHarness(memory[start : start + size])


def test_a_workspace_is_bytes_on_the_device() -> None:
    x, y = batch()
    device = copied(genomes()), NETWORK, copied(x), copied(y)
    with pytest.raises(DtypeError, match="workspace: expected uint8"):
        ops.network_loss(*device, workspace=copied(np.zeros(9, F)))
    with pytest.raises(BackendError, match="workspace: expected an array on device 0, got on the"):
        ops.network_loss(*device, workspace=np.zeros(4096, np.uint8))
    with pytest.raises(ArgumentError, match="workspace: expected None for arrays on the host"):
        ops.network_loss(genomes(), NETWORK, x, y, workspace=np.zeros(4096, np.uint8))


def test_a_label_that_is_no_output_gives_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Host: refused. Device: nobody looks, and nothing but the loss of its slot is touched."""
    library = replace(LIBRARY, device=lambda number: replace(column.device(), checks=False))
    monkeypatch.setitem(_devices.LIBRARIES, "standin", library)
    x, _ = batch()
    for network in (NETWORK, Network.mlp(5, [70], 4)):  # in one kernel and layer by layer
        bank = ops.init_genomes(network.layout, 3, seed=4)
        for count in (3, 7):
            right = np.zeros((3, count), np.int64)
            for label in (4, -1, -100, 10**12, -(2**63)):
                wrong = right.copy()
                wrong[1, 2] = label
                expected, correct = ops.network_loss(bank, network, x[:count], right)
                device = copied(bank), network, copied(x[:count])
                loss, counted = (a.values for a in ops.network_loss(*device, copied(wrong)))
                assert np.isnan(loss[1])
                assert_same_bits(loss[::2], expected[::2])
                assert counted.tolist()[::2] == correct.tolist()[::2]
                assert counted[1] <= correct[1]


def test_checks_look_at_labels() -> None:
    x, _ = batch()
    device = copied(genomes()), NETWORK, copied(x)
    with pytest.raises(ArgumentError, match=r"y: expected .*\[0, 3\].*4"):
        ops.network_loss(*device, copied(np.full(7, 4)))
    classes = np.array([4, 2, 4], np.int32)
    with pytest.raises(ArgumentError, match=r"y: expected labels < classes\[1\]=2"):
        ops.network_loss(*device, copied(np.full(7, 3)), classes=classes)
    ops.network_loss(*device, copied(np.full(7, 3)))


class Native:
    """The harness' module with something of its own."""

    def __init__(self, **own: Any) -> None:
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:
        return getattr(column.device().natives["cuda"](), name)


def test_checks_wait_for_the_device_and_name_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    def synchronize(op: str, stream: int) -> None:
        waited.append((op, stream))
        raise BackendError(f"{op}: CUDA says: an illegal memory access was encountered")

    native = Native(synchronize=synchronize)
    library = replace(
        LIBRARY, device=lambda number: replace(column.device(), natives={"cuda": lambda: native})
    )
    monkeypatch.setitem(_devices.LIBRARIES, "standin", library)
    x, _ = batch()
    ops.network_forward(copied(genomes()), NETWORK, copied(x))
    assert waited == []
    monkeypatch.setenv("EVOKERN_CHECK", "1")
    with pytest.raises(BackendError, match="network_forward: CUDA says: an illegal"):
        ops.network_forward(copied(genomes()), NETWORK, copied(x))
    assert waited == [("network_forward", 0)]


def test_devices_without_asynchronous_copies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Native(capability=lambda device: 75)
    library = replace(
        LIBRARY, device=lambda number: replace(column.device(), natives={"cuda": lambda: old})
    )
    monkeypatch.setitem(_devices.LIBRARIES, "standin", library)
    x, _ = batch()
    words = "device: expected compute capability 8.0 or newer, got device 0 with 7.5"
    with pytest.raises(BackendError, match=words):
        ops.network_forward(copied(genomes()), NETWORK, copied(x))


def test_a_thread_without_a_context_has_none_afterwards() -> None:
    """Going back to device 0, which it never used, would make one there."""
    native = column.device().natives["cuda"]()
    x, _ = batch()

    def run() -> tuple[int, ...]:
        ops.network_forward(copied(genomes()), NETWORK, copied(x))
        first = native.select_device(0)
        return first, native.select_device(0), native.select_device(-1), native.select_device(-1)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == (-1, 0, 0, -1)
        assert pool.submit(native.select_device, 0).result() == -1


class OutOfMemoryError(RuntimeError):
    """As torch and CuPy name it."""


def test_a_workspace_that_does_not_fit_says_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(count: int) -> Any:
        raise OutOfMemoryError(f"tried to allocate {count} bytes")

    native = Native(memory_info=lambda: (64, 1 << 30))
    device = replace(column.device(), natives={"cuda": lambda: native}, empty=full)
    monkeypatch.setitem(
        _devices.LIBRARIES, "standin", replace(LIBRARY, device=lambda number: device)
    )
    x, y = batch()
    with pytest.raises(
        MemoryLimitError, match=r"workspace: .* GB asked for, .* GB free on device 0"
    ):
        ops.network_loss(copied(genomes()), NETWORK, copied(x), copied(y))


@pytest.mark.parametrize("words", [1, 960, 961, 7681])
def test_uploads_of_any_size_arrive(words: int) -> None:
    native = column.device().natives["cuda"]()
    sent = np.arange(words, dtype=np.uint32) * np.uint32(2654435761)
    memory = native.empty(4 * words + 4)
    native.upload(memory.ctypes.data, sent, 0)
    arrived = memory.view(np.uint32)
    assert (arrived[:-1] == sent).all()
    assert arrived[-1] == 0xFFFFFFFF
