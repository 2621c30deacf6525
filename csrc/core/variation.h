// The element rules of variation (design section 5). F is float or a SIMD type; words are its Uint.
#pragma once

#include "core/distributions.h"

EVK_NAMESPACE_BEGIN

enum class Distribution : int { kNormal = 0, kUniform = 1, kCauchy = 2 };

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

EVK_NAMESPACE_END
