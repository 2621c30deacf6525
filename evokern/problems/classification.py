"""Supervised classification as a problem for evolution: batches to train on, parts to test on.

Preprocessing is that of the authors' program (thesis, chapter 5): the first 90 % of a fixed
permutation train, the rest is held out; the training part's mean image is subtracted, then pixels
are divided by 255. Unlike that program, the test accuracy is measured on the real test set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evokern import ops
from evokern.backends.reference.random import counter_permutation
from evokern.errors import ArgumentError, message
from evokern.network import Dense, Flatten, MaxPool2d, Network
from evokern.problems.datasets import Dataset, holdout_split, mean_image, normalise
from evokern.rules import Precision

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


def thesis_network(image_shape: tuple[int, int] = (28, 28), classes: int = 10) -> Network:
    """2x2 max-pool, dense 256-128-64-classes with relu: 92,234 genes on 28x28 images (5.2)."""
    hidden = (Dense(256, "relu"), Dense(128, "relu"), Dense(64, "relu"))
    return Network((MaxPool2d(2), Flatten(), *hidden, Dense(classes)), (1, *image_shape))


@dataclass(frozen=True, eq=False)
class Part:
    """Samples x float32 [N, 1, H, W] with labels y int64 [N]."""

    x: F32
    y: npt.NDArray[np.int64]


class Classification:
    """A data set, cut and normalised, with one random batch per generation.

    ``train``, ``holdout`` and ``test`` are the parts, ``mean`` float32 [H, W] the mean image.
    """

    def __init__(self, dataset: Dataset, network: Network, *, batch: int, seed: int) -> None:
        train, holdout = holdout_split(len(dataset.train_images))
        if not 1 <= batch <= len(train):
            raise ArgumentError(message("batch", f"1 to {len(train)} samples", str(batch)))
        self.network = network
        self.batch = batch
        self.seed = seed
        self.mean = mean_image(dataset.train_images[train])
        self.train = self._part(dataset.train_images[train], dataset.train_labels[train])
        self.holdout = self._part(dataset.train_images[holdout], dataset.train_labels[holdout])
        self.test = self._part(dataset.test_images, dataset.test_labels)
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def evaluate(
        self, genomes: F32, generation: int, precision: Precision = "fp32"
    ) -> tuple[F32, I32]:
        """Loss float32 [P] and correct counts int32 [P] on the generation's batch (Alg. 2)."""
        samples = self.batch_of(generation)
        x, y = self.train.x[samples], self.train.y[samples]
        loss, correct = ops.network_loss(genomes, self.network, x, y, precision=precision)
        return loss, correct

    def batch_of(self, generation: int) -> npt.NDArray[np.int64]:
        """Training samples [batch] of a generation: epoch after epoch without replacement."""
        n = len(self.train.y)
        place = generation * self.batch + np.arange(self.batch)
        epochs = place // n
        parts = [
            self._epoch_order(int(epoch))[place[epochs == epoch] % n]
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
        return np.concatenate(parts)

    def accuracy(self, genomes: F32, part: Part) -> npt.NDArray[np.float64]:
        """Share of right predictions float64 [P] of genomes [P, G] on a part."""
        _, correct = ops.network_loss(genomes, self.network, part.x, part.y)
        return np.asarray(correct / len(part.y), np.float64)

    def _part(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Part:
        return Part(normalise(images, self.mean), labels.astype(np.int64))

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch != self._epoch:
            self._order = counter_permutation(len(self.train.y), seed=self.seed, epoch=epoch)
            self._epoch = epoch
        return self._order
