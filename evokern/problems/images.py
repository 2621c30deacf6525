"""Image files of any size: one image, or a folder or zip of classes.

Pillow reads them; it comes with matplotlib. An image is turned upright as its EXIF entry says.
Transparent pixels count as background: black, or white if ``invert``.
"""

from __future__ import annotations

import logging
import lzma
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from evokern.errors import ArgumentError, DataError, ShapeError, message
from evokern.problems.datasets import Dataset

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)
"""What :func:`load_folder` takes for an image; other files are left out and counted in the log."""

MAX_CLASSES = 256

_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")
_PARTS = ("train", "test")

U8 = npt.NDArray[np.uint8]
Open = Callable[[str], BinaryIO]
Labelled = tuple[str, str]
"""The name of a class and of a file."""


def read_image(path: str | os.PathLike[str], shape: Sequence[int], *, invert: bool = False) -> U8:
    """An image file as uint8 of the given shape: [H, W] or [1, H, W] grey, [3, H, W] coloured.

    Colours become grey by ITU-R 601 luma, (299 R + 587 G + 114 B) / 1000; grey becomes three equal
    channels. The whole image is scaled to H x W by averaging over areas (when enlarged: nearest
    pixel), whatever its proportions. ``invert`` turns v into 255 - v: give it for dark on light,
    such as ink on paper, if the network was trained on light on dark, such as MNIST.

    Raises :class:`~evokern.errors.ShapeError` for another shape and
    :class:`~evokern.errors.DataError` for what is no readable image.
    """
    wanted = _image_shape(shape)
    with _opening(str(path)), open(path, "rb") as stream:
        return _pixels(stream, str(path), wanted, invert, scale=True)


def load_folder(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int] | None = None,
    invert: bool = False,
    test_share: float = 0.1,
    seed: int = 1,
) -> Dataset:
    """A data set from a folder or .zip of images, ``CLASS/NAME.png`` or ``train/CLASS/NAME.png``.

    - With the folders ``train`` and ``test``, these are the two parts. Otherwise ``test_share`` of
      each class is put aside: of its n images, sorted by name, the last ``round(n * test_share)``
      of ``numpy.random.RandomState(seed).permutation(n)``, one generator for class after class.
    - Classes are in order of their names, by number if all are whole numbers. A class in folders
      of folders is named by the path (``Greek/character01``); links to folders are followed. A
      single folder around all is dropped, and so are hidden files. In a part, images are in order
      of class, then name.
    - ``shape``: as for :func:`read_image`. None: that of the first image, grey if all are grey,
      and all must have the same size.

    Raises :class:`~evokern.errors.DataError` for files or folders that do not fit and
    :class:`~evokern.errors.ArgumentError` if a part would be empty.
    """
    if not 0 < test_share < 1:
        raise ArgumentError(message("test_share", "a share in (0, 1)", repr(test_share)))
    place = Path(path)
    wanted = None if shape is None else _image_shape(shape)
    with _files(place) as (names, open_file):
        parts = _by_part(place, _images_among(place, names))
        class_names = _class_names(place, parts)
        if set(parts) != set(_PARTS):
            parts = _cut(parts[""], class_names, test_share, seed)
        label_of = {class_name: label for label, class_name in enumerate(class_names)}
        train, test = (sorted((label_of[c], name) for c, name in parts[part]) for part in _PARTS)
        if wanted is None:
            wanted = _common_shape(place, [name for _, name in train + test], open_file)
        scale = shape is not None
        train_images = _read_all(place, train, open_file, wanted, invert, scale=scale)
        test_images = _read_all(place, test, open_file, wanted, invert, scale=scale)
    return Dataset(
        place.stem,
        train_images,
        np.array([label for label, _ in train], np.uint8),
        test_images,
        np.array([label for label, _ in test], np.uint8),
        classes=len(class_names),
        source=str(place),
        class_names=class_names,
    )


def _image_shape(shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) not in (2, 3) or min(shape) < 1 or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise ShapeError(message("shape", "[H, W], [1, H, W] or [3, H, W]", str(list(shape))))
    return tuple(shape)


def _read_all(
    path: Path,
    rows: Sequence[tuple[int, str]],
    open_file: Open,
    shape: tuple[int, ...],
    invert: bool,
    *,
    scale: bool,
) -> U8:
    images = np.empty((len(rows), *shape), np.uint8)
    for image, (_, name) in zip(images, rows, strict=True):
        full_name = f"{path}: {name}"
        with _opening(full_name), open_file(name) as stream:
            image[...] = _pixels(stream, full_name, shape, invert, scale=scale)
    return images


def _pixels(
    stream: BinaryIO, name: str, shape: tuple[int, ...], invert: bool, *, scale: bool
) -> U8:
    from PIL import Image

    coloured = len(shape) == 3 and shape[0] == 3
    height, width = shape[-2:]
    picture = _upright(stream, name, 255 if invert else 0)
    if picture.size != (width, height) and not scale:
        wanted = f"{height}x{width} pixels like the first image"
        got = f"{picture.height}x{picture.width}"
        mend = "give shape=(H, W) or (3, H, W) to scale all"
        raise DataError(message(name, wanted, got, mend))
    picture = picture.convert("RGB" if coloured else "L")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BOX)
    pixels = np.array(picture)
    pixels = (pixels.transpose(2, 0, 1) if coloured else pixels).reshape(shape)
    return np.ascontiguousarray(255 - pixels if invert else pixels)


def _upright(stream: BinaryIO, name: str, background: int) -> Image.Image:
    """The image in mode L or RGB, without transparency."""
    from PIL import Image, ImageOps

    picture: Image.Image = Image.open(stream)
    frames = getattr(picture, "n_frames", 1)
    # Phones store previews behind the photograph (MPO); these are not further images.
    if frames > 1 and picture.format != "MPO":
        raise DataError(message(name, "one image", f"{frames} frames"))
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise DataError(message(name, "8 or 16 bits a channel", f"32 bits (mode {picture.mode})"))
    grey = picture.mode in _GREY_MODES
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, (background, background, background, 255))
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    return picture.convert("L" if grey else "RGB")


@contextmanager
def _opening(name: str) -> Iterator[None]:
    """What Pillow and the file system raise for a bad file becomes a DataError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(message(name, "an image file", "none")) from error
    except (
        *(OSError, Image.DecompressionBombError, Image.DecompressionBombWarning),
        # Pillow's decoders and zipfile raise these too for damaged files.
        *(SyntaxError, ValueError, EOFError, TypeError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    ) as error:
        wanted = "an image that Pillow can read"
        raise DataError(message(name, wanted, str(error) or type(error).__name__)) from error


@contextmanager
def _files(path: Path) -> Iterator[tuple[list[str], Open]]:
    """The names of all files below a folder or in a zip, with / between, and what opens them."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in _below(path) if file.is_file()]
        yield names, lambda name: (path / name).open("rb")
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(message(str(path), "a folder or .zip of images", str(error))) from error
    with archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        yield names, lambda name: cast(BinaryIO, archive.open(name))


def _below(path: Path) -> Iterator[Path]:
    """All files below a folder, through links to folders but those that lead back up."""
    for name, folders, files in os.walk(path, followlinks=True):
        place = Path(name)
        above = {os.path.realpath(folder) for folder in (place, *place.parents)}
        folders[:] = [f for f in folders if os.path.realpath(place / f) not in above]
        yield from (place / file for file in files)


def _images_among(path: Path, names: Sequence[str]) -> list[str]:
    images = []
    for name in names:
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
        if not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES:
            images.append(name)
    if not images:
        wanted = f"images ({' '.join(SUFFIXES)})"
        raise DataError(message(str(path), wanted, f"{len(names)} other files"))
    if len(images) < len(names):
        log.info("%s: left out %d files that are no images", path, len(names) - len(images))
    return images


def _by_part(path: Path, names: Sequence[str]) -> dict[str, list[Labelled]]:
    """The images by part, sorted by name; the only part is "" if there is no train and test."""
    places = {name: PurePosixPath(name).parts[:-1] for name in sorted(names)}
    while (
        all(len(place) > 1 for place in places.values())
        and len(tops := {place[0] for place in places.values()}) == 1
        and tops.isdisjoint(_PARTS)
    ):
        places = {name: place[1:] for name, place in places.items()}
    divided = any(place[:1] in (("train",), ("test",)) for place in places.values())
    by_part: dict[str, list[Labelled]] = {}
    by_depth: dict[int, str] = {}
    for name, place in places.items():
        part = place[0] if divided and place else ""
        label = place[1:] if divided else place
        if not label:
            wanted = "train/CLASS/NAME" if divided else "CLASS/NAME"
            raise DataError(message(f"{path}: {name}", wanted, "an image in no class"))
        by_part.setdefault(part, []).append(("/".join(label), name))
        by_depth[len(label)] = name
    if divided and set(by_part) != set(_PARTS):
        wanted = "train/ and test/, or neither"
        raise DataError(message(str(path), wanted, f"{sorted(by_part)[:5]}"))
    if len(by_depth) > 1:
        got = f"{by_depth[min(by_depth)]} and {by_depth[max(by_depth)]}"
        raise DataError(message(str(path), "all images equally deep in folders", got))
    return by_part


def _class_names(path: Path, parts: dict[str, list[Labelled]]) -> tuple[str, ...]:
    names = {label for rows in parts.values() for label, _ in rows}
    unseen = names - {label for label, _ in parts["train"]} if "train" in parts else set()
    if unseen:
        raise DataError(message(f"{path}: train", f"a folder {min(unseen)}", "it in test only"))
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(message(str(path), f"2 to {MAX_CLASSES} classes", str(len(names))))
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def _cut(
    rows: Sequence[Labelled], class_names: Sequence[str], test_share: float, seed: int
) -> dict[str, list[Labelled]]:
    by_class: dict[str, list[Labelled]] = {label: [] for label in class_names}
    for row in rows:
        by_class[row[0]].append(row)
    train: list[Labelled] = []
    test: list[Labelled] = []
    random = np.random.RandomState(seed)
    for label, members in by_class.items():
        order = random.permutation(len(members))
        first = len(members) - round(len(members) * test_share)
        if not first:
            wanted = f"a share that leaves {label} an image for training"
            raise ArgumentError(message("test_share", wanted, f"{test_share} of {len(members)}"))
        train += [members[i] for i in order[:first]]
        test += [members[i] for i in order[first:]]
    if not test:
        wanted = "a share that gives an image of some class to the test part"
        raise ArgumentError(message("test_share", wanted, repr(test_share)))
    return {"train": train, "test": test}


def _common_shape(path: Path, names: Sequence[str], open_file: Open) -> tuple[int, ...]:
    """[H, W], or [3, H, W] if any image is coloured, with the size of the first."""
    from PIL import Image

    coloured = False
    for name in names:
        with _opening(f"{path}: {name}"), open_file(name) as stream, Image.open(stream) as picture:
            coloured |= picture.mode not in _GREY_MODES
    with _opening(f"{path}: {names[0]}"), open_file(names[0]) as stream:
        width, height = _upright(stream, f"{path}: {names[0]}", 0).size
    return (3, height, width) if coloured else (height, width)
