// The element rules of categorical search distributions (docs/bits.md). F is float or a SIMD
// type. The NumPy twin is evokern/backends/reference/categorical.py.
#pragma once

#include "core/element.h"
#include "core/params.h"

EVK_NAMESPACE_BEGIN

// Whether a row whose entries have this ascending sum and this least one is a distribution.
EVK_INLINE bool is_distribution(double sum, float least) {
  const double excess = sum - 1.0;
  const bool near = excess <= kRowSumTolerance && excess >= -kRowSumTolerance;  // not NaN
  return near && !(least < 0.0f);
}

// rint(p 2^24) of a probability, at most 2^25.
template <class F>
EVK_INLINE typename Element<F>::Int sampling_weight(F p) {
  using E = Element<F>;
  const F scaled = p * 16777216.0f;
  // Below 2^23 the sum has no fraction bits; above, numbers are integers anyway.
  const F rounded = (scaled + 8388608.0f) - 8388608.0f;
  return E::to_int(E::select(scaled < 8388608.0f, rounded, scaled));
}

// 2 rank - 2 of losses[own]: ranks count from 1 for the highest loss, NaN is higher than all, and
// ties share the mean rank, so that the number is an integer (Eq. 8.19).
EVK_INLINE i64 twice_rank(const float* losses, i64 count, i64 own) {
  const float loss = losses[own];
  const bool is_nan = loss != loss;
  i64 higher = 0, ties = 0;
  for (i64 s = 0; s < count; ++s) {
    const float other = losses[s];
    const bool other_is_nan = other != other;
    higher += (other > loss) | (other_is_nan & !is_nan);
    ties += (other == loss) | (other_is_nan & is_nan);
  }
  return 2 * higher + ties - 1;
}

// From -1 (highest loss) to 1 (lowest loss); +0 for a single sample.
EVK_INLINE float utility(const float* losses, i64 count, i64 own) {
  if (count == 1) return 0.0f;
  const float place = static_cast<float>(twice_rank(losses, count, own));
  return place / static_cast<float>(count - 1) - 1.0f;
}

// A probability after the step along the natural gradient (Eq. 8.44), cut to the least allowed.
template <class F>
EVK_INLINE F stepped(F p, F sum_of_terms, float samples, float learning_rate, float least) {
  const F q = p + learning_rate * (sum_of_terms / samples);
  return Element<F>::select(q > least, q, Element<F>::all(least));
}

// What is left of 1 when every entry that is there has `base`.
template <class F>
EVK_INLINE F left_over(F entries, F base) {
  using E = Element<F>;
  const F left = E::all(1.0f) - entries * base;
  return E::select(left > 0.0f, left, E::all(0.0f));
}

// A probability: `base`, and of what is `left` of 1 a part as large as its `amount` of the row's
// `total`. If no amount is above 0, all `equal` parts.
template <class F>
EVK_INLINE F normalised(F amount, F total, F equal, F base, F left) {
  return base + Element<F>::select(total > 0.0f, amount / total, equal) * left;
}

EVK_NAMESPACE_END
