"""`pytest benchmarks --benchmark-only`: evokern's rounds in pytest-benchmark, with all results of
the contest as extra_info.

pytest-benchmark times one function after the other, the harness its contestants in turn. So it gets
a clock that moves by what the harness has measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Result, measure

THREADS = (1, 2)


class Clock:
    """Stands still but for ``advance``."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def read(self) -> float:
        """The time in seconds."""
        return self._seconds

    def advance(self, durations: Iterator[float]) -> None:
        """Moves on by the next duration."""
        self._seconds += next(durations)


CLOCK = Clock()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --quick."""
    parser.addoption("--quick", action="store_true", help="benchmarks: sizes that mean little")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collects bench_*.py; what the command line names is collected anyway."""
    if file_path.match("bench_*.py") and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per contest and number of threads."""
    if "hand_over" not in metafunc.fixturenames:
        return
    cases = metafunc.module.cases(metafunc.config.getoption("--quick"))
    marks = [pytest.mark.benchmark(timer=CLOCK.read)]
    parameters = [
        pytest.param((title, threads), id=f"{title}, threads {threads}", marks=marks)
        for title in cases
        for threads in THREADS
    ]
    metafunc.parametrize("hand_over", parameters, indirect=True)


@pytest.fixture
def hand_over(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[], None]:
    """Measures one contest with the harness and hands the rounds of its first contestant over."""
    title, threads = request.param
    contest = request.module.cases(request.config.getoption("--quick"))[title]
    rounds = request.config.getoption("benchmark_min_rounds")

    def run() -> None:
        with contest() as entered:
            results = {r.contestant: r for r in measure(entered, rounds, [threads])}
        ours = results[entered.contestants[0].name]
        benchmark.extra_info["contestants"] = {name: _numbers(r) for name, r in results.items()}
        durations = iter(ours.wall_rounds)
        benchmark.pedantic(CLOCK.advance, args=(durations,), rounds=rounds)

    return run


def _numbers(result: Result) -> dict[str, Any]:
    return {
        "wall_s": result.wall_s,
        "cpu_s": result.cpu_s,
        result.unit: result.rate,
        "percent_of_limit": result.percent_of_limit,
        "wall_ratio": result.wall_ratio,
        "cpu_ratio": result.cpu_ratio,
    }
