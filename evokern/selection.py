"""Who survives and who becomes a parent: plain functions on [P] arrays (thesis, section 4.5)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evokern.backends.reference.random import draw_index, selection_words

I32 = npt.NDArray[np.int32]


def rank(fitness: npt.NDArray[np.float32]) -> I32:
    """Individuals from best to worst: int32 [P]. NaN comes last, ties go by number."""
    losses = np.where(np.isnan(fitness), np.inf, -fitness.astype(np.float64))
    nan_last = np.lexsort((losses, np.isnan(fitness)))
    return nan_last.astype(np.int32)


def elite_parents(order: I32, elites: int, parents: int) -> I32:
    """int32 [R, elites]: every elite is the only parent of its copy."""
    return np.tile(order[:elites], (parents, 1))


def truncation_parents(
    order: I32, best: int, parents: int, slots: int, *, seed: int, generation: int, first: int
) -> I32:
    """int32 [R, slots]: parents drawn uniformly with replacement from the ``best`` of ``order``.

    The draws are those of offspring ``first .. first + slots - 1`` in the stream SELECTION.
    """
    words = selection_words(parents, slots, seed=seed, generation=generation, first=first)
    return order[draw_index(words, best)]
