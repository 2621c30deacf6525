"""What the fused kernel reads, writes and conflicts in, counted by the instrumented build."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Any

import numpy as np
import pytest

import build
from evokern import ops
from evokern.backends.cuda.network import network_loss
from evokern.backends.device import Device, use_device
from evokern.network import Network
from evokern.problems.classification import thesis_network
from evokern.testing import assert_same_bits

pytestmark = [
    pytest.mark.simt,
    pytest.mark.skipif(
        os.environ.get("EVOKERN_SIMT_VARIANT") == "asan", reason="counts are of the race build"
    ),
]

THESIS = Network.mlp(196, [256, 128, 64], 10)
SAMPLES = 512


@cache
def device() -> Device:
    native = build.load("race")
    return Device({"cuda": lambda: native}, native.empty, address=lambda memory: memory.ctypes.data)


def counted(network: Network, shared_limit: int, samples: int) -> list[dict[str, Any]]:
    """The launches of network_loss for one individual, whose results are checked too."""
    genomes = ops.init_genomes(network.layout, 1, seed=1, scheme="torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, *network.input_shape), np.float32)
    y = rng.integers(0, network.output_shape[0], samples)
    ends = (*network.layout.offsets[1:], network.layout.size)
    banks = [genomes[:, a:b] for a, b in zip(network.layout.offsets, ends, strict=True)]
    results = np.full(1, np.nan, np.float32), np.zeros(1, np.int32)
    native = device().natives["cuda"]()
    before = native.shared_limit()
    native.set_shared_limit(shared_limit)
    native.reset()
    try:
        with use_device(device(), "cuda"):
            network_loss(
                banks,
                network,
                x,
                y,
                index=np.zeros((len(banks), 1), np.int32),
                classes=None,
                sample_weights=None,
                loss="cross_entropy",
                precision="fp32",
                x_scale=None,
                out_loss=results[0],
                out_correct=results[1],
            )
    finally:
        native.set_shared_limit(before)
    for result, reference in zip(results, ops.network_loss(genomes, network, x, y), strict=True):
        assert_same_bits(result, reference)
    assert native.races() == []
    assert native.unwritten_reads() == []
    launches: list[dict[str, Any]] = native.counts()
    return [launch for launch in launches if "store_parcel" not in launch["kernel"]]


@pytest.mark.parametrize(("kibibytes", "tile"), [(160, 128), (99, 64)])
def test_the_thesis_network_reads_its_weights_once_per_tile(kibibytes: int, tile: int) -> None:
    fused, finish = counted(THESIS, kibibytes << 10, SAMPLES)
    assert fused["kernel"].endswith("fused_network_kernel")
    tiles, threads = SAMPLES // tile, fused["block"][0]
    assert fused["grid"] == (tiles, 1, 1)
    weights = sum(rows * outputs for rows, outputs in ((196, 256), (256, 128), (128, 64), (64, 10)))
    compulsory = 4 * (tiles * weights + SAMPLES * 196) + 8 * SAMPLES
    # Every thread reads the biases of its 8, 4, 2 and 1 units and finds two rows per layer and two
    # more; a warp's are one access, but count 32 times here.
    own = 4 * (15 + 10) * threads * tiles
    assert compulsory <= fused["global_read_bytes"] <= compulsory + own
    assert fused["global_written_bytes"] == 8 * SAMPLES  # loss and correctness
    assert finish["global_read_bytes"] == 8 * SAMPLES
    assert finish["global_written_bytes"] == 8


HOT_LOOP = "load_weights", "run_layer"
"""Functions of network.cuh: the multiplications stand from the first to the second."""


def lines_of_the_hot_loop() -> range:
    source = (build.CSRC / "cuda" / "network.cuh").read_text().splitlines()
    first, end = (
        next(number for number, line in enumerate(source, 1) if f"EVK_DEVICE void {name}(" in line)
        for name in HOT_LOOP
    )
    return range(first, end)


def test_a_pool_in_front_is_computed_once_and_the_rest_is_fused() -> None:
    pool, fused, _ = counted(thesis_network(), 160 << 10, 40)
    assert "pool_kernel" in pool["kernel"]
    assert fused["kernel"].endswith("fused_network_kernel")


@pytest.mark.parametrize("widths", [(196, 256, 128, 64, 10), (64, 1000, 16, 7), (7, 33, 5)])
def test_no_lane_waits_for_another_ones_bank(widths: tuple[int, ...]) -> None:
    """In the multiplications; where a tile is narrow, outputs of two rows may meet in a bank."""
    network = Network.mlp(widths[0], list(widths[1:-1]), widths[-1])
    fused, _ = counted(network, 160 << 10, 64)
    hot = lines_of_the_hot_loop()
    innermost = [re.findall(r"network\.cuh:(\d+)", place)[0] for place in fused["conflicts_at"]]
    assert [line for line in innermost if int(line) in hot] == []
    if max(widths) <= 256:  # so that the tile is wide
        assert fused["bank_conflicts"] == 0, fused["conflicts_at"]
