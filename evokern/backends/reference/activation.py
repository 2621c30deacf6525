"""exp, log, tanh, sigmoid, erf and the activation functions, with the same bits everywhere.

Each function is a fixed sequence of fp32 operations, every one rounded once to nearest even:
``+ - * /``, comparison, selection, integer steps on the bits; no fma and none of NumPy's own
functions, whose last bits differ between machines. ``csrc/core/activation.h`` is the same
sequence in C++. Operations and coefficients are frozen.

All functions take and return float32 [...]. Against the exact value, over all fp32 arguments
whose exact result is a normal number, the error is at most 2 ulp for exp, log and sigmoid, and
4 ulp for tanh and erf. NaN gives NaN. Subnormal numbers are kept, except that results of exp
and sigmoid below 2^-126 are +0.

Sources: the polynomial of `log` is that of Cephes' logf (Moshier); the others were fitted for
this project (minimax relative error of expm1 and of erf).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evokern.errors import ArgumentError, message
from evokern.layers import ACTIVATIONS

_SIGN = np.uint32(0x80000000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_MANTISSA = np.uint32(0x007FFFFF)
_ONE_BITS = np.uint32(0x3F800000)
_MANTISSA_WIDTH = np.uint32(23)

_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_ONE = np.float32(1)
_TWO = np.float32(2)
_INFINITY = np.float32(np.inf)
_NAN = np.float32(np.nan)

_SMALLEST_NORMAL = np.float32(2.0**-126)
_LOG2_E = np.float32(1.44269504)
_ROUNDING = np.float32(1.5 * 2.0**23)
"""A number this large has no fraction bits: adding it rounds to an integer."""
_LN2_HIGH = np.float32(0.693145752)
"""The first 15 bits of ln 2: its products with integers below 2^9 are exact."""
_LN2_LOW = np.float32(1.42860677e-06)
_LN2 = np.float32(0.69314718056)
_SQRT_2 = np.float32(1.41421356237)
_EXP_LOW = np.float32(-87.3365402)
"""The smallest argument of exp whose result is not below 2^-126."""
_EXP_HIGH = np.float32(88.7228317)
"""The largest argument of exp whose result is finite."""

# Coefficients from the highest power down.
_EXP = (0.00138706435, 0.00836625788, 0.0416674353, 0.166665465, 0.49999997)
_LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_ERF = (
    -9.38776338e-06,
    0.000118860116,
    -0.00063736079,
    0.00167567399,
    -0.000169503488,
    -0.0191478226,
    0.102776304,
    0.636619568,
    0.128379166,
)


def exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """e^x. exp(-inf) and results below 2^-126 are +0, results past the largest number inf."""
    with np.errstate(all="ignore"):
        expm1_r, shifted_n = _reduce_exp(x)
        y = ((expm1_r + _ONE).view(np.uint32) + shifted_n).view(np.float32)
        y = np.where(x < _EXP_LOW, _ZERO, y)
        return np.where(x <= _EXP_HIGH, y, x + _INFINITY)


def log(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural logarithm. log(+0) = log(-0) = -inf, log(inf) = inf, NaN for negative numbers."""
    with np.errstate(all="ignore"):
        subnormal = x < _SMALLEST_NORMAL
        scaled = np.where(subnormal, x * np.float32(2.0**23), x)
        y = _log_normal(scaled, np.where(subnormal, np.float32(-23), _ZERO))
        y = np.where(x < _INFINITY, y, _INFINITY)
        edge = np.where(x == _ZERO, -_INFINITY, _NAN)
        return np.where(x > _ZERO, y, edge)


def tanh(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hyperbolic tangent: odd, -0 stays -0, tanh(inf) = 1.

    ``(exp(2a) - 1) / (exp(2a) + 1)`` for a = abs(x).
    """
    with np.errstate(all="ignore"):
        a = _magnitude(x)
        e = _expm1_limited(a + a)
        y = e / (e + _TWO)
        y = np.where(a > np.float32(9.5), _ONE, y)
        return _copy_sign(y, x)


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)). sigmoid(-inf) and results below 2^-126 are +0, sigmoid(inf) = 1.

    With e = exp(-abs(x)) and q = e / (1 + e): ``e - e * q`` for x < 0, since q itself may be off
    by more than 2 ulp there, otherwise ``1 - q``.
    """
    with np.errstate(all="ignore"):
        e = exp(-_magnitude(x))
        q = e / (e + _ONE)
        start: NDArray[np.float32] = np.where(x < _ZERO, e, _ONE)
        return start - start * q


def erf(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The error function: odd, -0 stays -0, erf(inf) = 1.

    ``1 - exp(-u)`` with u = -log(1 - erf(a)), a = abs(x): smooth, and near a polynomial.
    """
    with np.errstate(all="ignore"):
        a = _magnitude(x)
        u = _polynomial(_ERF, a) * a + a
        y = _expm1_limited(-u)
        y = np.where(a > np.float32(4), _ONE, y)
        return _copy_sign(y, x)


def identity(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x itself, not a copy."""
    return x


def relu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """``x < 0 ? +0 : x``; -0 stays -0."""
    with np.errstate(all="ignore"):
        return np.where(x < _ZERO, _ZERO, x)


def leaky_relu(x: NDArray[np.float32], slope: float) -> NDArray[np.float32]:
    """``x < 0 ? x * slope : x``; the slope is rounded to fp32 first."""
    with np.errstate(all="ignore"):
        return np.where(x < _ZERO, x * np.float32(slope), x)


def gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(x * 0.5) * (erf(x * sqrt(1/2)) + 1)``, the erf form of Hendrycks and Gimpel (2016).

    Finite arguments never give NaN; far below zero the result is -0; gelu(-inf) is NaN, as
    -inf * 0 is.
    """
    with np.errstate(all="ignore"):
        return (x * _HALF) * (erf(x * np.float32(0.707106781)) + _ONE)


def gelu_tanh(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(x * 0.5) * (tanh(u) + 1)``, the tanh form of Hendrycks and Gimpel (2016).

    u = ``(x * sqrt(2/pi)) * ((x * x) * 0.044715 + 1)``. At the edges as `gelu`.
    """
    with np.errstate(all="ignore"):
        u = (x * np.float32(0.797884561)) * ((x * x) * np.float32(0.044715) + _ONE)
        return (x * _HALF) * (tanh(u) + _ONE)


def silu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """``x * sigmoid(x)``. At the edges as `gelu`."""
    with np.errstate(all="ignore"):
        return x * sigmoid(x)


_PLAIN = {
    "identity": identity,
    "relu": relu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
}


def activate(name: str, x: NDArray[np.float32], slope: float = 0.01) -> NDArray[np.float32]:
    """The activation function of that name (`evokern.layers.ACTIVATIONS`).

    Args:
        name: which function.
        x: float32 [...].
        slope: of ``leaky_relu`` below zero; the others ignore it.

    Returns:
        float32 [...].

    Raises:
        ArgumentError: there is no such function.
    """
    if name == "leaky_relu":
        return leaky_relu(x, slope)
    if name not in _PLAIN:
        raise ArgumentError(message("name", f"one of {list(ACTIVATIONS)}", repr(name)))
    return _PLAIN[name](x)


def _polynomial(coefficients: tuple[float, ...], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Horner's rule, highest power first: one product and one sum per further coefficient."""
    y = x * np.float32(coefficients[0]) + np.float32(coefficients[1])
    for coefficient in coefficients[2:]:
        y = y * x + np.float32(coefficient)
    return y


def _magnitude(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return (x.view(np.uint32) & _MAGNITUDE).view(np.float32)


def _copy_sign(value: NDArray[np.float32], sign: NDArray[np.float32]) -> NDArray[np.float32]:
    bits = (value.view(np.uint32) & _MAGNITUDE) | (sign.view(np.uint32) & _SIGN)
    return bits.view(np.float32)


def _reduce_exp(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """expm1(r) and n * 2^23 modulo 2^32 for x = n ln 2 + r, abs(r) <= (ln 2) / 2.

    Added to the bits of a number, the second multiplies it by 2^n. Meaningful for
    abs(x) <= 128; whatever comes for other x, NaN gives NaN.
    """
    rounded = x * _LOG2_E + _ROUNDING
    n = rounded - _ROUNDING
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    expm1_r = (r * r) * _polynomial(_EXP, r) + r
    return expm1_r, rounded.view(np.uint32) << _MANTISSA_WIDTH


def _expm1_limited(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """exp(x) - 1 for abs(x) <= 64."""
    expm1_r, shifted_n = _reduce_exp(x)
    scale = (shifted_n + _ONE_BITS).view(np.float32)
    return expm1_r * scale + (scale - _ONE)


def _log_normal(x: NDArray[np.float32], shift: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(x 2^shift) for positive normal x and small integers as shift."""
    bits = x.view(np.uint32)
    m = ((bits & _MANTISSA) | _ONE_BITS).view(np.float32)
    e = ((bits >> _MANTISSA_WIDTH).astype(np.int32) - np.int32(127)).astype(np.float32) + shift
    large = m > _SQRT_2
    t: NDArray[np.float32] = np.where(large, m * _HALF, m) - _ONE
    exponent = np.where(large, e + _ONE, e)
    z = t * t
    y = (_polynomial(_LOG, t) * t) * z
    y = y + z * -_HALF
    result: NDArray[np.float32] = (t + y) + exponent * _LN2
    return result
