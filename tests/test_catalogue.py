"""The table of data sets kept as published: its rows, and each row's loading from small files."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evokern.errors import DataError
from evokern.problems.catalogue import FILE_SETS, Form
from evokern.problems.datasets import Dataset, load, main
from evokern.problems.fetch import PublishedFile


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def pixels(count: int, first: int) -> np.ndarray:
    return (np.arange(count * 784).reshape(count, 28, 28) * 7 + first).astype(np.uint8)


ARRAYS = (pixels(4, 1), np.array([3, 0, 9, 3]), pixels(2, 5), np.array([1, 8]))


def check_arrays(data: Dataset) -> None:
    got = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    for array, expected in zip(got, ARRAYS, strict=True):
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, expected)


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@contextmanager
def published(name: str, files: Sequence[Path], train: int, test: int) -> Iterator[None]:
    """The table's row with these counts; its first form's files are at these addresses."""
    row = FILE_SETS[name]
    first = row.forms[0]
    here = tuple(
        PublishedFile(
            file.as_uri(), file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
        )
        for file in files
    )
    forms = (Form(here or first.files, first.read), *row.forms[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FILE_SETS, name, replace(row, forms=forms, train=train, test=test))
        yield


@contextmanager
def published_ocr_letters(folder: Path, *, folds: str) -> Iterator[None]:
    """Letters a, b, c ... in these folds, at an address without a known checksum."""
    folder.mkdir()
    pixels = "\t0" * 128
    lines = [f"{i}\t{chr(97 + i)}\t-1\t1\t1\t{fold}{pixels}" for i, fold in enumerate(folds)]
    file = folder / "letter.data.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    row = FILE_SETS["ocr-letters"]
    [form] = row.forms
    forms = (Form((replace(form.files[0], url=file.as_uri()),), form.read),)
    test = folds.count("0")
    with pytest.MonkeyPatch.context() as patch:
        changed = replace(row, forms=forms, train=len(folds) - test, test=test)
        patch.setitem(FILE_SETS, "ocr-letters", changed)
        yield


class TestTable:
    def test_published_files(self) -> None:
        files = {
            file.url: file
            for row in FILE_SETS.values()
            for form in row.forms
            for file in form.files
        }
        known = [file for file in files.values() if file.sha256]
        assert len({file.sha256 for file in known}) == len(known) == 7
        assert all(len(bytes.fromhex(file.sha256)) == 32 and file.size for file in known)
        unknown = sorted(file.name for file in files.values() if not file.sha256)
        assert unknown == [
            *("kmnist-test-imgs.npz", "kmnist-test-labels.npz"),
            *("kmnist-train-imgs.npz", "kmnist-train-labels.npz", "letter.data.gz"),
        ]
        assert all(file.check is not None for file in files.values() if not file.sha256)

    @pytest.mark.parametrize(
        ("name", "train", "test", "shape", "classes", "first_and_last"),
        [
            ("emnist-balanced", 112_800, 18_800, (28, 28), 47, ("0", "t")),
            ("emnist-byclass", 697_932, 116_323, (28, 28), 62, ("0", "z")),
            ("emnist-bymerge", 697_932, 116_323, (28, 28), 47, ("0", "t")),
            ("emnist-digits", 240_000, 40_000, (28, 28), 10, ("0", "9")),
            ("emnist-letters", 124_800, 20_800, (28, 28), 26, ("A", "Z")),
            ("emnist-mnist", 60_000, 10_000, (28, 28), 10, ("0", "9")),
            ("kmnist", 60_000, 10_000, (28, 28), 10, ("o", "wo")),
            ("ocr-letters", 47_535, 4_617, (16, 8), 26, ("a", "z")),
            ("digits", 1_437, 360, (8, 8), 10, ("0", "9")),
            ("cifar10", 50_000, 10_000, (3, 32, 32), 10, ("airplane", "truck")),
            ("cifar100", 50_000, 10_000, (3, 32, 32), 100, ("apple", "worm")),
            ("cifar100-coarse", 50_000, 10_000, (3, 32, 32), 20, ("aquatic_mammals", "vehicles_2")),
        ],
    )
    def test_rows(
        self,
        name: str,
        train: int,
        test: int,
        shape: tuple[int, ...],
        classes: int,
        first_and_last: tuple[str, str],
    ) -> None:
        row = FILE_SETS[name]
        assert row.shapes == ((train, *shape), (train,), (test, *shape), (test,))
        assert row.classes == len(set(row.class_names)) == classes
        assert (row.class_names[0], row.class_names[-1]) == first_and_last

    def test_every_row_is_tested(self) -> None:
        [mark] = self.test_rows.pytestmark
        assert [row[0] for row in mark.args[1]] == list(FILE_SETS)


class TestPublishedSets:
    """Rows of the table as they are, but for counts, addresses and digests."""

    def test_emnist(self, tmp_path: Path) -> None:
        images, labels, test_images, test_labels = ARRAYS
        labels, test_labels = labels % 9 + 17, test_labels + 1
        contents = {
            "train-images-idx3": images.swapaxes(1, 2),
            "train-labels-idx1": labels,
            "test-images-idx3": test_images.swapaxes(1, 2),
            "test-labels-idx1": test_labels,
        }
        web = tmp_path / "gzip.zip"
        with zipfile.ZipFile(web, "w") as archive:
            for part, array in contents.items():
                for split in ("letters", "balanced"):
                    name = f"gzip/emnist-{split}-{part}-ubyte.gz"
                    archive.writestr(name, gzip.compress(idx_bytes(array)))
        with published("emnist-letters", [web], 4, 2), published("emnist-balanced", [web], 4, 2):
            data = load("emnist-letters", cache=tmp_path / "cache")
            web.unlink()
            balanced = load("emnist-balanced", cache=tmp_path / "cache")
        assert stored(tmp_path / "cache" / "emnist") == ["gzip.zip"]
        np.testing.assert_array_equal(data.train_images, images)
        np.testing.assert_array_equal(data.test_images, test_images)
        assert data.train_labels.tolist() == (labels - 1).tolist()
        assert data.test_labels.tolist() == (test_labels - 1).tolist()
        assert (data.name, data.classes, data.class_names[25]) == ("emnist-letters", 26, "Z")
        np.testing.assert_array_equal(balanced.train_images, images)
        assert balanced.train_labels.tolist() == labels.tolist()

    def test_kmnist_idx(self, tmp_path: Path) -> None:
        files = [tmp_path / file.name for file in FILE_SETS["kmnist"].forms[0].files]
        for file, array in zip(files, ARRAYS, strict=True):
            file.write_bytes(gzip.compress(idx_bytes(array)))
        with published("kmnist", files, 4, 2):
            check_arrays(load("kmnist", cache=tmp_path / "cache"))
        assert stored(tmp_path / "cache" / "kmnist") == sorted(file.name for file in files)

    def test_kmnist_npz_put_there_by_hand(self, tmp_path: Path) -> None:
        (tmp_path / "kmnist").mkdir()
        files = [tmp_path / "kmnist" / file.name for file in FILE_SETS["kmnist"].forms[1].files]
        for file, array in zip(files, ARRAYS, strict=True):
            np.savez_compressed(file, array.astype(np.uint8))
        with published("kmnist", [], 4, 2):
            check_arrays(load("kmnist", cache=tmp_path, download=False))
            assert (tmp_path / "kmnist" / "kmnist-test-imgs.npz.sha256").exists()
            np.savez_compressed(files[1], np.array([1, 2, 3, 4], np.uint8))
            with pytest.raises(DataError, match=r"train-labels\.npz: expected SHA-256"):
                load("kmnist", cache=tmp_path, download=False)

    @pytest.mark.parametrize(
        ("name", "batches", "test", "label_bytes", "label_byte"),
        [
            ("cifar10", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", 1, 0),
            ("cifar100", ["train.bin"], "test.bin", 2, 1),
            ("cifar100-coarse", ["train.bin"], "test.bin", 2, 0),
        ],
    )
    def test_cifar(
        self,
        name: str,
        batches: list[str],
        test: str,
        label_bytes: int,
        label_byte: int,
        tmp_path: Path,
    ) -> None:
        random = np.random.default_rng(0)
        train_count = 2 * len(batches)
        records = random.integers(0, 256, (train_count + 3, label_bytes + 3072), np.uint8)
        records[:, :label_bytes] %= 10
        web = tmp_path / FILE_SETS[name].forms[0].files[0].name
        with tarfile.open(web, "w:gz") as archive:
            parts = [*np.split(records[:train_count], len(batches)), records[train_count:]]
            for member, part in zip([*batches, test], parts, strict=True):
                info = tarfile.TarInfo(f"folder/{member}")
                info.size = part.nbytes
                archive.addfile(info, io.BytesIO(part.tobytes()))
        with published(name, [web], train_count, 3):
            data = load(name, cache=tmp_path / "cache")
        assert stored(tmp_path / "cache") == [web.name]
        assert data.image_shape == (3, 32, 32)
        pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(data.train_images, pixels[:train_count])
        np.testing.assert_array_equal(data.test_images, pixels[train_count:])
        labels = [*data.train_labels, *data.test_labels]
        np.testing.assert_array_equal(labels, records[:, label_byte])

    def test_label_out_of_range(self, tmp_path: Path) -> None:
        files = [tmp_path / file.name for file in FILE_SETS["kmnist"].forms[0].files]
        for file, array in zip(files, (*ARRAYS[:3], np.array([1, 10])), strict=True):
            file.write_bytes(gzip.compress(idx_bytes(array)))
        with (
            published("kmnist", files, 4, 2),
            pytest.raises(DataError, match=r"kmnist in .*: expected labels below 10, got 10"),
        ):
            load("kmnist", cache=tmp_path / "cache")

    def test_ocr_letters(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with (
            published_ocr_letters(tmp_path / "web", folds="9081"),
            caplog.at_level(logging.INFO),
        ):
            data = load("ocr-letters", cache=tmp_path / "cache")
        assert "no published checksum; recorded" in caplog.messages[-1]
        assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 2, 3], [1])
        assert data.image_shape == (1, 16, 8)
        assert stored(tmp_path / "cache") == ["letter.data.gz", "letter.data.gz.sha256"]

    def test_mirrors_left_out(self, tmp_path: Path) -> None:
        with (
            published_ocr_letters(tmp_path / "web", folds="9081"),
            pytest.raises(DataError, match="expected a file, got none; let it be fetched"),
        ):
            load("ocr-letters", cache=tmp_path, sources=["index"])

    def test_digits_need_no_cache(self, tmp_path: Path) -> None:
        pytest.importorskip("sklearn")
        digits = load("digits", cache=tmp_path / "none", download=False)
        assert (len(digits.train_images), len(digits.test_images)) == (1437, 360)
        assert digits.image_shape == (1, 8, 8)
        assert not (tmp_path / "none").exists()


class TestCommand:
    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVOKERN_DATA", str(tmp_path))

    def test_digits(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("sklearn")
        assert main(["digits"]) == 0
        line = "digits: from an installed package, SHA-256 as expected\n"
        assert capsys.readouterr().out == line
        assert stored(tmp_path) == []

    def test_recorded(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with published_ocr_letters(tmp_path / "web", folds="0999"):
            assert main(["ocr-letters"]) == 0
            assert main(["ocr-letters"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{tmp_path / 'ocr-letters'}: fetched, SHA-256 as recorded beside it",
            f"{tmp_path / 'ocr-letters'}: already there, SHA-256 as recorded beside it",
        ]
