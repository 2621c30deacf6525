"""Ensembles of networks from one population (thesis, sections 4.2 and 6)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def distinct(genomes: F32, rows: npt.NDArray[np.int32]) -> F32:
    """The different genomes [n, G] among some rows of a bank, in their order."""
    seen: dict[bytes, int] = {}
    for row in rows:
        seen.setdefault(genomes[row].tobytes(), int(row))
    return genomes[list(seen.values())]


def mean_logits(logits: F32) -> F32:
    """Mean over networks: float32 [n, B, C] -> [B, C]; ascending sum, one division."""
    total = np.zeros(logits.shape[1:], np.float32)
    for outputs in logits:
        total = total + outputs
    return total / np.float32(len(logits))
