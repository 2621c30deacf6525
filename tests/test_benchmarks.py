"""The benchmarks: what they time is right, how they time it, and that everything runs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import INSTRUCTION_SETS, instruction_set, threads

from evokern import Network, _cpu, ops
from evokern.errors import ArgumentError, DataError
from evokern.population import allocate_genomes

# Last, so that an installed evokern is not shadowed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks import bench_growth, bench_routing, harness, limits, report, rivals
from benchmarks.bench_conv import check_outputs
from benchmarks.bench_network import check_evaluation
from benchmarks.bench_replay import check_genomes
from benchmarks.bench_variation import check_offspring
from benchmarks.harness import Contest, Contestant, MismatchError, Result, measure
from benchmarks.workload import Variation
from benchmarks.workload_conv import Slots, multiply_adds, random_banks

F = np.float32
ROOT = Path(__file__).resolve().parents[1]


class FakeTime:
    """Wall and CPU clocks that contestants move; stands in for the module ``time``."""

    def __init__(self) -> None:
        self.wall = 0.0
        self.cpu = 0.0

    def perf_counter(self) -> float:
        return self.wall

    def sleep(self, seconds: float) -> None:
        self.wall += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(harness, "time", fake)
    return fake


class TestHarness:
    def test_contestants_take_turns(self) -> None:
        log: list[str] = []

        def contestant(name: str) -> Contestant:
            return Contestant(name, lambda count: log.append(f"{name}{count}"), 1.0, "GFLOP/s")

        contest = Contest((contestant("a"), contestant("b")), (contestant("limit"),))
        results = measure(contest, 2, (1, 2))
        one_round = ["limit1", "a1", "b1", "limit2", "a2", "b2"]
        assert log == ["a1", "b1", "a2", "b2", *one_round, *one_round]
        assert [(r.contestant, r.threads) for r in results] == [
            ("limit", 1),
            ("a", 1),
            ("b", 1),
            ("limit", 2),
            ("a", 2),
            ("b", 2),
        ]

    def test_numbers(self, clock: FakeTime) -> None:
        def timed(seconds: list[float]) -> Callable[[int], None]:
            rounds = iter(seconds)

            def run(count: int) -> None:
                clock.wall += next(rounds)
                clock.cpu += 10.0

            return run

        def contestant(name: str, seconds: list[float], **options: Any) -> Contestant:
            return Contestant(name, timed(seconds), 2e9, cpu_clock=lambda _: clock.cpu, **options)

        ours = contestant("ours", [0.0, 9.0, 1.0, 4.0], unit="GFLOP/s")
        rival = contestant("rival", [0.0, 3.0, 2.0, 1.0], unit="ns/gene", part=0.25)
        slow = contestant("slow limit", [2.0, 2.0, 2.0], unit="GB/s")
        best = contestant("best limit", [0.5, 0.25, 0.75], unit="GB/s")
        contest = Contest((ours, rival), (slow, best), reference="ours", limit_per_work=3.0)
        found = {r.contestant: r for r in measure(contest, 3, (1,))}
        assert found["ours"].wall_rounds == (9.0, 1.0, 4.0)
        assert (found["ours"].wall_s, found["ours"].cpu_s) == (4.0, 10.0)
        # A quarter of the work in 2 s of wall time is all of it in 8.
        assert (found["rival"].wall_s, found["rival"].cpu_s) == (8.0, 40.0)
        assert (found["ours"].rate, found["ours"].unit) == (0.5, "GFLOP/s")
        assert (found["rival"].rate, found["rival"].unit) == (4.0, "ns/gene")
        assert found["best limit"].rate == pytest.approx(4.0)
        assert found["best limit"].percent_of_limit is None
        # 2e9 x 3 at 4e9 per second are 1.5 s at least.
        assert (found["ours"].percent_of_limit, found["rival"].percent_of_limit) == (37.5, 18.75)
        assert (found["ours"].wall_ratio, found["rival"].wall_ratio) == (1.0, 2.0)
        assert (found["ours"].cpu_ratio, found["rival"].cpu_ratio) == (1.0, 4.0)
        assert found["best limit"].wall_ratio is None

    @pytest.mark.parametrize(
        ("unit", "expected"),
        [
            ("GFLOP/s", 1.5),
            ("GB/s", 1.5),
            ("ns/gene", 2 / 3),
            ("us/step", 2 / 3e3),
            ("frames/s", 1.5e9),
        ],
    )
    def test_rate(self, unit: harness.Unit, expected: float) -> None:
        assert harness.rate(3e9, 2.0, unit) == pytest.approx(expected)

    def test_a_wrong_result_is_not_timed(self) -> None:
        calls: list[int] = []

        def check(contestant: Contestant, result: None) -> None:
            raise MismatchError(contestant.name)

        contest = Contest((Contestant("wrong", calls.append, 1.0, "GB/s"),), (), check)
        before = _cpu.threads()
        with pytest.raises(MismatchError, match="wrong"):
            measure(contest, 3, (before + 1,))
        assert calls == [before + 1]
        assert _cpu.threads() == before


LOSS = np.array([2.0, 4.0], F)
CORRECT = np.array([10, 20], np.int32)


class TestCheckEvaluation:
    @staticmethod
    def check(loss: Any, correct: Any, part: float = 1.0, batch: int = 64) -> None:
        contestant = Contestant("rival", lambda count: None, 1.0, "GFLOP/s", part=part)
        check_evaluation((LOSS, CORRECT), 1e-4, batch, contestant, (loss, correct))

    def test_rounding_is_allowed(self) -> None:
        self.check(LOSS * F(1 + 5e-5), CORRECT + np.int32(1))
        self.check(LOSS[:1], CORRECT[:1], part=0.5)

    @pytest.mark.parametrize(
        ("loss", "correct", "text"),
        [
            (LOSS * F(1 + 2e-4), CORRECT, "losses differ by up to 2.0e-04, allowed 1e-04"),
            (LOSS * F(np.nan), CORRECT, "losses differ by up to nan"),
            (LOSS, CORRECT - np.int32(2), "2 predictions of 64 differ"),
            (LOSS[:1], CORRECT[:1], "expected 2 networks, got 1"),
        ],
    )
    def test_errors_are_found(self, loss: Any, correct: Any, text: str) -> None:
        with pytest.raises(MismatchError, match=text):
            self.check(loss, correct)


class TestCheckOutputs:
    expected = np.array([[[4.0, -2.0]], [[0.5, 0.25]]], F)

    def check(self, outputs: Any) -> None:
        check_outputs(
            self.expected, 1e-4, Contestant("rival", lambda count: None, 1.0, "frames/s"), outputs
        )

    def test_rounding_is_allowed(self) -> None:
        self.check(self.expected + F(4e-5))
        self.check(self.expected[:1])

    @pytest.mark.parametrize(
        ("outputs", "text"),
        [
            (expected + F(1e-4), "outputs differ by up to 2.0e-04, allowed 1e-04"),
            (expected * F(np.nan), "outputs differ by up to nan"),
            (expected[:0], "expected .2, 1, 2., got .0, 1, 2."),
            (expected[..., :1], "got .2, 1, 1."),
        ],
    )
    def test_errors_are_found(self, outputs: Any, text: str) -> None:
        with pytest.raises(MismatchError, match=text):
            self.check(outputs)


class TestCheckGenomes:
    def test_zeros_of_other_sign_are_found(self) -> None:
        genomes = np.zeros((3, 2), F)
        check_genomes(genomes, "evokern", genomes.copy())
        with pytest.raises(MismatchError, match="evokern: individual 1 is another one"):
            check_genomes(genomes, "evokern", genomes * np.array([[1], [-1], [1]], F))
        with pytest.raises(MismatchError, match=r"expected .*, got "):
            check_genomes(genomes, "evokern", genomes[:2])


class TestSlots:
    def test_multiply_adds(self) -> None:
        # 20^2 x 32 x 4 x 8^2, 9^2 x 64 x 32 x 4^2, 7^2 x 64 x 64 x 3^2, 3136 x 512, 512 x 18
        assert multiply_adds(Network.nature_cnn(4, 18)) == 9352192

    def test_routes(self) -> None:
        case = bench_routing.CASES["CIFAR-100"]
        heights, index = bench_routing.routes(case, 24, np.random.default_rng(1))
        assert heights == [20] * 12
        assert (index.shape, index.dtype) == ((12, 24), np.int32)
        assert (index[0:8:2] == index[1:8:2]).all()
        assert (index.min(), index.max() < 20) == (0, True)
        assert index[11].tolist() == [*range(20), 0, 1, 2, 3]
        shared = bench_routing.CASES["CIFAR-100, shared convolutions"]
        heights, index = bench_routing.routes(shared, 24, np.random.default_rng(1))
        assert heights == [1] * 8 + [20] * 4
        assert not index[:8].any()
        assert index[8:11].any(axis=1).all()

    @pytest.mark.torch
    @pytest.mark.parametrize("channels_last", [False, True])
    @pytest.mark.parametrize("form", ["loop", "grouped", "by_row", "vmap"])
    @pytest.mark.parametrize("chunk", [None, 1, 3])
    def test_forms_of_torch_agree(self, form: str, channels_last: bool, chunk: int | None) -> None:
        why = rivals.missing("torch")
        if why:
            pytest.skip(why)
        from benchmarks import rivals_conv

        case = bench_routing.CASES["DKL-MNIST"]
        heights, index = bench_routing.routes(case, 5, np.random.default_rng(2))
        banks = random_banks(case.network, heights)
        x = np.random.default_rng(3).random((5, 2, 1, 28, 28), F)
        given = rivals_conv.torch_slots(
            Slots(case.network, banks, x, index), channels_last=channels_last
        )
        expected = ops.network_forward(banks, case.network, x, index=index)
        with rivals_conv.thread_pools() as pools:
            for side_by_side in (None, pools):
                run = rivals_conv.over_slots(
                    getattr(rivals_conv, form)(given), 5, chunk, side_by_side
                )
                np.testing.assert_allclose(run(2).numpy(), expected, atol=1e-4)


def random_rows(count: int, genes: int = 4096) -> np.ndarray:
    rows = allocate_genomes(count, genes)
    rows[:] = np.random.default_rng(1).standard_normal(rows.shape)
    return rows


def swap_halves(work: Variation, out: np.ndarray) -> None:
    out[3] = np.roll(out[3], 2048)


def only_first_parent(work: Variation, out: np.ndarray) -> None:
    out[3] = work.genomes[work.parents[0, 3]]


def biased(work: Variation, out: np.ndarray) -> None:
    out[3, :512] = work.genomes[work.parents[0, 3], :512]


def same_mask(work: Variation, out: np.ndarray) -> None:
    first, second = work.genomes[work.parents]
    out[3] = np.where(out[2] == first[2], first[3], second[3])


def no_copy(work: Variation, out: np.ndarray) -> None:
    out[0, 4095] += F(1e-6)


def not_a_number(work: Variation, out: np.ndarray) -> None:
    out[3, 7] = np.nan
    out[9, 7] = np.nan


def other_sigma(work: Variation, out: np.ndarray) -> None:
    parent = work.genomes[work.parents[0, 9]]
    out[9] = parent + F(1.2) * (out[9] - parent)


def shifted_noise(work: Variation, out: np.ndarray) -> None:
    out[9] += F(0.002)


def same_noise(work: Variation, out: np.ndarray) -> None:
    parents = work.genomes[work.parents[0]]
    out[9] = parents[9] + (out[8] - parents[8])


class TestCheckOffspring:
    work = Variation.of(random_rows(10), 0.2, 0.5)

    def test_kinds_of_offspring(self) -> None:
        first, second = self.work.parents
        assert (self.work.elites, self.work.crossed) == (2, 5)
        assert (first[:2] == second[:2]).all()
        assert (first[2:7] != second[2:7]).all()
        assert (first[7:] == second[7:]).all()
        assert self.work.parents.max() < 5
        assert self.work.sigma.tolist() == [0.0] * 7 + [F(0.01)] * 3

    def test_a_right_one_passes(self) -> None:
        check_offspring(self.work, "NumPy", rivals.numpy_children(self.work)(1))

    @pytest.mark.parametrize(
        ("spoil", "text"),
        [
            (swap_halves, "offspring 3 has genes of neither parent"),
            (only_first_parent, "offspring 3: mean: 1.0"),
            (biased, "offspring 3: mean: 0.1"),
            (same_mask, "offspring 3: draws of the one before"),
            (no_copy, "offspring 0 is no copy"),
            (not_a_number, "offspring 3 has genes of neither parent"),
            (other_sigma, "offspring 9: variance: 0.3"),
            (shifted_noise, "offspring 9: mean: 0.2"),
            (same_noise, "offspring 9: draws of the one before"),
        ],
    )
    def test_errors_are_found(
        self, spoil: Callable[[Variation, np.ndarray], None], text: str
    ) -> None:
        offspring = rivals.numpy_children(self.work)(1).copy()
        spoil(self.work, offspring)
        with pytest.raises(MismatchError, match=text):
            check_offspring(self.work, "rival", offspring)

    def test_noise_that_is_no_number(self) -> None:
        mutants = replace(self.work, elites=0, crossed=0, sigma=np.full(10, 0.01, F))
        with pytest.raises(MismatchError, match="variance: nan"):
            check_offspring(mutants, "rival", np.full_like(self.work.genomes, np.nan))


@pytest.mark.cpp
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
class TestMachineLimit:
    def test_operations(self, name: str) -> None:
        one = np.ones(1024, F)
        with instruction_set(name), threads(2):
            sums = {1: 12, 8: 12, 16: 24}[_cpu.lanes()] * _cpu.lanes()
            assert _cpu.machine_limit(0, one, one, 5) == 2 * 5 * sums * 2
            bf16 = 2 * 5 * sums * 4 if _cpu.native_bf16() else 0
            assert _cpu.machine_limit(1, one, one, 5) == bf16

    @pytest.mark.parametrize("kind", ["copy", "copy past the cache", "read"])
    def test_bytes(self, name: str, kind: str) -> None:
        source = random_rows(1, 3 * 1024)[0]
        target = allocate_genomes(1, 3 * 1024)[0]
        target[:] = np.nan
        with instruction_set(name), threads(2):
            moved = _cpu.machine_limit(limits.LIMITS.index(kind), source, target, 0)
        if kind == "read":
            assert moved == 12288
            assert np.isnan(target).all()
        else:
            assert moved == 24576
            assert target.tobytes() == source.tobytes()


class TestGrowth:
    def test_deviation_from_the_median(self) -> None:
        assert bench_growth.deviation([2.0, 2.0, 2.0]) == 0.0
        assert bench_growth.deviation([2.0, 2.5, 2.0]) == 0.25
        assert bench_growth.deviation([2.0, 1.0, 2.0]) == 0.5

    def test_notes(self) -> None:
        def result(rate: float, wall_s: float, cpu_s: float, count: int = 1) -> Result:
            return Result("evokern", count, (wall_s,), (cpu_s,), rate, "GFLOP/s", 50.0)

        limit = Result("limit", 1, (9.0,), (9.0,), 999.0, "GFLOP/s")
        results = [limit, result(2.0, 1.0, 1.0), result(2.0, 2.0, 2.0), result(1.6, 5.0, 4.4)]
        assert bench_growth.notes([*results, result(3.0, 1.0, 2.0, count=2)]) == [
            "threads 1: within 25.0 % (CPU 10.0 %) of proportional to the work",
            "threads 2: within 0.0 % (CPU 0.0 %) of proportional to the work",
        ]


class TestReport:
    @pytest.mark.parametrize(
        ("name", "contests", "expected"),
        [
            ("network", 2, {"limit: multiply-add", "evokern fp32", "evokern bf16"}),
            (
                "variation",
                5,
                {"limit: copy", "limit: copy past the cache", "evokern"}
                | {"NumPy, one child at a time"},
            ),
            (
                "growth",
                2,
                {"limit: multiply-add", "evokern population 8, batch 8"}
                | {"evokern population 8, batch 64"},
            ),
            (
                "conv",
                5,
                {"limit: read", "limit: multiply-add", "evokern", "evokern, uint8 frames"}
                | {"evokern, bf16 weights", "evokern bf16, bf16 weights", "evokern fp32"},
            ),
            ("routing", 3, {"limit: multiply-add", "evokern"}),
            (
                "replay",
                1,
                {"limit: draw and add in cache", "evokern", "evokern, 50 mutations"},
            ),
            ("nes", 3, {"limit: copy", "limit: copy past the cache", "evokern", "NumPy"}),
            ("limits", 1, {"limit: multiply-add", "limit: copy", "limit: read"}),
        ],
    )
    def test_all_run(self, name: str, contests: int, expected: set[str], tmp_path: Path) -> None:
        rows = run(name, tmp_path / "new folder" / "results.csv")
        assert list(rows[0]) == list(report.COLUMNS)
        assert len({row["contest"] for row in rows}) == contests
        assert expected <= {row["contestant"] for row in rows}
        for row in rows:
            assert float(row["wall_s"]) > 0
            assert float(row["rate"]) > 0
            assert (row["threads"], row["rounds"]) == ("1", "1")
            assert row["isa"] == _cpu.instruction_set()
            is_limit = row["contestant"].startswith("limit")
            assert (row["percent_of_limit"] == "") == is_limit
            assert (row["wall_ratio"] == "") == (is_limit or name == "growth")

    @pytest.mark.torch
    @pytest.mark.parametrize(
        ("title", "rivals_of_torch"),
        [
            ("network fp32, population 20, batch 40", 3),
            ("network bf16, population 20, batch 40", 1),
            ("variation, mutation only, population 20", 2),
            ("variation, weighted sum of 20 offspring", 1),
            ("conv fp32, 3 networks, 1 observation each", 8),
            ("conv bf16, 3 networks, 2 observations each", 8),
            ("routing, CIFAR-100, 4 slots of 2 images", 8),
            ("nes, 12 x 3, 8 samples", 1),
        ],
    )
    def test_torch_takes_part(self, title: str, rivals_of_torch: int) -> None:
        why = rivals.missing("torch")
        if why:
            pytest.skip(why)
        cases = report.BENCHMARKS[title.split()[0].rstrip(",")](True)
        with cases[title]() as contest:
            names = [contestant.name for contestant in contest.contestants]
        assert sum(name.startswith("torch") for name in names) == rivals_of_torch

    def test_missing_rivals_are_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setattr(rivals, "find_spec", lambda library: None)
        names = {row["contestant"] for row in run("network", tmp_path / "results.csv")}
        # Where the processor multiplies bf16, that has a limit of its own.
        names -= {"limit: bf16 dot"}
        assert names == {"limit: multiply-add", "evokern fp32", "evokern bf16"}
        shown = capsys.readouterr().out
        assert "torch: torch is not installed: pip install 'evokern[torch]'" in shown
        assert "jax: jax is not installed: pip install 'evokern[bench]'" in shown

    def test_csv_grows(self, tmp_path: Path) -> None:
        path = tmp_path / "results.csv"
        first = run("limits", path)
        both = run("limits", path)
        assert both[: len(first)] == first
        assert len(both) == 2 * len(first)

    def test_a_file_of_other_columns_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "results.csv"
        path.write_text("date,commit\n")
        with pytest.raises(DataError, match="--csv: expected a file with the columns date,commit,"):
            run("limits", path)
        assert path.read_text() == "date,commit\n"

    @pytest.mark.parametrize(
        ("option", "value"), [("--rounds", "0"), ("--threads", "0"), ("--threads", "-1")]
    )
    def test_counts_are_positive(self, option: str, value: str) -> None:
        with pytest.raises(ArgumentError, match=f"{option}: expected integers >= 1, got"):
            report.main(["limits", "--quick", option, value])

    def test_unknown_name(self) -> None:
        with pytest.raises(SystemExit) as stopped:
            report.main(["speed"])
        assert stopped.value.code == 2


def run(name: str, path: Path) -> list[dict[str, str]]:
    """Runs a benchmark once, at tiny sizes, and reads its CSV file."""
    options = ["--quick", "--rounds", "1", "--threads", "1", "--csv", str(path)]
    assert report.main([name, *options]) == 0
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_pytest_benchmark_gets_the_rounds(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    path = tmp_path / "benchmark.json"
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-p", "no:cacheprovider"]
    options = ["--benchmark-only", "--quick", f"--benchmark-json={path}", "-k", "growth"]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True)
    benchmarks = json.loads(path.read_text())["benchmarks"]
    assert len(benchmarks) == 4
    for benchmark in benchmarks:
        times = sorted(benchmark["stats"]["data"])
        assert len(times) == 5
        ours = next(
            values
            for name, values in benchmark["extra_info"]["contestants"].items()
            if not name.startswith("limit")
        )
        assert times[2] == pytest.approx(ours["wall_s"])
        assert ours["GFLOP/s"] > 0
