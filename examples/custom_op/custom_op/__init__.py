"""A mutation rule of one's own as an op of evokern: NumPy, C++, CUDA and Triton, the same bits."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from evokern import extension

_FUNCTIONS = {
    "reference": "custom_op.reference:laplace_mutate",
    "cpu": "custom_op.cpu:laplace_mutate",
    "cuda": "custom_op.cuda:laplace_mutate",
    "triton": "custom_op.triton:laplace_mutate",
}
if find_spec("custom_op._cuda") is None:  # installed without nvcc
    del _FUNCTIONS["cuda"]

extension.add_op("laplace_mutate", _FUNCTIONS)


def laplace_mutate(
    genomes: Any,
    sigma: Any,
    *,
    seed: int,
    generation: int,
    first: int = 0,
    out: Any = None,
    backend: str = "auto",
) -> Any:
    """Every gene plus sigma times a Laplace deviate of mean 0 and scale 1. float32 [P, G].

    Its tails are heavier than the normal's, lighter than Cauchy's. The numbers are those of Philox
    stream USER, one word per gene.

    Args:
        genomes: float32 [P, G], on the host or a device.
        sigma: float32 [P] on the host, finite and >= 0; where it is 0, the genome is copied.
        seed: in [0, 2^64).
        generation: in [0, 2^32).
        first: number of the first individual: a shard draws what the whole would have drawn.
        out: float32 [P, G] to write to; may be ``genomes`` itself.
        backend: ``auto``, ``reference``, ``cpu``, ``cuda`` or ``triton``.

    Raises:
        DtypeError, ShapeError, LayoutError, ArgumentError, BackendError: as evokern's own ops.
    """
    seed, generation, first = extension.counter_fields(seed, generation, first)
    pool = extension.expect("genomes", genomes, np.float32, "[P, G]", 2)
    strength = extension.expect_host("sigma", sigma, np.float32, "[P]", 1)
    extension.expect_shape("sigma", strength, "[P]", (len(pool),))
    extension.non_negative("sigma", strength)
    target = extension.output(out, pool.shape, "[P, G]", in_place="genomes", genomes=pool)
    compute = extension.choose("laplace_mutate", backend, "genomes out", pool, target)
    if target.size:
        compute(pool, strength, seed=seed, generation=generation, first=first, out=target)
    return out if out is not None else extension.like(genomes)(target)
