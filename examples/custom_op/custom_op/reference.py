"""The rule in NumPy: the specification, which the kernels are compared with bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evokern.backends.reference.activation import log
from evokern.backends.reference.random import Stream, draw_words


def laplace_deviates(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Laplace with mean 0 and scale 1, an exponential deviate with a sign: uint32 [...] -> [...].

    With k the 23 highest bits of a word, u = (k + 1/2) 2^-23 is exact in fp32 and neither 0 nor 1.
    The lowest bit is the sign.
    """
    odd = (words >> np.uint32(8)) | np.uint32(1)
    logarithm = log(odd.astype(np.float32) * np.float32(2.0**-24))
    return np.where(words & np.uint32(1), logarithm, -logarithm)


def laplace_mutate(
    genomes: NDArray[np.float32],
    sigma: NDArray[np.float32],
    *,
    seed: int,
    generation: int,
    first: int,
    out: NDArray[np.float32],
) -> None:
    """gene + (sigma * deviate), both rounded; slots with sigma 0 are copied."""
    for slot, (genome, strength) in enumerate(zip(genomes, sigma, strict=True)):
        if strength == 0:
            out[slot] = genome
            continue
        place = {"seed": seed, "individual": first + slot, "generation": generation}
        words = draw_words(Stream.USER, len(genome), **place)
        with np.errstate(all="ignore"):
            out[slot] = genome + strength * laplace_deviates(words)
