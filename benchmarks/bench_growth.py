"""Whether the time of `ops.network_loss` grows with population and batch as the work does."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks import workload
from benchmarks.harness import Cases, Contest, Contestant, Result
from benchmarks.limits import limits
from benchmarks.workload import NETWORK, Evaluation
from evokern import ops

POPULATIONS = (64, 128, 256, 512, 1000, 2000, 4000)
BATCHES = (256, 512, 1024, 2048, 4096)
_FIXED = 128  # the batch while the population grows, the population while the batch does


def cases(quick: bool) -> Cases:
    """Growing populations, then growing batches."""
    populations, batches, fixed = ((4, 8), (32, 64), 8) if quick else (POPULATIONS, BATCHES, _FIXED)
    by_population = [(population, fixed) for population in populations]
    by_batch = [(fixed, batch) for batch in batches]
    return {
        f"growth with the population, batch {fixed}": partial(_contest, by_population, quick),
        f"growth with the batch, population {fixed}": partial(_contest, by_batch, quick),
    }


def test_growth(hand_over: Callable[[], None]) -> None:
    """One contest with one number of threads (conftest.py)."""
    hand_over()


def notes(results: Sequence[Result]) -> list[str]:
    """How far times are from proportional to the work, per number of threads."""
    lines = []
    for threads in sorted({r.threads for r in results}):
        ours = [r for r in results if r.threads == threads and r.percent_of_limit is not None]
        wall = deviation([1 / r.rate for r in ours])
        cpu = deviation([r.cpu_s / r.wall_s / r.rate for r in ours])
        text = f"within {100 * wall:.1f} % (CPU {100 * cpu:.1f} %) of proportional to the work"
        lines.append(f"threads {threads}: {text}")
    return lines


def deviation(times: Sequence[float]) -> float:
    """The largest relative distance of a time per work from the median one."""
    middle = statistics.median(times)
    return max(abs(time / middle - 1) for time in times)


@contextmanager
def _contest(sizes: Sequence[tuple[int, int]], quick: bool) -> Iterator[Contest]:
    rows = workload.genomes(max(population for population, _ in sizes))
    contestants = []
    for population, batch in sizes:
        work = Evaluation.of(rows[:population], batch)
        name = f"evokern population {population}, batch {batch}"
        run = partial(_run, work)
        contestants.append(Contestant(name, run, work.operations, "GFLOP/s"))
    yield Contest(tuple(contestants), limits(["multiply-add"], quick))


def _run(work: Evaluation, threads: int) -> Any:
    return ops.network_loss(work.genomes, NETWORK, work.x, work.y)
