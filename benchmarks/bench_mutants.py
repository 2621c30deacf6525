"""Networks that are a centre's but for 4 units of one layer: `ops.mutant_loss`.

A generation of `evokern ea --preset best` evaluates such mutants of every layer. The rivals do the
same sums; whole networks, by `ops.network_loss`, show what the kernel saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import rivals, workload
from benchmarks.bench_network import TOLERANCE, check_evaluation
from benchmarks.harness import Cases, Contest, Contestant
from benchmarks.limits import limits
from benchmarks.rivals_mutants import torch_mutants
from evokern import Network, ops
from evokern.population import allocate_genomes
from evokern.slices import Slices, slices_of

F32 = npt.NDArray[np.float32]

UNITS = 4
_CHUNK = 16  # mutants whose values stay in the caches, for a rival


@dataclass(frozen=True)
class Work:
    """Mutants of the first layer of a network [1, G] on one batch x [B, I], y [B]."""

    network: Network
    centre: F32
    genes: F32
    index: npt.NDArray[np.int32]
    x: F32
    y: npt.NDArray[np.int64]

    @classmethod
    def of(cls, layer: int, mutants: int, batch: int) -> Work:
        """Of a layer of the thesis' network, which sees what the layers before make of noise."""
        head, network = workload.NETWORK.split(layer)
        rng = np.random.default_rng(layer)
        whole = workload.genomes(1)
        cut = head.layout.size
        x = rng.random((batch, *workload.NETWORK.input_shape), np.float32)
        if head.layers:
            x = ops.network_forward(whole[:, :cut], head, x)[0]
        centre = np.ascontiguousarray(whole[:, cut:])
        slices = slices_of(network.layout, 0, UNITS)
        index = rng.integers(0, slices.count, mutants, np.int32)
        parts = allocate_genomes(slices.count, slices.genes)
        slices.read(centre, parts)
        genes = allocate_genomes(mutants, slices.genes)
        noise = workload.SIGMA * rng.standard_normal(genes.shape, np.float32)
        genes[:] = parts[index] + noise
        return cls(network, centre, genes, index, x, rng.integers(0, 10, batch))

    @property
    def slices(self) -> Slices:
        """Of the mutated layer."""
        return slices_of(self.network.layout, 0, UNITS)

    @property
    def operations(self) -> int:
        """Multiplications and additions of the mutants; what the centre computes comes on top."""
        sizes = [(block.parts[0].rows, block.outputs) for block in self.network.layout.blocks]
        products = UNITS * (sizes[0][0] + sizes[1][1]) + sum(i * o for i, o in sizes[2:])
        return 2 * products * len(self.genes) * len(self.x)


def cases(quick: bool) -> Cases:
    """One contest per mutated layer."""
    mutants, batch = (6, 40) if quick else (96, 256)
    return {
        f"{mutants} mutants of layer {layer + 1}, batch {batch}": partial(
            _contest, layer, mutants, batch, quick
        )
        for layer in (0, 1)
    }


def test_mutants(hand_over: Callable[[], None]) -> None:
    """One contest with one number of threads (conftest.py)."""
    hand_over()


@contextmanager
def _contest(layer: int, mutants: int, batch: int, quick: bool) -> Iterator[Contest]:
    work = Work.of(layer, mutants, batch)

    def evokern(threads: int) -> tuple[Any, Any]:
        return ops.mutant_loss(work.genes, work.index, work.centre, work.network, work.x, work.y)

    whole = np.repeat(work.centre, mutants, axis=0)
    for slot, number in enumerate(work.index):
        work.slices.write_one(int(number), work.genes[slot], whole[slot])
    runs = {
        "evokern": evokern,
        "evokern, whole networks": lambda threads: ops.network_loss(
            whole, work.network, work.x, work.y
        ),
    }
    why = rivals.missing("torch")
    if not why:
        runs["torch, all mutants at once"] = torch_mutants(work, mutants)
        runs[f"torch, {_CHUNK} mutants at a time"] = torch_mutants(work, _CHUNK)
    yield Contest(
        tuple(Contestant(name, run, work.operations, "GFLOP/s") for name, run in runs.items()),
        limits(["multiply-add"], quick),
        partial(check_evaluation, evokern(1), TOLERANCE["fp32"], batch),
        "evokern",
        missing={"torch": why} if why else {},
    )
