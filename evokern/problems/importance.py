"""Batches of the samples that are still wrong, weighted so that fitness stays unbiased.

Once most samples are right, most of a uniform batch says nothing about who is fitter. Here a
sample's chance grows with its error 1 - p, p being the softmax of its class, and its loss is
divided by that chance: the expected fitness is that of uniform batches, its variance is smaller
(importance sampling; after Alain et al., "Variance reduction in SGD by distributed importance
sampling", 2015).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evokern.backends.reference.activation import exp
from evokern.backends.reference.random import Stream, draw_words

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_BATCHES = 1
"""Of the stream of batches: number 0 orders the epochs."""


class ImportanceSampler:
    """Chances of N samples, from the last errors that it was told; all alike before.

    Args:
        uniform_share: share of the chances that is the same for all samples, in (0, 1]; no weight
            is larger than 1 / uniform_share.
        seed: in [0, 2^64).
    """

    def __init__(self, samples: int, uniform_share: float, seed: int) -> None:
        self._samples = samples
        self._uniform_share = uniform_share
        self._seed = seed
        self.forget()

    def forget(self) -> None:
        """All samples alike again."""
        self.tell(np.ones(self._samples, np.float32))

    def tell(self, errors: F32) -> None:
        """Errors float32 [N] in [0, 1]: what the chances are until the next ones."""
        self.errors = errors
        uniform = np.full(len(errors), self._uniform_share / len(errors))
        total = np.cumsum(errors, dtype=np.float64)[-1]  # in order, so the same bits everywhere
        shares = errors / total if total > 0 else np.full(len(errors), 1 / len(errors))
        chances = uniform + (1 - self._uniform_share) * shares
        self._places = np.cumsum(chances)
        self._weights = (1 / (len(errors) * chances)).astype(np.float32)

    def draw(self, batch: int, generation: int) -> tuple[I64, F32]:
        """Samples int64 [batch] of a generation, with replacement, and their weights float32."""
        words = draw_words(
            Stream.BATCH, 2 * batch, seed=self._seed, individual=_BATCHES, generation=generation
        ).astype(np.uint64)
        deviates = ((words[::2] << np.uint64(21)) ^ (words[1::2] >> np.uint64(11))) * 2.0**-53
        places = deviates * self._places[-1]
        samples = np.searchsorted(self._places, places, side="right")
        samples = np.minimum(samples, len(self._places) - 1)  # where the product rounds up
        return samples, self._weights[samples]


def errors_of(logits: F32, labels: I64) -> F32:
    """1 - softmax of the label float32 [N], of logits float32 [N, C]; 1 where that is NaN."""
    with np.errstate(all="ignore"):
        terms = exp(logits - logits.max(axis=-1, keepdims=True))
        total = terms[:, 0]
        for k in range(1, terms.shape[1]):
            total = total + terms[:, k]
        errors = np.float32(1) - np.take_along_axis(terms, labels[:, None], -1)[:, 0] / total
    return np.where(np.isfinite(errors), errors, np.float32(1))
