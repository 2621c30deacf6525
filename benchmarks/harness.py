"""Contestants side by side: each is checked, then all are timed in turn, round by round.

Whatever else the machine does meanwhile so meets all of them alike. The machine's limits are timed
in the same rounds. Reported are medians over the rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from evokern import _cpu, set_threads
from evokern.errors import EvokernError

Unit = Literal["GFLOP/s", "GB/s", "ns/gene", "us/step", "frames/s"]

_SETTLE_S = 0.01  # libgomp's threads spin on for a while; that is not the next one's CPU time


class MismatchError(EvokernError):
    """A contestant did not compute what it should: there is nothing to time."""


def _process_time(threads: int) -> float:
    return time.process_time()


def _accept(contestant: Contestant, result: Any) -> None:
    pass


@dataclass(frozen=True)
class Contestant:
    """One way to do the work of a contest.

    ``run(threads)`` does it once. ``work`` is what the rate counts: floating-point operations,
    bytes, genes, steps or frames. ``part`` < 1: a run does this share of the work only, and its
    seconds are scaled to the whole. ``cpu_clock(threads)``: CPU seconds of all threads so far.
    """

    name: str
    run: Callable[[int], Any]
    work: float
    unit: Unit
    part: float = 1.0
    cpu_clock: Callable[[int], float] = _process_time


@dataclass(frozen=True)
class Contest:
    """Contestants who do the same work, evokern first.

    ``check`` raises MismatchError for a wrong result. The best of ``limits`` is the limit, of
    which one unit of work takes at least ``limit_per_work``. ``reference`` names the contestant
    that times are compared with; ``missing`` says why others do not take part.
    """

    contestants: tuple[Contestant, ...]
    limits: tuple[Contestant, ...]
    check: Callable[[Contestant, Any], None] = _accept
    reference: str | None = None
    limit_per_work: float = 1.0
    missing: Mapping[str, str] = field(default_factory=dict)


Cases = dict[str, Callable[[], AbstractContextManager[Contest]]]
"""The contests of a benchmark by name; entering one makes its data, leaving it frees them."""


@dataclass(frozen=True)
class Result:
    """What one contestant needed with one number of threads.

    Seconds are those of the whole work. ``percent_of_limit``: of the machine's limit measured in
    the same rounds, by wall time. Ratios: this contestant's median over the reference's.
    """

    contestant: str
    threads: int
    wall_rounds: tuple[float, ...]
    cpu_rounds: tuple[float, ...]
    rate: float
    unit: Unit
    percent_of_limit: float | None = None
    wall_ratio: float | None = None
    cpu_ratio: float | None = None

    @property
    def wall_s(self) -> float:
        """Median wall seconds."""
        return statistics.median(self.wall_rounds)

    @property
    def cpu_s(self) -> float:
        """Median CPU seconds, summed over threads."""
        return statistics.median(self.cpu_rounds)


def use_threads(threads: int) -> None:
    """Sets the threads of evokern and, where it is loaded, torch (they share libgomp)."""
    set_threads(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def measure(contest: Contest, rounds: int, threads: Sequence[int]) -> list[Result]:
    """Checks all contestants with every number of threads, which also warms them up (jit, memory
    first written to), then times them and the limits in turn.

    Results come by number of threads: the limits, then the contestants. Raises MismatchError.
    """
    before = _cpu.threads()
    runners = (*contest.limits, *contest.contestants)
    wall: dict[tuple[str, int], list[float]] = {(c.name, n): [] for n in threads for c in runners}
    cpu: dict[tuple[str, int], list[float]] = {key: [] for key in wall}
    try:
        for count in threads:
            use_threads(count)
            for contestant in contest.contestants:
                contest.check(contestant, contestant.run(count))
        for _ in range(rounds):
            for count in threads:
                for contestant in runners:
                    wall_s, cpu_s = _time(contestant, count)
                    wall[contestant.name, count].append(wall_s)
                    cpu[contestant.name, count].append(cpu_s)
    finally:
        use_threads(before)
    results = []
    for count in threads:
        results += _results(contest, count, wall, cpu)
    return results


def _time(contestant: Contestant, threads: int) -> tuple[float, float]:
    use_threads(threads)
    time.sleep(_SETTLE_S)
    cpu = contestant.cpu_clock(threads)
    wall = time.perf_counter()
    contestant.run(threads)
    wall_s = time.perf_counter() - wall
    cpu_s = contestant.cpu_clock(threads) - cpu
    return wall_s / contestant.part, cpu_s / contestant.part


def _results(
    contest: Contest,
    threads: int,
    wall: Mapping[tuple[str, int], list[float]],
    cpu: Mapping[tuple[str, int], list[float]],
) -> list[Result]:
    def timed(contestant: Contestant) -> Result:
        rounds = wall[contestant.name, threads], cpu[contestant.name, threads]
        speed = rate(contestant.work, statistics.median(rounds[0]), contestant.unit)
        return Result(
            contestant.name, threads, tuple(rounds[0]), tuple(rounds[1]), speed, contestant.unit
        )

    found = [timed(limit) for limit in contest.limits]
    limit = max(
        (c.work / r.wall_s for c, r in zip(contest.limits, found, strict=True)), default=None
    )
    results = {contestant.name: timed(contestant) for contestant in contest.contestants}
    reference = None if contest.reference is None else results[contest.reference]
    for contestant in contest.contestants:
        result = results[contestant.name]
        if limit is not None:
            least_s = contestant.work * contest.limit_per_work / limit
            result = replace(result, percent_of_limit=100 * least_s / result.wall_s)
        if reference is not None:
            ratios = result.wall_s / reference.wall_s, result.cpu_s / reference.cpu_s
            result = replace(result, wall_ratio=ratios[0], cpu_ratio=ratios[1])
        found.append(result)
    return found


def rate(work: float, seconds: float, unit: Unit) -> float:
    """``work`` done in ``seconds``, in ``unit``."""
    match unit:
        case "us/step":
            return seconds / work * 1e6
        case "ns/gene":
            return seconds / work * 1e9
        case "frames/s":
            return work / seconds
        case _:
            return work / seconds * 1e-9
