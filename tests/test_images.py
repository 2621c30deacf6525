"""Images as arrays: mean image, normalisation, hold-out split."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evokern.errors import ArgumentError, DtypeError, ShapeError
from evokern.problems.datasets import Dataset, holdout_split, mean_image, normalise


class TestMeanImage:
    def test_literal(self) -> None:
        images = np.array([[[0, 255, 1]], [[0, 255, 2]], [[1, 255, 2]]], np.uint8)
        mean = mean_image(images)
        assert mean.dtype == np.float32
        assert mean.shape == (1, 3)
        # 1/3, 255 and 5/3, each rounded once.
        assert [value.hex() for value in mean[0].tolist()] == [
            "0x1.5555560000000p-2",
            "0x1.fe00000000000p+7",
            "0x1.aaaaaa0000000p+0",
        ]

    def test_sum_that_float32_cannot_hold(self) -> None:
        images = np.full((70_001, 1, 1), 255, np.uint8)
        images[0] = 1
        # 17,850,001 / 70,001; with the sum rounded to float32 first, the last digit would be 2.
        assert mean_image(images)[0, 0].item().hex() == "0x1.fdfe240000000p+7"

    def test_order_of_images_does_not_matter(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (101, 5, 4), np.uint8)
        np.testing.assert_array_equal(mean_image(images), mean_image(images[::-1]))

    def test_colours(self) -> None:
        images = np.arange(2 * 3 * 2 * 1).reshape(2, 3, 2, 1).astype(np.uint8)
        mean = mean_image(images)
        assert mean.dtype == np.float32
        assert mean.tolist() == [[[3], [4]], [[5], [6]], [[7], [8]]]

    def test_bad_input(self) -> None:
        with pytest.raises(DtypeError, match="images: expected uint8, got float64"):
            mean_image(np.zeros((2, 3, 3)))
        with pytest.raises(
            ShapeError, match=r"expected \[N, H, W\] or \[N, C, H, W\], got .* \[9, 3\]"
        ):
            mean_image(np.zeros((9, 3), np.uint8))
        with pytest.raises(ShapeError, match="N >= 1"):
            mean_image(np.zeros((0, 3, 3), np.uint8))


class TestNormalise:
    def test_literal(self) -> None:
        images = np.array([[[0, 255], [7, 100]]], np.uint8)
        mean = np.array([[0.1, 0], [7, 33.318424]], np.float32)
        got = normalise(images, mean)
        assert got.dtype == np.float32
        assert got.shape == (1, 1, 2, 2)
        # Exact rational arithmetic, rounded to float32 after each of the two operations.
        assert [value.hex() for value in got.ravel().tolist()] == [
            "-0x1.9b34ce0000000p-12",
            "0x1.0000000000000p+0",
            "0x0.0p+0",
            "0x1.0bc5b60000000p-2",
        ]

    def test_colours(self) -> None:
        images = np.array([[[[255, 0]], [[51, 102]]]], np.uint8)
        got = normalise(images, np.array([[[0, 0]], [[51, 0]]], np.float32))
        assert got.dtype == np.float32
        assert got.shape == (1, 2, 1, 2)
        np.testing.assert_array_equal(got, np.array([[[[1, 0]], [[0, 0.4]]]], np.float32))

    def test_grey_and_one_channel_agree(self) -> None:
        images = np.arange(30).reshape(2, 5, 3).astype(np.uint8)
        mean = mean_image(images)
        np.testing.assert_array_equal(
            normalise(images, mean), normalise(images[:, None], mean[None])
        )

    def test_every_pixel_value(self) -> None:
        images = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
        mean = (np.arange(128).reshape(8, 16) / 3).astype(np.float32)
        got = normalise(images, mean)
        for index in np.ndindex(images.shape):
            difference = np.float32(images[index]) - mean[index[1:]]
            assert got[index[0], 0, index[1], index[2]] == difference / np.float32(255)

    def test_result_is_contiguous(self) -> None:
        images = np.zeros((28, 28, 3), np.uint8).transpose(2, 1, 0)
        assert normalise(images, np.zeros((28, 28), np.float32)).flags.c_contiguous

    def test_input_is_left_alone(self) -> None:
        images = np.arange(2 * 784).reshape(2, 28, 28).astype(np.uint8)
        mean = mean_image(images)
        before = images.copy(), mean.copy()
        normalise(images, mean)
        np.testing.assert_array_equal(images, before[0])
        np.testing.assert_array_equal(mean, before[1])

    def test_bad_input(self) -> None:
        images = np.zeros((2, 28, 28), np.uint8)
        with pytest.raises(DtypeError, match="mean: expected float32, got float64"):
            normalise(images, np.zeros((28, 28)))
        with pytest.raises(ShapeError, match=r"mean: expected \[28, 28\], got shape \[28, 27\]"):
            normalise(images, np.zeros((28, 27), np.float32))
        with pytest.raises(DtypeError, match="images: expected uint8, got int64"):
            normalise(images.astype(np.int64), np.zeros((28, 28), np.float32))


class TestHoldoutSplit:
    def test_literal(self) -> None:
        train, holdout = holdout_split(10)
        assert train.tolist() == [2, 9, 6, 4, 0, 3, 1, 7, 8]
        assert holdout.tolist() == [5]
        assert train.dtype == holdout.dtype == np.int64

    def test_mnist(self) -> None:
        train, holdout = holdout_split(60_000)
        assert (len(train), len(holdout)) == (54_000, 6_000)
        assert train[:4].tolist() == [15281, 21435, 44536, 13518]
        assert holdout[-4:].tolist() == [32511, 5192, 12172, 33003]

    def test_seed(self) -> None:
        assert holdout_split(100)[0].tolist() == holdout_split(100, seed=1)[0].tolist()
        assert holdout_split(100)[0].tolist() != holdout_split(100, seed=2)[0].tolist()

    @given(st.integers(2, 300), st.integers(0, 2**32 - 1), st.floats(0, 1))
    def test_parts_are_a_partition(self, n: int, seed: int, share: float) -> None:
        size = round(n * share)
        if size in (0, n):
            with pytest.raises(ArgumentError, match="train_share"):
                holdout_split(n, seed=seed, train_share=share)
            return
        train, holdout = holdout_split(n, seed=seed, train_share=share)
        assert len(train) == size
        assert sorted([*train, *holdout]) == list(range(n))

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
    def test_bad_share(self, share: float) -> None:
        with pytest.raises(ArgumentError, match=r"train_share: expected a share in \(0, 1\)"):
            holdout_split(60_000, train_share=share)


class TestImageShape:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [((2, 28, 27), (1, 28, 27)), ((2, 3, 32, 31), (3, 32, 31)), ((1, 1, 4, 5), (1, 4, 5))],
    )
    def test_channels_height_width(
        self, shape: tuple[int, ...], expected: tuple[int, int, int]
    ) -> None:
        images, labels = np.zeros(shape, np.uint8), np.zeros(shape[0], np.uint8)
        assert Dataset("tiny", images, labels, images, labels).image_shape == expected


def dataset_with(**changes: Any) -> Dataset:
    """Two parts of 3 and 2 images of 4 classes, but for the changes."""
    fields = {
        "train_images": np.zeros((3, 4, 5), np.uint8),
        "train_labels": np.array([0, 3, 1], np.uint8),
        "test_images": np.zeros((2, 4, 5), np.uint8),
        "test_labels": np.array([2, 3]),
        "classes": 4,
    }
    return Dataset("tiny", **(fields | changes))


@pytest.mark.parametrize("part", ["train", "test"])
class TestDatasetArrays:
    @pytest.mark.parametrize("images", [np.zeros((3, 4, 5)), np.zeros((3, 4, 5), np.int8), [[[0]]]])
    def test_images_of_other_types(self, part: str, images: Any) -> None:
        with pytest.raises(
            DtypeError, match=f"^{part}_images: expected uint8, got (float64|int8|l)"
        ):
            dataset_with(**{f"{part}_images": images})

    @pytest.mark.parametrize("shape", [(3, 20), (3, 1, 1, 4, 5), (0, 4, 5), (3, 0, 5)])
    def test_images_of_other_shapes(self, part: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(ShapeError, match=f"^{part}_images: expected .*shape"):
            dataset_with(**{f"{part}_images": np.zeros(shape, np.uint8)})

    @pytest.mark.parametrize("labels", [np.array([0.5, 1]), np.array([True, False]), [0, 1]])
    def test_labels_that_are_no_integers(self, part: str, labels: Any) -> None:
        with pytest.raises(DtypeError, match=rf"^{part}_labels: expected integers \[N=[23]\], got"):
            dataset_with(**{f"{part}_labels": labels})

    @pytest.mark.parametrize("labels", [[0], [0, 1, 2, 3], [[0], [1], [2]], []])
    def test_labels_of_another_number(self, part: str, labels: Any) -> None:
        with pytest.raises(ShapeError, match=rf"^{part}_labels: expected integers \[N=[23]\], got"):
            dataset_with(**{f"{part}_labels": np.array(labels, np.int64)})

    @pytest.mark.parametrize("wrong", [4, -1])
    def test_labels_of_no_class(self, part: str, wrong: int) -> None:
        labels = np.arange(3 if part == "train" else 2)
        labels[1] = wrong
        words = rf"^{part}_labels: expected classes in \[0, 4\), got {part}_labels\[1\] = {wrong}"
        with pytest.raises(ArgumentError, match=words):
            dataset_with(**{f"{part}_labels": labels})


def test_what_does_not_fit_together_in_a_dataset_is_refused() -> None:
    assert dataset_with(class_names=("a", "b", "c", "d")).classes == 4
    with pytest.raises(
        ShapeError, match=r"^test_images: expected images \[4, 5\] .* got .*\[5, 4\]"
    ):
        dataset_with(test_images=np.zeros((2, 5, 4), np.uint8))
    with pytest.raises(
        ArgumentError, match=r"^class_names: expected none or classes=4 names, got 3"
    ):
        dataset_with(class_names=("a", "b", "c"))
    with pytest.raises(DtypeError, match=r"^classes: expected an int, got float"):
        dataset_with(classes=4.0)
