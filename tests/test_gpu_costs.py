"""The formulas behind docs/gpu.md against what the instrumented build counts, and literally."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))

import column
import standin

import build
from benchmarks.gpu import contests, costs, floors
from evokern import _devices, ops
from evokern.backends.device import Device
from evokern.layers import Affine, Conv2d, Dense, Flatten, MaxPool2d
from evokern.network import Network
from evokern.population import allocate_genomes

F = np.float32

LOOKED_UP = {
    "fused_network_kernel": 64,
    "conv_kernel": 24,
    "dense_kernel": 32,
    "dense_few_kernel": 16,
    "pool_kernel": 4,
}
"""Bytes that a thread may look up besides: rows of individuals, biases that others read too."""

counting = [
    pytest.mark.simt,
    pytest.mark.skipif(build.unavailable() != "", reason=build.unavailable()),
    pytest.mark.skipif(
        os.environ.get("EVOKERN_SIMT_VARIANT") == "asan", reason="counts are of the race build"
    ),
]


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The instrumented build as the device ``harness``."""
    module = build.load("race")
    device = Device(
        {"cuda": lambda: module}, module.empty, address=lambda memory: memory.ctypes.data
    )
    monkeypatch.setattr(column, "device", lambda: device)
    monkeypatch.setitem(_devices.LIBRARIES, "standin", standin.LIBRARY)
    monkeypatch.setitem(_devices.PLACES, "harness", standin.harness_place)
    return module


def counted(native: ModuleType, call: Callable[[], Any]) -> list[dict[str, Any]]:
    native.reset()
    try:
        native.watch(races=False, counts=True)
        call()
    finally:
        native.watch()
    launches: list[dict[str, Any]] = [
        launch for launch in native.counts() if "store_parcel" not in launch["kernel"]
    ]
    return launches


def threads_of(launch: dict[str, Any]) -> int:
    return int(np.prod(launch["grid"]) * np.prod(launch["block"]))


def expect_counts(launches: list[dict[str, Any]], work: costs.Work) -> None:
    """Writes are as many as the formula says, reads as many or a few per thread more."""
    assert len(launches) == len(work.kernels)
    for launch, kernel in zip(launches, work.kernels, strict=True):
        name = kernel.name.partition(",")[0]
        assert f"::{name}" in launch["kernel"]
        assert launch["global_written_bytes"] == kernel.written, name
        extra = launch["global_read_bytes"] - kernel.read
        assert 0 <= extra <= LOOKED_UP.get(name, 0) * threads_of(launch), name


def genomes(network: Network, count: int) -> Any:
    bank = allocate_genomes(count, network.layout.size, "harness")
    return ops.init_genomes(network.layout, count, seed=1, scheme="torch", out=bank)


def samples(*shape: int) -> Any:
    return standin.copied(np.random.default_rng(1).standard_normal(shape, F))


@pytest.mark.usefixtures("native")
class TestCounts:
    pytestmark = counting

    @pytest.mark.parametrize("batch", [40, 130])
    def test_the_fused_network(self, native: ModuleType, batch: int) -> None:
        network = Network.mlp(196, [128, 64], 12)
        bank, x, y = genomes(network, 2), samples(batch, 196), standin.copied(np.zeros(batch, int))
        launches = counted(native, lambda: ops.network_loss(bank, network, x, y))
        work = costs.fused_loss((196, 128, 64, 12), 2, batch)
        expect_counts(launches, work)
        # What is looked up is little beside the weights, of which each tile reads all.
        tiles = {40: 1, 130: 2}[batch]
        assert launches[0]["grid"] == (2 * tiles, 1, 1)
        assert launches[0]["global_read_bytes"] < 1.25 * work.kernels[0].read

    @pytest.mark.parametrize("batch", [2, 12])
    def test_layers(self, native: ModuleType, batch: int) -> None:
        layers = (
            Conv2d(32, 3, 1, 1, bias=False),
            Affine("relu"),
            MaxPool2d(2),
            Conv2d(20, 3, 2, 1, "relu"),
            Flatten(),
            Dense(40, "relu"),
            Dense(7),
        )
        network = Network(layers, (12, 10, 9))
        bank, x = genomes(network, 2), samples(2, batch, 12, 10, 9)
        launches = counted(native, lambda: ops.network_forward(bank, network, x))
        # An affine function is looked up for every output.
        outputs = 4 * 2 * 4 * batch * 32 * 90
        launches[0]["global_read_bytes"] -= outputs
        expect_counts(launches, costs.layered("", network, 2, batch, shared=False, loss=False))

    def test_a_head_for_all_slots_and_losses(self, native: ModuleType) -> None:
        network = Network((MaxPool2d(3, 2, 1), Flatten(), Dense(33), Dense(5)), (2, 9, 8))
        bank, x, y = genomes(network, 3), samples(20, 2, 9, 8), standin.copied(np.zeros(20, int))
        launches = counted(native, lambda: ops.network_loss(bank, network, x, y))
        head = costs.layered("", network, 3, 20, shared=True, loss=True).kernels[:1]
        fused = costs.fused_loss((40, 33, 5), 3, 20).kernels
        expect_counts(launches, costs.Work("", "", (*head, *fused)))

    @pytest.mark.parametrize("kind", ["none", "arithmetic", "uniform", "mix"])
    def test_crossover_mutate(self, native: ModuleType, kind: str) -> None:
        population, genes = 20, 4096
        bank = samples(population, genes)
        children = floors.offspring_of(kind, population)
        first = np.arange(population, dtype=np.int32) % 10
        second = first.copy()
        second[children.copied : children.copied + children.crossed] += 10
        sigma = np.zeros(population, F)
        sigma[population - children.mutated :] = 0.1
        own: Any = "uniform" if kind == "mix" else kind
        options = {"kind": own, "seed": 1, "generation": 1}
        parents = np.array([first, second])
        (launch,) = counted(native, lambda: ops.crossover_mutate(bank, parents, sigma, **options))
        (kernel,) = costs.crossover_mutate(kind, genes, children).kernels
        assert launch["global_written_bytes"] == kernel.written == 4 * population * genes
        # A thread looks up its parents, weights and sigma: 4 bytes each, parents twice.
        controls = children.count * (3 + 2 * (kind == "arithmetic")) * 4
        extra = launch["global_read_bytes"] - (kernel.read - controls)
        per_thread = extra / threads_of(launch)
        if kind == "arithmetic":
            assert 20 <= per_thread <= 28
        elif kind == "none":
            assert 8 <= per_thread <= 20
        else:  # which genes come from whom is drawn
            assert abs(per_thread - 16) <= 4
        if kind in ("none", "arithmetic"):
            assert per_thread % 4 == 0

    def test_nes(self, native: ModuleType) -> None:
        table = standin.copied(np.full((12, 5), 0.2, F))
        losses = standin.copied(np.arange(8, dtype=F))

        def step() -> None:
            drawn = ops.nes_sample(table, 8, seed=1, step=0)
            ops.nes_update(table, drawn, losses, learning_rate=0.1)

        launches = counted(native, step)
        work = costs.nes_step(12, 5, 8)
        assert [launch["global_written_bytes"] for launch in launches] == [
            kernel.written for kernel in work.kernels
        ]
        assert launches[0]["global_read_bytes"] <= work.kernels[0].read

    def test_replay(self, native: ModuleType) -> None:
        from benchmarks.bench_replay import _lineages

        layout = Network.mlp(20, [16], 4).layout
        lineages = _lineages(3)
        out = standin.empty(0, (3, layout.size), F)
        (launch,) = counted(native, lambda: ops.replay(lineages, layout, out=out))
        (kernel,) = costs.replay(layout.size, 3, 50).kernels
        assert launch["global_written_bytes"] == kernel.written

    def test_tiles_of_the_fused_kernel(self, native: ModuleType) -> None:
        before = native.shared_limit()
        try:
            for limit in (99 << 10, 163 << 10, 227 << 10):
                native.set_shared_limit(limit)
                for widest in (1, 64, 196, 256, 257, 512, 600, 1000, 1024, 1025):
                    for batch in (9, 16, 17, 33, 64, 65, 128, 129, 512):
                        expected = native.fused_tile(widest, batch)
                        assert costs.fused_tile(widest, batch, limit) == expected
        finally:
            native.set_shared_limit(before)


class TestFormulas:
    def test_the_thesis_network(self) -> None:
        fused, finish = costs.fused_loss(floors.THESIS_WIDTHS, 1000, 512).kernels
        weights = 196 * 256 + 256 * 128 + 128 * 64 + 64 * 10
        assert weights + 256 + 128 + 64 + 10 == floors.THESIS_GENES == 92_234
        assert fused.operations == 2 * weights * 512_000
        assert fused.read == 1000 * (4 * 4 * 92_234 + 512 * (4 * 196 + 8))
        assert fused.written == finish.read == 8 * 512_000
        assert fused.least == 1000 * 4 * 92_234 + 512 * (4 * 196 + 8) + 8 * 512_000
        assert finish.written == 8000
        assert floors.THESIS_WIDTHS[1] == 256
        rates = costs.DEVICES["H100"]
        assert fused.floor(rates) == pytest.approx(93.95e9 / 66.9e12, rel=1e-3)
        assert not fused.is_bound_by_memory(rates)

    def test_dqn(self) -> None:
        work = costs.layered("DQN", Network.nature_cnn(4, 18), 256, 1, shared=False, loss=False)
        first, _, _, hidden, last = work.kernels
        assert first.operations == 2 * 256 * 400 * 32 * 256
        assert first.written == 4 * 256 * 400 * 32
        # Four tiles of 128 positions read the weights each; windows of 8 x 8 lie inside the image.
        assert first.read == 4 * 256 * (4 * 32 * 257 + 400 * 256)
        assert hidden.read == 4 * 256 * (512 * 3137 + 3136)
        assert last.least == 4 * 256 * (18 * 513 + 512 + 18)
        assert work.operations == sum(kernel.operations for kernel in work.kernels)
        assert work.is_bound_by_memory(costs.DEVICES["H100"])

    def test_offspring(self) -> None:
        assert floors.offspring_of("mix", 1000) == costs.Offspring(50, 750, 200, 493)
        assert floors.offspring_of("none", 1000) == costs.Offspring(0, 0, 1000, 434)
        (kernel,) = costs.crossover_mutate("uniform", 100, costs.Offspring(0, 8, 0, 4)).kernels
        assert (kernel.least, kernel.written) == (4 * 100 * 4 + 3200 + 96, 3200)
        assert (kernel.read, kernel.operations) == (6000 + 96, 0)
        (kernel,) = costs.crossover_mutate("none", 100, costs.Offspring(0, 0, 8, 4)).kernels
        assert kernel.operations == 2 * 25.5 * 800

    @pytest.mark.parametrize("kind", ["mix", *floors.KINDS])
    def test_parents_are_those_of_the_contest(self, kind: str) -> None:
        read = set[int]()

        def variation(genomes: Any, parents: np.ndarray, *_: Any, **__: Any) -> Any:
            read.update(parents.reshape(-1).tolist())
            return genomes

        with mock.patch.object(ops, "crossover_mutate", variation):
            contest = contests.variation(contests.Place("cpu"), kind, 40)
            contest.evokern()
        assert floors.offspring_of(kind, 40).parents == len(read)

    def test_padding_is_not_read(self) -> None:
        assert costs._taps(4, 3, 1, 1, 4) == 2 + 3 + 3 + 2
        assert costs._taps(2, 2, 3, 0, 5) == 4

    def test_floors_are_the_larger_of_both(self) -> None:
        rates = costs.Rates(1e9, 4e9)
        by_memory = costs.Kernel("a", least=10, read=0, written=0, operations=8)
        by_arithmetic = costs.Kernel("b", least=1, read=0, written=0, operations=8)
        assert by_memory.floor(rates) == 10e-9
        assert by_arithmetic.floor(rates) == 2e-9
        work = costs.Work("", "", (by_memory, by_arithmetic))
        assert work.floor(rates) == pytest.approx(12e-9)
        assert work.is_bound_by_memory(rates)


class TestPage:
    def test_it_is_up_to_date(self) -> None:
        mend = "run python -m benchmarks.gpu.floors --write"
        assert floors.PAGE.read_text() == floors.page(), mend

    def test_it_says_that_nothing_was_measured(self) -> None:
        assert "Computed from shapes and data sheets, not measured." in floors.PAGE.read_text()

    def test_numbers(self) -> None:
        shown = [floors._significant(v) for v in (0, 1234567.0, 12.345, 1.0, 0.0123456, 2.5e-4)]
        assert shown == ["0", "1,234,567", "12.3", "1.00", "0.0123", "2.5e-04"]

    def test_the_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert floors.main([]) == 0
        assert capsys.readouterr().out == floors.page()
        assert floors.main(["--what"]) == 2
