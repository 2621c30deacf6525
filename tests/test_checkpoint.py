"""Checkpoints: round trips, the same bytes, and every kind of damage."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tiny
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from evokern import ops
from evokern.checkpoint import (
    Checkpoint,
    Rows,
    load_network,
    newest_checkpoint,
    open_checkpoint,
    read_rows,
    read_tensors,
    save_checkpoint,
    save_network,
    tidy,
)
from evokern.drivers.train import last_population, train
from evokern.errors import CheckpointError, DtypeError, ShapeError, StorageError
from evokern.population import allocate_genomes

TENSORS = {
    "bank": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fitness": np.array([np.nan, -np.inf, -0.0], np.float32),
    "parents": np.array([[2], [1]], np.int32),
    "one": np.array(7, np.uint64),
    "none": np.zeros((0, 5), np.float64),
}


def save(
    folder: Path, generation: int, *, keep: int = 2, run: str = "this", **tensors: Any
) -> Path:
    facts = {"seconds": 1.5, "lineages": {"seed": 2**63}}
    return save_checkpoint(folder, generation, tensors or TENSORS, facts, run=run, keep=keep)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    return newest_checkpoint(folder, run="this", read=lambda checkpoint: checkpoint)


def generations(folder: Path) -> list[int]:
    return [int(path.stem) for path in sorted(folder.glob("*.json"))]


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a checkpoint's JSON as if evokern had written it so, with the right digest."""
    description = json.loads(path.read_text())
    del description["own_sha256"]
    change(description)
    text = json.dumps(description, sort_keys=True)
    description["own_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(description))


def test_a_checkpoint_gives_back_what_it_got(tmp_path):
    path = save(tmp_path, 7)
    assert path == tmp_path / "000000007.json"
    checkpoint, skipped = newest(tmp_path)
    assert skipped == []
    assert checkpoint.step == 7
    assert checkpoint.facts == {"seconds": 1.5, "lineages": {"seed": 2**63}}
    tensors = read_tensors(checkpoint)
    assert sorted(tensors) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert tensors[name].tobytes() == tensor.tobytes()  # NaN and -0 as well


def test_tensors_of_one_prefix(tmp_path):
    array = np.zeros(1, np.int32)
    save(tmp_path, 1, **{"sigma": array, "lineages.sigma": array + 1, "lineages.n": array + 2})
    checkpoint, _ = newest(tmp_path)
    assert read_tensors(checkpoint, prefix="lineages.") == {"sigma": [1], "n": [2]}


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 130])
def test_rows_of_a_bank_are_written_in_order_without_padding(tmp_path, n):
    bank = allocate_genomes(131, 33)
    bank[:] = np.arange(131 * 33, dtype=np.float32).reshape(131, 33)
    rows = np.random.default_rng(n).permutation(131)[:n].astype(np.int32)
    save(tmp_path, 1, genomes=Rows(bank, rows))
    checkpoint, _ = newest(tmp_path)
    assert checkpoint.tensors.stat().st_size < n * 33 * 4 + 100
    out = allocate_genomes(n, 33)
    read_rows(checkpoint, "genomes", out)
    assert_array_equal(out, bank[rows])


def test_the_file_is_the_one_of_the_safetensors_library(tmp_path):
    save_checkpoint(tmp_path, 1, TENSORS, {}, run="this")
    read = safetensors.numpy.load_file(tmp_path / "000000001.safetensors")
    assert sorted(read) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].tobytes() == tensor.tobytes()


def test_the_same_state_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name, 3)
    for suffix in ("json", "safetensors"):
        a, b = (tmp_path / name / f"000000003.{suffix}" for name in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()


def test_the_format_is_a_public_contract(tmp_path):
    path = save_checkpoint(
        tmp_path, 12, {"a": np.array([1, -1], np.int32)}, {"seconds": 0.5}, run="r"
    )
    header = b'{"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}  '
    content = b"\x38" + bytes(7) + header + b"\x01\0\0\0\xff\xff\xff\xff"
    assert path.with_suffix(".safetensors").read_bytes() == content
    description = json.loads(path.read_text())
    own = (
        '{"facts": {"seconds": 0.5}, "format": 1, "run": "r", "sha256": "'
        f'{hashlib.sha256(content).hexdigest()}", "step": 12, "tensors": "000000012.safetensors"}}'
    )
    assert description.pop("own_sha256") == hashlib.sha256(own.encode()).hexdigest()
    assert description == json.loads(own)


def test_only_the_newest_stay(tmp_path):
    for generation in (1, 2, 10, 30):
        save(tmp_path, generation, keep=2)
    assert tiny.names(tmp_path) == [
        f"{number}.{suffix}"
        for number in ("000000010", "000000030")
        for suffix in ("json", "safetensors")
    ]


def test_generations_are_numbers_and_not_names(tmp_path):
    save(tmp_path, 999_999_999)
    save(tmp_path, 1_000_000_000)
    assert newest(tmp_path)[0].step == 1_000_000_000


def test_what_killed_processes_left_is_deleted(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".000000002.safetensors.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / ".000000002.json.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / "000000002.safetensors").write_bytes(b"without its JSON")
    (tmp_path / ".mine.tmp").write_text("not of evokern")
    (tmp_path / "notes.json").write_text("not of evokern")
    (tmp_path / "notes.safetensors").write_text("not of evokern")
    assert newest(tmp_path)[0].step == 1
    tidy(tmp_path, 1)
    assert tiny.names(tmp_path) == [
        ".mine.tmp",
        "000000001.json",
        "000000001.safetensors",
        "notes.json",
        "notes.safetensors",
    ]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_newer_checkpoint_pushes_nothing_out(tmp_path, keep):
    for generation in (50, 100):
        save(tmp_path, generation)
    (tmp_path / "000000100.safetensors").write_bytes(b"")
    assert newest(tmp_path)[0].step == 50
    save(tmp_path, 75, keep=keep)
    assert newest(tmp_path)[0].step == 75
    assert generations(tmp_path) == [50, 75, 100][2 - keep :]
    save(tmp_path, 100, keep=keep)
    assert newest(tmp_path)[0].step == 100


def test_no_folder_and_an_empty_folder_have_no_checkpoint(tmp_path):
    assert newest(tmp_path / "none") == (None, [])
    assert newest(tmp_path) == (None, [])


# Damage. Every kind of it on the newest of two checkpoints: the other one is used.


def truncated(size: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:size])

    return damage


def missing(path: Path) -> None:
    path.unlink()


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_generation(path: Path) -> None:
    shutil.copy(path.with_name(path.name.replace("2", "1")), path)


DAMAGES = [missing, longer, zeroed, a_folder, of_another_generation]


@pytest.mark.parametrize("damage", [*DAMAGES, *map(truncated, (0, 1, 7, 8, 9, 100, 300, -1))])
def test_damaged_tensors_are_skipped(tmp_path, damage):
    save(tmp_path, 1)
    save(tmp_path, 2, other=np.arange(90))
    damage(tmp_path / "000000002.safetensors")
    checkpoint, (why,) = newest(tmp_path)
    assert checkpoint.step == 1
    assert "000000002" in why


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b"7",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"format": 1}',
        b'{"format": NaN}',
        b'{"format": {}, "own_sha256": []}',
        b"9" * 10_000,
    ],
)
def test_a_garbled_description_is_skipped(tmp_path, content):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    path.write_bytes(content)
    checkpoint, (why,) = newest(tmp_path)
    assert checkpoint.step == 1
    assert str(path) in why


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, suffix):
    path = save(tmp_path, 1)
    damaged = path.with_suffix(suffix)
    content = damaged.read_bytes()
    for size in range(len(content) - 1):  # all but the newline at the end of the JSON
        damaged.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=rf"000000001\{suffix}: "):
            open_checkpoint(path, run="this")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("saved"), 5)


@given(st.data())
def test_a_flipped_byte_is_refused_or_changes_nothing(saved, data):
    path = saved.with_suffix(data.draw(st.sampled_from([".json", ".safetensors"])))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[place] ^= data.draw(st.integers(1, 255))
    unharmed = open_checkpoint(saved, run="this")
    path.write_bytes(flipped)
    try:
        with suppress(CheckpointError):
            assert open_checkpoint(saved, run="this") == unharmed
            assert path.suffix == ".json"
            assert content[place : place + 1].isspace()
    finally:
        path.write_bytes(content)


def test_every_digit_of_a_description_counts(tmp_path):
    path = save(tmp_path, 1)
    content = path.read_bytes()
    for place, byte in enumerate(content):
        if chr(byte).isalnum():
            path.write_bytes(
                content[:place] + (b"1" if byte != ord("1") else b"2") + content[place + 1 :]
            )
            with pytest.raises(CheckpointError):
                open_checkpoint(path, run="this")


def test_a_checkpoint_of_another_run_is_skipped(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 9, run="another")
    checkpoint, (why,) = newest(tmp_path)
    assert checkpoint.step == 1
    assert why == f"{tmp_path}/000000009.json: it belongs to a run with another config.json"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (2, "expected format 1, found 2: a newer evokern wrote it"),
        (0, "expected format 1, found 0: no such format is known"),
        ("1", "expected format 1, found '1': no such format is known"),
    ],
)
def test_a_checkpoint_of_another_format_is_skipped_and_stays(tmp_path, found, why):
    save(tmp_path, 1)
    path = save(tmp_path, 9)
    rewrite(path, lambda description: description.update(format=found))
    checkpoint, skipped = newest(tmp_path)
    assert checkpoint.step == 1
    assert skipped == [f"{path}: {why}"]
    for generation in (2, 3):
        save(tmp_path, generation)
    assert generations(tmp_path) == [2, 3, 9]


@pytest.mark.parametrize("name", ["../x", "", ".", "/etc/passwd", 5, None, [], "none.safetensors"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    path = save(tmp_path, 1)
    rewrite(path, lambda description: description.update(tensors=name))
    with pytest.raises(CheckpointError, match=r"000000001\.json: not a whole checkpoint"):
        open_checkpoint(path, run="this")


@pytest.mark.parametrize("entry", ["format", "run", "step", "tensors", "sha256", "facts"])
def test_a_missing_entry_is_refused(tmp_path, entry):
    path = save(tmp_path, 1)
    rewrite(path, lambda description: description.pop(entry))
    with pytest.raises(CheckpointError, match=entry):
        open_checkpoint(path, run="this")


def test_without_a_whole_checkpoint_all_reasons_are_told(tmp_path):
    for generation in (1, 2):
        save(tmp_path, generation).write_text("garbled")
    with pytest.raises(CheckpointError, match="no checkpoint can be used") as error:
        newest(tmp_path)
    for words in ("000000001.json", "000000002.json", "remove the folder to start anew"):
        assert words in str(error.value)
    assert len(tiny.names(tmp_path)) == 4  # nothing was deleted


def test_tensors_of_another_kind_are_refused_with_both_kinds(tmp_path):
    save(tmp_path, 1, genomes=np.zeros((3, 4), np.float32))
    checkpoint, _ = newest(tmp_path)
    for out, words in (
        (np.zeros((3, 5), np.float32), r"expected genomes F32 \[3, 5\], got genomes F32 \[3, 4\]"),
        (np.zeros(12, np.float32), r"expected genomes F32 \[12\], got genomes F32 \[3, 4\]"),
        (np.zeros((3, 4), np.float64), r"expected genomes F64 \[3, 4\], got genomes F32"),
    ):
        with pytest.raises(CheckpointError, match=words):
            read_rows(checkpoint, "genomes", out)
    with pytest.raises(CheckpointError, match=r"expected a tensor sigma, got \['genomes'\]"):
        read_rows(checkpoint, "sigma", np.zeros(3, np.float32))


def test_what_was_no_safetensors_file_from_the_start_is_skipped(tmp_path):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    path.with_suffix(".safetensors").write_bytes(b"anything")
    digest = hashlib.sha256(b"anything").hexdigest()
    rewrite(path, lambda description: description.update(sha256=digest))
    tensors, (why,) = newest_checkpoint(tmp_path, run="this", read=read_tensors)
    assert sorted(tensors) == sorted(TENSORS)
    assert "000000002.json: its tensors cannot be read" in why


def test_a_folder_that_is_a_file_cannot_be_written_to(tmp_path):
    path = tmp_path / "checkpoints"
    path.write_text("")
    with pytest.raises(StorageError, match="checkpoints: cannot be written: File exists"):
        save(path, 1)
    assert newest(path) == (None, [])


def test_tensors_of_unknown_types_are_refused(tmp_path):
    with pytest.raises(DtypeError, match=r"half: expected one of float32, .*, got float16"):
        save(tmp_path, 1, half=np.zeros(3, np.float16))
    with pytest.raises(DtypeError, match=r"swapped: expected one of float32, .*, got >f4"):
        save(tmp_path, 1, swapped=np.zeros(3, ">f4"))
    assert tiny.names(tmp_path) == []


# The same through a run.


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    with tiny.quickly():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at 4 and 6."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(tiny.problem(), tiny.config(lineages=True), folder, tiny.OPTIONS)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it without its result, so that it goes on."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "result.json").unlink()
    return folder


def test_a_run_goes_on_from_the_newest_whole_checkpoint(run, finished, capsys):
    newest = run / "checkpoints" / "000000006.safetensors"
    truncated(100)(newest)
    train(tiny.problem(), tiny.config(lineages=True), run, tiny.OPTIONS)
    assert f"skipped a checkpoint: {newest}: expected SHA-256 " in capsys.readouterr().out
    assert tiny.outcome(run) == tiny.outcome(finished)
    assert tiny.names(run) == tiny.names(finished)


def test_a_run_without_any_whole_checkpoint_is_refused(run):
    for path in (run / "checkpoints").glob("*.json"):
        path.write_text("{")
    before = tiny.names(run)
    with pytest.raises(CheckpointError, match="no checkpoint can be used"):
        train(tiny.problem(), tiny.config(lineages=True), run, tiny.OPTIONS)
    assert tiny.names(run) == before


def test_a_run_without_its_checkpoints_begins_anew(run, finished):
    shutil.rmtree(run / "checkpoints")
    train(tiny.problem(), tiny.config(lineages=True), run, tiny.OPTIONS)
    assert tiny.outcome(run) == tiny.outcome(finished)


def test_a_checkpoint_of_other_shapes_is_skipped(run, finished, tmp_path, capsys):
    """As a broken evokern could have written it: whole, of this run, and of another population."""
    other = tmp_path / "other"
    train(tiny.problem(), tiny.config(lineages=True, population=9), other, tiny.OPTIONS)
    ours = json.loads((run / "checkpoints" / "000000006.json").read_text())["run"]
    for suffix in ("json", "safetensors"):
        name = f"000000006.{suffix}"
        shutil.copy(other / "checkpoints" / name, run / "checkpoints" / name)
    rewrite(run / "checkpoints" / "000000006.json", lambda text: text.update(run=ours))
    train(tiny.problem(), tiny.config(lineages=True), run, tiny.OPTIONS)
    words = "000000006.safetensors: expected genomes F32 [8, 51], got genomes F32 [9, 51]"
    assert words in capsys.readouterr().out
    assert tiny.outcome(run) == tiny.outcome(finished)


@pytest.mark.parametrize(
    "facts", [{}, {"seconds": 1.0}, {"lineages": {}}, {"seconds": 1.0, "lineages": {"format": 9}}]
)
def test_a_checkpoint_of_other_facts_is_skipped(run, finished, capsys, facts):
    path = run / "checkpoints" / "000000006.json"
    rewrite(path, lambda description: description.update(facts=facts))
    train(tiny.problem(), tiny.config(lineages=True), run, tiny.OPTIONS)
    assert "skipped a checkpoint: " in capsys.readouterr().out
    assert tiny.outcome(run) == tiny.outcome(finished)


@pytest.mark.parametrize("generation", [4, 6])
def test_lineages_of_a_checkpoint_replay_its_genomes(run, generation):
    if generation == 4:
        (run / "checkpoints" / "000000006.json").unlink()
    population = last_population(run)
    assert_array_equal(
        ops.replay(population.lineages, tiny.NETWORK.layout).view(np.uint32),
        population.genomes[population.rows].view(np.uint32),
    )


@pytest.mark.parametrize(
    ("genomes", "got"),
    [
        (np.zeros((3, 51)), r"float64 \[3, 51\]"),
        (np.zeros((3, 5), np.float32), r"float32 \[3, 5\]"),
        (np.zeros((1, 3, 51), np.float32), r"float32 \[1, 3, 51\]"),
        ([0.0] * 51, "list"),
    ],
)
def test_genomes_that_are_not_the_networks_are_not_saved(genomes, got, tmp_path):
    path = tmp_path / "model.safetensors"
    save_network(path, tiny.NETWORK, np.zeros(51, np.float32))
    with pytest.raises(ShapeError, match=rf"^genomes: .* \[G=51\] or \[n, G\], got {got}$"):
        save_network(path, tiny.NETWORK, genomes)
    assert load_network(path)[1]["genomes"].shape == (51,)
