"""Whole generations composed from other libraries, in the strongest forms known.

All evaluate the thesis' network on a random batch of samples that are already pooled, and keep no
records. What a run returns lets the benchmark check the losses against evokern's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import rivals
from benchmarks.workload import NETWORK, SIGMA, genomes
from evokern.population import allocate_genomes

F32 = npt.NDArray[np.float32]

CHUNK = 16  # networks whose weights and activations stay in the caches
ELITES, CROSSOVER, TRUNCATION = 0.05, 0.5, 0.5
_SHOWN = 4  # individuals whose losses are checked


@dataclass(frozen=True)
class Evaluated:
    """Losses [n] that a rival computed for genomes [n, G] on x [B, 196], y [B]."""

    genomes: F32
    x: F32
    y: npt.NDArray[np.int64]
    loss: F32


@dataclass(frozen=True)
class Samples:
    """Training data x float32 [N, 196], y int64 [N]."""

    x: F32
    y: npt.NDArray[np.int64]


Generation = Callable[[int], Evaluated]
"""Runs one generation with a number of threads."""


def torch_strongest(population: int, batch: int, data: Samples) -> Generation:
    """16 networks at a time by ``baddbmm``; variation child by child, a random bit per gene."""
    import torch

    banks = [torch.from_numpy(genomes(population)), torch.from_numpy(_empty(population))]
    makers = [rivals.torch_offspring(banks[0], banks[1]), rivals.torch_offspring(*banks[::-1])]
    losses = [_torch_loss(bank, batch, CHUNK) for bank in banks]
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    elites, crossed = round(population * ELITES), round(population * CROSSOVER)
    best = int(population * TRUNCATION)
    sigma = [0.0] * (elites + crossed) + [SIGMA] * (population - elites - crossed)
    state = {"bank": 0, "loss": losses[0](x[:batch], y[:batch])}

    def run(threads: int) -> Evaluated:
        order = state["loss"].argsort()
        first, second = order[torch.randint(best, (2, population))]
        first[:elites] = order[:elites]
        second[:elites] = first[:elites]
        second[elites + crossed :] = first[elites + crossed :]
        makers[state["bank"]](first.tolist(), second.tolist(), sigma, threads)
        state["bank"] = 1 - state["bank"]
        chosen = torch.randint(len(x), (batch,))
        bx, by = x[chosen], y[chosen]
        state["loss"] = losses[state["bank"]](bx, by)
        return _shown(banks[state["bank"]], bx, by, state["loss"])

    return run


def torch_straightforward(population: int, batch: int, data: Samples) -> Generation:
    """Whole-population tensors, as one would first write it."""
    import torch

    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    elites, crossed = round(population * ELITES), round(population * CROSSOVER)
    best = int(population * TRUNCATION)
    pool = torch.from_numpy(genomes(population)).contiguous()
    state = {"pool": pool, "loss": _torch_loss(pool, batch, population)(x[:batch], y[:batch])}

    def run(threads: int) -> Evaluated:
        pool, order = state["pool"], state["loss"].argsort()
        first, second = order[torch.randint(best, (2, crossed))]
        a, b = pool[first], pool[second]
        children = torch.where(torch.rand(a.shape) < 0.5, a, b)
        mutants = pool[order[torch.randint(best, (population - elites - crossed,))]]
        mutants = mutants + SIGMA * torch.randn(mutants.shape)
        state["pool"] = torch.cat([pool[order[:elites]], children, mutants])
        chosen = torch.randint(len(x), (batch,))
        bx, by = x[chosen], y[chosen]
        state["loss"] = _torch_loss(state["pool"], batch, population)(bx, by)
        return _shown(state["pool"], bx, by, state["loss"])

    return run


def evox_pso(population: int, batch: int, data: Samples) -> Generation:
    """EvoX has no genetic algorithm for one objective; its PSO moves a whole population too."""
    import torch
    from evox.algorithms import PSO

    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    bound = torch.ones(NETWORK.layout.size)
    algorithm = PSO(population, -bound, bound, device=torch.device("cpu"))
    seen: dict[str, Any] = {}

    def evaluate(pool: Any) -> Any:
        chosen = torch.randint(len(x), (batch,))
        seen["x"], seen["y"], seen["pool"] = x[chosen], y[chosen], pool
        seen["loss"] = _torch_loss(pool, batch, CHUNK)(seen["x"], seen["y"])
        return seen["loss"]

    algorithm.evaluate = evaluate
    algorithm.init_step()

    def run(threads: int) -> Evaluated:
        algorithm.step()
        return _shown(seen["pool"], seen["x"], seen["y"], seen["loss"])

    return run


class EvosaxGA:
    """evosax' SimpleGA around ``jax.lax.map``, all in one ``jit``.

    jax cannot change its threads, so that every number of them has a process of its own.
    """

    def __init__(self, population: int, batch: int, data: Samples) -> None:
        self._size = (population, batch, data)
        self._processes: dict[int, ProcessPoolExecutor] = {}

    def __call__(self, threads: int) -> Evaluated:
        result: Evaluated = self._process(threads).submit(_evosax_run).result()
        return result

    def cpu_clock(self, threads: int) -> float:
        """CPU seconds of the process."""
        return self._process(threads).submit(time.process_time).result()

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes.values():
            process.shutdown()

    def _process(self, threads: int) -> ProcessPoolExecutor:
        if threads not in self._processes:
            self._processes[threads] = ProcessPoolExecutor(
                1, get_context("spawn"), _evosax_start, (threads, *self._size)
            )
        return self._processes[threads]


@contextmanager
def evosax_ga(population: int, batch: int, data: Samples) -> Iterator[EvosaxGA]:
    """The contestant, whose processes end with the block."""
    ga = EvosaxGA(population, batch, data)
    try:
        yield ga
    finally:
        ga.close()


_evosax_step: Callable[[], Evaluated]


def _evosax_run() -> Evaluated:
    return _evosax_step()


def _evosax_start(threads: int, population: int, batch: int, data: Samples) -> None:
    global _evosax_step
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import jax

    jax.config.update("jax_platforms", "cpu")
    import jax.numpy as jnp
    import optax
    from evosax.algorithms import SimpleGA

    example = jnp.zeros(NETWORK.layout.size, jnp.float32)
    schedule = optax.constant_schedule(SIGMA)
    ga = SimpleGA(population_size=population, solution=example, std_schedule=schedule)
    params = ga.default_params.replace(crossover_rate=0.5)
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)

    def loss_of(genome: Any, bx: Any, by: Any) -> Any:
        h = bx
        for number, (w, b) in enumerate(NETWORK.layout.split(genome)):
            h = (jax.nn.relu(h) if number else h) @ w + b
        of_label = jnp.take_along_axis(h, by[:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(h, axis=1) - of_label).mean()

    def step(key: Any, state: Any) -> Any:
        key_ask, key_tell, key_batch = jax.random.split(key, 3)
        pool, state = ga.ask(key_ask, state, params)
        chosen = jax.random.randint(key_batch, (batch,), 0, len(x))
        bx, by = x[chosen], y[chosen]
        loss = jax.lax.map(lambda genome: loss_of(genome, bx, by), pool)
        state, _ = ga.tell(key_tell, pool, loss, state, params)
        return state, pool[:_SHOWN], bx, by, loss[:_SHOWN]

    compiled = jax.jit(step)
    key = jax.random.key(0)
    pool = jnp.asarray(genomes(population))
    loss = jax.lax.map(lambda genome: loss_of(genome, x[:batch], y[:batch]), pool)
    found = {"state": ga.init(key, pool, loss, params), "generation": 0}

    def run() -> Evaluated:
        found["generation"] += 1
        fresh = jax.random.fold_in(key, found["generation"])
        found["state"], shown, bx, by, losses = compiled(fresh, found["state"])
        jax.block_until_ready(found["state"])
        return Evaluated(*(np.asarray(part) for part in (shown, bx, by, losses)))

    _evosax_step = run


def _torch_loss(pool: Any, batch: int, chunk: int) -> Callable[[Any, Any], Any]:
    """The loss [P] of genomes [P, G], ``chunk`` networks at a time, from x [B, 196], y [B]."""
    import torch
    from torch.nn.functional import cross_entropy

    parts: list[tuple[Any, ...]] = NETWORK.layout.split(pool)
    layers = [(w, b.unsqueeze(1)) for w, b in parts]
    buffers = [torch.empty(chunk, batch, w.shape[2]) for w, _ in layers]

    def evaluate(x: Any, y: Any) -> Any:
        shared, labels = x.expand(chunk, -1, -1), y.repeat(chunk)
        parts = []
        for first in range(0, len(pool), chunk):
            count = min(chunk, len(pool) - first)
            here, h = slice(first, first + count), shared[:count]
            for number, ((w, b), buffer) in enumerate(zip(layers, buffers, strict=True)):
                if number:
                    h.relu_()
                h = torch.baddbmm(b[here], h, w[here], out=buffer[:count])
            flat = h.view(count * batch, -1)
            loss = cross_entropy(flat, labels[: len(flat)], reduction="none")
            parts.append(loss.view(count, batch).mean(1))
        return torch.cat(parts)

    def run(x: Any, y: Any) -> Any:
        with torch.no_grad():
            return evaluate(x, y)

    return run


def _empty(population: int) -> F32:
    return allocate_genomes(population, NETWORK.layout.size)


def _shown(pool: Any, x: Any, y: Any, loss: Any) -> Evaluated:
    return Evaluated(pool[:_SHOWN].numpy(), x.numpy(), y.numpy(), loss[:_SHOWN].numpy())
