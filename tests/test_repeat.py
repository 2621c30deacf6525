"""Repeated runs: variants, children, resuming, failures, signals, the statistics at the end."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from evokern.__main__ import COMMANDS
from evokern.commands import repeat, trials
from evokern.commands.repeat import parse_variants
from evokern.commands.trials import Trial
from evokern.errors import ArgumentError, BackendError, CheckpointError, StorageError
from evokern.files import is_locked, locked

CHILD = '''
"""Stands for a training command: accuracy is --base plus a hundredth per seed."""
import argparse, json, os, pathlib, signal, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("words", nargs="+")
parser.add_argument("--run-dir", type=pathlib.Path)
parser.add_argument("--seed", type=int)
parser.add_argument("--base", type=float, default=0.5)
parser.add_argument("--fail", type=int)
parser.add_argument("--hang", action="store_true")
parser.add_argument("--deaf", action="store_true")
parser.add_argument("--saving", type=float, default=0)
parser.add_argument("--threads", type=int)
parser.add_argument("--bogus", type=int)
parser.add_argument("--after", type=pathlib.Path)
options = parser.parse_args()
run = options.run_dir
run.mkdir(parents=True, exist_ok=True)
print("seed", options.seed, "threads", options.threads, flush=True)
with (run / "starts").open("a") as starts:
    starts.write(f"{time.monotonic()}\\n")


def save(number, frame):
    time.sleep(options.saving)
    (run / "saved").touch()
    sys.exit(130)


deaf = options.deaf or signal.getsignal(signal.SIGINT) is signal.SIG_IGN
signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else save)
while options.after and not options.after.exists():
    time.sleep(0.01)
if options.bogus is not None:
    parser.error("no such flag")
config = {"format": 1, "algorithm": "ea", "seed": options.seed, "base": options.base}
(run / "config.json").write_text(json.dumps(config))
if options.fail == options.seed:
    print("\\n".join(f"line {i}" for i in range(40)), flush=True)
    sys.exit("broken on purpose")
if options.hang and not (run / "saved").exists():
    (run / "ready").touch()
    time.sleep(60)
accuracy = options.base + options.seed / 100
with (run / "metrics.jsonl").open("w") as metrics:
    for generation in (1, 2):
        record = {"generation": generation, "holdout_accuracy/best": accuracy * generation / 2}
        metrics.write(json.dumps(record) + "\\n")
(run / "result.json").write_text(json.dumps({"test_accuracy": accuracy - 0.1}))
'''

REAL_CHILD = trials.CHILD


@pytest.fixture(autouse=True)
def fake_child(tmp_path, monkeypatch):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    # -S: no site-packages, which a child needs none of.
    monkeypatch.setattr(trials, "CHILD", (sys.executable, "-S", str(script)))
    monkeypatch.chdir(tmp_path)


def starts(folder):
    path = Path(folder) / "starts"
    return path.read_text().splitlines() if path.exists() else []


def test_variants_add_flags_or_replace_the_command():
    texts = ("a: --sigma 0.1 --name 'x y'", "adam: adam mnist", "plain:")
    assert parse_variants(texts, ["ea", "mnist"]) == {
        "a": ("ea", "mnist", "--sigma", "0.1", "--name", "x y"),
        "adam": ("adam", "mnist"),
        "plain": ("ea", "mnist"),
    }
    assert parse_variants((), ["ea", "mnist"]) == {"base": ("ea", "mnist")}
    assert parse_variants(("a: ea mnist", "b: adam mnist"), []) == {
        "a": ("ea", "mnist"),
        "b": ("adam", "mnist"),
    }


@pytest.mark.parametrize(
    ("texts", "command", "wanted"),
    [
        (("--sigma 0.1",), ["ea"], "variant: expected 'NAME: --flag"),
        (("a/b: --sigma 1",), ["ea"], "variant: expected 'NAME: --flag"),
        (("..: --sigma 1",), ["ea"], "variant: expected 'NAME: --flag"),
        (("a:", "a: --sigma 1"), ["ea"], "a new name that can be a folder's, got 'a: --sigma 1'"),
        (("a: 'x",), ["ea"], 'variant: "a: \'x": No closing quotation'),
        (
            (),
            [],
            "command: expected a training command (ea or adam) after --, got none; as in: evokern",
        ),
        (
            (),
            ["--sigma", "1"],
            "command: expected a training command (ea or adam) after --, got '--sigma 1'",
        ),
        ((), ["plot", "runs"], "a training command (ea or adam) after --, got 'plot runs'; as in"),
        (("a:", "b: eaa mnist"), ["ea"], "(ea or adam) after --, got 'eaa mnist'; as in"),
        (("a:", "summary.json: --sigma 1"), ["ea"], "a new name that can be a folder's, got 'summ"),
        (("curves.png:",), ["ea"], "a new name that can be a folder's, got 'curves.png:'"),
        (("repeat.json:",), ["ea"], "a new name that can be a folder's, got 'repeat.json:'"),
        ((f"{'a' * 101}:",), ["ea"], "variant: expected 'NAME: --flag"),
        ((), ["ea", "--seed", "1"], "without --seed and --run-dir, which repeat sets, got --seed"),
        (("a: --run_dir=x",), ["ea"], "which repeat sets, got --run_dir=x"),
    ],
)
def test_variants_that_cannot_be_run_are_refused(texts, command, wanted):
    with pytest.raises(ArgumentError) as error:
        parse_variants(texts, command)
    assert wanted in str(error.value)


def test_every_variant_runs_with_every_seed_and_the_statistics_follow(capsys):
    arguments = ["--seeds", "3", "--first-seed", "4", "--out", "out", "--variant", "low:"]
    arguments += ["--variant", "high: --base 0.7", "--", "ea", "mnist"]
    assert repeat.main(arguments) == 0
    output = capsys.readouterr().out
    assert "[1/6] low, seed 4: test accuracy 44.00%" in output
    assert "[6/6] high, seed 6: test accuracy 66.00%" in output
    log = Path("out/low/seed-4.log").read_text().splitlines()
    assert log == [
        "$ evokern ea mnist --seed 4 --run-dir out/low/seed-4",
        "seed 4 threads None",
    ]
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["metric"] == "last holdout_accuracy/best"
    low, high = summary["variants"]["low"], summary["variants"]["high"]
    assert low["seeds"] == [4, 5, 6]
    assert low["holdout_accuracy"] == {
        "n": 3,
        "median": pytest.approx(0.55),
        "q1": pytest.approx(0.545),
        "q3": pytest.approx(0.555),
        "minimum": pytest.approx(0.54),
        "maximum": pytest.approx(0.56),
        "values": pytest.approx([0.54, 0.55, 0.56]),
    }
    assert high["test_accuracy"]["median"] == pytest.approx(0.65)
    first = {"greater": "low", "than": "high", "u": 0.0, "p": pytest.approx(1.0)}
    second = {"greater": "high", "than": "low", "u": 9.0, "p": pytest.approx(0.05)}
    assert summary["mann_whitney"] == [
        {**first, "method": "exact"},
        {**second, "method": "exact"},
    ]
    assert Path("out/curves.png").read_bytes().startswith(b"\x89PNG")
    for cell in ("55.00%", "74.00%", "test", "hold-out", "greater", "0.05"):
        assert cell in output


def test_a_second_command_runs_only_what_is_not_finished(capsys):
    assert repeat.main(["--seeds", "1", "--out", "out", "--", "ea", "mnist"]) == 0
    assert repeat.main(["--seeds", "2", "--out", "out", "--", "ea", "mnist"]) == 0
    assert "1 of 2 runs are finished already" in capsys.readouterr().out
    assert [len(starts(f"out/base/seed-{seed}")) for seed in (0, 1)] == [1, 1]
    variants = ["--variant", "base:", "--variant", "more: --base 0.6"]
    assert repeat.main(["--seeds", "2", "--out", "out", *variants, "--", "ea", "mnist"]) == 0
    assert [len(starts(f"out/base/seed-{seed}")) for seed in (0, 1)] == [1, 1]
    summary = json.loads(Path("out/summary.json").read_text())
    assert list(summary["variants"]) == ["base", "more"]


def test_another_command_in_the_same_folder_is_refused():
    repeat.main(["--seeds", "1", "--out", "out", "--", "ea", "mnist"])
    with pytest.raises(
        ArgumentError, match=r"ea mnist for base, .* got ea mnist --base 0\.6; choo"
    ):
        repeat.main(["--seeds", "1", "--out", "out", "--", "ea", "mnist", "--base", "0.6"])
    assert len(starts("out/base/seed-0")) == 1


def test_a_command_that_made_no_run_may_be_corrected(capsys):
    command = ["--seeds", "3", "--out", "out", "--variant", "a:", "--variant", "b: --bogus 1"]
    words = (
        r"command: expected flags that ea takes, got 'ea mnist --bogus 1'; see out/b/seed-0\.log"
    )
    with pytest.raises(ArgumentError, match=words):
        repeat.main([*command, "--", "ea", "mnist"])
    assert "error: no such flag" in capsys.readouterr().out
    logs = sorted(str(path) for path in Path("out").rglob("*.log"))
    assert logs == ["out/a/seed-0.log", "out/b/seed-0.log"]
    command[-1] = "b: --base 0.6"
    assert repeat.main([*command, "--", "ea", "mnist"]) == 0
    command[-1] = "b: --base 0.7"
    with pytest.raises(ArgumentError, match=r"ea mnist --base 0\.6 for b, as the runs in out"):
        repeat.main([*command, "--", "ea", "mnist"])


def test_a_command_whose_runs_have_not_begun_may_be_corrected():
    """They may have come as far as config.json."""
    command = ["--seeds", "1", "--out", "out", "--", "ea", "mnist"]
    assert repeat.main([*command, "--fail", "0"]) == 1
    assert Path("out/base/seed-0/config.json").exists()
    assert repeat.main([*command, "--base", "0.6"]) == 0
    with pytest.raises(ArgumentError, match=r"ea mnist --base 0\.6 for base, as the runs in out"):
        repeat.main(command)


@pytest.mark.parametrize("text", ["{}", '{"format": 2, "variants": {}}', '{"format": 1}'])
def test_notes_of_another_format_are_refused(text):
    Path("out").mkdir()
    Path("out/repeat.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"repeat\.json: expected format 1 and variants, got"):
        repeat.main(["--seeds", "1", "--out", "out", "--", "ea", "mnist"])


def test_a_folder_may_have_any_name():
    out = os.fsdecode(b"not-utf-8-\xff")
    assert repeat.main(["--seeds", "1", "--out", out, "--", "ea", "mnist"]) == 0
    log = Path(out, "base/seed-0.log").read_bytes()
    assert log.startswith(b"$ evokern ea mnist --seed 0 --run-dir 'not-utf-8-\xff/base/seed-0'\n")


def test_wrong_flags_stop_the_other_children_which_save():
    ready = Path("out/a/seed-0/ready")
    Path("out").mkdir()
    variants = ["--variant", "a: --hang", f"--variant=b: --bogus 1 --after {ready}"]
    command = ["--seeds", "2", "--jobs", "2", "--out", "out", *variants, "--", "ea", "mnist"]
    with pytest.raises(ArgumentError, match="expected flags that ea takes"):
        repeat.main(command)
    assert Path("out/a/seed-0/saved").exists()
    assert not Path("out/a/seed-1").exists()


def test_the_training_commands_are_commands():
    assert set(repeat._TRAINING) <= set(COMMANDS)


def test_a_failing_child_is_reported_and_the_others_go_on(capsys):
    command = ["--seeds", "3", "--out", "out", "--", "ea", "mnist"]
    assert repeat.main([*command, "--fail", "1"]) == 1
    captured = capsys.readouterr()
    assert (
        "base, seed 1: FAILED (exit code 1, no result.json); the end of out/base/seed-1.log:"
        in (captured.out)
    )
    assert "    line 39\n    broken on purpose\n" in captured.out
    assert "line 20" not in captured.out
    assert "[3/3] base, seed 2: test accuracy" in captured.out
    assert captured.err == "failed: base, seed 1: out/base/seed-1.log\n"
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["variants"]["base"]["seeds"] == [0, 2]
    assert summary["mann_whitney"] == []


def test_no_run_that_ends_well_leaves_no_summary(capsys):
    command = ["--seeds", "1", "--out", "out", "--", "ea", "mnist", "--fail", "0"]
    assert repeat.main(command) == 1
    assert not Path("out/summary.json").exists()
    log = Path("out/base/seed-0.log")
    log.write_text(log.read_text().replace("broken", "an old failure"))
    capsys.readouterr()
    assert repeat.main(command) == 1
    assert "an old failure" not in capsys.readouterr().out
    assert "an old failure" in log.read_text()


def test_jobs_run_at_the_same_time_and_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(7))
    arguments = ["--seeds", "3", "--jobs", "3", "--out", "out", "--", "ea", "mnist", "--hang"]
    ready = [Path(f"out/base/seed-{seed}/ready") for seed in range(3)]
    thread = interrupt_when(lambda: all(path.exists() for path in ready), times=1)
    assert repeat.main(arguments) == 130
    thread.join()
    assert "threads 2" in Path("out/base/seed-0.log").read_text()
    given = ["--seeds", "3", "--jobs", "3", "--out", "two", "--", "ea", "mnist", "--threads", "1"]
    assert repeat.main(given) == 0
    assert "threads 1" in Path("two/base/seed-2.log").read_text()


def interrupt_when(ready, *, times, number=signal.SIGINT):
    def interrupt():
        deadline = time.monotonic() + 30
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.4)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_children_which_save_and_the_same_command_goes_on(number, capsys):
    command = ["--seeds", "2", "--out", "out", "--", "ea", "mnist", "--hang"]
    ready = Path("out/base/seed-0/ready")
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    thread = interrupt_when(ready.exists, times=1, number=number)
    assert repeat.main(command) == 128 + number
    thread.join()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert Path("out/base/seed-0/saved").exists()
    assert not Path("out/base/seed-1").exists()
    assert not Path("out/summary.json").exists()
    captured = capsys.readouterr()
    assert "stopping 1 runs, which save first" in captured.err
    assert "stopped with 0 of 2 runs finished; the same command goes on from there" in captured.err
    assert "FAILED" not in captured.out
    Path("out/base/seed-1").mkdir()
    Path("out/base/seed-1/saved").touch()
    assert repeat.main(command) == 0
    assert len(starts("out/base/seed-0")) == 2


def test_a_closed_terminal_may_send_its_signal_twice():
    ready = Path("out/base/seed-0/ready")
    command = ["--seeds", "1", "--out", "out", "--", "ea", "mnist", "--hang", "--saving", "1"]
    thread = interrupt_when(ready.exists, times=2, number=signal.SIGHUP)
    assert repeat.main(command) == 129
    thread.join()
    assert Path("out/base/seed-0/saved").exists()


def test_children_take_the_signal_that_their_parent_was_started_to_ignore():
    ready = Path("out/base/seed-0/ready")
    command = ["--seeds", "1", "--out", "out", "--", "ea", "mnist", "--hang"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        thread = interrupt_when(ready.exists, times=1)
        assert repeat.main(command) == 130
        thread.join()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert Path("out/base/seed-0/saved").exists()


def test_a_second_signal_kills_children_that_do_not_stop():
    ready = Path("out/base/seed-0/ready")
    thread = interrupt_when(ready.exists, times=2)
    command = ["--seeds", "1", "--out", "out", "--", "ea", "mnist", "--hang", "--deaf"]
    assert repeat.main(command) == 130
    thread.join()
    assert not Path("out/base/seed-0/saved").exists()


def test_no_child_outlives_an_error(monkeypatch):
    started = []
    start = trials._start
    monkeypatch.setattr(trials, "_start", lambda *a: (started.append(start(*a)), started[-1])[1])
    Path("out").mkdir()
    Path("out/other").write_text("no folder")
    variants = ["--variant", "base:", "--variant", "other:"]
    command = ["--seeds", "1", "--jobs", "2", "--out", "out", *variants, "--", "ea", "--hang"]
    with pytest.raises(StorageError, match="other: cannot be written"):
        repeat.main(command)
    assert [child.process.returncode is None for child in started] == [False]


PARENT_AND_CHILD = """
import sys

sys.path.insert(0, TESTS)
import tiny

from evokern.commands import child, repeat, trials
from evokern.problems import datasets

words = sys.argv[1:]
if words == ["repeat"]:
    trials.CHILD = (sys.executable, __file__)
    settings = ["--population", "4", "--batch", "4", "--generations", "1000000", "--threads", "1"]
    repeat.main(["--seeds", "1", "--out", "out", "--", "ea", "rows", "--log-every", "1", *settings])
else:
    datasets.load = lambda name: tiny.dataset()
    sys.exit(child.main(words))
"""


def test_a_run_whose_parent_is_killed_saves_and_stops(tmp_path):
    script = tmp_path / "family.py"
    script.write_text(f"TESTS = {str(Path(__file__).parent)!r}\n{PARENT_AND_CHILD}")
    run = Path("out/base/seed-0")
    parent = subprocess.Popen([sys.executable, script, "repeat"], stdout=subprocess.DEVNULL)
    wait_until(lambda: (run / "metrics.jsonl").exists() or parent.poll() is not None)
    assert parent.poll() is None
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_locked(run))
    log = Path("out/base/seed-0.log").read_text()
    reached = int(re.search(r"stopped after generation (\d+) and saved in out/base/", log)[1])
    assert (run / f"checkpoints/{reached:09}.json").exists()


def test_a_child_runs_a_command():
    command = [*REAL_CHILD, "--version"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.read().startswith(b"evokern ")
        assert child.wait() == 0


@pytest.mark.parametrize(
    ("start", "safe"), [(["there/parent.py"], True), (["-m", "parent"], False)]
)
def test_a_child_imports_from_the_current_folder_if_its_parent_does(start, safe, monkeypatch):
    Path("there").mkdir()
    Path("there/parent.py").write_text("from evokern.commands import trials\nprint(trials.CHILD)\n")
    monkeypatch.setenv("PYTHONPATH", "there")
    child = subprocess.run([sys.executable, *start], capture_output=True, text=True, check=True)
    assert ("'-P'" in child.stdout) == safe


def wait_until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_commands_in_one_folder_are_refused():
    Path("out").mkdir()
    with locked(Path("out")), pytest.raises(StorageError, match="another process is running here"):
        repeat.main(["--out", "out", "--", "ea", "mnist"])


def test_runs_come_seed_by_seed(monkeypatch):
    variants = ["--variant", "a:", "--variant", "b:"]
    repeat.main(["--seeds", "2", "--out", "out", *variants, "--", "ea", "mnist"])
    order = [f"out/{name}/seed-{seed}" for seed in (0, 1) for name in ("a", "b")]
    times = [float(starts(folder)[0]) for folder in order]
    assert all(a < b for a, b in pairwise(times))


def test_scipy_is_asked_for_before_the_first_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    variants = ["--variant", "a:", "--variant", "b:"]
    with pytest.raises(BackendError, match=r"pip install 'evokern\[stats\]'"):
        repeat.main(["--seeds", "1", "--out", "out", *variants, "--", "ea", "mnist"])
    assert not Path("out").exists()
    assert repeat.main(["--seeds", "1", "--out", "out", "--", "ea", "mnist"]) == 0


def test_the_default_folder_is_named_after_the_command():
    command = ["ea", "mnist", "--base", "0.6"]
    repeat.main(["--seeds", "1", "--", *command])
    assert Path("runs/repeat-ea-mnist/base/seed-0/result.json").exists()
    assert repeat._short_name([*command, "--preset", "quick"]) == "ea-mnist-quick"
    assert repeat._short_name([*command, "--preset=quick"]) == "ea-mnist-quick"
    assert repeat._short_name([]) == "variants"


def test_a_run_without_the_accuracies_is_named(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text('{"generation": 1, "fitness/best": 1.0}\n')
    (folder / "result.json").write_text("{}")
    trial = Trial("a", 0, folder, ("ea",))
    with pytest.raises(CheckpointError, match="a: no record of holdout_accuracy/best"):
        repeat.report([trial], ["a"], tmp_path)
    (folder / "metrics.jsonl").write_text('{"generation": 1, "holdout_accuracy/best": 1.0}\n')
    with pytest.raises(CheckpointError, match="a: no test_accuracy in result"):
        repeat.report([trial], ["a"], tmp_path)


@pytest.mark.parametrize("flags", [["--seeds", "0"], ["--jobs", "0"], ["--first-seed", "-1"]])
def test_counts_out_of_range_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        repeat.main([*flags, "--", "ea", "mnist"])
    assert f"{flags[0][2:].replace('-', '_')}: expected at least" in capsys.readouterr().err
