"""From genotype to weights (thesis, section 4.3): functions genome [G] -> weights float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from evokern._values import number
from evokern.errors import ArgumentError, message
from evokern.layout import GenomeLayout

F32 = npt.NDArray[np.float32]

PhenotypeName = Literal["direct", "sign"]
Phenotype = Callable[[F32], F32]
"""genome [G] -> weights float32 [network.layout.size]."""

_SIGN_BIT = np.uint32(1 << 31)


def phenotype_named(
    name: PhenotypeName, layout: GenomeLayout, *, sign_scale: float | None
) -> Callable[..., F32] | None:
    """The function of genomes, which takes ``out``, too; None where genes are weights."""
    return None if name == "direct" else sign_of_weights(layout, sign_scale)


def check_sign_scale(scale: float | None) -> None:
    """Raises ArgumentError for a scale that float32 cannot hold, DtypeError for no number."""
    if scale is None:
        return
    number("sign_scale", scale)
    if not 2.0**-126 <= scale < 2.0**127:
        wanted = "a number in [2^-126, 2^127), which float32 can hold"
        raise ArgumentError(message("sign_scale", wanted, repr(scale)))


def sign_of_weights(layout: GenomeLayout, scale: float | None = None) -> Callable[..., F32]:
    """Networks with binary weights: a weight is its gene's sign times ``scale``.

    ``scale`` None means f32(1 / sqrt(fan_in)) of each layer. A gene +0 counts as positive, -0 as
    negative, so that every weight is one of two values; biases stay as they are. The function
    takes ``out`` float32 [G] to write to, which saves a new array per individual.
    """
    check_sign_scale(scale)
    scales = np.zeros(layout.size, np.float32)
    for block, genes in zip(layout.blocks, layout.split(scales), strict=True):
        for part, weights in zip(block.parts, genes, strict=True):
            if part.content == "weights":
                of_layer = 1 / np.sqrt(np.float64(part.fan_in))
                weights[:] = np.float32(of_layer if scale is None else scale)
    magnitudes = scales.view(np.uint32)
    is_weight = scales > 0
    kept_bits = np.where(is_weight, _SIGN_BIT, np.uint32(0xFFFFFFFF))

    def phenotype(genome: F32, out: F32 | None = None) -> F32:
        weights = np.empty_like(genome) if out is None else out
        bits = weights.view(np.uint32)
        np.bitwise_and(genome.view(np.uint32), kept_bits, out=bits)
        np.bitwise_or(bits, magnitudes, out=bits)
        return weights

    phenotype.__qualname__ = f"sign_of_weights({scale!r})"  # what a run notes of its phenotype
    return phenotype
