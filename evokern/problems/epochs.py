"""Batches of epochs: every sample once, in an order drawn anew, before any comes again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evokern.backends.reference.random import counter_permutation

I64 = npt.NDArray[np.int64]


class EpochSampler:
    """The orders of N samples, epoch after epoch, cut into batches; one may span epochs.

    Args:
        samples: N.
        seed: in [0, 2^64).
    """

    def __init__(self, samples: int, seed: int) -> None:
        self._samples = samples
        self._seed = seed
        self._epoch = -1
        self._order: I64 = np.zeros(0, np.int64)

    def draw(self, batch: int, generation: int) -> I64:
        """Samples int64 [batch] of a generation."""
        places = generation * batch + np.arange(batch)
        epochs = places // self._samples
        parts = [
            self._order_of(int(epoch))[places[epochs == epoch] % self._samples]
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
        return np.concatenate(parts)

    def _order_of(self, epoch: int) -> I64:
        """The epoch's permutation; the last one is kept."""
        if epoch != self._epoch:
            self._order = counter_permutation(self._samples, seed=self._seed, epoch=epoch)
            self._epoch = epoch
        return self._order
