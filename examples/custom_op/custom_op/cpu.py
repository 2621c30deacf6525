"""The C++ kernel, with as many threads as evokern's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from custom_op import _cpu
from evokern import _cpu as evokern_cpu


def laplace_mutate(
    genomes: NDArray[np.float32],
    sigma: NDArray[np.float32],
    *,
    seed: int,
    generation: int,
    first: int,
    out: NDArray[np.float32],
) -> None:
    """See ``custom_op.laplace_mutate``."""
    # Strides of sigma are free, the kernel's are not.
    strength = np.ascontiguousarray(sigma)
    _cpu.laplace_mutate(genomes, strength, out, seed, generation, first, evokern_cpu.threads())
