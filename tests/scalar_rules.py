"""The rules of docs/bits.md one number at a time, for tests of the reference."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from evokern.backends.reference.random import Stream, draw_deviates
from evokern.backends.reference.variation import init_genomes
from evokern.layout import DenseGenes, GenomeLayout

F = np.float32
SEED = (7 << 32) + 42
LAYOUT = GenomeLayout((DenseGenes(3, 2), DenseGenes(2, 3)))


def bits(x):
    return np.asarray(x, F).view(np.uint32).tolist()


def scalar_philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        low = 0xFFFFFFFF
        c = [(b >> 32) ^ c[1] ^ k[0], b & low, (a >> 32) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


def scalar_word(stream, gene, individual, generation, seed=SEED):
    key = (seed % 2**32, seed // 2**32)
    return scalar_philox((gene // 4, individual, generation, stream), key)[gene % 4]


def round_exactly(value: Fraction) -> float:
    """A non-zero rational to fp32, to nearest even, through integers only."""
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** max(exponent - 23, -149)
    rounded = round(value / quantum) * quantum
    if abs(rounded) >= 2**128:
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def exact_fma(a, b, c):
    a, b, c = float(a), float(b), float(c)
    value = Fraction(a) * Fraction(b) + Fraction(c)
    # The double computation is exact for an exact zero and gives it the sign of IEEE 754.
    return round_exactly(value) if value else a * b + c


def scalar_mean(values):
    total = F(0)
    for start in range(0, len(values), 32):
        lanes = [F(v) for v in values[start : start + 32]]
        lanes += [F(0)] * (32 - len(lanes))
        for h in (16, 8, 4, 2, 1):
            lanes = [F(lanes[i] + lanes[i + h]) for i in range(h)]
        total = F(total + lanes[0])
    return F(total / F(len(values)))


def image(*shape):
    size = math.prod(shape)
    flat = draw_deviates("normal", Stream.USER, size, seed=9, individual=0, generation=0)
    return flat.reshape(shape)


def init(layout, scheme, n=2, first=0, seed=SEED):
    out = np.full((n, layout.size), np.nan, F)
    init_genomes(layout, seed=seed, scheme=scheme, first=first, out=out)
    return out
