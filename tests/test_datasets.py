"""Data sets: the cache and its checks, the command. Nothing goes online."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from evokern.commands.training import problem_of
from evokern.errors import ArgumentError, DataError
from evokern.problems import datasets
from evokern.problems.catalogue import IDX_SETS, IdxSet
from evokern.problems.classification import ClassificationConfig
from evokern.problems.datasets import Dataset, cache_dir, holdout_split, load, main, mean_image
from evokern.problems.fetch import RawFile, SourceError

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def pixels(count: int, first: int) -> np.ndarray:
    return (np.arange(count * 784).reshape(count, 28, 28) * 7 + first).astype(np.uint8)


ARRAYS = (pixels(4, 1), np.array([3, 0, 9, 3]), pixels(2, 5), np.array([1, 8]))
CONTENTS = {name: idx_bytes(array) for name, array in zip(NAMES, ARRAYS, strict=True)}


@dataclass(frozen=True)
class FakeSource:
    """Hands over ``contents`` until ``failure``, which comes before file number ``fails_at``."""

    contents: dict[str, bytes] = field(default_factory=lambda: CONTENTS)
    failure: BaseException | None = None
    fails_at: int = 0
    asked: list[list[str]] = field(default_factory=list)

    def __str__(self) -> str:
        return "fake source"

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        self.asked.append([file.name for file in files])
        for number, file in enumerate(files):
            if self.failure is not None and number == self.fails_at:
                raise self.failure
            yield file, self.contents[file.name]


@pytest.fixture
def add_set(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts the row "tiny" into the table, with the given sources."""

    def add(*mirrors: FakeSource, index: tuple[FakeSource, ...] = ()) -> None:
        row = IdxSet(
            train=4,
            test=2,
            classes=10,
            sha256=tuple(hashlib.sha256(CONTENTS[name]).hexdigest() for name in NAMES),
            sources={"mirrors": mirrors, "index": index},
            publisher="the tests",
        )
        monkeypatch.setitem(IDX_SETS, "tiny", row)

    return add


def fill(folder: Path) -> None:
    (folder / "tiny").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (folder / "tiny" / name).write_bytes(content)


def stored(folder: Path) -> list[str]:
    """All files below the folder, hidden ones too."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def check_tiny(data: Dataset) -> None:
    got = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    for array, expected in zip(got, ARRAYS, strict=True):
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, expected)


class TestTable:
    def test_sizes_follow_from_the_counts(self) -> None:
        for name in ("mnist", "fashion-mnist"):
            sizes = {file.name: file.size for file in IDX_SETS[name].files}
            assert sizes == dict(zip(NAMES, (47_040_016, 60_008, 7_840_016, 10_008), strict=True))

    def test_digests_are_sha256_and_all_different(self) -> None:
        digests = [digest for row in IDX_SETS.values() for digest in row.sha256]
        assert len(set(digests)) == len(digests)
        assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)


class TestCacheDir:
    def test_evokern_data_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVOKERN_DATA", "/a")
        monkeypatch.setenv("XDG_CACHE_HOME", "/b")
        assert cache_dir() == Path("/a")

    def test_evokern_data_may_name_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVOKERN_DATA", "~/a")
        monkeypatch.setenv("HOME", "/c")
        assert cache_dir() == Path("/c/a")

    def test_then_the_users_cache_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVOKERN_DATA", "")
        monkeypatch.setenv("XDG_CACHE_HOME", "/b")
        assert cache_dir() == Path("/b/evokern/data")

    def test_then_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("EVOKERN_DATA", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/c")
        assert cache_dir() == Path("/c/.cache/evokern/data")

    def test_no_home_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("EVOKERN_DATA", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", no_home)
        with pytest.raises(DataError, match=r"Could not determine home.*; set EVOKERN_DATA"):
            cache_dir()


class TestLoad:
    def test_fetches_once(self, tmp_path: Path, add_set: Callable[..., None]) -> None:
        source = FakeSource()
        add_set(source)
        data = load("tiny", cache=tmp_path)
        check_tiny(data)
        assert (data.name, data.classes, data.source) == ("tiny", 10, "the tests")
        for name in NAMES:
            assert (tmp_path / "tiny" / name).read_bytes() == CONTENTS[name]
        assert stored(tmp_path) == sorted(NAMES)

        check_tiny(load("tiny", cache=tmp_path))
        check_tiny(load("tiny", cache=tmp_path, download=False))
        assert source.asked == [list(NAMES)]

    def test_a_command_says_whom_it_asks(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        add_set: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("EVOKERN_DATA", str(tmp_path))
        add_set(FakeSource())
        for told in ("tiny: asking fake source for 4 files\n", ""):
            with pytest.raises(ArgumentError, match="train_share"):  # of four images
                problem_of("tiny", ClassificationConfig(batch=1), seed=1, threads=None)
            assert capsys.readouterr().err == told

    def test_default_cache_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add_set: Callable[..., None]
    ) -> None:
        monkeypatch.setenv("EVOKERN_DATA", str(tmp_path))
        add_set(FakeSource())
        load("tiny")
        assert stored(tmp_path / "tiny") == sorted(NAMES)

    def test_arrays_are_the_callers_own(self, tmp_path: Path, add_set: Callable[..., None]) -> None:
        fill(tmp_path)
        add_set()
        data = load("tiny", cache=tmp_path)
        data.train_images[0] = 0
        check_tiny(load("tiny", cache=tmp_path))

    def test_missing_file(self, tmp_path: Path, add_set: Callable[..., None]) -> None:
        source = FakeSource()
        add_set(source)
        with pytest.raises(DataError, match="expected a file, got none; load with download=True"):
            load("tiny", cache=tmp_path, download=False)
        assert source.asked == []
        assert stored(tmp_path) == []

    @pytest.mark.parametrize(
        ("damage", "fault"),
        [
            (lambda content: content[:-1] + b"\xff", "expected SHA-256 {expected}, got {actual}"),
            (lambda content: content[:-1], "expected 3152 bytes, got 3151"),
            (lambda content: content + b"\x00", "expected 3152 bytes, got more"),
            (lambda content: b"", "expected 3152 bytes, got 0"),
        ],
        ids=["changed", "truncated", "longer", "empty"],
    )
    def test_corrupt_file(
        self,
        damage: Callable[[bytes], bytes],
        fault: str,
        tmp_path: Path,
        add_set: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fill(tmp_path)
        path = tmp_path / "tiny" / NAMES[0]
        bad = damage(CONTENTS[NAMES[0]])
        path.write_bytes(bad)
        source = FakeSource()
        add_set(source)
        fault = fault.format(
            expected=IDX_SETS["tiny"].sha256[0], actual=hashlib.sha256(bad).hexdigest()
        )

        with pytest.raises(DataError) as caught:
            load("tiny", cache=tmp_path, download=False)
        assert str(caught.value).startswith(f"{path}: {fault}; load with download=True")
        assert path.read_bytes() == bad

        with caplog.at_level(logging.WARNING):
            check_tiny(load("tiny", cache=tmp_path))
        assert caplog.messages == [f"{path}: {fault}; fetching it again"]
        assert source.asked == [[NAMES[0]]]
        assert path.read_bytes() == CONTENTS[NAMES[0]]

    def test_sources_are_asked_in_order(self, tmp_path: Path, add_set: Callable[..., None]) -> None:
        mirror, package = FakeSource(failure=SourceError("closed")), FakeSource()
        add_set(mirror, index=(package,))
        load("tiny", cache=tmp_path / "both")
        assert (len(mirror.asked), len(package.asked)) == (1, 1)
        load("tiny", cache=tmp_path / "index", sources=["index"])
        assert (len(mirror.asked), len(package.asked)) == (1, 2)
        load("tiny", cache=tmp_path / "turned", sources=["index", "mirrors"])
        assert (len(mirror.asked), len(package.asked)) == (1, 3)

    def test_unknown_name(self) -> None:
        with pytest.raises(ArgumentError, match=r"name: expected one of \['mnist', .*'minst'"):
            load("minst")

    def test_unknown_kind_of_source(self) -> None:
        with pytest.raises(ArgumentError, match=r"sources: .*'mirrors', 'index'.*got 'web'"):
            load("mnist", sources=["web"])


class TestFailingSources:
    def test_interrupted_download_is_taken_up_by_the_next(
        self, tmp_path: Path, add_set: Callable[..., None]
    ) -> None:
        first, second = FakeSource(failure=SourceError("hung up"), fails_at=2), FakeSource()
        add_set(first, second)
        check_tiny(load("tiny", cache=tmp_path))
        assert first.asked == [list(NAMES)]
        assert second.asked == [list(NAMES[2:])]

    @pytest.mark.parametrize("failure", [SourceError("hung up"), KeyboardInterrupt()])
    def test_interrupted_download_leaves_whole_files_only(
        self, failure: BaseException, tmp_path: Path, add_set: Callable[..., None]
    ) -> None:
        add_set(FakeSource(failure=failure, fails_at=1))
        expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else DataError
        with pytest.raises(expected):
            load("tiny", cache=tmp_path)
        assert stored(tmp_path) == [NAMES[0]]
        assert (tmp_path / "tiny" / NAMES[0]).read_bytes() == CONTENTS[NAMES[0]]

    @pytest.mark.parametrize("failure", [OSError("disk is full"), KeyboardInterrupt()])
    @pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
    def test_interrupted_write_leaves_nothing(
        self,
        owner: object,
        step: str,
        failure: BaseException,
        tmp_path: Path,
        add_set: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(*arguments: object) -> None:
            raise failure

        monkeypatch.setattr(owner, step, fail)
        add_set(FakeSource())
        expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else DataError
        with pytest.raises(expected, match=r"disk is full|^$"):
            load("tiny", cache=tmp_path)
        assert stored(tmp_path) == []

    def test_corrupt_download_is_not_stored(
        self, tmp_path: Path, add_set: Callable[..., None]
    ) -> None:
        wrong = bytes(len(CONTENTS[NAMES[1]]))
        source = FakeSource(contents={**CONTENTS, NAMES[1]: wrong})
        add_set(source)
        digest = hashlib.sha256(wrong).hexdigest()
        with pytest.raises(DataError, match=f"{NAMES[1]}: expected SHA-256 .*, got {digest}"):
            load("tiny", cache=tmp_path)
        assert stored(tmp_path) == [NAMES[0]]

    def test_corrupt_cache_stays_until_the_download_is_whole(
        self, tmp_path: Path, add_set: Callable[..., None]
    ) -> None:
        fill(tmp_path)
        path = tmp_path / "tiny" / NAMES[0]
        path.write_bytes(b"old")
        add_set(FakeSource(failure=SourceError("closed")))
        with pytest.raises(DataError):
            load("tiny", cache=tmp_path)
        assert path.read_bytes() == b"old"

    def test_message_when_all_fail(self, tmp_path: Path, add_set: Callable[..., None]) -> None:
        add_set(
            FakeSource(failure=SourceError("no route"), fails_at=3),
            index=(FakeSource(failure=SourceError("no such package")),),
        )
        with pytest.raises(DataError) as caught:
            load("tiny", cache=tmp_path)
        assert str(caught.value) == (
            "tiny: expected t10k-labels-idx1-ubyte from one of 2 sources, got fake source "
            "(no route); fake source (no such package); put the unpacked files, named so, into "
            f"{tmp_path / 'tiny'}, or set EVOKERN_DATA to a folder that holds tiny/ with them"
        )

    def test_folder_that_cannot_be_made(self, tmp_path: Path, add_set: Callable[..., None]) -> None:
        (tmp_path / "file").write_text("in the way")
        add_set(FakeSource())
        with pytest.raises(DataError, match=r"cache: .*set EVOKERN_DATA"):
            load("tiny", cache=tmp_path / "file")


class TestCommand:
    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVOKERN_DATA", str(tmp_path))

    def test_fetches_and_says_where(
        self, tmp_path: Path, add_set: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        add_set(FakeSource())
        assert main(["tiny"]) == 0
        assert main(["tiny"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{tmp_path / 'tiny'}: fetched, SHA-256 as expected",
            f"{tmp_path / 'tiny'}: already there, SHA-256 as expected",
        ]

    def test_default(
        self,
        tmp_path: Path,
        add_set: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert datasets.DEFAULT_NAMES == ("mnist", "fashion-mnist")
        add_set(FakeSource())
        for name in datasets.DEFAULT_NAMES:
            monkeypatch.setitem(IDX_SETS, name, IDX_SETS["tiny"])
        assert main([]) == 0
        assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
            str(tmp_path / "mnist"),
            str(tmp_path / "fashion-mnist"),
        ]
        assert stored(tmp_path / "fashion-mnist") == sorted(NAMES)

    def test_failure_does_not_stop_the_rest(
        self, tmp_path: Path, add_set: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        add_set(FakeSource())
        assert main(["minst", "tiny"]) == 1
        output = capsys.readouterr()
        assert output.err.startswith("name: expected one of")
        assert "Traceback" not in output.err
        assert output.out == f"{tmp_path / 'tiny'}: fetched, SHA-256 as expected\n"

    def test_source(self, add_set: Callable[..., None]) -> None:
        mirror, package = FakeSource(), FakeSource()
        add_set(mirror, index=(package,))
        assert main(["tiny", "--source", "index"]) == 0
        assert (len(mirror.asked), len(package.asked)) == (0, 1)


def cached(name: str) -> Dataset:
    try:
        return load(name, download=False)
    except DataError:
        pytest.skip("data cache is empty: run `make data`")


@pytest.mark.data
class TestRealData:
    def test_mnist(self) -> None:
        mnist = cached("mnist")
        assert mnist.train_images.shape == (60_000, 28, 28)
        assert mnist.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
        assert np.bincount(mnist.test_labels).tolist() == [
            *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
        ]

    def test_fashion_mnist(self) -> None:
        fashion = cached("fashion-mnist")
        assert fashion.train_images.shape == (60_000, 28, 28)
        assert fashion.test_images.shape == (10_000, 28, 28)
        assert np.bincount(fashion.train_labels).tolist() == [6_000] * 10
        assert np.bincount(fashion.test_labels).tolist() == [1_000] * 10

    def test_mean_image_of_the_training_part(self) -> None:
        mnist = cached("mnist")
        train, _ = holdout_split(60_000)
        mean = mean_image(mnist.train_images[train])
        digest = "bcec144dbc999d5e5564c97304fe96625b8b30bb5f98e225529af8cc1daf9100"
        assert hashlib.sha256(mean.tobytes()).hexdigest() == digest
