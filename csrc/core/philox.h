// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
//
// W is a 64-bit unsigned lane type (u64 or a vector of it) that carries one 32-bit counter word
// in its low half; what stands in the high half is never read. A 32 x 32 -> 64 multiplication is
// then one instruction on every processor.
#pragma once

#include "core/element.h"

EVK_NAMESPACE_BEGIN

// Part of the public contract: which stream a number comes from (docs/bits.md).
enum Stream : u32 {
  kInit = 0,
  kCrossover = 1,
  kCrossoverParent = 2,
  kMutation = 3,
  kMutationMask = 4,
  kSigma = 5,
  kNes = 8,
};

template <class W>
struct Wide;

template <>
struct Wide<u64> {
  static constexpr int lanes = 1;
  EVK_INLINE u64 all(u32 value) { return value; }
  EVK_INLINE u64 multiply_low(u64 a, u64 b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
};

template <class W>
struct Words {
  W x, y, z, w;
};

// The key of the first round; round r adds r times the Weyl constants.
struct Key {
  u32 low, high;

  EVK_INLINE_MEMBER u32 round_low(int round) const {
    return low + static_cast<u32>(round) * 0x9E3779B9u;
  }
  EVK_INLINE_MEMBER u32 round_high(int round) const {
    return high + static_cast<u32>(round) * 0xBB67AE85u;
  }
};

EVK_INLINE Key key_of(u64 seed) {
  return Key{static_cast<u32>(seed), static_cast<u32>(seed >> 32)};
}

// N counters at once, round by round, so that a processor overlaps them: one alone is a chain of
// multiplications. Keys is Key, or anything that has its two functions at hand as vectors.
template <int N, class W, class Keys>
EVK_INLINE void philox(Words<W> (&c)[N], const Keys& keys) {
  const W m0 = Wide<W>::all(0xD2511F53u);
  const W m1 = Wide<W>::all(0xCD9E8D57u);
  EVK_UNROLL(10)
  for (int round = 0; round < 10; ++round) {
    EVK_UNROLL(4)
    for (int n = 0; n < N; ++n) {
      const W a = Wide<W>::multiply_low(c[n].x, m0);
      const W b = Wide<W>::multiply_low(c[n].z, m1);
      c[n] = Words<W>{(b >> 32) ^ (c[n].y ^ keys.round_low(round)), b,
                      (a >> 32) ^ (c[n].w ^ keys.round_high(round)), a};
    }
  }
}

EVK_NAMESPACE_END
