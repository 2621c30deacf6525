// exp, log, tanh, sigmoid, erf and the activation functions, each a fixed sequence of fp32
// operations that round once, so that every processor gives the same bits. The order of the
// operations and the coefficients are frozen. The NumPy twin, which says what each function
// returns at the edges, is evokern/backends/reference/activation.py.
#pragma once

#include "core/element.h"

EVK_NAMESPACE_BEGIN

// In the order of ACTIVATIONS in evokern/layers.py.
namespace activation_code {
enum Code : int {
  identity = 0,
  relu = 1,
  leaky_relu = 2,
  tanh = 3,
  sigmoid = 4,
  gelu = 5,
  gelu_tanh = 6,
  silu = 7,
};
}

template <class F>
EVK_INLINE F infinity() {
  return Element<F>::from_bits(Element<F>::all_uint(0x7f800000u));
}

template <class F>
EVK_INLINE F quiet_nan() {
  return Element<F>::from_bits(Element<F>::all_uint(0x7fc00000u));
}

template <class F>
EVK_INLINE F magnitude(F x) {
  return Element<F>::from_bits(Element<F>::bits(x) & 0x7fffffffu);
}

template <class F>
EVK_INLINE F copy_sign(F value, F sign) {
  return Element<F>::from_bits((Element<F>::bits(value) & 0x7fffffffu) |
                               (Element<F>::bits(sign) & 0x80000000u));
}

// x = n ln 2 + r with |r| <= (ln 2) / 2, so that exp(x) = 2^n (1 + expm1(r)).
template <class F>
struct ReducedExp {
  F expm1_r;
  typename Element<F>::Uint shifted_n;  // n 2^23 modulo 2^32: added to bits, it multiplies by 2^n
};

// Meaningful for |x| <= 128; whatever comes for other x, NaN gives expm1_r = NaN.
template <class F>
EVK_INLINE ReducedExp<F> reduce_exp(F x) {
  // Adding 1.5 * 2^23 rounds to an integer, which the low bits of the sum then hold.
  F sum = x * 1.44269504f + 12582912.0f;
  F n = sum - 12582912.0f;
  // The first part of ln 2 has 15 bits, so that this product and difference are exact.
  F r = x - n * 0.693145752f;
  r = r - n * 1.42860677e-06f;
  F q = r * 0.00138706435f + 0.00836625788f;
  q = q * r + 0.0416674353f;
  q = q * r + 0.166665465f;
  q = q * r + 0.49999997f;
  return {(r * r) * q + r, Element<F>::bits(sum) << 23};
}

// exp(x) - 1 for |x| <= 64.
template <class F>
EVK_INLINE F expm1_limited(F x) {
  ReducedExp<F> e = reduce_exp<F>(x);
  F scale = Element<F>::from_bits(e.shifted_n + 0x3f800000u);
  return e.expm1_r * scale + (scale - 1.0f);
}

template <class F>
EVK_INLINE F exp(F x) {
  ReducedExp<F> e = reduce_exp<F>(x);
  F y = Element<F>::from_bits(Element<F>::bits(e.expm1_r + 1.0f) + e.shifted_n);
  y = x < -87.3365402f ? Element<F>::all(0.0f) : y;
  // The sum is infinity above the limit and NaN for NaN.
  return x <= 88.7228317f ? y : x + infinity<F>();
}

// log(m 2^e) for m from sqrt(1/2) to sqrt(2). The normal deviate takes its logarithm from here.
template <class F>
EVK_INLINE F log_reduced(F m, F e) {
  F x = m - 1.0f;
  F z = x * x;
  F y = x * 7.0376836292e-2f + -1.1514610310e-1f;
  y = y * x + 1.1676998740e-1f;
  y = y * x + -1.2420140846e-1f;
  y = y * x + 1.4249322787e-1f;
  y = y * x + -1.6668057665e-1f;
  y = y * x + 2.0000714765e-1f;
  y = y * x + -2.4999993993e-1f;
  y = y * x + 3.3333331174e-1f;
  y = (y * x) * z;
  y = y + z * -0.5f;
  return (x + y) + e * 0.69314718056f;
}

// log(x 2^shift) for a positive normal x and a small integer shift.
template <class F>
EVK_INLINE F log_normal(F x, F shift) {
  typename Element<F>::Uint b = Element<F>::bits(x);
  F m = Element<F>::from_bits((b & 0x7fffffu) | 0x3f800000u);
  F e = Element<F>::to_float(Element<F>::as_int(b >> 23) - 127) + shift;
  F half = m * 0.5f;
  F next = e + 1.0f;
  return log_reduced<F>(m > 1.41421356237f ? half : m, m > 1.41421356237f ? next : e);
}

template <class F>
EVK_INLINE F log(F x) {
  F scaled = x * 8388608.0f;
  F normal = x < 1.17549435e-38f ? scaled : x;
  F shift = x < 1.17549435e-38f ? Element<F>::all(-23.0f) : Element<F>::all(0.0f);
  F y = log_normal<F>(normal, shift);
  y = x < infinity<F>() ? y : infinity<F>();
  F edge = x == 0.0f ? -infinity<F>() : quiet_nan<F>();
  return x > 0.0f ? y : edge;
}

// (exp(2a) - 1) / (exp(2a) + 1) for a = |x|.
template <class F>
EVK_INLINE F tanh(F x) {
  F a = magnitude<F>(x);
  F e = expm1_limited<F>(a + a);
  F y = e / (e + 2.0f);
  y = a > 9.5f ? Element<F>::all(1.0f) : y;
  return copy_sign<F>(y, x);
}

// With e = exp(-|x|) and q = e / (1 + e): e - e q below zero, where the quotient itself would be
// off by more than 2 ulp, and 1 - q above.
template <class F>
EVK_INLINE F sigmoid(F x) {
  F e = exp<F>(-magnitude<F>(x));
  F q = e / (e + 1.0f);
  F start = x < 0.0f ? e : Element<F>::all(1.0f);
  return start - start * q;
}

// 1 - exp(-u) for u = -log(1 - erf(|x|)), which is smooth: |x| + |x| h(|x|), h a polynomial.
template <class F>
EVK_INLINE F erf(F x) {
  F a = magnitude<F>(x);
  F h = a * -9.38776338e-06f + 0.000118860116f;
  h = h * a + -0.00063736079f;
  h = h * a + 0.00167567399f;
  h = h * a + -0.000169503488f;
  h = h * a + -0.0191478226f;
  h = h * a + 0.102776304f;
  h = h * a + 0.636619568f;
  h = h * a + 0.128379166f;
  F u = h * a + a;
  F y = expm1_limited<F>(-u);
  y = a > 4.0f ? Element<F>::all(1.0f) : y;
  return copy_sign<F>(y, x);
}

template <class F>
EVK_INLINE F relu(F x) {
  return x < 0.0f ? Element<F>::all(0.0f) : x;
}

template <class F>
EVK_INLINE F leaky_relu(F x, float slope) {
  F scaled = x * slope;
  return x < 0.0f ? scaled : x;
}

template <class F>
EVK_INLINE F gelu(F x) {
  return (x * 0.5f) * (erf<F>(x * 0.707106781f) + 1.0f);
}

template <class F>
EVK_INLINE F gelu_tanh(F x) {
  F u = (x * 0.797884561f) * ((x * x) * 0.044715f + 1.0f);
  return (x * 0.5f) * (tanh<F>(u) + 1.0f);
}

template <class F>
EVK_INLINE F silu(F x) {
  return x * sigmoid<F>(x);
}

// The activation with this code; only leaky_relu looks at the slope.
template <int CODE, class F>
EVK_INLINE F activate(F x, [[maybe_unused]] float slope) {
  static_assert(CODE >= activation_code::identity && CODE <= activation_code::silu);
  if constexpr (CODE == activation_code::relu) {
    return relu<F>(x);
  } else if constexpr (CODE == activation_code::leaky_relu) {
    return leaky_relu<F>(x, slope);
  } else if constexpr (CODE == activation_code::tanh) {
    return tanh<F>(x);
  } else if constexpr (CODE == activation_code::sigmoid) {
    return sigmoid<F>(x);
  } else if constexpr (CODE == activation_code::gelu) {
    return gelu<F>(x);
  } else if constexpr (CODE == activation_code::gelu_tanh) {
    return gelu_tanh<F>(x);
  } else if constexpr (CODE == activation_code::silu) {
    return silu<F>(x);
  } else {
    return x;
  }
}

EVK_NAMESPACE_END
