"""`make gpu` on the harness at tiny sizes, and its CUDA side with stand-ins for CUDA."""

from __future__ import annotations

import csv
import inspect
import json
import os
import select
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))

import column
import interpreter
from cases import threads

import build
from benchmarks.gpu import (
    arrays,
    contests,
    costs,
    parity,
    report,
    rivals,
    sanitizer,
    timing,
    timings,
)
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.contests import Place
from benchmarks.harness import MismatchError
from benchmarks.workload import NETWORK
from evokern import _devices, ops
from evokern._table import TABLE
from evokern.errors import ArgumentError, BackendError

ROOT = Path(__file__).resolve().parents[1]
F = np.float32

needs_harness = pytest.mark.skipif(build.unavailable() != "", reason=build.unavailable())


@pytest.fixture(autouse=True)
def _own_table_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_devices, "LIBRARIES", dict(_devices.LIBRARIES))
    monkeypatch.setattr(_devices, "PLACES", dict(_devices.PLACES))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def outcomes(path: Path) -> set[str]:
    return {row["outcome"] for row in rows_of(path)}


def on_harness(part: str, out: Path, *more: str) -> int:
    options = ["--device", "harness", "--only", part, "--out", str(out), "--sample", "2"]
    return main([*options, *more])


@needs_harness
@pytest.mark.simt
class TestOnTheHarness:
    def test_parity(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert on_harness("parity", tmp_path) == 0
        found = rows_of(tmp_path / "parity.csv")
        assert list(found[0]) == list(parity.COLUMNS)
        triton = not interpreter.unavailable()
        counts = Counter(row["outcome"] for row in found)
        assert set(counts) <= {"equal", "within the bound", "left out"}
        for backend in ("cuda", "triton") if triton else ("cuda",):
            good = ("equal",) if backend == "cuda" else ("equal", "within the bound")
            own = [row for row in found if row["backend"] == backend]
            written = {op for op, row in TABLE.items() if backend in row.functions}
            assert {row["op"] for row in own if row["outcome"] in good} == written
        line = f"parity: good: {counts['equal']} equal, {counts['within the bound']} within the "
        line += f"bound, 0 different, 0 failed, {counts['left out']} left out"
        assert capsys.readouterr().out == line + "\n"
        assert line in (tmp_path / "parts.txt").read_text()
        assert json.loads((tmp_path / "machine.json").read_text())["device"] == report.NO_GPU

    def test_run(self, tmp_path: Path) -> None:
        assert on_harness("run", tmp_path) == 0
        found = rows_of(tmp_path / "run.csv")
        assert [row["generation"] for row in found] == ["0", "1", "2", "3"]
        assert {row["equal"] for row in found} == {"True"}
        assert len({row["fitness_device"] for row in found}) == 4
        assert [bool(row["genomes_device"]) for row in found] == [True, False, False, True]

    def test_timings_say_that_they_are_none(self, tmp_path: Path) -> None:
        assert on_harness("timings", tmp_path) == 0
        found = rows_of(tmp_path / "timings.csv")
        assert list(found[0]) == list(timings.COLUMNS)
        whats = {row["what"] for row in found}
        assert whats == {"network_loss", "crossover_mutate", "network_forward", "nes", "replay"}
        # One for each work and rival: a rival from elsewhere takes part in one work.
        assert len(found) == (9 if interpreter.unavailable() else 10)
        for row in found:
            assert row["note"] == row["device"] == report.NO_GPU
            assert float(row["evokern_wall_ms"]) > 0
            for measured in ("evokern_ms", "ratio", "percent_of_limit", "gb_per_s"):
                assert row[measured] == ""

    def test_each_part_has_a_process_and_its_share_of_the_time(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert on_harness("sanitizer,run", tmp_path) == 0
        shown = capfd.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in shown] == ["harness", "run", "sanitizer"]
        assert outcomes(tmp_path / "sanitizer.csv") == {"left out"}
        assert len((tmp_path / "parts.txt").read_text().splitlines()) == 2

    def test_a_part_that_does_not_end_is_ended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("benchmarks.gpu.__main__._GRACE_S", 0.0)
        assert on_harness("run,timings", tmp_path, "--minutes", "0.002") == 1
        assert "run: BAD: did not end in 0 s" in (tmp_path / "parts.txt").read_text()

    def test_what_there_is_no_time_for(self, tmp_path: Path) -> None:
        assert on_harness("parity", tmp_path, "--minutes", "0") == 1
        assert outcomes(tmp_path / "parity.csv") == {"left out"}
        assert on_harness("timings", tmp_path, "--minutes", "0") == 0
        notes = [row["note"] for row in rows_of(tmp_path / "timings.csv")]
        assert notes == ["left out: out of time"] * 9
        assert on_harness("parity,run", tmp_path, "--minutes", "0") == 0
        assert (tmp_path / "parts.txt").read_text().count("left out: out of time") == 2

    def test_nothing_of_it_may_lie_among_the_results(self) -> None:
        with pytest.raises(ArgumentError, match="--out: expected a folder outside benchmarks/res"):
            on_harness("run", report.RESULTS / "harness")
        assert report.folder_of("harness", {}) == ROOT / "build" / "gpu-harness"
        facts = {"device": "NVIDIA H100 80GB HBM3"}
        assert report.folder_of("cuda", facts) == report.RESULTS / "nvidia-h100-80gb-hbm3"

    def test_a_wrong_bit_and_an_error_are_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise BackendError("no affine today")

        def wrong(array: Any) -> np.ndarray:
            found = to_host(array)
            if found.dtype == np.int32 and found.size:
                found.flat[-1] += 1
            return found

        to_host = _devices.to_host
        monkeypatch.setattr(column.device().natives["cuda"](), "affine", refuse)
        monkeypatch.setattr(_devices, "to_host", wrong)
        assert on_harness("parity", tmp_path) == 1
        found = rows_of(tmp_path / "parity.csv")
        by_outcome = {row["op"]: row for row in found if row["outcome"] in ("different", "failed")}
        assert set(by_outcome) == {"affine", "nes_sample", "network_loss"}
        assert by_outcome["affine"]["detail"] == "BackendError: no affine today"
        assert "1 of " in by_outcome["nes_sample"]["detail"]


class TestWithoutAGPU:
    @pytest.fixture(autouse=True)
    def _no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_devices, "why_not", lambda backend: "built, but CUDA says: no device")

    def test_it_says_why(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--out", str(tmp_path / "new")]) == 2
        shown = capsys.readouterr().err
        expected = "benchmarks.gpu: nothing can run on cuda: built, but CUDA says: no device\n"
        assert shown == expected
        assert not (tmp_path / "new").exists()

    def test_parts_and_devices_have_names(self) -> None:
        with pytest.raises(ArgumentError, match="--only: expected some of parity,run,sanitizer"):
            main(["--only", "parity,speed"])


def test_a_gpu_without_a_library_of_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_devices, "why_not", lambda backend: "")
    assert "expected cpu, cuda or cuda:NUMBER, got gpu" in report.why_not("gpu")


@pytest.mark.parametrize("ignore", ["", "trap '' INT; "])
def test_what_takes_too_long_is_ended_with_what_it_started(
    monkeypatch: pytest.MonkeyPatch, ignore: str
) -> None:
    monkeypatch.setattr(report, "_INTERRUPT_S", 0.2)
    command = ["bash", "-c", f"{ignore}sleep 60 & sleep 60"]
    ours, theirs = os.pipe()
    assert report.run_within(0.2, command, stdout=theirs) is None
    os.close(theirs)
    # It can be read to its end once nobody is left who could write.
    assert select.select([ours], [], [], 5)[0]
    assert os.read(ours, 1) == b""
    os.close(ours)


def test_the_status_of_what_ends_in_time() -> None:
    assert report.run_within(60, ["bash", "-c", "exit 3"]) == 3


@needs_harness
@pytest.mark.simt
def test_moved_arrays_keep_bits_strides_and_overlaps() -> None:
    report.use_harness()
    moved = 0
    for op, cases in parity._cases().items():
        for case in cases[:: len(cases) // 8 + 1]:
            arguments, options = case.make()
            named = inspect.signature(getattr(ops, op)).bind(*arguments, **options).arguments
            there = arrays.moved_call("harness", op, arguments, options)
            assert list(there) == list(named)
            for name, value in named.items():
                if isinstance(value, np.ndarray) and there[name] is not value:
                    expect_same_array(there[name].values, value)
                    moved += 1
    assert moved > 100


def expect_same_array(actual: np.ndarray, expected: np.ndarray) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()
    if expected.size:
        assert actual.strides == expected.strides
        assert actual.ctypes.data % 128 == expected.ctypes.data % 128


@needs_harness
@pytest.mark.simt
def test_out_that_is_an_input_is_one_array_on_the_device() -> None:
    report.use_harness()
    x = np.arange(12, dtype=F).reshape(3, 4)
    call = {"x": x[:2], "y": x[1:].copy(), "out": x[:2], "activation": "relu"}
    there = arrays.moved_call("harness", "residual", (), call)
    assert np.shares_memory(there["out"].values, there["x"].values)
    assert not np.shares_memory(there["y"].values, there["x"].values)
    assert there["activation"] == "relu"


@pytest.mark.torch
def test_views_of_torch_have_the_strides_of_the_host() -> None:
    torch = pytest.importorskip("torch")
    memory = np.arange(60, dtype=F)
    flat = torch.from_numpy(memory.view(np.uint8))
    like = memory[3:].reshape(3, 19)[:, :7].reshape(3, 7)
    view = arrays._strided(flat, like, 12)
    np.testing.assert_array_equal(view.numpy(), like)
    assert view.stride() == (19, 1)
    half = arrays._strided(flat, memory.view(np.uint16)[4:10], 8)
    assert half.dtype == torch.bfloat16
    with pytest.raises(arrays.NotPossible, match="negative"):
        arrays._strided(flat, like[::-1], 12)


class TestSanitizer:
    """The tool is a script that says what it was asked."""

    SCRIPT = """#!/bin/sh
echo "$@ caching=$PYTORCH_NO_CUDA_MEMORY_CACHING"
case $2 in
  racecheck) exit 99 ;;
  initcheck) exit 1 ;;
  synccheck) exec sleep 20 ;;
esac
"""

    def test_every_tool(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tool = tmp_path / "bin" / "compute-sanitizer"
        tool.parent.mkdir()
        tool.write_text(self.SCRIPT)
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        assert sanitizer.find() == tool
        table = report.Rows(tmp_path / "sanitizer.csv", sanitizer.COLUMNS)
        verdict = sanitizer.run("cuda:1", table, report.Budget.of(1), tmp_path)
        found = {row["tool"]: row["outcome"] for row in rows_of(tmp_path / "sanitizer.csv")}
        assert found == {
            "memcheck": "clean",
            "racecheck": "found",
            "initcheck": "failed",
            "synccheck": "left out",
        }
        assert not verdict.good
        asked = (tmp_path / "sanitizer-memcheck.txt").read_text()
        assert asked.startswith(
            "--tool memcheck --error-exitcode 99 --target-processes application"
        )
        assert "-m benchmarks.gpu --device cuda:1 --only parity --sample 3 --out" in asked
        assert asked.endswith(" caching=1\n")

    def test_without_the_tool(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sanitizer, "find", lambda: None)
        table = report.Rows(tmp_path / "sanitizer.csv", sanitizer.COLUMNS)
        verdict = sanitizer.run("cuda", table, report.Budget.of(9), tmp_path)
        assert verdict == (True, "no compute-sanitizer on the PATH or in CUDA_HOME")
        assert outcomes(tmp_path / "sanitizer.csv") == {"left out"}


KERNEL = costs.Kernel("k", least=2_000_000, read=0, written=0, operations=8_000_000)
WORK = costs.Work("an op", "a shape", (KERNEL, KERNEL))


class TestTiming:
    def test_rates_and_shares(self) -> None:
        device = {"evokern": 0.5, "torch": 2.0, "limit: a": 1.0, "limit: b": 1.0, "limit: c": 4.0}
        limits = (
            timing.Limit("limit: a", lambda: None, 20_000_000, True),
            timing.Limit("limit: b", lambda: None, 40_000_000, False),
            timing.Limit("limit: c", lambda: None, 320_000_000, False),
        )
        rates, names = timing._rates(limits, device)
        assert rates == costs.Rates(20e9, 80e9)
        assert names == ("limit: a", "limit: c")
        wall = {name: ms + 0.25 for name, ms in device.items()}
        medians = timing.Medians(device, wall, {"jax": "not here"}, rates, names)
        torch, jax = timings.rows_of(WORK, medians, 21)
        assert (torch["evokern_ms"], torch["rival_ms"], torch["ratio"]) == ("0.5", "2", "4")
        assert (torch["gb_per_s"], torch["gflop_per_s"]) == ("8", "32")
        # 0.1 ms by memory and as much by arithmetic, twice, of 0.5 ms.
        assert (torch["percent_of_limit"], torch["limit"]) == ("40", "limit: a")
        assert (torch["evokern_wall_ms"], torch["rival_wall_ms"]) == ("0.75", "2.25")
        assert (jax["rival"], jax["note"]) == ("jax", "left out: not here")

    def test_medians_in_turn(self) -> None:
        calls: list[str] = []

        def contestant(name: str) -> timing.Run:
            return lambda: calls.append(name)

        def clock(run: timing.Run) -> timing.Times:
            run()
            return timing.Times(float(len(calls)), 1.0)

        def check(name: str, _: Any) -> None:
            if name == "wrong":
                raise MismatchError("wrong: off")

        def fail() -> None:
            raise RuntimeError("out of memory")

        rivals = {name: partial(contestant, name) for name in ("a", "wrong")} | {"large": fail}
        contest = timing.Contest(WORK, contestant("evokern"), rivals, check)
        budget = report.Budget.of(9)
        medians = timing.measure(contest, (), clock, 3, budget)
        assert medians is not None
        assert calls == ["evokern", "a", "a", "wrong", "wrong"] + ["evokern", "a"] * 3
        assert medians.device_ms == {"evokern": 8.0, "a": 9.0}
        assert medians.missing == {
            "wrong": "MismatchError: wrong: off",
            "large": "RuntimeError: out of memory",
        }
        assert medians.rates is None
        over = report.Budget(time.monotonic() - 1)
        assert timing.measure(contest, (), clock, 3, over) is None


@pytest.mark.parametrize("make", ["variation", "replay"])
def test_a_rival_that_writes_nothing_is_found(make: str) -> None:
    """Not what another wrote to the same memory."""
    place = Place("cpu")
    contest = (
        contests.variation(place, "uniform", 4)
        if make == "variation"
        else contests.replay(place, NETWORK.layout, 2, 3)
    )
    out = contest.evokern()
    alone = replace(contest, rivals={contests.TRITON: lambda: lambda: out})
    medians = timing.measure(alone, (), timing.wall_clock, 1, report.Budget.of(60))
    assert medians is not None
    assert "MismatchError" in medians.missing[contests.TRITON]
    right = replace(contest, rivals={contests.TRITON: lambda: contest.evokern})
    medians = timing.measure(right, (), timing.wall_clock, 1, report.Budget.of(60))
    assert medians is not None
    assert medians.missing == {}


class FakeEvent:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: FakeEvent) -> float:
        return 1e3 * (end.at - self.at)


@pytest.mark.torch
def test_torch_and_the_limits_on_a_device_that_is_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    waited: list[int] = []
    monkeypatch.setattr(timings, "_TINY_ROUNDS", 1)
    facts = SimpleNamespace(L2_cache_size=4096, multi_processor_count=2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: facts)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "_sleep", waited.append, raising=False)
    monkeypatch.setattr(timing, "_COPIED_BYTES", 1 << 16)
    monkeypatch.setattr(timing, "_MATRIX", 64)
    place = torch.device("cpu")
    limits, missing = timing.limits_of(place)
    assert [limit.name for limit in limits] == [timing.COPY, timing.MATMUL]
    assert list(missing) == [timing.FMA]
    table = report.Rows(tmp_path / "timings.csv", timings.COLUMNS)
    clock, budget = timing.cuda_clock(place), report.Budget.of(60)
    with threads(1):
        verdict = timings.compare(Place("cpu", place), table, budget, {}, clock, limits, tiny=True)
    assert verdict == (True, "9 works timed, 0 left out or failed")
    found = rows_of(tmp_path / "timings.csv")
    assert [row["note"] for row in found if row["note"]] == []
    assert {row["rival"] for row in found} == {
        *("torch baddbmm", "torch.func.vmap", "torch, whole population", "torch"),
        *("torch grouped convolution", "torch grouped convolution, channels last"),
        *("evokern, 3 mutations", "torch, the same number of mutations"),
    }
    for row in found:
        assert float(row["ratio"]) > 0
        assert float(row["percent_of_limit"]) > 0
        assert row["limit"] in (timing.COPY, timing.MATMUL)
    assert 0 < max(waited) <= 2 * 2e9 * 0.02


@pytest.mark.torch
def test_wrong_offspring_of_a_rival_are_found() -> None:
    pytest.importorskip("torch")
    from benchmarks.gpu.contests import check_children
    from benchmarks.workload import Variation, genomes

    work = Variation.of(genomes(4), 0.0, 1.0)
    for kind in ("arithmetic", "rows"):
        children = rivals.offspring(work, kind, NETWORK.layout, "cpu")().numpy()
        check_children(work, kind, "torch", children)
        children[2, 5] += 0.5
        with pytest.raises(MismatchError, match="torch: offspring 2 is no child"):
            check_children(work, kind, "torch", children)


def test_units_of_genes() -> None:
    from evokern.layout import AffineGenes, DenseGenes, GenomeLayout

    layout = GenomeLayout((DenseGenes(2, 3), AffineGenes(2), DenseGenes(1, 2, bias=False)))
    expected = [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 3, 4, 5, 6]
    assert rivals.units_of(layout).tolist() == expected
