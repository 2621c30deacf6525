"""A full disk: a clear error, the last checkpoint intact, and the run goes on afterwards."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import tiny

from evokern import files
from evokern.__main__ import main
from evokern.checkpoint import newest_checkpoint, read_tensors
from evokern.drivers.train import train
from evokern.errors import StorageError
from evokern.metrics import MetricsFile, read_metrics
from evokern.plots import plot_curve
from evokern.problems import datasets

real_write = files.write


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    with tiny.quickly():
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run(folder)
    return folder


@pytest.fixture
def memory() -> Iterator[Path]:
    with tiny.memory() as folder:
        yield folder


def run(folder: Path) -> None:
    with redirect_stdout(io.StringIO()):
        train(tiny.problem(), tiny.config(lineages=True), folder, tiny.OPTIONS)


@contextmanager
def full_after(writes: int, *, half: bool = False) -> Iterator[None]:
    """The disk is full from the write after ``writes`` on, of which a half may still fit."""
    calls = 0

    def write(file: BinaryIO, content: files.Content) -> None:
        nonlocal calls
        calls += 1
        if calls <= writes:
            return real_write(file, content)
        if half:
            real_write(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write = write
    try:
        yield
    finally:
        files.write = real_write


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel lets no file of this process grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_many_may_write_one_file(tmp_path: Path) -> None:
    """Readers find what one of them wrote, whole."""
    path = tmp_path / "file"
    contents = [bytes([letter]) * 300_000 for letter in b"abcd"]
    files.replace_file(path, contents[0])
    with ThreadPoolExecutor(4) as pool:
        writers = [
            pool.submit(lambda c=content: [files.replace_file(path, c) for _ in range(20)])
            for content in contents
        ]
        while not all(writer.done() for writer in writers):
            assert path.read_bytes() in contents
        for writer in writers:
            writer.result()
    assert list(tmp_path.iterdir()) == [path]


def assert_intact(folder: Path) -> None:
    """No temporary file takes the room that lacks, and every checkpoint there is can be read."""
    assert not [name for name in tiny.names(folder) if name.endswith(".tmp")]
    for path in (folder / "checkpoints").glob("*.json"):
        digest = json.loads(path.read_text())["run"]
        state, skipped = newest_checkpoint(path.parent, run=digest, read=read_tensors)
        assert state["genomes"].shape == (8, 51)
        assert not skipped


@pytest.mark.parametrize("half", [False, True])
def test_full_at_every_write(unbroken, memory, half):
    for n in count():
        folder = memory / str(n)
        try:
            with full_after(n, half=half):
                run(folder)
            break
        except StorageError as error:
            text = str(error)
        assert text.startswith(f"{folder}/")
        assert ": cannot be written: No space left on device; what was saved before is" in text
        assert_intact(folder)
        run(folder)
        assert tiny.outcome(folder) == tiny.outcome(unbroken)
        assert tiny.names(folder) == tiny.names(unbroken)
    assert n > 40


@pytest.mark.parametrize("writes", [0, 1, 7])
def test_full_again_and_again_loses_nothing(unbroken, tmp_path, writes):
    with full_after(30), pytest.raises(StorageError):
        run(tmp_path)
    saved = tiny.names(tmp_path / "checkpoints")
    assert "000000004.json" in saved
    for _ in range(3):
        with full_after(writes), pytest.raises(StorageError):
            run(tmp_path)
        assert_intact(tmp_path)
        assert tiny.names(tmp_path / "checkpoints") == saved
    run(tmp_path)
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)


def test_a_limit_on_file_sizes(unbroken, memory):
    """Real errors of the kernel, which writes what still fits first."""
    largest = max((unbroken / name).stat().st_size for name in tiny.names(unbroken))
    failures = 0
    for size in range(0, largest, 173):
        folder = memory / str(size)
        try:
            with largest_file(size):
                run(folder)
        except StorageError as error:
            text = str(error)
            failures += 1
        assert ": cannot be written: File too large; " in text
        assert_intact(folder)
        run(folder)
        assert tiny.outcome(folder) == tiny.outcome(unbroken)
        assert tiny.names(folder) == tiny.names(unbroken)
    assert failures > 10


def test_a_picture_that_does_not_fit_is_drawn_later(unbroken, tmp_path, monkeypatch):
    largest = max((unbroken / name).stat().st_size for name in tiny.names(unbroken))
    monkeypatch.setattr("evokern.drivers.watch.plot_curve", plot_curve)
    with (
        largest_file(largest),
        pytest.raises(StorageError, match=r"curves\.png: cannot be written"),
    ):
        run(tmp_path)
    assert not (tmp_path / "result.json").exists()
    run(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert tiny.outcome(tmp_path) == tiny.outcome(unbroken)


def test_a_record_that_fits_in_part_is_an_error_and_no_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = [{"generation": n, "text": "x" * 100} for n in range(3)]
    metrics = MetricsFile(path)
    metrics.write(records[0])
    with largest_file(200), pytest.raises(StorageError, match="File too large"):
        metrics.write(records[1])
    metrics.close()
    assert path.stat().st_size == 200
    assert read_metrics(path) == records[:1]
    metrics = MetricsFile(path, 2)
    metrics.write(records[2])
    metrics.close()
    assert read_metrics(path) == [records[0], records[2]]


def test_the_command_says_it_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "load", lambda name: tiny.dataset())
    command = ["ea", "digits", "--run-dir", str(tmp_path / "run"), "--generations", "2"]
    command += ["--population", "4", "--batch", "4"]
    with full_after(4):
        assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("evokern ea: ")
    assert captured.err.count("\n") == 1
    assert "No space left on device" in captured.err
    assert main(command) == 0


def test_a_terminal_that_is_gone_stops_no_run(tmp_path, monkeypatch):
    """Standard output on a full disk, or a pipe that nobody reads."""
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("no /dev/full")
    file = full.open("w")
    monkeypatch.setattr("sys.stdout", file)
    result = train(tiny.problem(), tiny.config(), tmp_path, tiny.OPTIONS)
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space"):
        file.close()
    assert result.generations == 6


def test_write_writes_all_that_an_unbuffered_file_takes_in_pieces():
    class Slow(io.RawIOBase):
        content = b""

        def writable(self) -> bool:
            return True

        def write(self, piece: memoryview) -> int:
            self.content += bytes(piece[:3])
            return min(3, len(piece))

    for content in (b"", b"1", b"1234567", memoryview(np.arange(5, dtype=np.uint8).tobytes())):
        file = Slow()
        files.write(file, content)
        assert file.content == bytes(content)


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        ("ENOSPC", "what was saved before is intact; make room and give the same command again"),
        ("EDQUOT", "what was saved before is intact; make room and give the same command again"),
        ("EFBIG", "what was saved before is intact; make room and give the same command again"),
        ("EEXIST", "it is a file; choose another folder"),
        ("ENOTDIR", "a part of its path is a file; choose another folder"),
        ("EISDIR", "it is a folder; choose another name"),
        ("ENOENT", "create the folder first"),
        ("EACCES", "no right to write there; choose another folder"),
        ("EPERM", "no right to write there; choose another folder"),
        ("EROFS", "no right to write there; choose another folder"),
        ("ENAMETOOLONG", "choose a shorter name"),
        ("EIO", "choose another folder"),
    ],
)
def test_the_mend_fits_the_reason(code, mend):
    number = getattr(errno, code)
    text = str(files.storage_error(Path("run"), OSError(number, os.strerror(number))))
    assert text.startswith(f"run: cannot be written: {os.strerror(number)}; {mend}")
    assert ("intact" in text) == (code in ("ENOSPC", "EDQUOT", "EFBIG"))
    assert "choose" in str(files.storage_error(Path("run"), OSError("no number")))


def test_a_name_that_is_too_long_is_a_storage_error(tmp_path):
    folder = tmp_path / ("x" * 300)
    with pytest.raises(StorageError, match="File name too long; choose a shorter name"):
        files.make_folder(folder)
    with pytest.raises(StorageError, match="File name too long; choose a shorter name"):
        files.make_folder(folder / "below")
    for name in ("x" * 255, "x" * 300):  # the temporary name of the first is too long
        with pytest.raises(StorageError, match="File name too long; choose a shorter name"):
            files.replace_file(tmp_path / name, b"1")
    with pytest.raises(StorageError, match="File name too long; choose a shorter name"):
        files.open_to_append(folder)
    with pytest.raises(StorageError, match="File name too long"), files.locked(folder):
        pass
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_in_the_way_are_named_as_such(tmp_path):
    path = tmp_path / "mine"
    path.write_text("mine")
    with pytest.raises(StorageError, match=r"mine: .* it is a file; choose another folder"):
        files.make_folder(path)
    with pytest.raises(StorageError, match="a part of its path is a file; choose another folder"):
        files.make_folder(path / "below")
    with pytest.raises(StorageError, match="create the folder first"):
        files.replace_file(tmp_path / "none" / "file", b"1")
    with pytest.raises(StorageError, match="it is a folder; choose another name"):
        files.replace_file(tmp_path, b"1")


@pytest.mark.parametrize("word", ["--version", "--help", "plot"])
def test_output_that_cannot_be_written_is_told_without_a_traceback(word):
    words = [word, "--help"] if word == "plot" else [word]
    command = [sys.executable, "-m", "evokern", *words]
    with open("/dev/full", "w") as full:
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert told.returncode == 1
    assert told.stderr == f"evokern {word}: [Errno 28] No space left on device\n"


def test_no_output_is_none_that_fails():
    command = f"{sys.executable} -m evokern --version >&-"
    told = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
