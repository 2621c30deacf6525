"""Rivals in their strongest honest form: buffers made beforehand, no gradients, weights laid out
as the library likes them best. Each function makes the data ready and returns what is timed.

torch and jax are imported where they are used; ``missing`` says why one cannot be.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.workload import NETWORK, Evaluation, Variation, genomes
from evokern.population import allocate_genomes

Run = Callable[[int], Any]
"""Does the work once with a number of threads, and returns its result."""

_EXTRA = {"torch": "torch", "jax": "bench", "evosax": "bench", "evox": "bench"}


def missing(library: str) -> str:
    """Why ``library`` cannot take part; empty if it can."""
    if find_spec(library) is not None:
        return ""
    return f"{library} is not installed: pip install 'evokern[{_EXTRA[library]}]'"


def torch_chunks(work: Evaluation, networks: int, chunk: int, dtype: str = "float32") -> Run:
    """``baddbmm`` layer after layer, ``chunk`` of the first ``networks`` networks at a time."""
    import torch
    from torch.nn.functional import cross_entropy

    element = getattr(torch, dtype)
    layers = [(w[:networks].to(element), b[:networks].to(element)) for w, b in _torch_layers(work)]
    batch = len(work.x)
    x = torch.from_numpy(work.x).to(element).expand(chunk, -1, -1)
    y = torch.from_numpy(work.y)
    labels = y.repeat(chunk)
    buffers = [torch.empty(chunk, batch, w.shape[2], dtype=element) for w, _ in layers]

    def evaluate(first: int) -> tuple[Any, Any]:
        count = min(chunk, networks - first)
        h = x[:count]
        here = slice(first, first + count)
        for number, ((w, b), buffer) in enumerate(zip(layers, buffers, strict=True)):
            if number:
                h.relu_()
            h = torch.baddbmm(b[here], h, w[here], out=buffer[:count])
        logits = h.float()
        flat = logits.view(count * batch, -1)
        loss = cross_entropy(flat, labels[: len(flat)], reduction="none").view(count, batch)
        return loss.mean(1), (logits.argmax(2) == y).sum(1)

    def run(threads: int) -> tuple[Any, Any]:
        with torch.no_grad():
            parts = [evaluate(first) for first in range(0, networks, chunk)]
            loss, correct = (torch.cat(part) for part in zip(*parts, strict=True))
        return loss.numpy(), correct.numpy()

    return run


def torch_vmap(work: Evaluation, chunk: int) -> Run:
    """``torch.func.vmap`` over a functional network, ``chunk`` networks at a time."""
    import torch
    from torch.nn.functional import cross_entropy

    layers = [(w, b.squeeze(1)) for w, b in _torch_layers(work)]
    x, y = torch.from_numpy(work.x), torch.from_numpy(work.y)

    def evaluate(network: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        h = x
        for number, (w, b) in enumerate(network):
            h = torch.addmm(b, torch.relu(h) if number else h, w)
        return cross_entropy(h, y), (h.argmax(1) == y).sum()

    population = torch.func.vmap(evaluate, chunk_size=chunk)

    def run(threads: int) -> tuple[Any, Any]:
        with torch.no_grad():
            loss, correct = population(layers)
        return loss.numpy(), correct.numpy()

    return run


def _torch_layers(work: Evaluation) -> list[tuple[Any, Any]]:
    """Per layer weights [P, I, O] and biases [P, 1, O], each in one piece."""
    import torch

    return [
        (torch.from_numpy(w.copy()), torch.from_numpy(b.copy()).unsqueeze(1))
        for w, b in NETWORK.layout.split(work.genomes)
    ]


class JaxMap:
    """``jax.lax.map`` under ``jit``. jax cannot change its threads, so that every number of them
    has a process of its own, which may use as many processors."""

    def __init__(self, population: int, batch: int) -> None:
        self._size = (population, batch)
        self._processes: dict[int, ProcessPoolExecutor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            process.shutdown()

    def run(self, threads: int) -> tuple[Any, Any]:
        """Loss and correct predictions [P]."""
        result: tuple[Any, Any] = self._process(threads).submit(_jax_run).result()
        return result

    def cpu_clock(self, threads: int) -> float:
        """CPU seconds of the process."""
        return self._process(threads).submit(time.process_time).result()

    def _process(self, threads: int) -> ProcessPoolExecutor:
        if threads not in self._processes:
            self._processes[threads] = ProcessPoolExecutor(
                1, get_context("spawn"), _jax_start, (threads, *self._size)
            )
        return self._processes[threads]


_jax_evaluate: Callable[[], tuple[Any, Any]]


def _jax_start(threads: int, population: int, batch: int) -> None:
    global _jax_evaluate
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import jax

    jax.config.update("jax_platforms", "cpu")
    work = Evaluation.of(genomes(population), batch)
    layers = jax.tree.map(jax.numpy.asarray, NETWORK.layout.split(work.genomes))
    x, y = jax.numpy.asarray(work.x), jax.numpy.asarray(work.y)

    def evaluate(network: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        h = x
        for number, (w, b) in enumerate(network):
            h = (jax.nn.relu(h) if number else h) @ w + b
        of_label = jax.numpy.take_along_axis(h, y[:, None], axis=1)[:, 0]
        loss = (jax.nn.logsumexp(h, axis=1) - of_label).mean()
        return loss, (h.argmax(1) == y).sum()

    _jax_evaluate = partial(jax.jit(partial(jax.lax.map, evaluate)), layers)


def _jax_run() -> tuple[Any, Any]:
    loss, correct = _jax_evaluate()
    return np.asarray(loss), np.asarray(correct)


def torch_children(work: Variation) -> Run:
    """One child at a time, in place, with one random bit per gene; each thread makes its share."""
    import torch

    out = allocate_genomes(*work.genomes.shape)
    make = torch_offspring(torch.from_numpy(work.genomes), torch.from_numpy(out))
    first, second = work.parents.tolist()
    sigma = work.sigma.tolist()

    def run(threads: int) -> Any:
        make(first, second, sigma, threads)
        return out

    return run


Offspring = Callable[[list[int], list[int], list[float], int], None]
"""Makes all offspring from first parents, second parents, sigma and a number of threads."""


def torch_offspring(genomes: Any, out: Any) -> Offspring:
    """Children of ``genomes`` [P, G] in ``out`` [P, G], one at a time on every thread.

    The bits become 0.0 or 1.0, eight at once from a table, and ``lerp`` then selects exactly: a
    quarter of the time of ``where``. Threads that make children side by side beat torch's own.
    """
    import torch

    parents, children = genomes.unbind(), out.unbind()
    genes = genomes.shape[1]
    words = -(-genes // 64)
    table = (torch.arange(256)[:, None] >> torch.arange(8) & 1).float()

    def make(first: list[int], second: list[int], sigma: list[float], slots: range) -> None:
        generator = torch.Generator().manual_seed(slots.start)
        random = torch.empty(words, dtype=torch.int64)
        index = torch.empty(words * 8, dtype=torch.int32)
        bits = torch.empty(words * 8, 8)
        take_second = bits.view(-1)[:genes]
        for slot in slots:
            a, b, child = parents[first[slot]], parents[second[slot]], children[slot]
            if first[slot] != second[slot]:
                random.random_(-(2**63), None, generator=generator)
                index.copy_(random.view(torch.uint8))
                torch.index_select(table, 0, index, out=bits)
                torch.lerp(a, b, take_second, out=child)
            elif sigma[slot] > 0:
                child.normal_(0, sigma[slot], generator=generator).add_(a)
            else:
                child.copy_(a)

    def run(first: list[int], second: list[int], sigma: list[float], threads: int) -> None:
        chosen = partial(make, first, second, sigma)
        _share(chosen, len(children), threads, partial(torch.set_num_threads, 1))

    return run


def torch_sum(genomes: Any, weights: Any) -> Run:
    """The weighted sum of genomes [n, G] as one product of a vector and a matrix."""
    import torch

    matrix, vector = torch.from_numpy(genomes), torch.from_numpy(weights)
    out = torch.empty(genomes.shape[1])
    return lambda threads: torch.mv(matrix.T, vector, out=out).numpy()


def torch_population(work: Variation) -> Run:
    """The whole population at once, as one would first write it."""
    import torch

    pool = torch.from_numpy(work.genomes)
    first, second = torch.from_numpy(work.parents).long()
    kinds = (work.elites, work.crossed, len(pool) - work.elites - work.crossed)
    copied, crossed, mutated = first.split(kinds)
    partner = second.split(kinds)[1]
    sigma = torch.from_numpy(work.sigma)[-len(mutated) :, None] if len(mutated) else None

    def run(threads: int) -> Any:
        a, b = pool[crossed], pool[partner]
        children = torch.where(torch.rand(a.shape) < 0.5, a, b)
        mutants = pool[mutated]
        if sigma is not None:
            mutants = mutants + sigma * torch.randn(mutants.shape)
        return torch.cat([pool[copied], children, mutants]).numpy()

    return run


def numpy_children(work: Variation) -> Run:
    """One child at a time, in place, with one random bit per gene; each thread makes its share.

    The bits become masks for integer operations: faster than ``where``.
    """
    pool, out = work.genomes, allocate_genomes(*work.genomes.shape)
    genes = pool.shape[1]
    words = -(-genes // 64)

    def make(slots: range) -> None:
        rng = np.random.Generator(np.random.SFC64(slots.start))
        mask = np.empty(genes, np.int32)
        for slot in slots:
            first, second = work.parents[:, slot]
            a, child = pool[first], out[slot]
            if first != second:
                random = rng.integers(0, 2**64, words, dtype=np.uint64)
                bits = np.unpackbits(random.view(np.uint8), count=genes)
                np.negative(bits.view(np.int8), out=mask)
                result = child.view(np.int32)
                np.bitwise_xor(a.view(np.int32), pool[second].view(np.int32), out=result)
                result &= mask
                result ^= a.view(np.int32)
            elif work.sigma[slot] > 0:
                rng.standard_normal(dtype=np.float32, out=child)
                child *= work.sigma[slot]
                child += a
            else:
                child[:] = a

    def run(threads: int) -> Any:
        _share(make, len(out), threads)
        return out

    return run


def _share(
    make: Callable[[range], None],
    slots: int,
    threads: int,
    prepare: Callable[[], None] | None = None,
) -> None:
    """Runs ``make`` side by side on as many ranges of slots as there are threads, every range
    with its part of all kinds of offspring."""
    with ThreadPoolExecutor(threads, initializer=prepare) as pool:
        list(pool.map(make, [range(first, slots, threads) for first in range(threads)]))
