"""What is timed on a device, and what PyTorch does there for the same work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks import bench_conv, bench_nes, bench_network, bench_variation, workload
from benchmarks.bench_replay import LAYOUT as DQN_LAYOUT
from benchmarks.bench_replay import LINEAGES, MUTATIONS
from benchmarks.gpu import costs, rivals
from benchmarks.gpu.floors import KINDS, THESIS_WIDTHS, offspring_of
from benchmarks.gpu.timing import Contest, Run
from benchmarks.harness import Contestant, MismatchError
from benchmarks.workload import NETWORK, SIGMA, Evaluation, Variation
from benchmarks.workload_conv import Slots
from evokern import Network, _devices, founders, ops, use_backend
from evokern.layout import GenomeLayout
from evokern.population import allocate_genomes

Make = partial[Contest]
"""Makes the data on the device; they are gone when the contest is."""

Rivals = dict[str, Callable[[], Run]]

TRITON = "evokern's Triton kernels"

_MOST_NETWORKS = 1000  # of a rival at a time, whose activations would not fit otherwise


class Place(NamedTuple):
    """Where evokern's arrays are, and the torch.device of the rivals; None: there are none."""

    device: str
    torch: Any | None = None


def with_triton(contest: Contest) -> Contest:
    """The contest with the CUDA kernels and, as a rival more, the Triton kernels."""

    def on(backend: str) -> Any:
        with use_backend(backend):
            return contest.evokern()

    return replace(
        contest,
        evokern=partial(on, "cuda"),
        rivals={TRITON: lambda: partial(on, "triton"), **contest.rivals},
    )


def contests(place: Place, tiny: bool) -> Iterator[Make]:
    """The contests in turn."""
    networks = ((3, 24),) if tiny else ((1000, 512), (4000, 512), (1000, 64))
    for population, batch in networks:
        yield partial(network_loss, place, population, batch)
    for kind in (*KINDS, "mix"):
        yield partial(variation, place, kind, 4 if tiny else 1000)
    for observations in (1,) if tiny else (1, 8):
        yield partial(dqn, place, 1 if tiny else 256, observations)
    for rows, choices in bench_nes.SHAPES[:1] if tiny else bench_nes.SHAPES:
        yield partial(nes, place, rows, choices)
    if tiny:
        yield partial(replay, place, NETWORK.layout, 2, 3)
    else:
        yield partial(replay, place, DQN_LAYOUT, LINEAGES, MUTATIONS)


def _moved(place: Place, array: Any) -> Any:
    return _devices.from_host(place.device, array)


def _genomes(place: Place, host: Any) -> Any:
    """A copy in rows that are aligned."""
    bank = allocate_genomes(*host.shape, place.device)
    _devices.write(bank, np.ascontiguousarray(host))
    return bank


def _wipe(bank: Any) -> None:
    """Makes all genes NaN."""
    _devices.write(bank, np.full(bank.shape, np.nan, np.float32))


def _on_host(result: Any) -> Any:
    """Of torch, or of evokern where it is."""
    return result.cpu().numpy() if hasattr(result, "cpu") else _devices.to_host(result)


def _named(name: str) -> Contestant:
    """The contestant that the checks of the CPU's benchmarks ask for."""
    return Contestant(name, lambda threads: None, 1.0, "GFLOP/s")


def network_loss(place: Place, population: int, batch: int) -> Contest:
    """The thesis' network on one batch."""
    host = Evaluation.of(workload.genomes(population), batch)
    genomes, x, y = _genomes(place, host.genomes), _moved(place, host.x), _moved(place, host.y)

    def evokern() -> tuple[Any, Any]:
        return ops.network_loss(genomes, NETWORK, x, y)

    others: Rivals = {}
    if place.torch is not None:
        chunk = min(population, _MOST_NETWORKS)
        others["torch baddbmm"] = partial(rivals.network_bmm, host, place.torch, chunk)
        others["torch.func.vmap"] = partial(rivals.network_vmap, host, place.torch, chunk)
    loss, correct = evokern()
    expected = _on_host(loss), _on_host(correct)
    tolerance = bench_network.TOLERANCE["fp32"]

    def check(name: str, result: Any) -> None:
        found = _on_host(result[0]), _on_host(result[1])
        bench_network.check_evaluation(expected, tolerance, batch, _named(name), found)

    work = costs.fused_loss(THESIS_WIDTHS, population, batch)
    return Contest(work, evokern, others, check)


def variation(place: Place, kind: str, population: int) -> Contest:
    """All offspring of one kind, or the thesis' mix with uniform crossover."""
    children = offspring_of(kind, population)
    shares = (children.copied / population, children.crossed / population)
    host = Variation.of(workload.genomes(population), *shares)
    genomes = _genomes(place, host.genomes)
    out = allocate_genomes(*host.genomes.shape, place.device)
    own: Any = "uniform" if kind == "mix" else kind

    def evokern() -> Any:
        return ops.crossover_mutate(
            *(genomes, host.parents, host.sigma),
            kind=own,
            layout=NETWORK.layout,
            seed=1,
            generation=1,
            out=out,
        )

    others: Rivals = {}
    if place.torch is not None:
        others["torch, whole population"] = partial(
            rivals.offspring, host, own, NETWORK.layout, place.torch
        )

    def check(name: str, result: Any) -> None:
        offspring = _on_host(result)
        if kind in ("arithmetic", "rows"):
            check_children(host, kind, name, offspring)
        else:
            bench_variation.check_offspring(host, name, offspring)

    work = costs.crossover_mutate(kind, NETWORK.layout.size, children)
    return Contest(work, evokern, others, check, partial(_wipe, out))


def check_children(work: Variation, kind: str, name: str, offspring: Any) -> None:
    """Raises MismatchError unless all genes are of a parent, or the means of both."""
    for slot, child in enumerate(offspring):
        first, second = work.genomes[work.parents[:, slot]]
        if kind == "arithmetic":
            right = np.abs(child - (first + second) / 2) <= 1e-6
        else:
            right = (child == first) | (child == second)
        if not right.all():
            raise MismatchError(f"{name}: offspring {slot} is no child of its parents")


def dqn(place: Place, networks: int, observations: int) -> Contest:
    """The network of Mnih et al. 2015 on frames of its own."""
    network = Network.nature_cnn(4, 18)
    size = network.layout.size
    host = allocate_genomes(networks, size)
    ops.init_genomes(network.layout, networks, seed=0, scheme="torch", out=host)
    shape = (networks, observations, *network.input_shape)
    frames = np.random.default_rng(networks).random(shape, np.float32)
    genomes, x = _genomes(place, host), _moved(place, frames)

    def evokern() -> Any:
        return ops.network_forward(genomes, network, x)

    others: Rivals = {}
    if place.torch is not None:
        ends = (*network.layout.offsets[1:], size)
        banks = [host[:, a:b] for a, b in zip(network.layout.offsets, ends, strict=True)]
        slots = Slots(network, banks, frames)
        grouped = partial(rivals.slots_grouped, slots, place.torch)
        others["torch grouped convolution"] = grouped
        others["torch grouped convolution, channels last"] = partial(grouped, channels_last=True)
        others["torch.func.vmap"] = partial(rivals.slots_vmap, slots, place.torch)
    expected, tolerance = _on_host(evokern()), bench_network.TOLERANCE["fp32"]

    def check(name: str, result: Any) -> None:
        bench_conv.check_outputs(expected, tolerance, _named(name), _on_host(result))

    work = costs.layered("DQN", network, networks, observations, shared=False, loss=False)
    return Contest(work, evokern, others, check)


def nes(place: Place, rows: int, choices: int) -> Contest:
    """A step: assignments drawn, probabilities moved."""
    rng = np.random.default_rng([rows, choices])
    values = rng.random((rows, choices), np.float32) + np.float32(0.1)
    table = values / values.sum(axis=1, keepdims=True)
    host = bench_nes.Work(table, rng.random(bench_nes.SAMPLES, np.float32), 1)
    probabilities, losses = _moved(place, host.probabilities), _moved(place, host.losses)

    def evokern() -> tuple[Any, Any]:
        drawn = ops.nes_sample(probabilities, bench_nes.SAMPLES, seed=1, step=0)
        rate = bench_nes.RATE
        return drawn, ops.nes_update(probabilities, drawn, losses, learning_rate=rate)

    def check(name: str, result: Any) -> None:
        step = bench_nes.Step(_on_host(result[0]), _on_host(result[1]))
        bench_nes.check_step(host, name, step)

    others: Rivals = {}
    if place.torch is not None:
        others["torch"] = partial(rivals.nes, host, place.torch)
    work = costs.nes_step(rows, choices, bench_nes.SAMPLES)
    return Contest(work, evokern, others, check)


def replay(place: Place, layout: GenomeLayout, lineages: int, mutations: int) -> Contest:
    """Lineages without crossover, beside the mutations that made them."""
    parents, sigma = np.arange(lineages, dtype=np.int32)[None], np.full(lineages, SIGMA, np.float32)
    history = founders(lineages, seed=1, kind="none")
    for generation in range(1, mutations + 1):
        history = history.offspring(parents, sigma, generation=generation)
    banks = [allocate_genomes(lineages, layout.size, place.device) for _ in range(3)]

    def evokern() -> Any:
        return ops.replay(history, layout, out=banks[0])

    def step_by_step() -> Any:
        old, new = banks[1:]
        ops.init_genomes(layout, lineages, seed=1, out=old)
        for generation in range(1, mutations + 1):
            ops.crossover_mutate(
                *(old, parents, sigma), kind="none", seed=1, generation=generation, out=new
            )
            old, new = new, old
        return old

    name = f"evokern, {mutations} mutations"
    others: Rivals = {name: lambda: step_by_step}
    if place.torch is not None:
        others["torch, the same number of mutations"] = partial(
            rivals.mutations, layout.size, lineages, mutations, place.torch
        )

    def check(other: str, result: Any) -> None:
        promised = other in (name, TRITON)
        if promised and _on_host(result).tobytes() != _on_host(evokern()).tobytes():
            raise MismatchError(f"{other}: not the same genomes")

    work = costs.replay(layout.size, lineages, mutations)
    return Contest(work, evokern, others, check, partial(_wipe, banks[0]))
