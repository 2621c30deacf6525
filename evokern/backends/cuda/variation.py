"""Initialisation, crossover and mutation, sigma on a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.backends.device import Block, current_device
from evokern.backends.parts import gene_parts
from evokern.layout import GenomeLayout
from evokern.rules import CROSSOVER_KINDS, DISTRIBUTIONS, INIT_SCHEMES, bernoulli_threshold

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


def init_genomes(layout: GenomeLayout, *, seed: int, scheme: str, first: int, out: Any) -> None:
    """See ``ops.init_genomes``."""
    device, block = current_device(), Block()
    table = gene_parts(layout, scheme)
    parts = block.add(table)
    base = block.upload(device)
    code = INIT_SCHEMES.index(scheme)
    device.native.init_genomes(out, base + parts, len(table), code, seed, first, device.stream)


def crossover_mutate(
    genomes: Any,
    parents: I32,
    sigma: F32,
    *,
    kind: str,
    rate: float,
    weights: F32 | None,
    mutation_rate: float,
    distribution: str,
    layout: GenomeLayout | None,
    seed: int,
    generation: int,
    first: int,
    out: Any,
    out_rows: I32 | None,
) -> None:
    """See ``ops.crossover_mutate``; genomes and out are on the device."""
    device, block = current_device(), Block()
    table = None if layout is None else gene_parts(layout)
    arrays = [parents, sigma, weights, out_rows, table]
    offsets = [None if array is None else block.add(array) for array in arrays]
    base = block.upload(device)
    device.native.crossover_mutate(
        genomes,
        out,
        *parents.shape,
        *(0 if offset is None else base + offset for offset in offsets),
        0 if table is None else len(table),
        CROSSOVER_KINDS.index(kind),
        DISTRIBUTIONS.index(distribution),
        bernoulli_threshold(rate),
        bernoulli_threshold(mutation_rate),
        seed,
        generation,
        first,
        device.stream,
    )


def mutate_sigma(
    sigma: Any, *, tau: float, seed: int, generation: int, first: int, out: Any
) -> None:
    """See ``ops.mutate_sigma``."""
    device = current_device()
    device.native.mutate_sigma(sigma, out, tau, seed, generation, first, device.stream)
