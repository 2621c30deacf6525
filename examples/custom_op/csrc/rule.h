// The element rule, once for the CPU and CUDA: a template over F in the words of core/element.h.
#pragma once

#include "core/philox.h"
#include "core/variation.h"

namespace custom_op {

using namespace evk::EVK_ISA;

constexpr u32 kUser = 10;  // the random stream that evokern leaves to the ops of others

// Laplace with mean 0 and scale 1: an exponential deviate -log(u) and a sign. With k the 23 highest
// bits of the word, u = (k + 1/2) 2^-23 is exact in fp32 and neither 0 nor 1; the lowest bit is the
// sign.
template <class F>
EVK_INLINE F laplace(Uint<F> word) {
  using E = Element<F>;
  const F u = E::to_float(E::as_int((word >> 8) | 1u)) * 5.9604644775390625e-08f;
  return copy_sign<F>(log<F>(u), E::from_bits(word << 31));
}

template <class F>
EVK_INLINE F laplace_mutated(F gene, F sigma, Uint<F> word) {
  return mutated<F>(gene, sigma, laplace<F>(word));
}

// Words of genes 4 block to 4 block + 3.
EVK_INLINE void draw_words(Key key, u32 block, u32 individual, u32 generation, u32* words) {
  Words<u64> c[1] = {{block, individual, generation, kUser}};
  philox(c, key);
  words[0] = static_cast<u32>(c[0].x);
  words[1] = static_cast<u32>(c[0].y);
  words[2] = static_cast<u32>(c[0].z);
  words[3] = static_cast<u32>(c[0].w);
}

}  // namespace custom_op
