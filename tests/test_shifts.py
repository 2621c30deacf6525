"""Images moved by a pixel: the rule, its draws, batches of a problem."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from evokern import Dense, Flatten, Network
from evokern.backends.reference.random import Stream, draw_words
from evokern.errors import ArgumentError, DtypeError
from evokern.problems.classification import Classification, ClassificationConfig
from evokern.problems.datasets import Dataset, normalise
from evokern.problems.shifts import shifted

IMAGE = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
WAYS = {
    "down": [[1, 2, 3], [1, 2, 3]],
    "up": [[4, 5, 6], [4, 5, 6]],
    "right": [[1, 1, 2], [4, 4, 5]],
    "left": [[2, 3, 3], [5, 6, 6]],
}


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (4, 2, 3)])
def test_images_go_one_of_four_ways(shape: tuple[int, ...]) -> None:
    images = np.broadcast_to(IMAGE, (400, *shape)).copy()
    out = shifted(images, 1.0, seed=3, generation=7)
    words = draw_words(Stream.BATCH, 800, seed=3, individual=2, generation=7)
    expected = [list(WAYS.values())[int(word) * 4 >> 32] for word in words[1::2].tolist()]
    for image, wanted in zip(out, expected, strict=True):
        assert_array_equal(image, np.broadcast_to(np.array(wanted, np.uint8), shape))
    assert len({str(wanted) for wanted in expected}) == 4
    assert_array_equal(images, np.broadcast_to(IMAGE, images.shape))  # left as they were


def test_a_share_of_them_is_moved() -> None:
    images = np.broadcast_to(IMAGE, (4000, 2, 3))
    assert_array_equal(shifted(images, 0.0, seed=1, generation=0), images)
    moved = (shifted(images, 0.25, seed=1, generation=0) != images).any(axis=(1, 2))
    words = draw_words(Stream.BATCH, 8000, seed=1, individual=2, generation=0)
    assert_array_equal(moved, words[::2] < 2**30)
    assert 900 < moved.sum() < 1100
    assert shifted(images[:0], 0.5, seed=1, generation=0).shape == (0, 2, 3)
    single = np.full((3, 1, 1), 9, np.uint8)
    assert_array_equal(shifted(single, 1.0, seed=1, generation=0), single)


@pytest.mark.parametrize("sampling", ["epochs", "importance"])
def test_batches_of_a_problem(sampling: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 5, 4), np.uint8)
    labels = np.arange(50, dtype=np.uint8) % 3
    dataset = Dataset("noise", images, labels, images[:9], labels[:9])
    network = Network((Flatten(), Dense(3)), (1, 5, 4))

    def problem(**settings: float) -> Classification:
        config = ClassificationConfig(batch=20, sampling=sampling, **settings)  # type: ignore[arg-type]
        return Classification(dataset, network, config, seed=6)

    still, moving = problem().batch(4), problem(shift_share=0.5).batch(4)
    assert_array_equal(still.y, moving.y)
    assert (still.weights is None) == (moving.weights is None)
    same = (still.x == moving.x).all(axis=(1, 2, 3))
    assert 0 < same.sum() < 20
    # Pixels move, then the mean image is subtracted.
    mean = problem().mean
    pixels = np.rint(still.x[:, 0] * 255 + mean).astype(np.uint8)
    expected = normalise(shifted(pixels, 0.5, seed=6, generation=4), mean)
    assert_array_equal(moving.x, expected)
    assert_array_equal(problem(shift_share=0.5).batch(4).x, moving.x)


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="shift_share: expected a probability"):
        ClassificationConfig(shift_share=1.5)
    with pytest.raises(DtypeError, match="shift_share: expected a number"):
        ClassificationConfig(shift_share="all")  # type: ignore[arg-type]
