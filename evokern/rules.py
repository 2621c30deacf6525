"""Names and host numbers that every back end shares, so that no two can differ in them.

Numbers are computed in double by operations that IEEE 754 rounds exactly (``sqrt`` and ``/``
included) and rounded to fp32 once (docs/bits.md).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from evokern.layout import GenePart, GenomeLayout

InitScheme = Literal["glorot_uniform", "he_uniform", "lecun_normal", "unit_rows", "torch"]
CrossoverKind = Literal["uniform", "arithmetic", "rows", "none"]
Distribution = Literal["normal", "uniform", "cauchy"]
LossName = Literal["cross_entropy", "mse"]
Precision = Literal["fp32", "bf16", "tf32"]

INIT_SCHEMES: tuple[str, ...] = get_args(InitScheme)
CROSSOVER_KINDS: tuple[str, ...] = get_args(CrossoverKind)
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)
LOSSES: tuple[str, ...] = get_args(LossName)
PRECISIONS: tuple[str, ...] = get_args(Precision)
"""Names in the order of their codes in ``csrc``."""


def init_scale(scheme: str, part: GenePart) -> np.float32:
    """What a part's deviates are multiplied with: the limit or the standard deviation.

    ``glorot_uniform``: sqrt(6 / (fan_in + fan_out)), Glorot and Bengio 2010. ``he_uniform``:
    sqrt(6 / fan_in), He et al. 2015. ``lecun_normal`` and ``torch``: 1 / sqrt(fan_in).
    ``unit_rows``: 1; a unit's weights are then divided by their norm (Such et al. 2017).
    """
    if scheme == "glorot_uniform":
        return np.float32(math.sqrt(6 / (part.fan_in + part.fan_out)))
    if scheme == "he_uniform":
        return np.float32(math.sqrt(6 / part.fan_in))
    if scheme == "unit_rows":
        return np.float32(1)
    return np.float32(1 / math.sqrt(part.fan_in))


def init_scales(scheme: str, layout: GenomeLayout) -> npt.NDArray[np.float32]:
    """``init_scale`` of every part of every block: float32 [parts]."""
    parts = [part for block in layout.blocks for part in block.parts]
    return np.array([init_scale(scheme, part) for part in parts], np.float32)


def bernoulli_threshold(probability: float) -> int:
    """T = floor(p * 2^32 + 0.5): an event of chance p happens when its word is below T.

    T is 2^32 for p = 1, which every word is below.
    """
    return math.floor(probability * 2.0**32 + 0.5)
