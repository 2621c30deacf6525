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
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern._values import integer
from evokern.errors import ArgumentError, DataError, DtypeError, EvokernError, ShapeError, message
from evokern.problems.catalogue import FILE_SETS, IDX_SETS, SOURCE_KINDS, FileSet, Form, SourceKind
from evokern.problems.fetch import obtain, obtain_published
from evokern.problems.formats import Arrays, parse_idx

Labels = npt.NDArray[np.integer[Any]]

DEFAULT_NAMES = ("mnist", "fashion-mnist")
"""What ``python -m evokern.problems.datasets`` fetches when no name is given."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, in the publisher's order and the publisher's two parts.

    Images are uint8, [N, H, W] if grey and [N, C, H, W] if coloured; grey images have 0 for the
    background and 255 for full ink. Labels are integers [N], each < ``classes``; ``class_names``
    is empty or names each. ``source`` says who published the data; the bytes are the same wherever
    they were fetched. Raises DtypeError, ShapeError or ArgumentError for other arrays.
    """

    name: str
    train_images: npt.NDArray[np.uint8]
    train_labels: Labels
    test_images: npt.NDArray[np.uint8]
    test_labels: Labels
    classes: int = 10
    source: str = ""
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        integer("classes", self.classes, 1, 2**31 - 1)
        _check_part("train", self.train_images, self.train_labels, self.classes)
        _check_part("test", self.test_images, self.test_labels, self.classes)
        if self.test_images.shape[1:] != self.train_images.shape[1:]:
            wanted = f"images {list(self.train_images.shape[1:])} as in train_images"
            got = f"images {list(self.test_images.shape[1:])}"
            raise ShapeError(message("test_images", wanted, got))
        if len(self.class_names) not in (0, self.classes):
            wanted = f"none or classes={self.classes} names"
            raise ArgumentError(message("class_names", wanted, str(len(self.class_names))))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image: (1, H, W) if grey."""
        *channels, height, width = self.train_images.shape[1:]
        return (channels[0] if channels else 1, height, width)


def cache_dir() -> Path:
    """The folder that holds one folder per data set.

    ``$EVOKERN_DATA``, else ``$XDG_CACHE_HOME/evokern/data``, else ``~/.cache/evokern/data``.
    """
    if chosen := os.environ.get("EVOKERN_DATA"):
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:
            raise DataError(message("EVOKERN_DATA", "a folder", f"{chosen!r}: {error}")) from error
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches, "evokern", "data")
    try:
        return Path.home() / ".cache" / "evokern" / "data"
    except RuntimeError as error:
        mend = "set EVOKERN_DATA to a folder"
        raise DataError(message("data cache", "a home folder", str(error), mend)) from error


def load(
    name: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    download: bool = True,
    sources: Sequence[SourceKind] = SOURCE_KINDS,
) -> Dataset:
    """A data set from the cache folder, fetched first where files lack or are corrupt.

    ``name`` is a key of :data:`IDX_SETS` or :data:`FILE_SETS`, ``cache`` stands in for
    :func:`cache_dir`, ``sources`` are the kinds of sources to ask, in order. What differs from the
    published files:

    - ``emnist-*``: images upright (stored transposed); labels of ``emnist-letters`` from 0.
    - ``ocr-letters``: 0 and 1 become 0 and 255; fold 0 is the test part (see
      :func:`~evokern.problems.formats.read_ocr_letters`).
    - ``digits`` (``pip install evokern[data]``): 0 to 16 become 0 to 255; the first 1,437 images
      train (see :func:`~evokern.problems.formats.read_digits`).
    - ``cifar100`` has the fine labels, ``cifar100-coarse`` the coarse ones.

    Every file is checked by SHA-256 at every load. For ``ocr-letters``, and for ``kmnist`` from
    npz files put into the cache by hand, no checksum is published: there the digest of the first
    file of the right format is recorded beside it, as ``NAME.sha256``, and logged as ``no
    published checksum; recorded ...``. Every later load is held to it; delete the record to accept
    another file. That finds later damage, but cannot tell whether the first download was genuine;
    counts and labels are checked as well.

    Raises :class:`~evokern.errors.ArgumentError` for an unknown name or kind of source and
    :class:`~evokern.errors.DataError` if the files cannot be had or are not what they should be.
    """
    if name not in IDX_SETS and name not in FILE_SETS:
        raise ArgumentError(message("name", f"one of {[*IDX_SETS, *FILE_SETS]}", repr(name)))
    for kind in sources:
        if kind not in SOURCE_KINDS:
            raise ArgumentError(message("sources", f"kinds out of {SOURCE_KINDS}", repr(kind)))
    row = IDX_SETS[name] if name in IDX_SETS else FILE_SETS[name]
    folder = _folder(name, cache)
    if isinstance(row, FileSet):
        arrays = _read_published(name, row, folder, download and "mirrors" in sources)
    else:
        asked = [source for kind in sources for source in row.sources[kind]]
        contents = obtain(folder, row.files, asked, download=download)
        a, b, c, d = (parse_idx(contents[file.name], str(folder / file.name)) for file in row.files)
        arrays = a, b, c, d
    return Dataset(
        name, *arrays, classes=row.classes, source=row.publisher, class_names=row.class_names
    )


def _read_published(name: str, row: FileSet, folder: Path, download: bool) -> Arrays:
    form = _form(row, folder)
    paths = [obtain_published(folder, file, download=download) for file in form.files]
    arrays = form.read(paths, row.shapes)
    for labels in (arrays[1], arrays[3]):
        if labels.max() >= row.classes:
            wanted = f"labels below {row.classes}"
            raise DataError(message(f"{name} in {folder}", wanted, str(labels.max())))
    return arrays


def _form(row: FileSet, folder: Path) -> Form:
    whole = (f for f in row.forms if all((folder / file.name).exists() for file in f.files))
    return next(whole, row.forms[0])


def mean_image(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The mean over images uint8 [N, H, W] or [N, C, H, W], pixel by pixel.

    Gives float32 [H, W] or [C, H, W], in 0 to 255.

    An integer sum, one division in float64, one rounding to float32, so the bits are the same
    everywhere (this project).
    """
    _check_images("images", images)
    if not len(images):
        raise ShapeError(message("images", "N >= 1 of them", f"shape {list(images.shape)}"))
    total: npt.NDArray[np.int64] = images.sum(axis=0, dtype=np.int64)
    return (total / len(images)).astype(np.float32)


def normalise(
    images: npt.NDArray[np.uint8], mean: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """``(images - mean) / 255`` for images uint8 [N, H, W] or [N, C, H, W] and their mean image.

    Gives float32 [N, 1, H, W] or [N, C, H, W]; the subtraction and the division are each rounded
    once to float32. The rule is that of the thesis's released code: a mean image, no standard
    deviation.
    """
    _check_images("images", images)
    if mean.dtype != np.float32:
        raise DtypeError(message("mean", "float32", str(mean.dtype), "try mean_image(images)"))
    if mean.shape != images.shape[1:]:
        raise ShapeError(message("mean", str(list(images.shape[1:])), f"shape {list(mean.shape)}"))
    out = images.astype(np.float32, order="C")
    out -= mean
    out /= np.float32(255)
    return out if out.ndim == 4 else out[:, np.newaxis]


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
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: mnist fashion-mnist")
    parser.add_argument(
        "--source",
        action="append",
        choices=SOURCE_KINDS,
        help="ask this kind of source only; repeat for several, in order (default: all)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    failed = False
    for name in options.names or DEFAULT_NAMES:
        try:
            line = _prepare(name, options.source or SOURCE_KINDS)
        except EvokernError as error:
            print(error, file=sys.stderr)
            failed = True
        else:
            print(line)
    return int(failed)


def _prepare(name: str, sources: Sequence[SourceKind]) -> str:
    status = "already there"
    try:
        load(name, download=False)
    except DataError:
        load(name, sources=sources)
        status = "fetched"
    folder = _folder(name, None)
    files = _form(FILE_SETS[name], folder).files if name in FILE_SETS else IDX_SETS[name].files
    if not files:
        return f"{name}: from an installed package, SHA-256 as expected"
    published = all(file.sha256 for file in files)
    return f"{folder}: {status}, SHA-256 as {'expected' if published else 'recorded beside it'}"


def _folder(name: str, cache: str | os.PathLike[str] | None) -> Path:
    row = FILE_SETS.get(name)
    return (cache_dir() if cache is None else Path(cache)) / (row.folder if row else name)


def _check_part(part: str, images: Any, labels: Any, classes: int) -> None:
    images_name, name = f"{part}_images", f"{part}_labels"
    _check_images(images_name, images)
    if not images.size:
        raise ShapeError(message(images_name, "at least one image", f"shape {list(images.shape)}"))
    wanted = f"integers [N={len(images)}]"
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        raise DtypeError(message(name, wanted, _kind(labels)))
    if labels.shape != images.shape[:1]:
        raise ShapeError(message(name, wanted, f"shape {list(labels.shape)}"))
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        got = f"{name}[{wrong.argmax()}] = {labels[wrong.argmax()]}"
        raise ArgumentError(message(name, f"classes in [0, {classes})", got))


def _check_images(name: str, images: Any) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise DtypeError(message(name, "uint8", _kind(images)))
    if images.ndim not in (3, 4):
        raise ShapeError(message(name, "[N, H, W] or [N, C, H, W]", f"shape {list(images.shape)}"))


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__


if __name__ == "__main__":
    sys.exit(main())
