"""Signals that ask to stop: the run saves, and the command ends with the usual codes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny import at, run

from evokern.__main__ import main
from evokern.backends.cpu import set_threads
from evokern.drivers.run import stop_signals
from evokern.errors import (
    RunStopped,
)
from evokern.metrics import read_metrics
from evokern.problems import datasets
from evokern.problems.classification import Classification

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    with tiny.quickly():
        yield


@pytest.fixture(autouse=True)
def _handlers_are_given_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    with tiny.quickly():
        run(folder)
    return folder


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("generation", [0, 1, 2, 5])
def test_a_signal_saves_and_stops(tmp_path, number, generation):
    with pytest.raises(RunStopped) as stopped:
        run(tmp_path, at(generation, lambda: signal.raise_signal(number)))
    reached = max(generation, 1)  # generation 0 is no generation of its own
    assert stopped.value.signal == number
    assert str(stopped.value) == (
        f"stopped after generation {reached} and saved in {tmp_path}; "
        "the same command goes on from there"
    )
    assert f"checkpoints/{reached:09}.json" in tiny.names(tmp_path)


def test_a_signal_in_the_last_generation_stops_nothing(tmp_path, unbroken):
    run(tmp_path, at(6, lambda: signal.raise_signal(signal.SIGTERM)))
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)


def test_a_signal_while_the_result_is_written_stops_nothing(tmp_path, unbroken, monkeypatch):
    monkeypatch.setattr(
        "evokern.drivers.watch.plot_curve",
        lambda *_, **__: signal.raise_signal(signal.SIGTERM),
    )
    run(tmp_path)
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)


def test_a_second_signal_acts_at_once(tmp_path, unbroken):
    def twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still here")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, at(3, twice))
    assert "checkpoints/000000003.json" not in tiny.names(tmp_path)
    run(tmp_path)
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)


def test_a_closed_terminal_may_send_its_signal_twice(tmp_path):
    def twice() -> None:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)

    with pytest.raises(RunStopped) as stopped:
        run(tmp_path, at(3, twice))
    assert stopped.value.signal == signal.SIGHUP
    assert "checkpoints/000000003.json" in tiny.names(tmp_path)


def test_nohup_keeps_a_run_from_a_closed_terminal(tmp_path, unbroken):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(tmp_path, at(3, lambda: signal.raise_signal(signal.SIGHUP)))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)


def test_a_run_in_the_background_of_a_script_is_stopped_by_sigint(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as shells do it
    try:
        with pytest.raises(RunStopped):
            run(tmp_path, at(3, lambda: signal.raise_signal(signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert "checkpoints/000000003.json" in tiny.names(tmp_path)


def test_signals_do_what_they_did_after_an_error(tmp_path):
    def note(number: int, frame: object) -> None:
        noted.append(number)

    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, note)
    try:
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, at(2, lambda: 1 // 0))
        signal.raise_signal(signal.SIGTERM)
        assert noted == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_in_another_thread_asks_for_no_signals(tmp_path, unbroken):
    errors: list[BaseException] = []

    def work() -> None:
        try:
            set_threads(1)
            run(tmp_path)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)


def test_no_signal_is_no_request():
    with stop_signals() as stop:
        assert stop.signal == 0
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT


# The command in a process of its own, on the tiny problem. It says when a generation begins.
COMMAND = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
import tiny
from evokern.__main__ import main
from evokern.problems import datasets
from evokern.problems.classification import Classification

datasets.load = lambda name: tiny.dataset()
evaluate = Classification.evaluate

def slowly(self, genomes, rows, generation):
    print("generation", generation, "begins", flush=True)
    time.sleep(0.1)
    return evaluate(self, genomes, rows, generation)

Classification.evaluate = slowly
sys.exit(main())
"""


Command = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """Starts the command in the folder ``run``."""
    words = ["ea", "digits", "--run-dir", f"{tmp_path}/run", "--population", "4", "--batch", "4"]
    words += ["--generations", "500", "--log-every", "1", "--threads", "1"]
    script = [sys.executable, "-c", COMMAND, str(Path(__file__).parent)]
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([*script, *words], stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    for output in process.stdout:
        if output == f"{line}\n":
            return
    pytest.fail(f"{line!r} did not come: {process.stderr.read()}")


def test_the_command_ends_with_the_codes_of_signals_and_goes_on(command, tmp_path):
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = command()
        wait_for(process, "generation 2 begins" if code == 130 else "generation 4 begins")
        if code == 143:  # while it runs, another process is refused
            second = command()
            _, errors = second.communicate(timeout=20)
            assert second.returncode == 1
            assert errors == (
                f"evokern ea: {tmp_path}/run: another process is running here; "
                "wait for it or choose another folder\n"
            )
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == code
        assert errors.startswith("evokern ea: stopped after generation ")
        assert errors.endswith(f"saved in {tmp_path}/run; the same command goes on from there\n")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    generations = [record["generation"] for record in records]
    assert generations == list(range(1, len(generations) + 1))


def test_two_sigterms_end_the_command_at_once(command):
    process = command()
    wait_for(process, "generation 2 begins")
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        # Two at the same time are one; the handler runs when the interpreter has its turn.
        threading.Event().wait(0.02)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_the_command_goes_on_and_finishes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "load", lambda name: tiny.dataset())
    words = ["ea", "digits", "--run-dir", str(tmp_path / "run"), "--population", "4"]
    words += ["--batch", "4", "--generations", "3", "--log-every", "1"]

    def stop(self: Classification, genomes: Any, rows: Any, generation: int) -> np.ndarray:
        if generation == 2:
            signal.raise_signal(signal.SIGTERM)
        return self.fitness(genomes, rows, self.train)

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "evaluate", stop)
        assert main(words) == 143
    assert "stopped after generation 2" in capsys.readouterr().err
    assert main(words) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert main(words) == 0
    assert "finished before; delete its folder to run it anew" in capsys.readouterr().out
    assert main([*words, "--sigma", "0.5"]) == 1
    assert "sigma: 0.001 there, 0.5 now" in capsys.readouterr().err
