// Random words into deviates. F is float or a SIMD type; words are its Uint.
// Source of the normal: Box-Muller with polynomials that need no fma and no libm, so that its bits
// are the same everywhere (docs/bits.md).
#pragma once

#include "core/activation.h"

EVK_NAMESPACE_BEGIN

template <class F>
using Uint = typename Element<F>::Uint;

// ln(k 2^-24) with k = (word >> 8) + 1 in [1, 2^24].
template <class F>
EVK_INLINE F log_unit(Uint<F> word) {
  using E = Element<F>;
  const Uint<F> bits = E::bits(E::to_float(E::as_int((word >> 8) + 1u)));
  // k = 2^e times a mantissa in (sqrt(1/2), sqrt(2)]: 0x3f3504f4 follows sqrt(1/2).
  const typename E::Int e = E::as_int(bits - 0x3f3504f4u) >> 23;
  const F mantissa = E::from_bits(bits - (E::as_uint(e) << 23));
  return log_reduced<F>(mantissa, E::to_float(e - 24));
}

template <class F>
struct Pair {
  F first, second;
};

// Cosine (first) and sine (second) of the angle pi/2 * (quadrant + t / (pi/2)), |t| <= pi/4. The
// quadrant stands in the two highest bits of the word.
template <class F>
EVK_INLINE Pair<F> cos_sin(Uint<F> word, F t) {
  using E = Element<F>;
  const F t2 = t * t;
  F s = t2 * -1.9515295891e-4f + 8.3321608736e-3f;
  s = s * t2 + -1.6666654611e-1f;
  s = (s * t2) * t + t;
  F c = t2 * 2.443315711809948e-5f + -1.388731625493765e-3f;
  c = c * t2 + 4.166664568298827e-2f;
  c = ((c * t2) * t2 + t2 * -0.5f) + 1.0f;
  const auto odd = E::as_int(word << 1) < 0;
  const F cosine = E::select(odd, s, c);
  const F sine = E::select(odd, c, s);
  const Uint<F> cosine_sign = (word ^ (word << 1)) & 0x80000000u;
  const Uint<F> sine_sign = word & 0x80000000u;
  return Pair<F>{E::from_bits(E::bits(cosine) ^ cosine_sign),
                 E::from_bits(E::bits(sine) ^ sine_sign)};
}

// The 22 bits below the quadrant, as an integer in [-2^21, 2^21): the angle's place in it.
template <class F>
EVK_INLINE F place_in_quadrant(Uint<F> word) {
  using E = Element<F>;
  return E::to_float(E::as_int((word << 2) ^ 0x80000000u) >> 10);
}

constexpr float kQuadrantStep = 1.57079632679f * 2.384185791015625e-07f;  // exact: pi/2 * 2^-22

// Two standard normals from two words.
template <class F>
EVK_INLINE Pair<F> normal_pair(Uint<F> word0, Uint<F> word1) {
  using E = Element<F>;
  const F radius = E::sqrt(log_unit<F>(word0) * -2.0f);
  const Pair<F> angle = cos_sin<F>(word1, place_in_quadrant<F>(word1) * kQuadrantStep);
  return Pair<F>{radius * angle.first, radius * angle.second};
}

// Standard Cauchy: the tangent at the middle of the angle's cell, so that the cosine is never 0.
template <class F>
EVK_INLINE F cauchy(Uint<F> word) {
  const Pair<F> angle = cos_sin<F>(word, (place_in_quadrant<F>(word) + 0.5f) * kQuadrantStep);
  return angle.second / angle.first;
}

// Uniform in [-1, 1) on a grid of 2^-23.
template <class F>
EVK_INLINE F symmetric_uniform(Uint<F> word) {
  using E = Element<F>;
  return E::to_float(E::as_int(word >> 8) - (1 << 23)) * 1.1920928955078125e-07f;
}

EVK_NAMESPACE_END
