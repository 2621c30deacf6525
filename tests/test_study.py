"""The studies of chapter 5: which runs they make, what they say of them, resuming, errors."""

import json
import sys
from pathlib import Path

import pytest

from evokern.archive import Archive, thinned
from evokern.commands import study, trials
from evokern.drivers.config import EAConfig
from evokern.errors import ArgumentError, CheckpointError
from evokern.studies import FIGURES, HOLDOUT, SIGMA, Cell, studies

CHILD = '''
"""Stands for ``evokern ea``: what the thesis found, to the letter."""
import argparse, json, pathlib

parser = argparse.ArgumentParser()
parser.add_argument("words", nargs="*")
parser.add_argument("--run-dir", type=pathlib.Path)
parser.add_argument("--preset")
parser.add_argument("--crossover", default="uniform")
parser.add_argument("--sigma-schedule", default="constant")
numbers = {"seed": 0, "population": 1000, "batch": 512, "alpha": 1.0, "truncation": 0.5}
numbers |= {"threads": 1, "crossover-share": 0.5, "generations": 0, "log-every": 1}
for name, default in numbers.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
o = parser.parse_args()
accuracy = 0.5 + o.seed / 1e4 + o.population / 1e5 + o.batch / 1e4 + o.alpha / 100
accuracy += min(o.truncation, 0.5) / 10 + (o.crossover_share > 0) / 100
best = {"uniform": "constant", "arithmetic": "self_adaptive"}[o.crossover]
accuracy += (o.sigma_schedule == best and o.crossover_share > 0) / 100
sigma = 0.001 + o.seed / 1e6 + 0.01 * (o.crossover == "arithmetic")
o.run_dir.mkdir(parents=True)
(o.run_dir / "checkpoints").mkdir()
(o.run_dir / "checkpoints" / "000000002.json").write_text("{}")
config = {"format": 1, "algorithm": "ea", **vars(o)}
config = {name: value for name, value in config.items() if name not in ("words", "run_dir")}
(o.run_dir / "config.json").write_text(json.dumps(config))
with (o.run_dir / "metrics.jsonl").open("w") as metrics:
    for generation in (1, 2):
        record = {"holdout_accuracy/best": accuracy * generation / 2, "sigma/mean": sigma}
        metrics.write(json.dumps({"generation": generation, **record}) + "\\n")
(o.run_dir / "result.json").write_text(json.dumps({"test_accuracy": accuracy}))
'''


@pytest.fixture(autouse=True)
def fake_child(tmp_path, monkeypatch):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(trials, "CHILD", (sys.executable, "-S", str(script)))
    monkeypatch.chdir(tmp_path)


def command(*words):
    cut = words.index("--") if "--" in words else len(words)
    return study.main([*words[:cut], "--seeds", "2", "--jobs", "4", *words[cut:]])


def outcome(name):
    return json.loads(Path(f"runs/study/{name}.json").read_text())


@pytest.mark.parametrize("figure", FIGURES)
def test_every_cell_is_a_setting_of_its_own_and_has_its_place(figure):
    for one in studies(figure, [1000, 100]):
        places = [(cell.row, cell.column, cell.x) for cell in one.cells]
        assert len(set(places)) == len(places)
        for claim in one.claims:
            for pair in claim.pairs:
                assert set(pair) <= set(one.cells)
                assert pair[0].name != pair[1].name
    # Without crossover its two kinds are the same runs.
    shared = 1 + 2 if figure == "fig5.3" else 0
    names = [cell.name for one in studies(figure, [100]) for cell in one.cells]
    assert len(names) - len(set(names)) == shared


def test_cells_are_named_by_what_differs_from_table_5_1():
    assert Cell({"population": 1000, "batch": 512}, "", "", "").name == "table-5.1"
    cell = Cell({"population": 100, "sigma_schedule": "self_adaptive", "alpha": 1.0}, "", "", "")
    assert cell.name == "population=100,sigma_schedule=self_adaptive"
    assert cell.flags == ("--population", "100", "--sigma-schedule", "self_adaptive")
    assert EAConfig(**cell.changes).population == 100


@pytest.mark.parametrize(
    ("figure", "name", "runs", "claims"),
    [
        ("fig5.1", "fig5.1", 18, [12, 12, 9]),
        ("fig5.2", "fig5.2", 20, [2, 2]),
        ("fig5.3", "fig5.3-100", 15, [6, 6, 2, 2]),
        ("fig5.4", "fig5.4-100", 4, [2]),
    ],
)
def test_a_study_runs_its_cells_and_tests_the_claims(figure, name, runs, claims, capsys):
    populations = ["100", "1000"] if figure in ("fig5.1", "fig5.2") else ["100"]
    assert command(figure, "--populations", *populations) == 0
    assert len(list(Path("runs/study").glob("*/seed-*/result.json"))) == 2 * runs
    found = outcome(name)
    assert [claim["of"] for claim in found["claims"]] == claims
    assert [claim["holds"] for claim in found["claims"]] == claims
    # Of two runs each, the least p is 1 / 6.
    assert all(claim["significant"] == 0 for claim in found["claims"])
    assert all(pair["p"] == 1 / 6 for claim in found["claims"] for pair in claim["pairs"])
    assert Path(f"runs/study/{name}.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"numbers  runs/study/{name}.json" in printed
    assert " ".join(found["claims"][0]["claim"].split()[:2]) in printed


def test_the_numbers_of_a_cell_and_of_a_pair():
    assert command("fig5.2", "--populations", "100") == 0
    found = outcome("fig5.2")
    cell = found["cells"][0]
    assert cell["settings"] == {"population": 100, "batch": 8, "truncation": 0.1}
    assert cell["seeds"] == [0, 1]
    assert cell[HOLDOUT]["values"] == pytest.approx([0.5418, 0.5419])
    assert cell[HOLDOUT]["median"] == pytest.approx(0.54185)
    pair = found["claims"][0]["pairs"][0]
    assert pair["greater"] == "population=100,batch=8,truncation=0.2"
    assert pair["gain"] == pytest.approx(0.55185 / 0.54185 - 1)


def test_three_seeds_can_be_significant(capsys):
    words = ["fig5.4", "--populations", "50", "--seeds", "3", "--jobs", "4"]
    assert study.main(words) == 0
    claim = outcome("fig5.4-50")["claims"][0]
    assert [pair["p"] for pair in claim["pairs"]] == [0.05, 0.05]
    assert claim["significant"] == 2
    assert "<= 0.05" in capsys.readouterr().out


def test_what_is_not_so_does_not_hold(monkeypatch):
    monkeypatch.setattr(study, "SIGNIFICANT", 0.9)
    assert command("fig5.4", "--populations", "50") == 0
    found = outcome("fig5.4-50")
    assert found["claims"][0]["metric"] == SIGMA
    assert found["claims"][0]["significant"] == 2
    runs = {cell.name: [] for cell in studies("fig5.4", [50])[0].cells}
    for name in runs:
        runs[name] = [study.read_run(Path(f"runs/study/{name}/seed-{s}")) for s in (0, 1)]
    claim = studies("fig5.4", [50])[0].claims[0]
    turned = study.Claim("no", tuple((less, more) for more, less in claim.pairs), SIGMA)
    assert study.tested(turned, runs)["holds"] == 0


def test_studies_share_runs_and_go_on_where_they_stopped(capsys):
    assert command("fig5.3", "--populations", "100") == 0
    capsys.readouterr()
    assert command("fig5.4", "--populations", "100") == 0
    assert "8 of 8 runs are finished already" in capsys.readouterr().out
    assert command("fig5.2", "--populations", "100") == 0
    assert "2 of 20 runs are finished already" in capsys.readouterr().out  # the table's own


def test_flags_for_all_runs_follow_after_two_dashes():
    arguments = ["fig5.4", "--populations", "9", "--seeds", "1", "--", "--log-every", "5"]
    assert study.main(arguments) == 0
    made = json.loads(Path("runs/study/repeat.json").read_text())["variants"]
    words = made["population=9,crossover_share=0.75,sigma_schedule=self_adaptive"]
    assert words[:4] == ["ea", "mnist", "--preset", "thesis-validation"]
    assert words[4:8] == ["--generations", "1000", "--log-every", "5"]
    assert study.main([*arguments, "--threads", "1"]) == 0  # threads change no bits
    with pytest.raises(
        ArgumentError, match=r"--log-every 5 .* as the runs in runs/study were made"
    ):
        study.main([*arguments[:-1], "6"])


def test_shares_of_crossover_may_be_others():
    assert command("fig5.4", "--populations", "9", "--shares", "0", "0.25") == 0
    assert sorted(path.name for path in Path("runs/study").iterdir() if path.is_dir()) == [
        "population=9,crossover_share=0.25,crossover=arithmetic,sigma_schedule=self_adaptive",
        "population=9,crossover_share=0.25,sigma_schedule=self_adaptive",
    ]
    names = [one.text for study in studies("fig5.3", [9], (0.0, 0.25)) for one in study.claims]
    assert names == ["uniform crossover helps", "arithmetic crossover helps"]


@pytest.mark.parametrize("shares", [["0.5", "0"], ["0.5", "0.75"], ["0"], ["0", "0.5", "0.5"]])
def test_shares_of_crossover_ascend_from_0(shares):
    with pytest.raises(ArgumentError, match="shares: expected ascending shares"):
        study.StudyCommand("fig5.3", shares=tuple(map(float, shares)))


@pytest.mark.parametrize(
    "word", ["--batch", "--generations=3", "--population", "--seed", "--run_dir=x"]
)
def test_flags_that_the_study_sets_are_refused(word):
    wanted = f"flags after --: expected flags other than those that fig5.1 sets, got {word}"
    with pytest.raises(ArgumentError, match=wanted):
        study.main(["fig5.1", "--", word, "3"])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--seeds", "0"], "seeds: expected at least 1, got 0"),
        (["--generations", "0"], "generations: expected at least 1, got 0"),
        (["--populations", "5", "5"], "populations: expected population sizes, each once"),
    ],
)
def test_numbers_that_are_none_are_refused(arguments, wanted, capsys):
    with pytest.raises(SystemExit):
        study.main(["fig5.1", *arguments])
    assert wanted in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not Path("runs").exists()


def test_finished_runs_keep_no_checkpoints():
    assert command("fig5.4", "--populations", "9") == 0
    assert not list(Path("runs/study").glob("*/*/checkpoints"))
    # Stopped between the end of a run and the deletion.
    left = next(Path("runs/study").glob("*/seed-0")) / "checkpoints"
    left.mkdir()
    (left / "000000002.json").write_text("{}")
    assert command("fig5.4", "--populations", "9") == 0
    assert not left.exists()


def test_another_scale_needs_another_folder():
    assert command("fig5.4", "--populations", "9") == 0
    with pytest.raises(ArgumentError, match="choose another folder by --out"):
        command("fig5.4", "--populations", "9", "--generations", "7")
    assert command("fig5.4", "--populations", "9", "--generations", "7", "--out", "other") == 0


def test_runs_of_an_archive_are_not_made_again(capsys):
    assert command("fig5.4", "--populations", "9", "--archive", "kept/runs.jsonl") == 0
    found = outcome("fig5.4-9")
    lines = Path("kept/runs.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert json.loads(lines[0])["name"].endswith("--sigma-schedule self_adaptive --seed 0")
    capsys.readouterr()
    arguments = ["fig5.4", "--populations", "9", "--out", "other", "--archive", "kept/runs.jsonl"]
    assert command(*arguments) == 0
    assert "8 of 8 runs are finished already" in capsys.readouterr().out
    assert Path("kept/runs.jsonl").read_text().splitlines() == lines
    fourth = [*arguments[:3], "--out", "fourth", *arguments[-2:], "--seeds", "2", "--jobs", "4"]
    assert study.main([*fourth, "--", "--threads", "1"]) == 0
    assert Path("kept/runs.jsonl").read_text().splitlines() == lines  # threads change no bits
    assert json.loads(Path("other/fig5.4-9.json").read_text()) == found
    five = ["fifth" if word == "fourth" else word for word in fourth]
    assert study.main([*five, "--", "--threads=1"]) == 0
    assert Path("kept/runs.jsonl").read_text().splitlines() == lines
    # Another command is another run.
    arguments = [*arguments[:3], "--generations", "7", "--out", "third", *arguments[-2:]]
    assert command(*arguments) == 0
    assert len(Path("kept/runs.jsonl").read_text().splitlines()) == 16


def test_settings_of_an_archived_run_are_those_of_the_command():
    arguments = ["fig5.4", "--populations", "9", "--archive", "runs.jsonl"]
    assert command(*arguments) == 0
    config = json.loads(Path("runs/study").glob("*/seed-0/config.json").__next__().read_text())
    assert "shift_share" not in config  # which came later
    assert command(*arguments, "--out", "other") == 0
    config = json.loads(Path("other").glob("*/seed-0/config.json").__next__().read_text())
    assert config["shift_share"] == 0
    archive = Path("runs.jsonl").read_text()
    Path("runs.jsonl").write_text(archive.replace('"generations": 1000', '"generations": 7'))
    with pytest.raises(CheckpointError, match="other settings: generations: 7 there, 1000 now"):
        command(*arguments, "--out", "third")


def test_an_archive_outlives_a_process_that_is_killed_while_it_adds():
    arguments = ["fig5.4", "--populations", "9", "--archive", "runs.jsonl"]
    assert command(*arguments) == 0
    whole = Path("runs.jsonl").read_text()
    for lost in (2, 3, 300):  # bytes of the last line
        Path("runs.jsonl").write_text(whole[:-lost])
        assert command(*arguments, "--out", f"other-{lost}") == 0
        assert sorted(Path("runs.jsonl").read_text()) == sorted(whole)
    assert len(Archive(Path("runs.jsonl"))._runs) == 8


def test_an_archive_keeps_its_last_run_when_an_editor_takes_the_last_newline():
    arguments = ["fig5.4", "--populations", "9", "--archive", "runs.jsonl"]
    assert command(*arguments) == 0
    _, *others = Path("runs.jsonl").read_text().splitlines()
    Path("runs.jsonl").write_text("\n".join([*others[1:], others[0]]))
    archive = Archive(Path("runs.jsonl"))
    assert len(archive._runs) == 7
    archive.add("again", next(Path("runs").glob("*/*/seed-0")))
    assert Path("runs.jsonl").read_text().splitlines()[:7] == [*others[1:], others[0]]
    assert len(Archive(Path("runs.jsonl"))._runs) == 8


def test_an_archive_that_is_none_is_named():
    Path("runs.jsonl").write_text('{"name": "x"}\n')
    with pytest.raises(CheckpointError, match=r"runs\.jsonl, line 1: expected a run of an archive"):
        command("fig5.4", "--populations", "9", "--archive", "runs.jsonl")
    Path("runs.jsonl").write_text("notes without an end")
    with pytest.raises(CheckpointError, match=r"runs\.jsonl, line 1: expected a run of an archive"):
        command("fig5.4", "--populations", "9", "--archive", "runs.jsonl")
    assert Path("runs.jsonl").read_text() == "notes without an end"
    Path("runs.jsonl").write_bytes(b"\xff\n\n")
    with pytest.raises(CheckpointError, match=r"runs\.jsonl, line 1: expected a run of an archive"):
        command("fig5.4", "--populations", "9", "--archive", "runs.jsonl")
    Path("folder").mkdir()
    with pytest.raises(
        CheckpointError, match="archive: expected a file, got folder, which is none"
    ):
        command("fig5.4", "--populations", "9", "--archive", "folder")


def test_an_archive_keeps_few_records():
    records = [{"generation": n} for n in range(1, 101)]
    assert [r["generation"] for r in thinned(records, 4)] == [1, 34, 67, 100]
    assert thinned(records[:3], 9) == records[:3]
    assert thinned(records[:1], 9) == records[:1]
    for most in range(2, 40):
        assert len(thinned(records, most)) <= most
    folder = Path("run")
    folder.mkdir()
    (folder / "config.json").write_text('{"format": 1}')
    (folder / "metrics.jsonl").write_text('{"generation": 1}\n')
    with pytest.raises(CheckpointError, match="run: the run is not finished"):
        Archive(Path("runs.jsonl")).add("name", folder)
    assert not Path("runs.jsonl").exists()
