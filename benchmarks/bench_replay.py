"""Genomes rebuilt from their lineages: `ops.replay`, beside the mutations that made them.

100 lineages of 50 mutations each, no crossover, 1,693,362 genes; a share of the lineages runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import rivals
from benchmarks.harness import Cases, Contest, Contestant, MismatchError
from benchmarks.workload import F32, SIGMA
from evokern import Network, _cpu, founders, ops, set_threads
from evokern._table import resolve
from evokern.lineage import Lineages
from evokern.population import allocate_genomes

LAYOUT = Network.nature_cnn(4, 18).layout

LINEAGES, MUTATIONS = 100, 50

_PIECE = 16384  # genes: a row of 64 KiB
_SEED = 1


class Work(NamedTuple):
    """So many of the lineages run, on the first ``genes`` genes in the loop that only draws."""

    lineages: int
    genes: int = _PIECE

    @property
    def part(self) -> float:
        """The share of all lineages."""
        return self.lineages / LINEAGES


def cases(quick: bool) -> Cases:
    """One contest."""
    work = Work(1) if quick else Work(20)
    title = f"replay, {LINEAGES} lineages of {MUTATIONS} mutations, {LAYOUT.size:,} genes"
    return {f"{title} (of {work.lineages}, scaled)": partial(_contest, work)}


def test_replay(hand_over: Callable[[], None]) -> None:
    """One contest with one number of threads (conftest.py)."""
    hand_over()


@contextmanager
def _contest(work: Work) -> Iterator[Contest]:
    draws = LINEAGES * MUTATIONS * LAYOUT.size
    lineages = _lineages(work.lineages)
    target = allocate_genomes(work.lineages, LAYOUT.size)
    expected = ops.replay(lineages, LAYOUT)
    pieces = -(-LAYOUT.size // work.genes)
    loop = _draw_and_add(work, pieces)
    check_genomes(expected[:, : work.genes], "draw and add", _draw_and_add(work, 1)(1))
    yield Contest(
        (
            Contestant(
                "evokern",
                lambda threads: ops.replay(lineages, LAYOUT, out=target),
                draws,
                "ns/gene",
                work.part,
            ),
            Contestant(
                f"evokern, {MUTATIONS} mutations", _mutations(work), draws, "ns/gene", work.part
            ),
        ),
        (
            Contestant(
                "limit: draw and add in cache",
                loop,
                draws,
                "ns/gene",
                work.part * pieces * work.genes / LAYOUT.size,
            ),
        ),
        lambda contestant, genomes: check_genomes(expected, contestant.name, genomes),
        "evokern",
    )


def _lineages(count: int) -> Lineages:
    lineages = founders(count, seed=_SEED, kind="none")
    own, sigma = _parents(count), np.full(count, SIGMA, np.float32)
    for generation in range(1, MUTATIONS + 1):
        lineages = lineages.offspring(own, sigma, generation=generation)
    return lineages


def _parents(count: int) -> npt.NDArray[np.int32]:
    return np.arange(count, dtype=np.int32)[None]


def _mutations(work: Work) -> rivals.Run:
    """The same individuals as a run makes them: founders, then one generation after the other."""
    count = work.lineages
    first, second = (allocate_genomes(count, LAYOUT.size) for _ in range(2))
    own, sigma = _parents(count), np.full(count, SIGMA, np.float32)

    def run(threads: int) -> F32:
        old, new = first, second
        ops.init_genomes(LAYOUT, count, seed=_SEED, out=old)
        for generation in range(1, MUTATIONS + 1):
            ops.crossover_mutate(
                old, own, sigma, kind="none", seed=_SEED, generation=generation, out=new
            )
            old, new = new, old
        return old

    return run


def _draw_and_add(work: Work, pieces: int) -> rivals.Run:
    """As many normals, drawn and added by ``crossover_mutate`` to genes that stay in the caches.

    A piece is the first genes of all individuals, from their founders to the end; ``pieces`` of
    them are made, side by side. Threads do not wait for each other, and the kernel is called
    without the checks of ``ops``: with such short rows both would take time.
    """
    count = work.lineages
    start = allocate_genomes(count, work.genes)
    start[:] = ops.init_genomes(LAYOUT, count, seed=_SEED)[:, : work.genes]
    own, sigma = _parents(count), np.full(count, SIGMA, np.float32)
    mutate = partial(
        resolve("crossover_mutate", "cpu"),
        kind="none",
        rate=0.5,
        weights=None,
        mutation_rate=1.0,
        distribution="normal",
        layout=None,
        seed=_SEED,
        first=0,
        out_rows=None,
    )

    def make(share: int) -> F32:
        first, second = (allocate_genomes(count, work.genes) for _ in range(2))
        for _ in range(share):
            old, new = start, first
            for generation in range(1, MUTATIONS + 1):
                mutate(old, own, sigma, generation=generation, out=new)
                old, new = new, second if new is first else first
        return old

    def run(threads: int) -> F32:
        before = _cpu.threads()
        set_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                shares = [len(range(first, pieces, threads)) for first in range(threads)]
                return next(pool.map(make, shares))
        finally:
            set_threads(before)

    return run


def check_genomes(expected: F32, name: str, genomes: F32) -> None:
    """Raises MismatchError unless the genomes [S, G] are the same bit for bit."""
    if genomes.shape != expected.shape:
        raise MismatchError(f"{name}: expected {expected.shape}, got {genomes.shape}")
    wrong = np.flatnonzero((genomes.view(np.uint32) != expected.view(np.uint32)).any(axis=1))
    if wrong.size:
        raise MismatchError(f"{name}: individual {wrong[0]} is another one")
