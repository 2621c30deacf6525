"""Variation in NumPy: initialisation, crossover and mutation, one slot at a time.

The arguments are checked by `evokern.ops`; results are written to ``out`` in full. Slot s is
individual ``(first + s) mod 2^32`` of the random streams. Sources: uniform and arithmetic
crossover and normal mutation are Eq. 4.1 to 4.3 of the thesis, self-adaptive sigma is Eq. 5.4;
row-wise crossover, the other distributions and everything about bits are this project's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evokern.backends.reference.activation import exp
from evokern.backends.reference.random import (
    Stream,
    bernoulli,
    draw_deviates,
    draw_index,
    draw_words,
)
from evokern.layout import GenePart, GenomeLayout
from evokern.rules import init_scale

_SIGMA_LOW = np.float32(2.0**-40)
_SIGMA_HIGH = np.float32(2.0**10)


def init_genomes(
    layout: GenomeLayout, *, seed: int, scheme: str, first: int, out: NDArray[np.float32]
) -> None:
    """Fresh genomes.

    Args:
        layout: where the genes belong.
        seed: in [0, 2^64).
        scheme: "glorot_uniform", "he_uniform", "lecun_normal", "unit_rows" or "torch". Biases
            are +0 except with "torch".
        first: number of the first individual.
        out: float32 [n, G].
    """
    distribution = "normal" if scheme in ("lecun_normal", "unit_rows") else "uniform"
    for slot, genome in enumerate(out):
        deviates = draw_deviates(
            distribution, Stream.INIT, layout.size, seed=seed, individual=first + slot, generation=0
        )
        blocks = zip(layout.blocks, layout.split(deviates), layout.split(genome), strict=True)
        for block, block_deviates, values in blocks:
            for part, deviate, genes in zip(block.parts, block_deviates, values, strict=True):
                genes[:] = _initial(scheme, part, deviate)


def _initial(
    scheme: str, part: GenePart, deviate: NDArray[np.float32]
) -> NDArray[np.float32] | np.float32:
    if part.content == "weights" and scheme == "unit_rows":
        return _unit_rows(deviate)
    if part.content == "weights" or (part.content == "bias" and scheme == "torch"):
        scaled: NDArray[np.float32] = init_scale(scheme, part) * deviate
        return scaled
    return np.float32(part.content == "ones")


def crossover_mutate(
    genomes: NDArray[np.float32],
    parents: NDArray[np.int32],
    sigma: NDArray[np.float32],
    *,
    kind: str,
    rate: float,
    weights: NDArray[np.float32] | None,
    mutation_rate: float,
    distribution: str,
    layout: GenomeLayout | None,
    seed: int,
    generation: int,
    first: int,
    out: NDArray[np.float32],
    out_rows: NDArray[np.int32] | None,
) -> None:
    """Offspring: crossover of the parents, then mutation where sigma is not 0.

    Args:
        genomes: float32 [P, G].
        parents: int32 [R, S], rows of ``genomes``. Slots whose parents are all the same are
            copied by the crossover, whatever its kind.
        sigma: float32 [S], mutation strength.
        kind: "uniform" (per gene), "rows" (per output unit, needs ``layout``), "arithmetic"
            (weighted mean) or "none" (parent 0 is copied).
        rate: chance that a gene (unit) comes from a parent other than the first.
        weights: float32 [R, S] of the arithmetic crossover; None means 1/R each.
        mutation_rate: chance per gene.
        distribution: "normal", "uniform" on [-1, 1) or "cauchy".
        layout: where the genes belong.
        seed: in [0, 2^64).
        generation: in [0, 2^32).
        first: number of the first individual.
        out: float32 [Q, G].
        out_rows: int32 [S], the row of ``out`` for each slot, never a parent's row of the same
            call; None means row s.
    """
    for slot, strength in enumerate(sigma):
        draw = {"seed": seed, "individual": first + slot, "generation": generation}
        rows = parents[:, slot]
        if kind == "none" or (rows == rows[0]).all():
            child = genomes[rows[0]]
        elif kind == "arithmetic":
            equal = np.full(len(rows), np.float32(1 / len(rows)))
            child = _weighted_sum(genomes, rows, equal if weights is None else weights[:, slot])
        elif kind == "rows":
            assert layout is not None
            choice = _choose_parents(len(rows), layout.units, rate, draw)[layout.unit_of_gene]
            child = genomes[rows[choice], np.arange(layout.size)]
        else:
            choice = _choose_parents(len(rows), genomes.shape[1], rate, draw)
            child = genomes[rows[choice], np.arange(genomes.shape[1])]
        if strength != 0:
            child = _mutate(child, strength, mutation_rate, distribution, draw)
        out[slot if out_rows is None else out_rows[slot]] = child


def mutate_sigma(
    sigma: NDArray[np.float32],
    *,
    tau: float,
    seed: int,
    generation: int,
    first: int,
    out: NDArray[np.float32],
) -> None:
    """Self-adaptive mutation strengths: sigma * exp(tau * n), clamped to [2^-40, 2^10].

    Args:
        sigma: float32 [S].
        tau: learning rate of sigma, used as fp32.
        seed: in [0, 2^64).
        generation: in [0, 2^32).
        first: number of the first individual.
        out: float32 [S].
    """
    individuals = first + np.arange(len(sigma), dtype=np.int64)
    normals = draw_deviates(
        "normal", Stream.SIGMA, 1, seed=seed, individual=individuals, generation=generation
    )[:, 0]
    with np.errstate(all="ignore"):
        adapted = sigma * exp(np.float32(tau) * normals)
    # 0 * inf is NaN, which compares false and so becomes the lower limit like every 0.
    adapted = np.where(adapted > _SIGMA_LOW, adapted, _SIGMA_LOW)
    out[:] = np.where(adapted < _SIGMA_HIGH, adapted, _SIGMA_HIGH)


def _unit_rows(normals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normals [I, O] over the Euclidean norm of each output unit's inputs, where it is not 0."""
    square: NDArray[np.float32] = np.zeros(normals.shape[1], np.float32)
    for row in normals:
        square = square + row * row
    norm: NDArray[np.float32] = np.where(square == 0, np.float32(1), np.sqrt(square))
    return normals / norm


def _choose_parents(
    parents: int, draws: int, rate: float, draw: dict[str, int]
) -> NDArray[np.int32]:
    """int32 [draws]: 0, or with the given chance one of 1 .. parents - 1."""
    other = bernoulli(draw_words(Stream.CROSSOVER, draws, **draw), rate)
    if parents == 2:
        return other.astype(np.int32)
    words = draw_words(Stream.CROSSOVER_PARENT, draws, **draw)
    return np.where(other, 1 + draw_index(words, parents - 1), np.int32(0))


def _weighted_sum(
    genomes: NDArray[np.float32], rows: NDArray[np.int32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        total: NDArray[np.float32] = weights[0] * genomes[rows[0]]
        for row, weight in zip(rows[1:], weights[1:], strict=True):
            total = total + weight * genomes[row]
    return total


def _mutate(
    genome: NDArray[np.float32],
    strength: np.float32,
    mutation_rate: float,
    distribution: str,
    draw: dict[str, int],
) -> NDArray[np.float32]:
    deviates = draw_deviates(distribution, Stream.MUTATION, len(genome), **draw)
    with np.errstate(all="ignore"):
        mutated = genome + strength * deviates
    if mutation_rate == 1:
        return mutated
    mask = bernoulli(draw_words(Stream.MUTATION_MASK, len(genome), **draw), mutation_rate)
    return np.where(mask, mutated, genome)
