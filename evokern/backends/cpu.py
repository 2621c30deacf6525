"""The C++ CPU kernels: what ``evokern.ops`` has checked, in the form that ``evokern._cpu`` takes.

The instruction set is chosen at import: the widest this processor has, or ``EVOKERN_ISA``.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern import _cpu
from evokern._program import Program
from evokern._values import integer
from evokern.errors import BackendError
from evokern.layout import GenomeLayout
from evokern.network import (
    ACTIVATIONS,
    Activation,
    AvgPool2d,
    Dense,
    Flatten,
    Network,
    Pool2d,
)
from evokern.rules import (
    CROSSOVER_KINDS,
    DISTRIBUTIONS,
    INIT_SCHEMES,
    bernoulli_threshold,
    init_scales,
)

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

# Kinds of csrc/cpu/kernels.h and the columns of a step table (csrc/cpu/bindings.cpp).
_DENSE, _ACTIVATION, _MAX_POOL, _AVG_POOL = range(4)
_FIELDS = 20

_MOST_THREADS = 1024  # OpenMP ends the process where the system gives it no more


def use_instruction_set(name: str | None = None) -> str:
    """Chooses the kernels' instruction set; None means the widest of this processor.

    Raises BackendError for a name that is unknown or that this processor lacks.
    """
    supported = _cpu.supported_instruction_sets()
    chosen = supported[-1] if name is None else name
    if not _cpu.use_instruction_set(chosen):
        built = _cpu.built_instruction_sets()
        why = "this processor lacks it" if chosen in built else "it is unknown"
        raise BackendError(f"EVOKERN_ISA: {chosen!r}: {why}; there are {', '.join(supported)}")
    return str(chosen)


def set_threads(threads: int) -> None:
    """Sets how many threads the CPU kernels use from now on, whichever thread calls them.

    Without it they use as many as OpenMP, and so torch, is set to. At most 1024.
    """
    _cpu.set_threads(integer("threads", threads, 1, _MOST_THREADS))


def init_genomes(layout: GenomeLayout, *, seed: int, scheme: str, first: int, out: F32) -> None:
    """See ``ops.init_genomes``."""
    code = INIT_SCHEMES.index(scheme)
    _cpu.init_genomes(out, _blocks(layout), init_scales(scheme, layout), code, seed, first)


def crossover_mutate(
    genomes: F32,
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
    out: F32,
    out_rows: I32 | None,
) -> None:
    """See ``ops.crossover_mutate``."""
    _cpu.crossover_mutate(
        genomes,
        parents,
        sigma,
        weights,
        None if layout is None else _blocks(layout),
        out,
        out_rows,
        CROSSOVER_KINDS.index(kind),
        DISTRIBUTIONS.index(distribution),
        bernoulli_threshold(rate),
        bernoulli_threshold(mutation_rate),
        seed,
        generation,
        first,
    )


def mutate_sigma(
    sigma: F32, *, tau: float, seed: int, generation: int, first: int, out: F32
) -> None:
    """See ``ops.mutate_sigma``."""
    _cpu.mutate_sigma(sigma, out, tau, seed, generation, first)


def replay(program: Program, layout: GenomeLayout, *, out: F32) -> None:
    """See ``ops.replay``."""
    recipe = program.recipe
    weights = None
    if recipe.kind == "arithmetic":
        parents = program.crossed.shape[1]
        equal = np.float32(1) / np.float32(max(1, parents))
        weights = np.array(recipe.weights or [equal] * parents, np.float32)
    _cpu.replay(
        program,
        out,
        _blocks(layout),
        init_scales(recipe.scheme, layout),
        weights,
        INIT_SCHEMES.index(recipe.scheme),
        CROSSOVER_KINDS.index(recipe.kind),
        DISTRIBUTIONS.index(recipe.distribution),
        bernoulli_threshold(recipe.rate),
        bernoulli_threshold(recipe.mutation_rate),
        recipe.seed,
    )


def dense_forward(
    x: F32,
    w: F32,
    b: F32,
    *,
    index: I32,
    activation: str,
    negative_slope: float,
    precision: str,
    out: F32,
) -> None:
    """See ``ops.dense_forward``: a network of one layer whose weights are two banks."""
    inputs, outputs = w.shape[1:]
    row = _row(_DENSE, inputs, outputs, activation=ACTIVATIONS.index(activation))
    row[4:8] = (0, 0, 1, 0)
    banks = [_rows(w), b]
    slopes = np.array([negative_slope], np.float32)
    table = np.array([row], np.int64)
    _cpu.network_forward(banks, table, slopes, x, index, precision == "bf16", out)


def max_pool2d(x: F32, *, geometry: tuple[int, ...], out: F32) -> None:
    """See ``ops.max_pool2d``."""
    _pool2d(x, geometry, True, True, out)


def avg_pool2d(x: F32, *, geometry: tuple[int, ...], count_include_pad: bool, out: F32) -> None:
    """See ``ops.avg_pool2d``."""
    _pool2d(x, geometry, False, count_include_pad, out)


def affine(x: F32, scale: F32, shift: F32, *, index: I32, out: F32) -> None:
    """See ``ops.affine``."""
    _cpu.affine(x, scale, shift, index, out)


def network_forward(
    genomes: F32, network: Network, x: F32, *, index: I32, precision: str, out: F32
) -> None:
    """See ``ops.network_forward``."""
    table, slopes = _steps(network)
    samples = out.reshape(*out.shape[:2], -1) if out.size else out
    if samples.size:
        _cpu.network_forward(
            [genomes], table, slopes, _flat(network, x), index, precision == "bf16", samples
        )


def network_loss(
    genomes: F32,
    network: Network,
    x: F32,
    y: npt.NDArray[Any],
    *,
    index: I32,
    classes: I32 | None,
    loss: str,
    precision: str,
    out_loss: F32,
    out_correct: I32,
) -> None:
    """See ``ops.network_loss``."""
    table, slopes = _steps(network)
    _cpu.network_loss(
        [genomes],
        table,
        slopes,
        _flat(network, x),
        index,
        precision == "bf16",
        network.output_shape[0],
        y,
        loss == "mse",
        classes,
        out_loss,
        out_correct,
    )


@lru_cache(maxsize=256)
def _blocks(layout: GenomeLayout) -> I64:
    blocks = [(block.fan_in, block.outputs) for block in layout.blocks]
    return np.array(blocks, np.int64).reshape(-1, 2)


def _rows(array: F32) -> F32:
    """[P, ...] as [P, n]; a copy only where the inner axes are not one run of memory."""
    return array.reshape(array.shape[0], -1)


def _flat(network: Network, x: F32) -> F32:
    batch_axes = x.ndim - len(network.input_shape)
    return x.reshape(*x.shape[:batch_axes], -1)


def _row(kind: int, inputs: int, outputs: int, *, activation: int = 0) -> list[int]:
    return [kind, activation, inputs, outputs] + [0] * (_FIELDS - 4)


@lru_cache(maxsize=256)
def _steps(network: Network) -> tuple[I64, F32]:
    """The step table [n, 20] and the slopes [n] of a network."""
    rows: list[list[int]] = []
    slopes: list[float] = []
    offsets = iter(network.layout.offsets)
    for layer, before, after in zip(
        network.layers, network.shapes[:-1], network.shapes[1:], strict=True
    ):
        inputs, outputs = int(np.prod(before)), int(np.prod(after))
        slope = 0.0
        if isinstance(layer, Flatten):
            continue
        if isinstance(layer, Dense):
            row = _row(_DENSE, inputs, outputs, activation=ACTIVATIONS.index(layer.activation))
            offset = next(offsets)
            row[4:8] = (0, offset, 0, offset + inputs * outputs)
            slope = layer.negative_slope
        elif isinstance(layer, Activation):
            row = _row(_ACTIVATION, inputs, outputs, activation=ACTIVATIONS.index(layer.name))
            slope = layer.negative_slope
        elif isinstance(layer, Pool2d):
            average = isinstance(layer, AvgPool2d)
            row = _row(_AVG_POOL if average else _MAX_POOL, inputs, outputs)
            counts_pad = int(isinstance(layer, AvgPool2d) and layer.count_include_pad)
            row[8:] = [*before, *layer.geometry(), *after[1:], counts_pad]
        rows.append(row)
        slopes.append(slope)
    table = np.array(rows, np.int64).reshape(-1, _FIELDS)
    return table, np.array(slopes, np.float32)


def _pool2d(
    x: F32, geometry: tuple[int, ...], largest: bool, count_include_pad: bool, out: F32
) -> None:
    images = x.reshape(-1, *x.shape[2:])
    results = out.reshape(-1, *out.shape[2:])
    if np.may_share_memory(results, out):
        _cpu.pool2d(images, results, list(geometry), largest, count_include_pad)
        return
    # Channels and images are not at one distance from each other.
    for image, result in zip(x, out, strict=True):
        _cpu.pool2d(image, result, list(geometry), largest, count_include_pad)


use_instruction_set(os.environ.get("EVOKERN_ISA") or None)
