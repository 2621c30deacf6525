"""exp, log, tanh, sigmoid, erf and the activation functions on blocks of float32.

``csrc/core/activation.h`` in Triton: the same operations in the same order with the same
coefficients, and so the same bits where nothing is contracted to fma. The NumPy twin, which says
what each function returns at the edges, is `evokern.backends.reference.activation`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from evokern.layers import ACTIVATIONS

INFINITY = tl.constexpr(float("inf"))

RELU = tl.constexpr(ACTIVATIONS.index("relu"))
LEAKY_RELU = tl.constexpr(ACTIVATIONS.index("leaky_relu"))
TANH = tl.constexpr(ACTIVATIONS.index("tanh"))
SIGMOID = tl.constexpr(ACTIVATIONS.index("sigmoid"))
GELU = tl.constexpr(ACTIVATIONS.index("gelu"))
GELU_TANH = tl.constexpr(ACTIVATIONS.index("gelu_tanh"))
SILU = tl.constexpr(ACTIVATIONS.index("silu"))


@triton.jit
def bits(x):
    return x.to(tl.uint32, bitcast=True)


@triton.jit
def from_bits(b):
    return b.to(tl.float32, bitcast=True)


@triton.jit
def magnitude(x):
    return from_bits(bits(x) & 0x7FFFFFFF)


@triton.jit
def copy_sign(value, sign):
    return from_bits((bits(value) & 0x7FFFFFFF) | (bits(sign) & 0x80000000))


@triton.jit
def _reduce_exp(x):
    """expm1(r), and n 2^23 modulo 2^32, for x = n ln 2 + r: |r| <= (ln 2) / 2, |x| <= 128.

    Added to the bits of a number, the second multiplies it by 2^n.
    """
    # Adding 1.5 * 2^23 rounds to an integer, which the low bits of the sum then hold.
    total = x * 1.44269504 + 12582912.0
    n = total - 12582912.0
    # The first part of ln 2 has 15 bits, so that this product and difference are exact.
    r = x - n * 0.693145752
    r = r - n * 1.42860677e-06
    q = r * 0.00138706435 + 0.00836625788
    q = q * r + 0.0416674353
    q = q * r + 0.166665465
    q = q * r + 0.49999997
    return (r * r) * q + r, bits(total) << 23


@triton.jit
def _expm1_limited(x):
    """exp(x) - 1 for |x| <= 64."""
    expm1_r, shifted_n = _reduce_exp(x)
    scale = from_bits(shifted_n + 0x3F800000)
    return expm1_r * scale + (scale - 1.0)


@triton.jit
def exp(x):
    expm1_r, shifted_n = _reduce_exp(x)
    y = from_bits(bits(expm1_r + 1.0) + shifted_n)
    y = tl.where(x < -87.3365402, 0.0, y)
    # The sum is infinity above the limit and NaN for NaN.
    return tl.where(x <= 88.7228317, y, x + INFINITY)


@triton.jit
def log_reduced(m, e):
    """log(m 2^e) for m from sqrt(1/2) to sqrt(2)."""
    x = m - 1.0
    z = x * x
    y = x * 7.0376836292e-2 + -1.1514610310e-1
    y = y * x + 1.1676998740e-1
    y = y * x + -1.2420140846e-1
    y = y * x + 1.4249322787e-1
    y = y * x + -1.6668057665e-1
    y = y * x + 2.0000714765e-1
    y = y * x + -2.4999993993e-1
    y = y * x + 3.3333331174e-1
    y = (y * x) * z
    y = y + z * -0.5
    return (x + y) + e * 0.69314718056


@triton.jit
def log(x):
    subnormal = x < 1.17549435e-38
    normal = tl.where(subnormal, x * 8388608.0, x)
    shift = tl.where(subnormal, -23.0, 0.0)
    b = bits(normal)
    m = from_bits((b & 0x7FFFFF) | 0x3F800000)
    e = ((b >> 23).to(tl.int32) - 127).to(tl.float32) + shift
    large = m > 1.41421356237
    y = log_reduced(tl.where(large, m * 0.5, m), tl.where(large, e + 1.0, e))
    y = tl.where(x < INFINITY, y, INFINITY)
    # Not a constant of the module: Triton checks that those are what they were, and NaN never is.
    edge = tl.where(x == 0.0, -INFINITY, float("nan"))
    return tl.where(x > 0.0, y, edge)


@triton.jit
def tanh(x):
    """(exp(2a) - 1) / (exp(2a) + 1) for a = |x|."""
    a = magnitude(x)
    e = _expm1_limited(a + a)
    y = tl.div_rn(e, e + 2.0)
    y = tl.where(a > 9.5, 1.0, y)
    return copy_sign(y, x)


@triton.jit
def sigmoid(x):
    """With e = exp(-|x|) and q = e / (1 + e): e - e q below zero, 1 - q above."""
    e = exp(-magnitude(x))
    q = tl.div_rn(e, e + 1.0)
    start = tl.where(x < 0.0, e, 1.0)
    return start - start * q


@triton.jit
def erf(x):
    """1 - exp(-u), u = |x| + |x| h(|x|) with a polynomial h."""
    a = magnitude(x)
    h = a * -9.38776338e-06 + 0.000118860116
    h = h * a + -0.00063736079
    h = h * a + 0.00167567399
    h = h * a + -0.000169503488
    h = h * a + -0.0191478226
    h = h * a + 0.102776304
    h = h * a + 0.636619568
    h = h * a + 0.128379166
    u = h * a + a
    y = _expm1_limited(-u)
    y = tl.where(a > 4.0, 1.0, y)
    return copy_sign(y, x)


@triton.jit
def relu(x):
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def leaky_relu(x, slope):
    """``slope`` is float32."""
    return tl.where(x < 0.0, x * slope, x)


@triton.jit
def gelu(x):
    return (x * 0.5) * (erf(x * 0.707106781) + 1.0)


@triton.jit
def gelu_tanh(x):
    u = (x * 0.797884561) * ((x * x) * 0.044715 + 1.0)
    return (x * 0.5) * (tanh(u) + 1.0)


@triton.jit
def silu(x):
    return x * sigmoid(x)


@triton.jit
def activate(x, CODE: tl.constexpr, slope):
    """The activation with this code, its place in ``ACTIVATIONS``; only leaky_relu has a slope."""
    if CODE == RELU:
        y = relu(x)
    elif CODE == LEAKY_RELU:
        y = leaky_relu(x, slope)
    elif CODE == TANH:
        y = tanh(x)
    elif CODE == SIGMOID:
        y = sigmoid(x)
    elif CODE == GELU:
        y = gelu(x)
    elif CODE == GELU_TANH:
        y = gelu_tanh(x)
    elif CODE == SILU:
        y = silu(x)
    else:
        y = x
    return y
