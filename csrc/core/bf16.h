// bf16 as the high half of a float, rounded to nearest even; NaN stays NaN.
#pragma once

#include "core/element.h"

EVK_NAMESPACE_BEGIN

template <class F>
EVK_INLINE F round_to_bf16(F x) {
  using E = Element<F>;
  const typename E::Uint bits = E::bits(x);
  const F rounded = E::from_bits((bits + (((bits >> 16) & 1u) + 0x7fffu)) & 0xffff0000u);
  return E::select(x == x, rounded, E::from_bits((bits | 0x00400000u) & 0xffff0000u));
}

EVK_INLINE float widen(u16 bits) { return Element<float>::from_bits(static_cast<u32>(bits) << 16); }
EVK_INLINE float widen(float value) { return value; }

EVK_NAMESPACE_END
