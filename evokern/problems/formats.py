"""The publishers' file formats: IDX, EMNIST's zip, npz, CIFAR's binary version, the OCR letters.

Every ``read_*`` function takes the paths of a data set's files and the ``shapes`` that its four
arrays must have (training images and labels, test images and labels), and gives these arrays as
uint8. All raise :class:`~evokern.errors.DataError`, with the file's path, for anything else.
Archives are read, never unpacked to disk, and nothing is unpickled.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evokern.errors import DataError, message

U8 = npt.NDArray[np.uint8]
Arrays = tuple[U8, U8, U8, U8]
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]

BLOCK_ROWS = 4096
OCR_SHAPE = (16, 8)
OCR_TEST_FOLD = 0
OCR_TEXT_LIMIT = 64 << 20
"""Bytes of unpacked text; the publisher's file has 15 million."""

DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
"""Of the pixels (uint8, 0 to 16, row-major) and then the labels (uint8) in scikit-learn's copy."""

_DAMAGE = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,  # an encrypted member, or one compressed in an unknown way
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)


class Readable(Protocol):
    """An open binary file."""

    def read(self, size: int, /) -> bytes:
        """The next ``size`` bytes, fewer only at the end."""
        ...


def parse_idx(content: bytes, name: str) -> U8:
    """The uint8 array in an IDX file, with as many axes (1 to 3) as its header says.

    The format is the MNIST publisher's: the magic 00 00 08 AXES, one big-endian 32-bit length
    per axis, the bytes row-major. Raises :class:`~evokern.errors.DataError`, with ``name`` for the
    file, if the magic is another or the header's lengths do not give the file's length.
    """
    axes = content[3] if len(content) > 3 else 0
    if content[:3] != b"\x00\x00\x08" or not 1 <= axes <= 3:
        raise DataError(
            message(name, "the IDX magic 00 00 08 AXES, AXES 1 to 3", content[:4].hex(" ") or "''")
        )
    header_bytes = idx_header_bytes(axes)
    if len(content) < header_bytes:
        raise DataError(message(name, f"a header of {header_bytes} bytes", f"{len(content)} bytes"))
    shape = struct.unpack_from(f">{axes}I", content, 4)
    expected = header_bytes + math.prod(shape)
    if len(content) != expected:
        raise DataError(
            message(name, f"{expected} bytes for the shape {list(shape)}", f"{len(content)} bytes")
        )
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape).copy()


def idx_header_bytes(axes: int) -> int:
    """The length of an IDX header."""
    return 4 + 4 * axes


def read_idx(stream: Readable, name: str, shape: Sequence[int], *, transposed: bool = False) -> U8:
    """The array of the given shape in an IDX stream, read block by block into the result.

    ``transposed`` says that images [N, W, H] are stored and [N, H, W] are wanted. The header is
    compared before memory is asked for.
    """
    header = b"\x00\x00\x08" + struct.pack(f">B{len(shape)}I", len(shape), *shape)
    wanted = f"an IDX file of uint8 {list(shape)}"
    got = stream.read(len(header))
    if got != header:
        raise DataError(message(name, wanted, f"the header {got.hex(' ') or repr('')}"))
    out = np.empty(shape, np.uint8)
    for start in range(0, len(out), BLOCK_ROWS):
        rows = out[start : start + BLOCK_ROWS]
        content = stream.read(rows.nbytes)
        if len(content) != rows.nbytes:
            raise DataError(message(name, wanted, "a shorter one"))
        block = np.frombuffer(content, np.uint8).reshape(rows.shape)
        rows[...] = block.swapaxes(1, 2) if transposed else block
    if stream.read(1):
        raise DataError(message(name, wanted, "a longer one"))
    return out


def read_idx_files(paths: Sequence[Path], shapes: Shapes) -> Arrays:
    """Four gzipped IDX files."""

    def read(path: Path, shape: Sequence[int]) -> U8:
        with _reading(path, "a gzipped IDX file"), gzip.open(path) as stream:
            return read_idx(stream, str(path), shape)

    a, b, c, d = (read(path, shape) for path, shape in zip(paths, shapes, strict=True))
    return a, b, c, d


def read_emnist(
    paths: Sequence[Path], shapes: Shapes, *, split: str, first_label: int = 0
) -> Arrays:
    """One of the six sets in EMNIST's zip of gzipped IDX files.

    The publisher stores images transposed; they come upright. Labels are counted from
    ``first_label`` in the file (1 for letters) and from 0 in the result.
    """
    [path] = paths

    def read(archive: zipfile.ZipFile, part: str, shape: Sequence[int]) -> U8:
        member = f"gzip/emnist-{split}-{part}-ubyte.gz"
        with archive.open(member) as packed, gzip.open(packed) as stream:
            return read_idx(stream, f"{path}: {member}", shape, transposed=len(shape) == 3)

    parts = ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")
    with _reading(path, "EMNIST's zip of gzipped IDX files"), zipfile.ZipFile(path) as archive:
        a, b, c, d = (read(archive, part, s) for part, s in zip(parts, shapes, strict=True))
    for labels in (b, d):
        if len(labels) and labels.min() < first_label:
            raise DataError(message(str(path), f"labels from {first_label}", str(labels.min())))
        labels -= first_label
    return a, b, c, d


def read_npz(path: Path) -> U8:
    """The array ``arr_0`` of an npz file, as the KMNIST publisher writes it."""
    wanted = "an npz file with uint8 arr_0"
    with _reading(path, wanted):
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise DataError(message(str(path), wanted, "a single array"))
        with content:
            array: npt.NDArray[np.generic] = content["arr_0"]
    if array.dtype != np.uint8:
        raise DataError(message(str(path), wanted, str(array.dtype)))
    return array.astype(np.uint8, copy=False)


def read_npz_files(paths: Sequence[Path], shapes: Shapes) -> Arrays:
    """Four npz files."""
    arrays = [read_npz(path) for path in paths]
    for path, array, shape in zip(paths, arrays, shapes, strict=True):
        _check_shape(path, array, shape)
    a, b, c, d = arrays
    return a, b, c, d


def read_cifar(
    paths: Sequence[Path],
    shapes: Shapes,
    *,
    train: Sequence[str],
    test: Sequence[str],
    label_bytes: int,
    label_byte: int,
) -> Arrays:
    """CIFAR's binary version: a tar.gz with members ``train`` and ``test``, taken in that order.

    A record is ``label_bytes`` labels, of which number ``label_byte`` is used, and 3072 pixels:
    red, green, blue, each 32x32 row-major. All members of a part are equally long.
    """
    [path] = paths
    images = np.empty(shapes[0], np.uint8), np.empty(shapes[2], np.uint8)
    labels = np.empty(shapes[1], np.uint8), np.empty(shapes[3], np.uint8)
    places = {name: (0, i, len(train)) for i, name in enumerate(train)}
    places |= {name: (1, i, len(test)) for i, name in enumerate(test)}
    pixels = math.prod(shapes[0][1:])
    with _reading(path, "CIFAR's binary version, tar.gz"), tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            stream = archive.extractfile(member) if name in places else None
            if stream is None:
                continue
            part, number, members = places.pop(name)
            count = len(labels[part]) // members
            size = count * (label_bytes + pixels)
            if member.size != size:
                raise DataError(message(f"{path}: {name}", f"{size} bytes", str(member.size)))
            records = np.frombuffer(stream.read(), np.uint8).reshape(count, label_bytes + pixels)
            rows = slice(number * count, (number + 1) * count)
            labels[part][rows] = records[:, label_byte]
            images[part][rows] = records[:, label_bytes:].reshape(count, *shapes[0][1:])
            if not places:
                break
    if places:
        raise DataError(message(str(path), f"a member {next(iter(places))}", "none"))
    return images[0], labels[0], images[1], labels[1]


def parse_ocr_letters(path: Path) -> tuple[U8, U8, U8]:
    """Images [N, 16, 8], labels [N] (a = 0) and folds [N] of the file ``letter.data.gz``.

    A line is ``id letter next_id word_id position fold p_0_0 ... p_15_7``, separated by tabs. Its
    pixels are 0 and 1, which become 0 and 255.
    """
    with _reading(path, "gzipped text"), gzip.open(path) as stream:
        text = stream.read(OCR_TEXT_LIMIT + 1)
    if len(text) > OCR_TEXT_LIMIT:
        raise DataError(message(str(path), f"text up to {OCR_TEXT_LIMIT} bytes", "more"))
    pixels = math.prod(OCR_SHAPE)
    lines = text.splitlines()
    letters, folds, rows = bytearray(), bytearray(), []
    for number, line in enumerate(lines, 1):
        fields = line.split(b"\t", 6)
        row = fields[-1].rstrip()
        if not (
            len(fields) == 7
            and len(fields[1]) == len(fields[5]) == 1
            and b"a" <= fields[1] <= b"z"
            and b"0" <= fields[5] <= b"9"
            and len(row) == 2 * pixels - 1
        ):
            wanted = f"6 fields (letter a to z, fold 0 to 9) and {pixels} pixels, tabs between"
            raise DataError(message(f"{path}, line {number}", wanted, repr(line[:40])))
        letters += fields[1]
        folds += fields[5]
        rows.append(row + b"\t")
    table = np.frombuffer(b"".join(rows), np.uint8).reshape(len(lines), pixels, 2)
    digits = table[:, :, 0] - ord("0")
    bad = np.flatnonzero((digits > 1).any(axis=1) | (table[:, :, 1] != ord("\t")).any(axis=1))
    if len(bad):
        wanted = f"{pixels} pixels 0 or 1, tabs between"
        raise DataError(message(f"{path}, line {bad[0] + 1}", wanted, repr(lines[bad[0]][-40:])))
    return (
        (digits * 255).reshape(len(lines), *OCR_SHAPE),
        np.frombuffer(letters, np.uint8) - ord("a"),
        np.frombuffer(folds, np.uint8) - ord("0"),
    )


def read_ocr_letters(paths: Sequence[Path], shapes: Shapes) -> Arrays:
    """The OCR letters, fold 0 as test part and folds 1 to 9 as training part.

    The publisher gives folds only. This cut is that of Lacoste-Julien, Jaggi, Schmidt, Pletscher
    (2013), Block-coordinate Frank-Wolfe, whose 6,251 training words are those of folds 1 to 9.
    Folds hold whole words, so that no word is torn apart.
    """
    [path] = paths
    images, labels, folds = parse_ocr_letters(path)
    test = folds == OCR_TEST_FOLD
    arrays = images[~test], labels[~test], images[test], labels[test]
    for array, shape in zip(arrays, shapes, strict=True):
        _check_shape(path, array, shape)
    return arrays


def read_digits(paths: Sequence[Path], shapes: Shapes) -> Arrays:
    """The 8x8 digits that scikit-learn carries, values 0 to 16 scaled to 0 to 255.

    A value v becomes (255 v + 8) // 16, so that ink is 255 as in every other set. The first
    images are the training part, the last the test part, in the file's order: images of one writer
    stand side by side there, and a random cut would put the same hand into both parts.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        mend = "pip install evokern[data]"
        raise DataError(message("digits", "scikit-learn", str(error), mend)) from error
    content = load_digits()
    values, labels = content.images.astype(np.uint8), content.target.astype(np.uint8)
    digest = hashlib.sha256(values.tobytes() + labels.tobytes()).hexdigest()
    if digest != DIGITS_SHA256:
        raise DataError(message("digits", f"SHA-256 {DIGITS_SHA256}", digest))
    images = ((values.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    train = shapes[0][0]
    return images[:train], labels[:train], images[train:], labels[train:]


def _check_shape(path: Path, array: U8, shape: Sequence[int]) -> None:
    if array.shape != tuple(shape):
        raise DataError(message(str(path), f"shape {list(shape)}", str(list(array.shape))))


@contextmanager
def _reading(path: Path, wanted: str) -> Iterator[None]:
    """Whatever a damaged file makes the standard library raise becomes a DataError."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        got = str(error) or type(error).__name__
        raise DataError(message(str(path), wanted, got)) from error
