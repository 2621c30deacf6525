"""Image files: one of any size, and folders and zips of classes."""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evokern.errors import ArgumentError, DataError, ShapeError
from evokern.problems.images import load_folder, read_image

GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def save(path: Path, pixels: object, mode: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels))
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


class TestReadImage:
    def test_grey(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", GREY)
        got = read_image(path, (2, 3))
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, GREY)
        np.testing.assert_array_equal(read_image(str(path), (1, 2, 3)), GREY[None])
        np.testing.assert_array_equal(read_image(path, [3, 2, 3]), [GREY, GREY, GREY])
        got[:] = 0

    def test_invert_is_off_unless_asked_for(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", GREY)
        np.testing.assert_array_equal(read_image(path, (2, 3), invert=True), 255 - GREY)
        np.testing.assert_array_equal(read_image(path, (3, 2, 3), invert=True)[1], 255 - GREY)

    def test_colours_are_channels_first(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
        assert read_image(path, (3, 2, 3)).tolist() == [
            [[0, 3, 6], [9, 12, 15]],
            [[1, 4, 7], [10, 13, 16]],
            [[2, 5, 8], [11, 14, 17]],
        ]
        assert read_image(path, (3, 2, 3)).flags.c_contiguous

    def test_colours_become_luma(self, tmp_path: Path) -> None:
        pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
        path = save(tmp_path / "a.png", pixels)
        assert read_image(path, (1, 4)).tolist() == [[76, 150, 29, 255]]

    def test_scaled_by_area(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", np.array([[0, 100, 7], [50, 150, 8]], np.uint8))
        assert read_image(path, (1, 1)).tolist() == [[53]]
        path = save(tmp_path / "b.png", np.array([[0, 100], [50, 150]], np.uint8))
        assert read_image(path, (1, 2)).tolist() == [[25, 125]]
        assert read_image(path, (2, 1)).tolist() == [[50], [100]]
        assert read_image(path, (2, 4)).tolist() == [[0, 0, 100, 100], [50, 50, 150, 150]]

    def test_one_bit(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", np.array([[0, 255], [255, 255]], np.uint8), "1")
        # Rounded after each axis: 127.5 to 128, then 191.5 to 192.
        assert read_image(path, (1, 1)).tolist() == [[192]]

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", np.array([[0, 128, 129, 257, 65535]], np.uint16))
        assert read_image(path, (1, 5)).tolist() == [[0, 0, 1, 1, 255]]

    @pytest.mark.parametrize(("invert", "expected"), [(False, [0, 60]), (True, [0, 195])])
    def test_transparent_is_background(
        self, invert: bool, expected: list[int], tmp_path: Path
    ) -> None:
        pixels = np.array([[[90, 90, 90, 0], [60, 60, 60, 255]]], np.uint8)
        path = save(tmp_path / "a.png", pixels)
        assert read_image(path, (1, 2), invert=invert).tolist() == [expected]
        path = save(tmp_path / "b.png", pixels[..., ::3])
        assert read_image(path, (1, 2), invert=invert).tolist() == [expected]

    def test_upright_as_exif_says(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # the first row is the right side
        path = save(tmp_path / "a.png", GREY, exif=exif)
        np.testing.assert_array_equal(read_image(path, (3, 2)), np.rot90(GREY, -1))

    @pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n" + bytes(50)])
    def test_no_image(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path}: expected an image that Pillow can read"):
            read_image(path, (28, 28))

    def test_cut_off(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8)
        for name in ("a.png", "a.jpg"):
            path = save(tmp_path / name, noise)
            path.write_bytes(path.read_bytes()[:600])
            with pytest.raises(DataError, match=f"{path}: expected an image that Pillow can read"):
                read_image(path, (28, 28))

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="expected an image file, got none"):
            read_image(tmp_path / "a.png", (28, 28))
        with pytest.raises(DataError, match=f"{tmp_path}: expected an image"):
            read_image(tmp_path, (28, 28))

    def test_several_images(self, tmp_path: Path) -> None:
        frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match="expected one image, got 2 frames"):
            read_image(tmp_path / "a.gif", (2, 3))

    def test_floating_point(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.tif", GREY.astype(np.float32))
        with pytest.raises(DataError, match="8 or 16 bits a channel, got 32 bits"):
            read_image(path, (2, 3))

    @pytest.mark.parametrize("share", [1.5, 3])
    def test_giant(self, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = save(tmp_path / "a.png", GREY)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(6 / share))
        with pytest.raises(DataError, match="decompression bomb"):
            read_image(path, (2, 3))

    @pytest.mark.parametrize("shape", [(), (28,), (0, 28), (2, 28, 28), (4, 3, 28, 28)])
    def test_bad_shape(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", GREY)
        with pytest.raises(ShapeError, match=r"shape: expected \[H, W\], \[1, H, W\] or"):
            read_image(path, shape)


def fill(folder: Path, names: str, *, shape: tuple[int, ...] = (2, 3)) -> Path:
    """Images filled with 0, 1, 2 ... in the order of the names."""
    for value, name in enumerate(names.split()):
        save(folder / name, np.full(shape, value, np.uint8))
    return folder


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


DIVIDED = "train/cat/1.png train/cat/2.png train/dog/1.png test/dog/1.png test/cat/7.png"


class TestLoadFolder:
    @pytest.mark.parametrize("packed", [False, True])
    def test_train_and_test(self, packed: bool, tmp_path: Path) -> None:
        path = fill(tmp_path / "pets", DIVIDED)
        data = load_folder(zipped(path) if packed else path)
        assert (data.name, data.classes, data.class_names) == ("pets", 2, ("cat", "dog"))
        assert data.train_images.dtype == data.train_labels.dtype == np.uint8
        assert data.train_images.shape == (3, 2, 3)
        assert data.train_images[:, 0, 0].tolist() == [0, 1, 2]
        assert data.train_labels.tolist() == [0, 0, 1]
        assert data.test_images[:, 1, 2].tolist() == [4, 3]
        assert data.test_labels.tolist() == [0, 1]
        assert data.image_shape == (1, 2, 3)

    def test_classes_only(self, tmp_path: Path) -> None:
        names = [f"{label}/{i:02}.png" for label in "ab" for i in range(10)]
        path = fill(tmp_path, " ".join(names))
        data = load_folder(path, test_share=0.2)
        # RandomState(1): permutation(10) ends with 8 and 5, the next one with 6 and 7.
        assert data.test_images[:, 0, 0].tolist() == [5, 8, 16, 17]
        assert data.test_labels.tolist() == [0, 0, 1, 1]
        assert data.train_images[:, 0, 0].tolist() == sorted({*range(20)} - {5, 8, 16, 17})
        other = load_folder(path, test_share=0.2, seed=2)
        assert other.test_images[:, 0, 0].tolist() != [5, 8, 16, 17]

    def test_order_of_classes(self, tmp_path: Path) -> None:
        numbers = load_folder(fill(tmp_path / "a", "10/a.png 9/a.png 9/b.png"), test_share=0.5)
        assert numbers.class_names == ("9", "10")
        mixed = load_folder(
            fill(tmp_path / "b", "10/a.png 9/a.png 9/b.png x/a.png"), test_share=0.5
        )
        assert mixed.class_names == ("10", "9", "x")

    def test_folders_of_folders(self, tmp_path: Path) -> None:
        names = "all/Greek/1/a.png all/Greek/1/b.png all/Greek/2/a.png all/Latin/1/a.png"
        data = load_folder(zipped(fill(tmp_path / "a", names)), test_share=0.5)
        assert data.class_names == ("Greek/1", "Greek/2", "Latin/1")

    def test_linked_folders(self, tmp_path: Path) -> None:
        fill(tmp_path / "elsewhere", "a/0.png a/1.png b/0.png b/1.png")
        folder = tmp_path / "images"
        folder.mkdir()
        for name, place in (("one", "a"), ("two", "b"), ("three", "b")):
            (folder / name).symlink_to(tmp_path / "elsewhere" / place)
        (tmp_path / "elsewhere/a/back").symlink_to(tmp_path / "elsewhere/a")
        (folder / "loop").symlink_to(folder)
        (folder / "nothing").symlink_to(tmp_path / "absent")
        data = load_folder(folder, test_share=0.5)
        assert data.class_names == ("one", "three", "two")
        assert len(data.train_images) == len(data.test_images) == 3

    def test_other_files_are_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = fill(tmp_path, DIVIDED + " .hidden/a.png train/cat/.a.png __MACOSX/train/cat/a.png")
        (path / "README.txt").write_text("pets")
        with caplog.at_level(logging.INFO):
            data = load_folder(path)
        assert len(data.train_images) == 3
        assert caplog.messages == [f"{path}: left out 4 files that are no images"]

    def test_any_colour_makes_all_coloured(self, tmp_path: Path) -> None:
        path = fill(tmp_path, DIVIDED)
        save(path / "test" / "cat" / "7.png", np.full((2, 3, 3), (1, 2, 3), np.uint8))
        data = load_folder(path)
        assert data.train_images.shape == (3, 3, 2, 3)
        assert data.test_images[0, :, 0, 0].tolist() == [1, 2, 3]

    def test_sizes_that_differ(self, tmp_path: Path) -> None:
        path = fill(tmp_path, DIVIDED)
        save(path / "test" / "cat" / "7.png", np.full((3, 2), 9, np.uint8))
        match = r"test/cat/7\.png: expected 2x3 pixels like the first image, got 3x2; give shape="
        with pytest.raises(DataError, match=match):
            load_folder(path)
        data = load_folder(path, shape=(1, 4, 4), invert=True)
        assert data.train_images.shape == (3, 1, 4, 4)
        assert data.test_images[:, 0, 3, 3].tolist() == [246, 252]

    @pytest.mark.parametrize(
        ("names", "text"),
        [
            ("a.png b/a.png", r"a\.png: expected CLASS/NAME, got an image in no class"),
            ("train/a.png test/a/a.png", "expected train/CLASS/NAME, got an image in no class"),
            ("train/a/a.png train/b/a.png", r"expected train/ and test/, .* got \['train'\]"),
            (
                "train/a/a.png test/a/a.png val/a/a.png",
                r"expected train/ and test/, or neither, got \['test', 'train', 'val'\]",
            ),
            ("train/a/a.png train/b/a.png test/c/a.png", "train: expected a folder c, got it in"),
            ("a/a.png a/b.png", "expected 2 to 256 classes, got 1"),
            ("a/a.png b/c/a.png", "expected all images equally deep in folders, got a/a.png and"),
        ],
    )
    def test_other_layouts(self, names: str, text: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=text):
            load_folder(fill(tmp_path, names))

    def test_no_images(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"expected images \(\.bmp .*\), got 0 other files"):
            load_folder(tmp_path)
        with pytest.raises(DataError, match=r"expected a folder or \.zip of images, got .*No such"):
            load_folder(tmp_path / "none")
        (tmp_path / "a.zip").write_bytes(b"<html>")
        with pytest.raises(DataError, match=r"expected a folder or \.zip of images, got File is"):
            load_folder(tmp_path / "a.zip")

    def test_damaged_image(self, tmp_path: Path) -> None:
        path = fill(tmp_path / "pets", DIVIDED)
        (path / "train" / "dog" / "1.png").write_bytes(b"<html>")
        for place in (path, zipped(path)):
            with pytest.raises(DataError, match=f"{place}: train/dog/1.png: expected an image"):
                load_folder(place, shape=(2, 3))

    def test_damaged_zip(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in DIVIDED.split():
                archive.write(save(tmp_path / "a.bmp", np.zeros((40, 40), np.uint8)), name)
        content = bytearray(path.read_bytes())
        content[2500] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match="an image that Pillow can read, got Bad CRC-32"):
            load_folder(path)

    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_a_flipped_byte_anywhere_in_a_packed_image(self, method: int, tmp_path: Path) -> None:
        path = tmp_path / "a.zip"
        noise = np.random.default_rng(0).integers(0, 4, (10, 10), np.uint8)
        with zipfile.ZipFile(path, "w", method) as archive:
            for name in DIVIDED.split():
                archive.write(save(tmp_path / "a.bmp", noise), name)
            packed = archive.infolist()[0].compress_size
        whole = path.read_bytes()
        refused = 0
        for place in range(50, 50 + packed, 5):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            try:
                load_folder(path)
            except DataError:
                refused += 1
        assert refused > packed // 10

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
    def test_bad_share(self, share: float, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match=r"test_share: expected a share in \(0, 1\)"):
            load_folder(fill(tmp_path, DIVIDED), test_share=share)

    def test_share_that_empties_a_part(self, tmp_path: Path) -> None:
        path = fill(tmp_path, "a/1.png a/2.png b/1.png b/2.png")
        with pytest.raises(ArgumentError, match="a share that gives an image of some class"):
            load_folder(path, test_share=0.2)
        with pytest.raises(ArgumentError, match="a share that leaves a an image for training"):
            load_folder(path, test_share=0.9)

    def test_too_many_classes(self, tmp_path: Path) -> None:
        picture = save(tmp_path / "a.png", GREY).read_bytes()
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for number in range(257):
                archive.writestr(f"train/{number}/a.png", picture)
            archive.writestr("test/0/a.png", picture)
        with pytest.raises(DataError, match="expected 2 to 256 classes, got 257"):
            load_folder(tmp_path / "a.zip")
