"""The publishers' file formats, on small files written here in the same format."""

from __future__ import annotations

import gzip
import io
import math
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evokern.errors import DataError
from evokern.problems import formats
from evokern.problems.formats import (
    Arrays,
    Shapes,
    parse_idx,
    parse_ocr_letters,
    read_cifar,
    read_digits,
    read_emnist,
    read_idx,
    read_idx_files,
    read_npz,
    read_npz_files,
    read_ocr_letters,
)

PARTS = ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def shapes_of(arrays: Sequence[np.ndarray]) -> Shapes:
    a, b, c, d = (array.shape for array in arrays)
    return a, b, c, d


def check(got: Arrays, expected: Sequence[np.ndarray]) -> None:
    assert len(got) == 4
    for array, values in zip(got, expected, strict=True):
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, values)


# Images that are not square would show a transposition that was done only halfway.
ARRAYS = (
    np.arange(3 * 4 * 2).reshape(3, 4, 2),
    np.array([3, 1, 26]),
    np.arange(100, 108).reshape(1, 4, 2),
    np.array([2]),
)


class TestParseIdx:
    def test_labels(self) -> None:
        got = parse_idx(b"\x00\x00\x08\x01\x00\x00\x00\x03\x07\x02\xff", "labels")
        assert got.tolist() == [7, 2, 255]
        assert got.dtype == np.uint8

    def test_images_are_row_major(self) -> None:
        content = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6])
        assert parse_idx(content, "images").tolist() == [[[1, 2, 3], [4, 5, 6]]]

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"", "magic 00 00 08 AXES, AXES 1 to 3, got ''"),
            (b"\x00\x00\x08", "magic 00 00 08 AXES, AXES 1 to 3, got 00 00 08"),
            (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "got 00 00 0d 01"),
            (b"\x00\x00\x08\x00", "got 00 00 08 00"),
            (b"\x00\x00\x08\x04" + bytes(16), "got 00 00 08 04"),
            (b"\x1f\x8b\x08\x08" + bytes(16), "got 1f 8b 08 08"),
            (b"\x00\x00\x08\x03\x00\x00\x00\x01", "a header of 16 bytes, got 8 bytes"),
            (
                b"\x00\x00\x08\x01\x00\x00\x00\x03\x07\x02",
                r"11 bytes for the shape \[3\], got 10 bytes",
            ),
            (
                b"\x00\x00\x08\x01\x00\x00\x00\x01\x07\x02",
                r"9 bytes for the shape \[1\], got 10 bytes",
            ),
            (
                b"\x00\x00\x08\x03" + b"\xff" * 12,
                r"79228162458924105385300197391 bytes for .*, got 16 bytes",
            ),
        ],
    )
    def test_malformed(self, content: bytes, text: str) -> None:
        with pytest.raises(DataError, match=f"a file: expected .*{text}"):
            parse_idx(content, "a file")

    @given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.randoms())
    def test_whole_files_only(self, shape: list[int], random: Random) -> None:
        data = random.randbytes(math.prod(shape))
        content = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data
        array = parse_idx(content, "a file")
        assert array.shape == tuple(shape)
        assert array.tobytes() == data
        with pytest.raises(DataError):
            parse_idx(content[: random.randrange(len(content))], "a file")
        with pytest.raises(DataError):
            parse_idx(content + b"\x00", "a file")


class TestReadIdx:
    @pytest.mark.parametrize("rows", [1, 2, 3, 4096])
    def test_blocks(self, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(formats, "BLOCK_ROWS", rows)
        stream = io.BytesIO(idx_bytes(ARRAYS[0]))
        np.testing.assert_array_equal(read_idx(stream, "a file", (3, 4, 2)), ARRAYS[0])

    def test_transposed(self) -> None:
        content = idx_bytes(np.arange(1, 10).reshape(1, 3, 3))
        got = read_idx(io.BytesIO(content), "a file", (1, 3, 3), transposed=True)
        assert got.tolist() == [[[1, 4, 7], [2, 5, 8], [3, 6, 9]]]

    def test_empty(self) -> None:
        got = read_idx(io.BytesIO(idx_bytes(np.zeros((0, 4, 2)))), "a file", (0, 4, 2))
        assert got.shape == (0, 4, 2)

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"", "got the header ''"),
            (idx_bytes(ARRAYS[1]), "got the header 00 00 08 01 00 00 00 03"),
            (idx_bytes(np.zeros((4, 4, 2))), "got the header 00 00 08 03 00 00 00 04"),
            (b"\0\0\x08\x03" + b"\xff" * 12, "got the header 00 00 08 03 ff ff"),
            (idx_bytes(ARRAYS[0])[:-1], "got a shorter one"),
            (idx_bytes(ARRAYS[0]) + b"\0", "got a longer one"),
        ],
    )
    def test_malformed(self, content: bytes, text: str) -> None:
        with pytest.raises(
            DataError, match=rf"a file: expected an IDX file of uint8 \[3, 4, 2\], {text}"
        ):
            read_idx(io.BytesIO(content), "a file", (3, 4, 2))


class TestIdxFiles:
    def write(self, folder: Path) -> list[Path]:
        paths = [folder / f"{number}.gz" for number in range(4)]
        for path, array in zip(paths, ARRAYS, strict=True):
            path.write_bytes(gzip.compress(idx_bytes(array)))
        return paths

    def test_reads(self, tmp_path: Path) -> None:
        check(read_idx_files(self.write(tmp_path), shapes_of(ARRAYS)), ARRAYS)

    @pytest.mark.parametrize(
        "damage", [lambda content: content[:-9], lambda content: b"<html>", lambda content: b""]
    )
    def test_damaged(self, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
        paths = self.write(tmp_path)
        paths[2].write_bytes(damage(paths[2].read_bytes()))
        with pytest.raises(DataError, match=f"{paths[2]}: expected"):
            read_idx_files(paths, shapes_of(ARRAYS))


class TestEmnist:
    SQUARE = (
        np.arange(2 * 9).reshape(2, 3, 3),
        np.array([1, 26]),
        np.arange(50, 59).reshape(1, 3, 3),
        np.array([5]),
    )

    def write(self, folder: Path, *, without: str = "", split: str = "letters") -> Path:
        path = folder / "gzip.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("gzip/emnist-letters-mapping.txt", "1 65 97")
            for part, array in zip(PARTS, self.SQUARE, strict=True):
                stored = array.swapaxes(1, 2) if array.ndim == 3 else array
                if part != without:
                    name = f"gzip/emnist-{split}-{part}-ubyte.gz"
                    archive.writestr(name, gzip.compress(idx_bytes(stored)))
        return path

    def test_images_are_upright_and_labels_from_0(self, tmp_path: Path) -> None:
        path = self.write(tmp_path)
        got = read_emnist([path], shapes_of(self.SQUARE), split="letters", first_label=1)
        check(got, (self.SQUARE[0], [0, 25], self.SQUARE[2], [4]))

    def test_labels_as_they_are(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, split="balanced")
        check(read_emnist([path], shapes_of(self.SQUARE), split="balanced"), self.SQUARE)

    def test_label_below_the_first(self, tmp_path: Path) -> None:
        path = self.write(tmp_path)
        with pytest.raises(DataError, match=f"{path}: expected labels from 2, got 1"):
            read_emnist([path], shapes_of(self.SQUARE), split="letters", first_label=2)

    def test_other_counts(self, tmp_path: Path) -> None:
        path = self.write(tmp_path)
        shapes = ((3, 3, 3), (3,), (1, 3, 3), (1,))
        with pytest.raises(DataError, match=r"emnist-letters-train-images.*uint8 \[3, 3, 3\]"):
            read_emnist([path], shapes, split="letters")

    def test_absent_member(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, without="test-labels-idx1")
        with pytest.raises(DataError, match=r"emnist-letters-test-labels-idx1-ubyte.gz"):
            read_emnist([path], shapes_of(self.SQUARE), split="letters")

    def test_no_zip(self, tmp_path: Path) -> None:
        (tmp_path / "gzip.zip").write_bytes(b"<html>")
        with pytest.raises(DataError, match=r"expected EMNIST's zip .*, got File is not a zip"):
            read_emnist([tmp_path / "gzip.zip"], shapes_of(self.SQUARE), split="letters")


class TestNpz:
    def test_four_files(self, tmp_path: Path) -> None:
        paths = [tmp_path / f"{number}.npz" for number in range(4)]
        for path, array in zip(paths, ARRAYS, strict=True):
            np.savez_compressed(path, array.astype(np.uint8))
        check(read_npz_files(paths, shapes_of(ARRAYS)), ARRAYS)
        with pytest.raises(DataError, match=rf"{paths[0]}: .*shape \[4, 4, 2\], got \[3, 4, 2\]"):
            read_npz_files(paths, ((4, 4, 2), *shapes_of(ARRAYS)[1:]))

    @pytest.mark.parametrize(
        ("arrays", "text"),
        [
            ({"arr_0": np.zeros(3)}, "got float64"),
            ({"images": np.zeros(3, np.uint8)}, "arr_0 is not a file in the archive"),
            ({"arr_0": np.array([print], object)}, "allow_pickle=False"),
        ],
    )
    def test_other_content(self, arrays: dict[str, np.ndarray], text: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(DataError, match=f"expected an npz file with uint8 arr_0, .*{text}"):
            read_npz(tmp_path / "a.npz")

    def test_other_files(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.zeros(3, np.uint8))
        with pytest.raises(DataError, match="got a single array"):
            read_npz(tmp_path / "a.npy")
        (tmp_path / "b.npz").write_bytes(b"<html>")
        with pytest.raises(DataError, match=r"b\.npz: expected an npz file"):
            read_npz(tmp_path / "b.npz")


class TestCifar:
    SHAPES: Shapes = ((4, 3, 2, 2), (4,), (1, 3, 2, 2), (1,))

    def write(self, folder: Path, members: dict[str, bytes]) -> Path:
        path = folder / "cifar.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(f"cifar/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return path

    def read(self, path: Path, *, label_byte: int = 0) -> Arrays:
        return read_cifar(
            [path],
            self.SHAPES,
            train=("batch_1.bin", "batch_2.bin"),
            test=("test.bin",),
            label_bytes=2,
            label_byte=label_byte,
        )

    def record(self, first: int) -> bytes:
        """Two labels, then 12 pixels: red 2x2, green 2x2, blue 2x2."""
        return bytes([first, first + 100, *range(first, first + 12)])

    def members(self) -> dict[str, bytes]:
        return {
            "batch_2.bin": self.record(30) + self.record(40),
            "readme.html": b"<html>",
            "batch_1.bin": self.record(10) + self.record(20),
            "test.bin": self.record(50),
        }

    def test_members_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        got = self.read(self.write(tmp_path, self.members()))
        pixels = np.array([[first + i for i in range(12)] for first in (10, 20, 30, 40)])
        test = np.arange(50, 62).reshape(1, 3, 2, 2)
        check(got, (pixels.reshape(4, 3, 2, 2), [10, 20, 30, 40], test, [50]))

    def test_second_label(self, tmp_path: Path) -> None:
        got = self.read(self.write(tmp_path, self.members()), label_byte=1)
        assert got[1].tolist() == [110, 120, 130, 140]
        assert got[3].tolist() == [150]

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"batch_1.bin": bytes(27)}, "batch_1.bin: expected 28 bytes, got 27"),
            ({"test.bin": bytes(28)}, "test.bin: expected 14 bytes, got 28"),
        ],
    )
    def test_other_sizes(self, change: dict[str, bytes], text: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=text):
            self.read(self.write(tmp_path, {**self.members(), **change}))

    def test_absent_member(self, tmp_path: Path) -> None:
        members = self.members()
        del members["batch_2.bin"]
        with pytest.raises(DataError, match=r"expected a member batch_2.bin, got none"):
            self.read(self.write(tmp_path, members))

    @pytest.mark.parametrize("size", [0, 60, -40])
    def test_cut_off(self, size: int, tmp_path: Path) -> None:
        path = self.write(tmp_path, self.members())
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(DataError, match=f"{path}: expected CIFAR's binary version"):
            self.read(path)


def ocr_line(number: int, letter: str, fold: int, ink: Sequence[int] = ()) -> str:
    pixels = ["1" if place in ink else "0" for place in range(128)]
    return "\t".join([str(number), letter, "-1", str(number), "1", str(fold), *pixels])


class TestOcrLetters:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "letter.data.gz"
        path.write_bytes(gzip.compress(text.encode()))
        return path

    @pytest.mark.parametrize("end", ["\n", "\t\n", "\t\r\n"])
    def test_parses(self, end: str, tmp_path: Path) -> None:
        lines = [ocr_line(1, "a", 9, [0, 9]), ocr_line(23456, "z", 0, [127])]
        images, labels, folds = parse_ocr_letters(
            self.write(tmp_path, "".join(line + end for line in lines))
        )
        assert images.shape == (2, 16, 8)
        assert images.dtype == labels.dtype == folds.dtype == np.uint8
        assert np.argwhere(images).tolist() == [[0, 0, 0], [0, 1, 1], [1, 15, 7]]
        assert images.max() == 255
        assert labels.tolist() == [0, 25]
        assert folds.tolist() == [9, 0]

    def test_fold_0_is_the_test_part(self, tmp_path: Path) -> None:
        folds = (0, 1, 9, 0, 5)
        text = "\n".join(ocr_line(i, "abcde"[i], fold) for i, fold in enumerate(folds))
        path = self.write(tmp_path, text)
        got = read_ocr_letters([path], ((3, 16, 8), (3,), (2, 16, 8), (2,)))
        assert got[1].tolist() == [1, 2, 4]
        assert got[3].tolist() == [0, 3]
        with pytest.raises(DataError, match=r"shape \[4, 16, 8\], got \[3, 16, 8\]"):
            read_ocr_letters([path], ((4, 16, 8), (4,), (1, 16, 8), (1,)))

    @pytest.mark.parametrize(
        ("line", "text"),
        [
            ("", "6 fields"),
            (ocr_line(1, "A", 0), "letter a to z"),
            (ocr_line(1, "ab", 0), "letter a to z"),
            (ocr_line(1, "a", 10), "fold 0 to 9"),
            (ocr_line(1, "a", 0)[:-2], "128 pixels"),
            (ocr_line(1, "a", 0) + "\t0", "128 pixels"),
            (ocr_line(1, "a", 0)[:-1] + "2", "128 pixels 0 or 1, tabs between"),
            (ocr_line(1, "a", 0)[:-1] + "/", "128 pixels 0 or 1, tabs between"),
            (ocr_line(1, "a", 0)[:-2] + " 0", "128 pixels 0 or 1, tabs between"),
        ],
    )
    def test_bad_line(self, line: str, text: str, tmp_path: Path) -> None:
        path = self.write(tmp_path, "\n".join([ocr_line(1, "a", 0), line, ocr_line(3, "b", 1)]))
        with pytest.raises(DataError, match=f"{path}, line 2: expected .*{text}"):
            parse_ocr_letters(path)

    def test_no_gzip(self, tmp_path: Path) -> None:
        (tmp_path / "letter.data.gz").write_text(ocr_line(1, "a", 0))
        with pytest.raises(DataError, match="expected gzipped text, got Not a gzipped file"):
            parse_ocr_letters(tmp_path / "letter.data.gz")

    def test_endless_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(formats, "OCR_TEXT_LIMIT", 1000)
        path = self.write(tmp_path, ocr_line(1, "a", 0) + "\n" * 1000)
        with pytest.raises(DataError, match="text up to 1000 bytes"):
            parse_ocr_letters(path)


class TestDigits:
    SHAPES: Shapes = ((1437, 8, 8), (1437,), (360, 8, 8), (360,))

    def test_scaled_to_a_byte(self) -> None:
        pytest.importorskip("sklearn")
        images, labels, test_images, test_labels = read_digits([], self.SHAPES)
        assert images.dtype == labels.dtype == np.uint8
        assert labels[:10].tolist() == list(range(10))
        # The first image's second row is 0 0 13 15 10 15 5 0 in the file.
        assert images[0, 1].tolist() == [0, 0, 207, 239, 159, 239, 80, 0]
        assert sorted({*images.ravel().tolist()})[:4] == [0, 16, 32, 48]
        assert images.max() == 255
        assert test_images.shape == (360, 8, 8)
        assert np.bincount(test_labels).tolist() == [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]

    def test_other_digits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sklearn_datasets = pytest.importorskip("sklearn.datasets")
        other = SimpleNamespace(images=np.zeros((1797, 8, 8)), target=np.zeros(1797, int))
        monkeypatch.setattr(sklearn_datasets, "load_digits", lambda: other)
        with pytest.raises(DataError, match="digits: expected SHA-256"):
            read_digits([], self.SHAPES)

    def test_without_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(DataError, match=r"digits: .*pip install evokern\[data\]"):
            read_digits([], self.SHAPES)
