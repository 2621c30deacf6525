// The multiply-adds that products are made of.
//
// Fp32: acc = fma(x, w, acc). Bf16: both operands are rounded to bf16 first, by whoever lays them
// out. Where the processor multiplies bf16 itself, two inputs lie side by side in the place of one
// float, the first in its low half, and so do their two weights; elsewhere an operand is one input
// as a rounded float. Sums are fp32 either way.
#pragma once

#include "core/bf16.h"
#include "cpu/simd.h"

EVK_NAMESPACE_BEGIN

struct Fp32 {
  EVK_INLINE Float multiply_add(Float x, Float w, Float acc) { return fma(x, w, acc); }
};

#if EVK_HAS_BF16

constexpr int kBf16Inputs = 2;  // per operand

struct Bf16 {
  EVK_INLINE Float multiply_add(Float x, Float w, Float acc) { return dot_bf16(x, w, acc); }
};

EVK_INLINE Float bf16_operand(Float first, Float second) { return pair_to_bf16(first, second); }

#else

constexpr int kBf16Inputs = 1;
using Bf16 = Fp32;

EVK_INLINE Float bf16_operand(Float first, Float) { return round_to_bf16(first); }

#endif

// Operands that so many inputs take.
EVK_INLINE i64 bf16_operands(i64 inputs) { return ceil_div(inputs, kBf16Inputs); }

// `count` operands of the inputs `first` and `second`; null: +0.
template <class T>
EVK_INLINE void pair_bf16(const T* first, const T* second, i64 count, float* out) {
  const Float zero = Element<Float>::all(0.0f);
  i64 i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(out + i, bf16_operand(load(first + i), second ? load(second + i) : zero));
  }
  const i64 left = count - i;
  if (left == 0) return;
  const Float other = second ? load_part(second + i, left) : zero;
  store_part(out + i, left, bf16_operand(load_part(first + i, left), other));
}

// Rows [inputs, window, width] as operands [bf16_operands(inputs), window, width].
template <class T>
void pair_bf16_rows(const T* x, i64 inputs, i64 window, i64 stride, i64 width, float* out) {
  for (i64 input = 0; input < inputs; input += kBf16Inputs) {
    for (i64 i = 0; i < window; ++i, out += width) {
      const T* first = x + (input * window + i) * stride;
      const bool both = kBf16Inputs == 2 && input + 1 < inputs;
      pair_bf16(first, both ? first + window * stride : nullptr, width, out);
    }
  }
}

// Inputs next to each other as operands.
EVK_INLINE void round_inputs(const float* x, i64 inputs, float* out) {
  if constexpr (kBf16Inputs == 1) {
    return pair_bf16<float>(x, nullptr, inputs, out);
  }
  typedef u16 __attribute__((may_alias)) Half;
  Half* halves = reinterpret_cast<Half*>(out);
  for (i64 i = 0; i < inputs; ++i) {
    halves[i] = static_cast<u16>(Element<float>::bits(round_to_bf16(x[i])) >> 16);
  }
  if (inputs % 2) halves[inputs] = 0;
}

EVK_NAMESPACE_END
