"""Random numbers as a pure function of (seed, stream, individual, generation, gene).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the key
``(seed low, seed high)`` and the counter ``(gene block of 4, individual, generation, stream)``.
Word j of block b belongs to gene 4b + j. This module is the specification that the kernels are
compared with bit for bit: deviates are built from integers and from ``+ - * / sqrt`` in fp32,
each rounded to nearest even, without fma and without the platform's ``log``, ``sin`` or ``cos``.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evokern.backends.reference.activation import log
from evokern.rules import bernoulli_threshold

_UINT32 = 0xFFFFFFFF
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(_UINT32)
_HALF_WORD = np.uint64(32)


class Stream(IntEnum):
    """What a random word is drawn for; the fourth word of the counter."""

    INIT = 0
    CROSSOVER = 1
    CROSSOVER_PARENT = 2
    MUTATION = 3
    MUTATION_MASK = 4
    SIGMA = 5
    SELECTION = 6
    BATCH = 7
    NES = 8
    EPISODE = 9
    USER = 10


def philox(
    counter: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike], key: tuple[int, int]
) -> NDArray[np.uint32]:
    """Philox4x32-10 of every counter.

    Args:
        counter: four arrays of words in [0, 2^32) that broadcast to one shape [...].
        key: two words in [0, 2^32).

    Returns:
        uint32 [..., 4].
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    k0, k1 = key
    for _ in range(10):
        product0 = _MULTIPLIERS[0] * c0
        product1 = _MULTIPLIERS[1] * c2
        c0 = (product1 >> _HALF_WORD) ^ c1 ^ np.uint64(k0)
        c2 = (product0 >> _HALF_WORD) ^ c3 ^ np.uint64(k1)
        c1 = product1 & _LOW
        c3 = product0 & _LOW
        k0 = (k0 + _KEY_STEPS[0]) & _UINT32
        k1 = (k1 + _KEY_STEPS[1]) & _UINT32
    return np.stack((c0, c1, c2, c3), axis=-1).astype(np.uint32)


def draw_words(
    stream: Stream,
    genes: int,
    *,
    seed: int,
    individual: int | NDArray[np.int64],
    generation: int,
) -> NDArray[np.uint32]:
    """The words of genes 0 .. genes - 1 of one or several individuals.

    Args:
        stream: what the words are for.
        genes: words per individual.
        seed: in [0, 2^64).
        individual: number or numbers [...] of the individuals, counted modulo 2^32.
        generation: in [0, 2^32).

    Returns:
        uint32 [..., genes].
    """
    blocks = np.arange(-(-genes // 4), dtype=np.uint64)
    individuals = (np.asarray(individual, np.int64) & _UINT32)[..., None]
    words = philox((blocks, individuals, generation, int(stream)), (seed & _UINT32, seed >> 32))
    return words.reshape(*words.shape[:-2], 4 * len(blocks))[..., :genes]


def draw_deviates(
    distribution: str,
    stream: Stream,
    genes: int,
    *,
    seed: int,
    individual: int | NDArray[np.int64],
    generation: int,
) -> NDArray[np.float32]:
    """Standard deviates of genes 0 .. genes - 1.

    Args:
        distribution: "normal", "uniform" (on [-1, 1)) or "cauchy".
        stream, genes, seed, individual, generation: as in `draw_words`.

    Returns:
        float32 [..., genes].
    """
    whole_blocks = -(-genes // 4) * 4
    words = draw_words(
        stream, whole_blocks, seed=seed, individual=individual, generation=generation
    )
    return _DEVIATES[distribution](words)[..., :genes]


def normal_deviates(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Standard normals by Box and Muller: words 2i (radius) and 2i + 1 (angle) make 2i, 2i + 1.

    Args:
        words: uint32 [..., n], n even.

    Returns:
        float32 [..., n]; at most 6e-7 from the exact transform.
    """
    unit = ((words[..., 0::2] >> np.uint32(8)) + np.uint32(1)).astype(np.float32)
    radius = np.sqrt(np.float32(-2) * log(unit * np.float32(2.0**-24)))
    cell = words[..., 1::2] >> np.uint32(8)
    quarter = (cell & np.uint32(0x3FFFFF)).astype(np.float32)
    turn = quarter * np.float32(2.0**-22) + np.float32(-0.5)
    sine, cosine = _sine_cosine(turn, cell >> np.uint32(22))
    normals = np.empty(words.shape, np.float32)
    normals[..., 0::2] = radius * cosine
    normals[..., 1::2] = radius * sine
    return normals


def uniform_deviates(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Uniform on [-1, 1), exact multiples of 2^-23: uint32 [...] -> float32 [...]."""
    centred = (words >> np.uint32(8)).astype(np.int32) - np.int32(1 << 23)
    return centred.astype(np.float32) * np.float32(2.0**-23)


def cauchy_deviates(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Standard Cauchy numbers, sine over cosine of a random angle: uint32 [...] -> float32 [...].

    The angle is the middle of its cell, so neither sine nor cosine is ever 0.
    """
    cell = words >> np.uint32(8)
    quarter = (cell & np.uint32(0x3FFFFF)).astype(np.float32) + np.float32(0.5)
    turn = quarter * np.float32(2.0**-22) + np.float32(-0.5)
    sine, cosine = _sine_cosine(turn, cell >> np.uint32(22))
    return sine / cosine


_DEVIATES = {
    "normal": normal_deviates,
    "uniform": uniform_deviates,
    "cauchy": cauchy_deviates,
}


def bernoulli(words: NDArray[np.uint32], probability: float) -> NDArray[np.bool_]:
    """Events of the given chance: uint32 [...] -> bool [...]."""
    return words < np.uint64(bernoulli_threshold(probability))


def draw_index(words: NDArray[np.uint32], n: int) -> NDArray[np.int32]:
    """Indices below n, ``floor(word * n / 2^32)``: uint32 [...] -> int32 [...]; 1 <= n <= 2^31."""
    return ((words.astype(np.uint64) * np.uint64(n)) >> _HALF_WORD).astype(np.int32)


def selection_words(
    parents: int, slots: int, *, seed: int, generation: int, first: int = 0
) -> NDArray[np.uint32]:
    """The words that parents are drawn with: gene r of individual first + s chooses parent r.

    Returns:
        uint32 [R, S].
    """
    individuals = first + np.arange(slots, dtype=np.int64)
    words = draw_words(
        Stream.SELECTION, parents, seed=seed, individual=individuals, generation=generation
    )
    return np.ascontiguousarray(words.T)


def counter_permutation(n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """An epoch's order of n samples: the stable argsort of one word per sample.

    Returns:
        int64 [n].
    """
    words = draw_words(Stream.BATCH, n, seed=seed, individual=0, generation=epoch)
    return np.argsort(words, kind="stable")


def cosine(turns: np.float32) -> np.float32:
    """cos(pi * turns) for ``turns`` in [0, 1], by the rule that makes the normals."""
    doubled = np.float32(2) * turns
    quadrant = np.floor(doubled + np.float32(0.5))
    turn = np.asarray(doubled - quadrant, np.float32)
    return np.float32(_sine_cosine(turn, quadrant.astype(np.uint32))[1])


def _sine_cosine(
    turn: NDArray[np.float32], quadrant: NDArray[np.uint32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sine and cosine of ``(turn + quadrant) * pi / 2`` for turn in [-0.5, 0.5]."""
    t = turn * np.float32(1.57079632679)
    t2 = t * t
    s = np.float32(-1.9515295891e-4) * t2 + np.float32(8.3321608736e-3)
    s = s * t2 + np.float32(-1.6666654611e-1)
    s = (s * t2) * t + t
    c = np.float32(2.443315711809948e-5) * t2 + np.float32(-1.388731625493765e-3)
    c = c * t2 + np.float32(4.166664568298827e-2)
    c = ((c * t2) * t2 + np.float32(-0.5) * t2) + np.float32(1)
    odd = (quadrant & np.uint32(1)) != 0
    sine = np.where(odd, c, s)
    cosine = np.where(odd, s, c)
    sine = np.where(quadrant >= 2, -sine, sine)
    cosine = np.where((quadrant == 1) | (quadrant == 2), -cosine, cosine)
    return sine, cosine
