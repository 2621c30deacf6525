"""The C++ CPU kernels: what ``evokern.ops`` has checked, in the form that ``evokern._cpu`` takes.

The instruction set is chosen at import: the widest this processor has, or ``EVOKERN_ISA``.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from evokern import _cpu
from evokern._replay_program import ReplayProgram
from evokern._values import integer
from evokern.backends import one_layer
from evokern.backends.step_table import NetworkProgram
from evokern.backends.steps import compile_network, use_tiles
from evokern.errors import BackendError
from evokern.layers import ACTIVATIONS, Dense, Layer
from evokern.layout import GENE_CONTENTS, GenomeLayout
from evokern.network import Network
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

Banks = list[npt.NDArray[Any]]
"""Per layer with parameters [P_l, G_l], float32 or uint16 with the bits of bf16."""

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
    _cpu.init_genomes(out, _parts(layout), init_scales(scheme, layout), code, seed, first)


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
        None if layout is None else _parts(layout),
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


def replay(program: ReplayProgram, layout: GenomeLayout, *, out: F32) -> None:
    """See ``ops.replay``."""
    recipe = program.recipe
    _cpu.replay(
        program,
        out,
        _parts(layout),
        init_scales(recipe.scheme, layout),
        program.weights if recipe.kind == "arithmetic" else None,
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
    b: F32 | None,
    *,
    index: I32,
    activation: str,
    negative_slope: float,
    precision: str,
    out: F32,
) -> None:
    """See ``ops.dense_forward``."""
    layer = one_layer.dense(w, b, activation, negative_slope)
    _layer_forward(*layer, x, index, precision, None, out)


def conv2d_forward(
    x: npt.NDArray[Any],
    w: F32,
    b: F32 | None,
    *,
    index: I32,
    geometry: tuple[int, int, int, int, int, int],
    activation: str,
    negative_slope: float,
    precision: str,
    x_scale: float | None,
    out: F32,
) -> None:
    """See ``ops.conv2d_forward``."""
    layer = one_layer.conv2d(x, w, b, geometry, activation, negative_slope)
    _layer_forward(*layer, x, index, precision, x_scale, out)


def max_pool2d(x: F32, *, geometry: tuple[int, ...], out: F32) -> None:
    """See ``ops.max_pool2d``."""
    _pool2d(x, geometry, True, True, out)


def avg_pool2d(x: F32, *, geometry: tuple[int, ...], count_include_pad: bool, out: F32) -> None:
    """See ``ops.avg_pool2d``."""
    _pool2d(x, geometry, False, count_include_pad, out)


def global_avg_pool(x: F32, *, out: F32) -> None:
    """See ``ops.global_avg_pool``."""
    _pool2d(x, (*x.shape[-2:], 1, 1, 0, 0), False, True, out[..., None, None])


def affine(x: F32, scale: F32, shift: F32, *, index: I32, out: F32) -> None:
    """See ``ops.affine``."""
    _cpu.affine(x, scale, shift, index, out)


def residual(x: F32, y: F32, *, activation: str, negative_slope: float, out: F32) -> None:
    """See ``ops.residual``."""
    _cpu.residual(x, y, ACTIVATIONS.index(activation), negative_slope, out)


def network_forward(
    banks: Banks,
    network: Network,
    x: npt.NDArray[Any],
    *,
    index: I32,
    precision: str,
    x_scale: float | None,
    out: F32,
) -> None:
    """See ``ops.network_forward``."""
    samples = out.reshape(*out.shape[:2], -1)
    values = _flat(network.input_shape, x)
    program = _program_for(network, values.shape[-2], _operand_channels(precision))
    scale = 1.0 if x_scale is None else x_scale
    _cpu.network_forward(banks, program, values, scale, index, precision == "bf16", samples)


def network_loss(
    banks: Banks,
    network: Network,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    *,
    index: I32,
    classes: I32 | None,
    sample_weights: F32 | None,
    loss: str,
    precision: str,
    x_scale: float | None,
    out_loss: F32,
    out_correct: I32,
) -> None:
    """See ``ops.network_loss``."""
    values = _flat(network.input_shape, x)
    _cpu.network_loss(
        banks,
        _program_for(network, values.shape[-2], _operand_channels(precision)),
        values,
        1.0 if x_scale is None else x_scale,
        index,
        precision == "bf16",
        y,
        loss == "mse",
        classes,
        sample_weights,
        out_loss,
        out_correct,
    )


def mutant_loss(
    genes: F32,
    index: I32,
    banks: Banks,
    network: Network,
    x: F32,
    y: npt.NDArray[Any],
    *,
    sample_weights: F32 | None,
    loss: str,
    out_loss: F32,
    out_correct: I32,
) -> None:
    """See ``ops.mutant_loss``."""
    first = cast(Dense, network.layers[0])
    _cpu.mutant_loss(
        genes,
        index,
        first.bias,
        banks,
        compile_network(network.layers, network.input_shape, True),
        x,
        np.zeros((1, len(genes)), np.int32),
        y,
        loss == "mse",
        sample_weights,
        out_loss,
        out_correct,
    )


def nes_sample(
    probabilities: F32, *, mask: npt.NDArray[np.bool_] | None, seed: int, step: int, out: I32
) -> int:
    """See ``ops.nes_sample``; returns what ``reference.categorical`` does."""
    fault: int = _cpu.nes_sample(probabilities, mask, out, seed, step)
    return fault


def nes_update(
    probabilities: F32,
    assignments: I32,
    losses: F32,
    *,
    learning_rate: float,
    min_probability: float,
    keep_minimum: bool,
    mask: npt.NDArray[np.bool_] | None,
    out: F32,
) -> int:
    """See ``ops.nes_update``; returns what ``reference.categorical`` does."""
    fault: int = _cpu.nes_update(
        probabilities, mask, assignments, losses, learning_rate, min_probability, keep_minimum, out
    )
    return fault


@lru_cache(maxsize=256)
def _parts(layout: GenomeLayout) -> I64:
    """int64 [parts, 4]: rows, outputs, content, whether it continues the part before."""
    rows = [
        (part.rows, block.outputs, GENE_CONTENTS.index(part.content), number > 0)
        for block in layout.blocks
        for number, part in enumerate(block.parts)
    ]
    return np.array(rows, np.int64).reshape(-1, 4)


def _rows(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[P, ...] as [P, n]; a copy only where the inner axes are not one run of memory."""
    return array.reshape(array.shape[0], -1)


def _flat(input_shape: tuple[int, ...], x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return x.reshape(*x.shape[: x.ndim - len(input_shape)], -1)


@lru_cache(maxsize=1024)
def _program_for(network: Network, samples: int, operand_channels: int) -> NetworkProgram:
    layers, shape = network.layers, network.input_shape
    tiles = use_tiles(layers, shape, network.layout.size, samples)
    return compile_network(layers, shape, tiles, operand_channels=operand_channels)


def _operand_channels(precision: str) -> int:
    """Inputs in one operand of a product: two where the processor multiplies bf16."""
    return 2 if precision == "bf16" and _cpu.native_bf16() else 1


def _layer_forward(
    banks: Banks,
    layers: tuple[Layer, ...],
    input_shape: tuple[int, ...],
    x: npt.NDArray[Any],
    index: I32,
    precision: str,
    x_scale: float | None,
    out: F32,
) -> None:
    """One layer as a network, with weights and bias in banks of their own (``one_layer``)."""
    banks = [_rows(bank) for bank in banks]
    values = _flat(input_shape, x)
    tiles = use_tiles(layers, input_shape, banks[0].shape[1], values.shape[-2])
    program = compile_network(layers, input_shape, tiles, True, _operand_channels(precision))
    samples = out.reshape(*out.shape[:2], -1)
    scale = 1.0 if x_scale is None else x_scale
    _cpu.network_forward(banks, program, values, scale, index[None], precision == "bf16", samples)


def _pool2d(
    x: F32, geometry: tuple[int, ...], largest: bool, count_include_pad: bool, out: F32
) -> None:
    images = x.reshape(-1, *x.shape[2:])
    results = out.reshape(-1, *out.shape[2:])
    if np.may_share_memory(images, x) and np.may_share_memory(results, out):
        _cpu.pool2d(images, results, list(geometry), largest, count_include_pad)
        return
    # Channels and images are not at one distance from each other.
    for image, result in zip(x, out, strict=True):
        _cpu.pool2d(image, result, list(geometry), largest, count_include_pad)


use_instruction_set(os.environ.get("EVOKERN_ISA") or None)
