"""Random numbers as a pure function of (seed, gene block, individual, generation, stream).

``csrc/core/philox.h`` and ``distributions.h`` on blocks: word j of gene block b belongs to gene
4b + j. The last axis of the results are these four, so that a thread has all of them in registers
and moves them as 16 bytes. The NumPy twin is `evokern.backends.reference.random`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from evokern.backends.reference.random import Stream
from evokern.backends.triton.activation import bits, from_bits, log_reduced
from evokern.rules import DISTRIBUTIONS

INIT = tl.constexpr(int(Stream.INIT))
CROSSOVER = tl.constexpr(int(Stream.CROSSOVER))
CROSSOVER_PARENT = tl.constexpr(int(Stream.CROSSOVER_PARENT))
MUTATION = tl.constexpr(int(Stream.MUTATION))
MUTATION_MASK = tl.constexpr(int(Stream.MUTATION_MASK))
SIGMA = tl.constexpr(int(Stream.SIGMA))
NES = tl.constexpr(int(Stream.NES))

NORMAL = tl.constexpr(DISTRIBUTIONS.index("normal"))
UNIFORM = tl.constexpr(DISTRIBUTIONS.index("uniform"))

_QUADRANT_STEP = tl.constexpr(1.57079632679 * 2.0**-22)


@triton.jit
def in_order(a, b, c, d):
    """Four blocks [..., blocks] as one [..., blocks, 4]."""
    pairs = tl.join(tl.join(a, c), tl.join(b, d))
    return tl.reshape(pairs, a.shape + (4,))


@triton.jit
def draw_words(seed, block, individual, generation, STREAM: tl.constexpr):
    """Words of gene blocks: uint32 [..., blocks, 4]. The counters, all uint32, broadcast."""
    w0, w1, w2, w3 = tl.philox(seed, block, individual, generation, STREAM)
    return in_order(w0, w1, w2, w3)


@triton.jit
def draw_four(
    seed, block, individual, generation, STREAM: tl.constexpr, DISTRIBUTION: tl.constexpr
):
    """Standard deviates of gene blocks: four of float32 [..., blocks]."""
    w0, w1, w2, w3 = tl.philox(seed, block, individual, generation, STREAM)
    if DISTRIBUTION == NORMAL:
        d0, d1 = normal_pair(w0, w1)
        d2, d3 = normal_pair(w2, w3)
    elif DISTRIBUTION == UNIFORM:
        d0, d1 = symmetric_uniform(w0), symmetric_uniform(w1)
        d2, d3 = symmetric_uniform(w2), symmetric_uniform(w3)
    else:
        d0, d1, d2, d3 = cauchy(w0), cauchy(w1), cauchy(w2), cauchy(w3)
    return d0, d1, d2, d3


@triton.jit
def draw_deviates(
    seed, block, individual, generation, STREAM: tl.constexpr, DISTRIBUTION: tl.constexpr
):
    """Standard deviates of gene blocks: float32 [..., blocks, 4]."""
    d0, d1, d2, d3 = draw_four(seed, block, individual, generation, STREAM, DISTRIBUTION)
    return in_order(d0, d1, d2, d3)


@triton.jit
def normal_pair(radius_word, angle_word):
    """Two standard normals from two words, by Box and Muller."""
    radius = tl.sqrt_rn(_log_unit(radius_word) * -2.0)
    cosine, sine = _cos_sin(angle_word, _place_in_quadrant(angle_word) * _QUADRANT_STEP)
    return radius * cosine, radius * sine


@triton.jit
def cauchy(word):
    """The tangent at the middle of the angle's cell, so that the cosine is never 0."""
    place = _place_in_quadrant(word) + 0.5
    cosine, sine = _cos_sin(word, place * _QUADRANT_STEP)
    return tl.div_rn(sine, cosine)


@triton.jit
def symmetric_uniform(word):
    """Uniform in [-1, 1) on a grid of 2^-23."""
    return ((word >> 8).to(tl.int32) - 8388608).to(tl.float32) * 1.1920928955078125e-07


@triton.jit
def happens(word, last):
    """Whether an event does whose chance is (last + 1) 2^-32."""
    return word <= last


@triton.jit
def draw_below(word, n: tl.constexpr):
    """int32 in [0, n)."""
    return tl.umulhi(word, n).to(tl.int32)


@triton.jit
def _log_unit(word):
    """ln(k 2^-24) with k = (word >> 8) + 1 in [1, 2^24]."""
    b = bits(((word >> 8) + 1).to(tl.int32).to(tl.float32))
    # k = 2^e times a mantissa in (sqrt(1/2), sqrt(2)]: 0x3f3504f4 follows sqrt(1/2).
    e = (b - 0x3F3504F4).to(tl.int32, bitcast=True) >> 23
    mantissa = from_bits(b - (e << 23).to(tl.uint32, bitcast=True))
    return log_reduced(mantissa, (e - 24).to(tl.float32))


@triton.jit
def _place_in_quadrant(word):
    """The 22 bits below the quadrant, as an integer in [-2^21, 2^21)."""
    return (((word << 2) ^ 0x80000000).to(tl.int32, bitcast=True) >> 10).to(tl.float32)


@triton.jit
def _cos_sin(word, t):
    """Of the angle pi/2 quadrant + t, |t| <= pi/4; the word's two highest bits are it."""
    t2 = t * t
    s = t2 * -1.9515295891e-4 + 8.3321608736e-3
    s = s * t2 + -1.6666654611e-1
    s = (s * t2) * t + t
    c = t2 * 2.443315711809948e-5 + -1.388731625493765e-3
    c = c * t2 + 4.166664568298827e-2
    c = ((c * t2) * t2 + t2 * -0.5) + 1.0
    odd = (word & 0x40000000) != 0
    cosine = tl.where(odd, s, c)
    sine = tl.where(odd, c, s)
    cosine_sign = (word ^ (word << 1)) & 0x80000000
    sine_sign = word & 0x80000000
    return from_bits(bits(cosine) ^ cosine_sign), from_bits(bits(sine) ^ sine_sign)
