"""Runs side by side: reading their folders, groups, median curves, statistics, pictures."""

import itertools
import json
import math
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from evokern.commands import plot
from evokern.comparison import (
    Group,
    RankTest,
    Summary,
    first_reached,
    flatten,
    group_runs,
    last_value,
    mann_whitney,
    median_curve,
    metric_names,
    summarise,
)
from evokern.errors import ArgumentError, BackendError, CheckpointError, StorageError
from evokern.metrics import MetricsFile, RunRecords, read_metrics, read_run
from evokern.plots import plot_curve, plot_groups

ACCURACY = "holdout_accuracy/best"
PNG = b"\x89PNG"


def run_of(values, name="run", step="generation", seconds=None, **config):
    """A run with a record per value, at steps 10, 20, ..."""
    records = [
        {
            step: 10 * (i + 1),
            "samples": 640 * (i + 1),
            "seconds": float(i + 1) if seconds is None else seconds[i],
            ACCURACY: value,
        }
        for i, value in enumerate(values)
    ]
    return RunRecords(Path(name), {"algorithm": "ea", "dataset": "mnist", **config}, records, None)


def write_run(folder, run, result=None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"format": 1, **run.config}))
    lines = [json.dumps(record) + "\n" for record in run.records]
    (folder / "metrics.jsonl").write_text("".join(lines))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_run_folder_is_read(tmp_path):
    run = run_of([0.1, 0.2], seed=3)
    folder = write_run(tmp_path / "a", run, {"test_accuracy": 0.2})
    read = read_run(folder)
    assert read.config == {"format": 1, **run.config}
    assert (read.records, read.result) == (run.records, {"test_accuracy": 0.2})
    (folder / "result.json").unlink()
    assert read_run(folder).result is None


@pytest.mark.parametrize("cut", [b'{"generation": 2, "fit', b'{"generation": 2}', b"\xc3", b"{}x"])
def test_a_last_line_cut_off_is_no_record(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"generation": 1}\n' + cut)
    expected = [{"generation": 1}]
    if cut.endswith(b"}"):
        expected.append({"generation": 2})  # only the newline is lost
    assert read_metrics(path) == expected
    metrics = MetricsFile(path, 1)
    metrics.write({"generation": 2, "x": 0.5})
    metrics.close()
    assert path.read_text() == '{"generation": 1}\n{"generation": 2, "x": 0.5}\n'


def test_iterations_after_a_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iteration": 3}\n')
    MetricsFile(path, 2).close()
    assert read_metrics(path) == [{"iteration": 1}, {"iteration": 2}]


@pytest.mark.parametrize("line", ["garbage", "[1, 2]", ""])
def test_a_broken_line_in_the_middle_is_an_error(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"generation": 1}}\n{line}\n{{"generation": 2}}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        read_metrics(path)


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="none: expected the folder of a run, got no such"):
        read_run(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"got a folder without config\.json"):
        read_run(tmp_path)
    write_run(tmp_path / "new", run_of([]))
    with pytest.raises(CheckpointError, match="new: the run has no records yet"):
        read_run(tmp_path / "new")
    write_run(tmp_path / "later", run_of([0.1]))
    (tmp_path / "later/config.json").write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match=r"config\.json: expected format 1, got 2"):
        read_run(tmp_path / "later")
    (tmp_path / "later/config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json: expected a JSON object, got b'\[\]'"):
        read_run(tmp_path / "later")


def labels(groups):
    return {group.label: len(group.runs) for group in groups}


def test_runs_that_differ_in_the_seed_are_one_group():
    runs = [
        run_of([0.1], seed=seed, log_every=seed, ea={"seed": seed, "sigma": 0.1})
        for seed in range(3)
    ]
    assert labels(group_runs(runs)) == {"ea mnist": 3}


def test_what_does_not_change_the_curve_splits_no_group():
    runs = [
        run_of([0.1], batch_seed=i, finalists=i, ensemble=i, dataset_sha256="0b1c" * 16)
        for i in range(3)
    ]
    assert labels(group_runs([*runs, run_of([0.1])])) == {"ea mnist": 4}  # the last: an older run


def test_other_data_of_the_same_name_is_another_group_with_a_short_digest():
    first, second = "0123456789abcdef" * 4, "fedcba9876543210" * 4
    runs = [run_of([0.1], seed=s, dataset_sha256=d) for s in (0, 1) for d in (first, second)]
    assert labels(group_runs(runs)) == {
        "dataset_sha256=01234567": 2,
        "dataset_sha256=fedcba98": 2,
    }
    runs = [
        run_of([0.1], sigma=0.1, dataset_sha256=first),
        run_of([0.1], sigma=0.1, dataset_sha256=second),
        run_of([0.1], sigma=0.2, dataset_sha256=second),
    ]
    assert labels(group_runs(runs)) == {
        "sigma=0.1, dataset_sha256=01234567": 1,
        "sigma=0.1, dataset_sha256=fedcba98": 1,
        "sigma=0.2": 1,
    }
    assert labels(group_runs([runs[0], runs[2]])) == {"sigma=0.1": 1, "sigma=0.2": 1}
    assert labels(group_runs(runs[:2], ["sigma"])) == {"sigma=0.1": 2}


def test_labels_name_what_differs_in_ascending_order():
    runs = [
        run_of([0.1], ea={"sigma": sigma, "population": population, "seed": seed})
        for seed in range(2)
        for sigma in (0.1, 0.02)
        for population in (1000, 200)
    ]
    names = [group.label for group in group_runs(runs)]
    assert names == [
        "sigma=0.02, population=200",
        "sigma=0.02, population=1000",
        "sigma=0.1, population=200",
        "sigma=0.1, population=1000",
    ]
    assert {len(group.runs) for group in group_runs(runs)} == {2}


def test_settings_of_one_algorithm_alone_are_not_named():
    runs = [run_of([0.1], sigma=0.1), run_of([0.1], algorithm="adam", learning_rate=0.001)]
    assert labels(group_runs(runs)) == {"algorithm=adam": 1, "algorithm=ea": 1}
    runs = [run_of([0.1], sigma=0.1), run_of([0.1])]
    assert labels(group_runs(runs)) == {"sigma=0.1": 1, "none of these settings": 1}


def test_a_list_is_named_only_where_nothing_else_tells_apart():
    small, large = {"layers": [1]}, {"layers": [2]}
    runs = [run_of([0.1], network=small), run_of([0.1], network=large, dataset="digits")]
    assert labels(group_runs(runs)) == {"dataset=mnist": 1, "dataset=digits": 1}
    runs = [run_of([0.1], network=small), run_of([0.1], network=large)]
    assert labels(group_runs(runs)) == {"layers=[1]": 1, "layers=[2]": 1}


def test_a_name_that_two_settings_share_is_given_in_full():
    runs = [run_of([0.1], a={"size": size}, b={"size": 1}) for size in (1, 2)]
    assert labels(group_runs(runs)) == {"a.size=1": 1, "a.size=2": 1}


def test_group_by_pools_all_else():
    runs = [run_of([0.1], seed=s, ea={"sigma": s % 2, "crossover_share": s // 2}) for s in range(4)]
    assert labels(group_runs(runs, ["crossover-share"])) == {
        "crossover_share=0": 2,
        "crossover_share=1": 2,
    }
    assert labels(group_runs(runs, ["dataset"])) == {"dataset=mnist": 4}
    assert len(group_runs(runs, ["seed"])) == 4
    wanted = "group_by: expected one of algorithm, dataset, seed, ea.sigma, ea.crossover_share"
    with pytest.raises(ArgumentError, match=wanted):
        group_runs(runs, ["sigmas"])


def test_nested_settings_get_dotted_names():
    assert flatten({"a": {"b": {"c": 1}, "d": []}, "e": None}) == {"a.b.c": 1, "a.d": [], "e": None}


def test_median_curve_covers_what_all_runs_have():
    runs = (run_of([0.1, 0.2, 0.3]), run_of([0.2, 0.4, 0.6, 0.8]), run_of([0.9, 0.9]))
    curve = median_curve(Group("g", runs), ACCURACY)
    assert_array_equal(curve.x, [10, 20])
    assert_allclose(curve.median, [0.2, 0.4])
    assert_allclose(curve.q1, [0.15, 0.3])
    assert_allclose(curve.q3, [0.55, 0.65])
    assert curve.runs == 3
    assert_array_equal(median_curve(Group("g", runs), ACCURACY, "samples").x, [640, 1280])


def test_runs_with_records_at_other_places_count_with_the_line_between():
    runs = (
        run_of([0.0, 1.0], seconds=[1.0, 3.0]),
        run_of([0.0, 0.3, 0.3], seconds=[0.0, 1.5, 9.0]),
    )
    curve = median_curve(Group("g", runs), ACCURACY, "seconds")
    assert_array_equal(curve.x, [1.0, 1.5, 3.0])
    assert_allclose(curve.median, [(0.0 + 0.2) / 2, (0.25 + 0.3) / 2, (1.0 + 0.3) / 2])


def test_records_without_the_metric_are_left_out():
    run = run_of([0.1, None, 0.3])
    del run.records[0]["samples"]
    curve = median_curve(Group("g", (run,)), ACCURACY)
    assert_array_equal(curve.x, [10, 30])
    assert_array_equal(curve.median, curve.q3)
    assert_array_equal(median_curve(Group("g", (run,)), ACCURACY, "samples").x, [1920])
    assert last_value(run, ACCURACY) == 0.3
    assert last_value(run, "fitness/best") is None


def test_iterations_stand_for_generations():
    curve = median_curve(Group("adam", (run_of([0.1, 0.2], step="iteration"),)), ACCURACY)
    assert_array_equal(curve.x, [10, 20])


def test_an_unknown_metric_is_refused_with_those_there_are():
    run = run_of([0.1], name="runs/a")
    run.records[0].update({"fitness/best": -1.0, "note": "text", "flag": True, "none": None})
    assert metric_names(run) == [ACCURACY, "fitness/best"]
    wanted = f"metric: expected one that runs/a has: {ACCURACY}, fitness/best, got accuracy"
    with pytest.raises(ArgumentError, match=wanted):
        median_curve(Group("g", (run,)), "accuracy")


def test_x_that_no_record_has_is_refused_with_what_there_is():
    group = Group("g", (run_of([0.1], name="runs/a"),))
    wanted = "x: expected one that runs/a has: generation, samples, seconds, got cpu_seconds"
    with pytest.raises(ArgumentError, match=wanted):
        median_curve(group, ACCURACY, "cpu_seconds")


def test_runs_that_do_not_overlap_or_step_back_are_refused():
    group = Group("g", (run_of([0.1], seconds=[1.0]), run_of([0.1], seconds=[2.0])))
    with pytest.raises(ArgumentError, match="some seconds that all of a group have, got runs of g"):
        median_curve(group, ACCURACY, "seconds")
    group = Group("g", (run_of([0.1, 0.2], seconds=[2.0, 1.0]),))
    with pytest.raises(ArgumentError, match="seconds: expected ascending values, got a step back"):
        median_curve(group, ACCURACY, "seconds")


def test_summary():
    assert summarise([3, 1, 2, 10]) == Summary(4, 2.5, 1.75, 4.75, 1.0, 10.0)
    assert summarise([0.5]) == Summary(1, 0.5, 0.5, 0.5, 0.5, 0.5)
    for values in ([], [1.0, float("nan")]):
        with pytest.raises(ArgumentError, match="values: expected at least one value, none NaN"):
            summarise(values)


def test_mann_whitney_without_ties_is_exact():
    assert mann_whitney([3, 4, 5], [1, 2]) == RankTest(6.0, pytest.approx(1 / 10), "exact")
    assert mann_whitney([1, 2], [3, 4, 5]) == RankTest(0.0, pytest.approx(1.0), "exact")
    assert mann_whitney([2], [1]) == RankTest(1.0, pytest.approx(0.5), "exact")


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True), st.data())
def test_mann_whitney_counts_the_splits_with_no_smaller_u(values, data):
    cut = data.draw(st.integers(1, len(values) - 1))

    def u(first):
        second = [value for value in values if value not in first]
        return sum(a > b for a in first for b in second)

    splits = [u(split) for split in combinations(values, cut)]
    own = u(values[:cut])
    test = mann_whitney(values[:cut], values[cut:])
    assert test.u == own
    assert test.p == pytest.approx(np.mean([other >= own for other in splits]))


def test_mann_whitney_with_ties_is_exact_for_small_samples():
    # One of the 20 ways to deal six values to two samples has all of the greatest in the first.
    assert mann_whitney([0.7, 0.7, 0.8], [0.5, 0.6, 0.65]) == RankTest(9.0, 0.05, "exact")
    assert mann_whitney([1, 1], [1, 1]).p == 1.0
    first, second = [1, 2, 2, 3], [1, 1, 2, 2]

    def u(ones, others):
        return sum((a > b) + (a == b) / 2 for a in ones for b in others)

    pooled = first + second
    ways = [
        u([pooled[i] for i in ones], [pooled[i] for i in range(8) if i not in ones])
        for ones in itertools.combinations(range(8), 4)
    ]
    p = np.mean([way >= u(first, second) for way in ways])
    assert mann_whitney(first, second) == RankTest(11.0, pytest.approx(p), "exact")


def test_mann_whitney_with_ties_is_the_corrected_normal_approximation_for_large_samples():
    # U = 99, mean 12 * 12 / 2, variance 12 * 12 / 12 * (25 - ties / (24 * 23)).
    ties = (9**3 - 9) + (12**3 - 12) + (3**3 - 3)
    variance = 12 * (25 - ties / (24 * 23))
    p = math.erfc((99 - 72 - 0.5) / math.sqrt(variance) / math.sqrt(2)) / 2
    test = mann_whitney([1, 2, 2, 3] * 3, [1, 1, 2, 2] * 3)
    assert test == RankTest(99.0, pytest.approx(p), "asymptotic")


def test_mann_whitney_says_what_is_missing(monkeypatch):
    with pytest.raises(ArgumentError, match="second: expected at least one value"):
        mann_whitney([1], [])
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(BackendError, match=r"SciPy is needed .* pip install 'evokern\[stats\]'"):
        mann_whitney([1], [2])


def picture_of(figures, monkeypatch):
    """Keeps the figures that are saved."""
    from matplotlib.figure import Figure

    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1]
    )


def test_groups_are_lines_with_bands_and_single_runs_lines(tmp_path, monkeypatch):
    figures = []
    picture_of(figures, monkeypatch)
    groups = [
        Group("many", (run_of([0.1, 0.3]), run_of([0.2, 0.4]))),
        Group("one", (run_of([0.5, 0.6, 0.7]),)),
    ]
    path = tmp_path / "new" / "curves.png"
    plot_groups(groups, path, y_range=(0, 0.9))
    assert path.read_bytes().startswith(PNG)
    axes = figures[0].axes[0]
    assert [line.get_label() for line in axes.lines] == ["many (2 runs)", "one"]
    assert_allclose(axes.lines[0].get_ydata(), [0.15, 0.35])
    assert_array_equal(axes.lines[1].get_xdata(), [10, 20, 30])
    assert len(axes.collections) == 1
    assert axes.get_ylim() == (0, 0.9)
    assert axes.get_xlabel() == "generation"
    assert len({line.get_color() for line in axes.lines}) == 2


def test_many_groups_stay_apart_by_colour_and_dashes(tmp_path, monkeypatch):
    figures = []
    picture_of(figures, monkeypatch)
    groups = [Group(f"g{i}", (run_of([0.1, i / 20]),)) for i in range(14)]
    plot_groups(groups, tmp_path / "curves.svg", x="samples")
    lines = figures[0].axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 14
    assert (tmp_path / "curves.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("length", [3, 45, 70, 200, 1000])
def test_long_labels_leave_room_for_the_curves(tmp_path, monkeypatch, count, length):
    figures = []
    picture_of(figures, monkeypatch)
    runs = (run_of([0.1, 0.2]), run_of([0.1, 0.3]))
    words = ("mutation_rate=0.125, " * 50)[:length]
    plot_groups([Group(f"{i} {words}", runs) for i in range(count)], tmp_path / "curves.png")
    figure = figures[0]
    axes = figure.axes[0]
    legend = figure.legends[0] if figure.legends else axes.get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == count
    assert all(text.startswith(f"{i} ") for i, text in enumerate(texts))
    assert all(text.endswith("(2 runs)") for text in texts)
    assert max(len(line) for text in texts for line in text.split("\n")) < 75
    place, curves = legend.get_window_extent(), axes.get_window_extent()
    assert curves.width > 0.8 * figure.bbox.width
    assert curves.height / figure.dpi > 3  # inches
    assert place.x0 >= 0
    assert place.y0 >= 0
    assert place.x1 <= figure.bbox.width
    if length > 40 or count > 6:
        assert place.y1 <= curves.y0


@pytest.mark.parametrize("y_range", [(1, 0), (0, 0), (0, math.nan), (0, math.inf)])
def test_a_range_that_is_none_is_refused(tmp_path, y_range):
    with pytest.raises(ArgumentError, match=r"^y_range: expected two finite numbers, the lower"):
        plot_groups([Group("g", (run_of([0.1]),))], tmp_path / "curves.png", y_range=y_range)
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("end", "unit", "last"), [(250.0, "[s]", 250), (600.0, "[min]", 10), (36000.0, "[h]", 10)]
)
def test_times_have_a_readable_unit(tmp_path, monkeypatch, end, unit, last):
    figures = []
    picture_of(figures, monkeypatch)
    group = Group("g", (run_of([0.1, 0.2], seconds=[1.0, end]),))
    plot_groups([group], tmp_path / "curves.png", x="seconds")
    axes = figures[0].axes[0]
    assert axes.get_xlabel() == f"time {unit}"
    assert axes.lines[0].get_xdata()[-1] == last


@pytest.mark.parametrize(
    ("records", "test_accuracy", "lines", "ylabel"),
    [
        ([{"generation": 1, "batch_accuracy/best": 0.5, ACCURACY: 0.4}], 0.4, 3, "accuracy"),
        ([{"generation": 1, ACCURACY: 0.4}], None, 1, "accuracy"),
        ([{"iteration": 1, "batch_accuracy/best": 0.4}], None, 1, "accuracy"),
        ([{"generation": 1, "fitness/best": -2.0}], None, 1, "best fitness"),
        ([{"generation": 1, "fitness/best": -2.0, ACCURACY: None}], 0.5, 1, "best fitness"),
        ([{"generation": 1, "fitness/best": None}], None, 0, "accuracy"),
        ([{"iteration": 1, "loss": 2.0}], 0.5, 1, "loss on the batch"),
        ([], 0.5, 1, "accuracy"),
        ([], None, 0, "accuracy"),
    ],
)
def test_the_curve_of_a_run_shows_what_there_is(
    tmp_path, monkeypatch, recwarn, records, test_accuracy, lines, ylabel
):
    figures = []
    picture_of(figures, monkeypatch)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    plot_curve(metrics, tmp_path / "curves.png", test_accuracy=test_accuracy)
    axes = figures[0].axes[0]
    assert len(axes.lines) == lines
    assert axes.get_ylabel() == ylabel
    assert not recwarn.list


def test_drawing_leaves_matplotlib_as_it_is(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot_groups([Group("g", (run_of([0.1]),))], tmp_path / "curves.png")
    assert dict(matplotlib.rcParams) == before


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    group = Group("g", (run_of([0.1]),))
    with pytest.raises(ArgumentError, match=r"expected a file name that ends in \.png"):
        plot_groups([group], tmp_path / "curves.doc")
    with pytest.raises(ArgumentError, match=r"expected a file name that ends in \.png"):
        plot_groups([group], tmp_path / "curves.pgf")  # needs LaTeX
    for name in ("curves.JPG", "curves.svg"):
        plot_groups([Group("no $_$ formula", group.runs)], tmp_path / name)
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(StorageError, match=r"curves\.png: cannot be written"):
        plot_groups([group], tmp_path / "curves.png")


@pytest.mark.parametrize("algorithm", ["ea", "es", "adam"])
def test_runs_older_than_a_setting_had_its_default(algorithm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, younger in enumerate(({}, {"shift_share": 0.0}, {"shift_share": 0.25})):
        run = replace(run_of([0.1]), config={"algorithm": algorithm, "seed": seed, **younger})
        write_run(Path(f"runs/seed-{seed}"), run)
    assert plot.main(["runs"]) == 0
    assert "shift_share=0.0: 2 runs" in capsys.readouterr().out


def test_the_command_draws_runs_and_folders_of_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        for sigma in (0.1, 0.2):
            run = run_of([0.1, 0.2 + sigma], seed=seed, sigma=sigma)
            write_run(Path(f"runs/repeat/sigma-{sigma}/seed-{seed}"), run)
    write_run(Path("single"), run_of([0.1, 0.2], sigma=0.3))
    (Path("runs/repeat/sigma-0.1/seed-2")).mkdir()
    Path("runs/repeat/sigma-0.1/seed-2/config.json").write_text("{}")
    write_run(Path("runs/repeat/sigma-0.1/seed-3"), run_of([]))
    # The folder named again adds nothing.
    assert plot.main(["runs/repeat", "single", "runs/repeat/sigma-0.1/seed-0"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "sigma=0.1: 2 runs",
        "sigma=0.2: 2 runs",
        "sigma=0.3: 1 run",
        "curves  curves.png",
    ]
    assert captured.err.splitlines() == [
        "runs/repeat/sigma-0.1/seed-2: no records yet, left out",
        "runs/repeat/sigma-0.1/seed-3: no records yet, left out",
    ]
    assert Path("curves.png").read_bytes().startswith(PNG)
    options = ["--out", "b.pdf", "--x", "seconds", "--y-range", "0.1", "0.3", "--group-by", "seed"]
    assert plot.main(["runs/repeat", *options]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["seed=0: 2 runs", "seed=1: 2 runs"]
    assert Path("b.pdf").read_bytes().startswith(b"%PDF")


def test_the_command_says_when_levels_were_reached(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = {0: [0.1, 0.5, 0.4, 0.9], 1: [0.5, 0.6, 0.6, 0.6], 2: [0.1, 0.2, 0.5, 0.6]}
    for seed, values in runs.items():
        write_run(Path(f"runs/seed-{seed}"), run_of(values, seed=seed))
    levels = ["--reach", "0.5", "0.7", "0.95"]
    assert plot.main(["runs", "--x", "seconds", *levels]) == 0
    assert capsys.readouterr().out.splitlines()[1:4] == [
        "  0.5: after 2 s (1 to 3)",
        "  0.7: reached by 1 of 3",
        "  0.95: reached by 0 of 3",
    ]
    assert plot.main(["runs", "--reach", "0.5"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  0.5: after 20 generations (10 to 30)"


def test_the_place_of_a_level_is_that_of_the_first_record_which_reaches_it():
    run = run_of([0.1, 0.5, 0.4, 0.9], seconds=[3.0, 4.5, 6.0, 9.5])
    assert first_reached(run, ACCURACY, 0.5) == 4.5
    assert first_reached(run, ACCURACY, 0.6) == 9.5
    assert first_reached(run, ACCURACY, 0.6, "samples") == 4 * 640
    assert first_reached(run, ACCURACY, 0.91) is None
    assert first_reached(run, "loss", 0.0) is None


def test_the_command_refuses_what_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"without config\.json"):
        plot.main([str(tmp_path)])
    with pytest.raises(CheckpointError, match="RUN: expected at least one folder of a run"):
        plot.main([])
