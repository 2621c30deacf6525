// The element rules of variation (docs/bits.md). F is float or a SIMD type; words are its Uint.
#pragma once

#include "core/distributions.h"
#include "core/params.h"

EVK_NAMESPACE_BEGIN

// A Bernoulli draw is word < threshold. Thresholds have 33 bits (2^32 means always), so the test is
// word <= threshold - 1; a threshold of 0 (never) is the caller's to skip.
template <class F>
EVK_INLINE Uint<F> bernoulli_last(u64 threshold) {
  return Element<F>::all_uint(static_cast<u32>(threshold - 1));
}

template <class F>
EVK_INLINE F mutated(F gene, F sigma, F deviate) {
  return gene + sigma * deviate;
}

EVK_INLINE Distribution init_distribution(InitScheme scheme) {
  const bool normal = scheme == InitScheme::kLecunNormal || scheme == InitScheme::kUnitRows;
  return normal ? Distribution::kNormal : Distribution::kUniform;
}

// Whether the genes of a part are drawn, or all have the value of their content.
EVK_INLINE bool is_drawn(GeneContent content, InitScheme scheme) {
  return content == GeneContent::kWeights ||
         (content == GeneContent::kBias && scheme == InitScheme::kTorch);
}

EVK_INLINE float value_of(GeneContent content) {
  return content == GeneContent::kOnes ? 1.0f : 0.0f;
}

// Of unit_rows. A unit that drew only zeros keeps them.
EVK_INLINE float unit_length(float sum_of_squares) {
  return sum_of_squares == 0.0f ? 1.0f : Element<float>::sqrt(sum_of_squares);
}

// Self-adaptive mutation strength, Eq. 5.4, clamped to [2^-40, 2^10]; NaN becomes the least.
EVK_INLINE float adapted_sigma(float sigma, float tau, float deviate) {
  constexpr float least = 9.094947017729282e-13f;
  constexpr float most = 1024.0f;
  const float adapted = sigma * exp<float>(tau * deviate);
  const float at_least = adapted > least ? adapted : least;
  return at_least < most ? at_least : most;
}

EVK_NAMESPACE_END
