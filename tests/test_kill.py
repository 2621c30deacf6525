"""kill -9 at any instant: the run that goes on ends with the same bits."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tiny

SCRIPT = Path(__file__).with_name("killed_run.py")
KILLED = -9

# With what lives in a checkpoint beside the genomes: lineages, inherited fitness, own sigmas.
SETTINGS = {"lineages": True, "survival": "plus", "alpha": 0.5, "sigma_schedule": "self_adaptive"}

STRATEGY = {"population": 6, "generations": 6, "sigma": 0.1, "weight_decay": 0.01, "seed": 1}

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Runs the tiny problem in a child: ask(folder, mode=..., n=...) -> its exit code."""
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin
        assert server.stdout

        def ask(folder: Path, **request: Any) -> dict[str, Any]:
            request = {"folder": str(folder), "config": SETTINGS, **request}
            print(json.dumps(request), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield ask
        server.stdin.close()


@pytest.fixture
def memory() -> Iterator[Path]:
    with tiny.memory() as folder:
        yield folder


@pytest.fixture(scope="module")
def unbroken(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert ask(folder)["code"] == 0
    assert len(tiny.outcome(folder)["metrics.jsonl"]) == 3
    return folder


def assert_same(folder: Path, unbroken: Path) -> None:
    assert tiny.outcome(folder) == tiny.outcome(unbroken)
    assert tiny.names(folder) == tiny.names(unbroken)  # nothing is left lying about


# Every write; and every file opened, renamed, deleted or created, which is between writes.
@pytest.mark.parametrize("mode", ["before", "half", "after", "call"])
def test_killed_at_every_step(ask, unbroken, memory, mode):
    for n in count(1):
        folder = memory / str(n)
        code = ask(folder, mode=mode, n=n)["code"]
        if code != KILLED:
            break
        assert ask(folder)["code"] == 0
        assert_same(folder, unbroken)
    assert code == 0
    assert n > 40


@pytest.mark.parametrize("n", [16, 20])
def test_killed_again_and_again(ask, unbroken, memory, n):
    codes = [ask(memory, mode="half", n=n)["code"]]
    while codes[-1] == KILLED:
        codes.append(ask(memory, mode="half", n=n)["code"])
    assert codes[-1] == 0
    assert len(codes) > 2
    assert_same(memory, unbroken)


def test_killed_at_50_random_times(ask, unbroken, memory):
    times = random.Random(5)
    whole = ask(memory / "whole")["seconds"]
    killed = 0
    for i in range(50):
        folder = memory / str(i)
        killed += ask(folder, seconds=times.uniform(0, whole))["code"] == KILLED
        assert ask(folder)["code"] == 0
        assert_same(folder, unbroken)
    assert killed > 25


@pytest.mark.parametrize("mode", ["before", "half", "after", "call"])
def test_the_evolution_strategy_killed_at_every_step(ask, memory, mode):
    unbroken = memory / "unbroken"
    assert ask(unbroken, strategy=STRATEGY)["code"] == 0
    assert len(tiny.outcome(unbroken)["metrics.jsonl"]) == 3
    for n in count(1):
        folder = memory / str(n)
        code = ask(folder, mode=mode, n=n, strategy=STRATEGY)["code"]
        if code != KILLED:
            break
        assert ask(folder, strategy=STRATEGY)["code"] == 0
        assert_same(folder, unbroken)
    assert code == 0
    assert n > 20
