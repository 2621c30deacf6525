"""What a run tells: metrics.jsonl, losses that are no numbers, progress, TensorBoard."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
from rich.console import Console
from tiny import at, hooked, run

from evokern.checkpoint import load_network
from evokern.errors import (
    BackendError,
    CheckpointError,
    FitnessError,
    RunStopped,
    StorageError,
)
from evokern.metrics import read_metrics
from evokern.problems.classification import Classification
from evokern.progress import Progress
from evokern.tensorboard import TensorBoard


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    with tiny.quickly():
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    with tiny.quickly():
        run(folder)
    return folder


def test_records_are_strict_json_with_what_was_asked(tmp_path):
    run(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [record["generation"] for record in records] == [2, 4, 6]
    assert [record["samples"] for record in records] == [8, 16, 24]
    assert [record["fitness/nan"] for record in records] == [0, 0, 0]
    best = load_network(tmp_path / "best.safetensors")[1]["genomes"]
    problem = tiny.problem()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test_accuracy"] == problem.accuracy(best[None], problem.test)[0]
    assert result["holdout_accuracy"] == problem.accuracy(best[None], problem.holdout)[0]


@pytest.mark.parametrize(
    "tail",
    [
        b'{"generation": 4, "fitness/be',
        b'{"generation": 4}\n{"generation": 6}\n{"gen',
        b'{"generation": 99}\n',
        b"\0\0\0\0",
    ],
)
def test_records_after_the_checkpoint_and_half_lines_are_dropped(tmp_path, unbroken, tail):
    with pytest.raises(RunStopped):
        run(tmp_path, at(3, lambda: signal.raise_signal(signal.SIGINT)))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    run(tmp_path)
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)


@pytest.mark.parametrize("line", ["garbage", "{}", '{"generation": null}', '{"generation": "4"}'])
def test_a_line_that_is_no_record_is_an_error_that_names_it(tmp_path, line):
    with pytest.raises(RunStopped):
        run(tmp_path, at(4, lambda: signal.raise_signal(signal.SIGINT)))
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        run(tmp_path)


def test_files_are_closed_when_a_run_fails(tmp_path):
    before = os.listdir("/proc/self/fd")
    for generation in (0, 1, 3):
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, at(generation, lambda: 1 // 0))
    assert os.listdir("/proc/self/fd") == before
    run(tmp_path)
    assert os.listdir("/proc/self/fd") == before


def objective(values: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda logits, labels: values(logits[:, 0, 0]).astype(np.float32)


def test_nan_and_infinite_losses_rank_last_and_are_counted(tmp_path):
    """Fitness is -inf, NaN or the first logit, by the sign of the first two logits."""

    def fitness(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        first, second = logits[:, 0, 0], logits[:, 0, 1]
        values = np.where(first < 0, np.nan, np.where(second < 0, -np.inf, first))
        seen.append(values)
        return values.astype(np.float32)

    seen: list[np.ndarray] = []
    problem = tiny.problem(objective=fitness)
    config = {"population": 40, "elites": 4, "sigma": 0.3}
    run(tmp_path, problem, config, log_every=1)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert len(seen) == 7
    for record, values in zip(records, seen[1:], strict=True):
        finite = np.float32(values[np.isfinite(values)])
        assert record["fitness/nan"] == np.isnan(values).sum() > 0
        assert record["fitness/infinite"] == np.isinf(values).sum() > 0
        assert record["fitness/best"] == finite.max()
        assert record["fitness/median"] == np.median(finite)


def test_losses_of_genes_that_overflow_are_counted_and_lived_with(tmp_path, capsys):
    run(tmp_path, settings={"sigma": 3e38, "elites": 2, "generations": 20}, log_every=1)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert max(r["fitness/nan"] + r["fitness/infinite"] for r in records) > 0
    assert all(record["fitness/best"] is not None for record in records)
    assert "not finite" in capsys.readouterr().out


def test_infinite_losses_only_are_null_in_the_records(tmp_path, capsys):
    problem = tiny.problem(objective=objective(lambda x: np.full_like(x, -np.inf)))
    run(tmp_path, problem)
    record = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert (record["fitness/best"], record["fitness/median"]) == (None, None)
    assert (record["fitness/nan"], record["fitness/infinite"]) == (0, 8)
    assert "fitness none (median none)" in capsys.readouterr().out


@pytest.mark.parametrize("generation", [0, 1, 5])
def test_nan_losses_only_stop_the_run_and_say_why(tmp_path, generation):
    """And what was saved before stays: the same happens again from there."""

    class Broken(Classification):
        def evaluate(self, genomes: np.ndarray, rows: np.ndarray, now: int) -> np.ndarray:
            fitness = super().evaluate(genomes, rows, now)
            return np.full_like(fitness, np.nan) if now == generation else fitness

    for _ in range(2):
        with pytest.raises(FitnessError) as error:
            run(tmp_path, tiny.problem(Broken))
        assert str(error.value) == (
            f"fitness: all 8 individuals are NaN in generation {generation}, so none can be "
            "selected; check that the data and the objective are finite, or lower sigma"
        )
        assert ("checkpoints/000000004.json" in tiny.names(tmp_path)) == (generation == 5)


def test_progress_prints_lines_now_and_then_where_there_is_no_terminal(capsys):
    with Progress("generation", 1000) as progress:
        for step in range(1, 1001):
            progress.show(step, "fitness -1")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("generation    1/1000  fitness -1  ")
    assert lines[1].startswith("generation 1000/1000  fitness -1  ")
    assert lines[1].endswith(" generations/s  0 s left")


def test_progress_of_nothing_new(capsys):
    with Progress("generation", 10, done=10) as progress:
        progress.show(10, "")
    assert "generation 10/10" in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80, 150])
def test_a_narrow_terminal_shows_how_far_the_run_is_and_what_is_left(width):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=width, _environ={"TERM": "xterm"})
    words = "fitness -0.0613 (median -0.0770)  hold-out 97.40%"
    with Progress("generation", 12_000, console=console) as progress:
        progress.show(9_876, words)
        progress.show(12_000, words)
    line = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue()).splitlines()[-1].strip("\r")
    assert "12000/12000 fitness -0.0613" in line
    assert line.rstrip().endswith("0:00:00")
    assert (words in line) == (width >= 80)
    assert ("━" in line) == (width == 150)


def test_a_dumb_terminal_gets_plain_lines(capsys):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, _environ={"TERM": "dumb"})
    with Progress("generation", 1000, console=console) as progress:
        progress.show(1, "fitness -1")
    assert "generation    1/1000  fitness -1" in capsys.readouterr().out
    assert output.getvalue() == ""


def test_progress_gives_the_terminal_back_after_an_error():
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, _environ={"TERM": "xterm"})
    before = set(threading.enumerate())  # one that another test left may end meanwhile

    def fail(progress: Progress) -> None:
        progress.show(3, "fitness -1")
        assert len(set(threading.enumerate()) - before) == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Progress("generation", 10, console=console) as progress:
        fail(progress)
    text = terminal.getvalue()
    assert "3/10" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again


def events(folder: Path) -> dict[str, list[int]]:
    """The steps that TensorBoard shows, by the name of the curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0})
    accumulator.Reload()
    names = accumulator.Tags()["tensors"]
    return {name: [event.step for event in accumulator.Tensors(name)] for name in names}


def test_tensorboard_shows_no_record_twice(tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(RunStopped):
        run(tmp_path, at(3, lambda: signal.raise_signal(signal.SIGINT)), tensorboard=True)
    with pytest.raises(ZeroDivisionError):  # after a record that no checkpoint holds
        run(tmp_path, at(5, lambda: 1 // 0), tensorboard=True, checkpoint_every=100)
    assert events(tmp_path)["fitness/best"] == [2, 4]
    run(tmp_path, tensorboard=True)
    shown = events(tmp_path)
    assert set(shown) == set(read_metrics(tmp_path / "metrics.jsonl")[0])
    assert all(steps == [2, 4, 6] for steps in shown.values())
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_tensorboard_can_be_asked_for_later(tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(RunStopped):
        run(tmp_path, at(3, lambda: signal.raise_signal(signal.SIGINT)))
    run(tmp_path, tensorboard=True)
    assert events(tmp_path)["fitness/best"] == [2, 4, 6]


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BackendError, match=r"pip install 'evokern\[tensorboard\]'"):
        run(tmp_path, tensorboard=True)
    assert os.listdir("/proc/self/fd") == before


def test_tensorboard_without_room_is_a_clear_error(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(StorageError, match="tensorboard: cannot be written"):
        TensorBoard(tmp_path, [])
    (tmp_path / "tensorboard").unlink()
    full = tmp_path / "full"
    board = TensorBoard(full, [])
    board._writer._output._ev_writer._general_file_writer = None

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    board._writer.add_scalar = fail
    with pytest.raises(StorageError, match="full/tensorboard: cannot be written: No space left"):
        board.write({"generation": 1, "x": 0.5})
    board.close()


def test_records_of_a_run_that_fails_to_open_leave_no_file_open(tmp_path, monkeypatch):
    before = os.listdir("/proc/self/fd")

    def fail(*_: object) -> None:
        raise StorageError("no room")

    monkeypatch.setattr("evokern.drivers.run.TensorBoard", fail)
    with pytest.raises(StorageError, match="no room"):
        run(tmp_path, tensorboard=True)
    assert os.listdir("/proc/self/fd") == before


def test_memory_and_files_stay_the_same_over_10000_generations(tmp_path):
    seen: dict[int, tuple[int, int]] = {}

    def look(generation: int) -> None:
        if generation in (1000, 10_000):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen[generation] = pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))

    with tiny.memory() as folder:
        run(folder, hooked(look), {"generations": 10_000}, log_every=10, checkpoint_every=100)
    (memory, files), (memory_later, files_later) = seen[1000], seen[10_000]
    assert memory_later - memory < 1 << 20
    assert files_later == files
