// Functions of CUDA C++ that C++ has not.
#pragma once

#include "simt.h"

#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define SIMT_HERE (simt::Site{file, line})

inline void __syncthreads(SIMT_SITE) { simt::barrier(SIMT_HERE); }
inline int __syncthreads_count(int vote, SIMT_SITE) { return simt::barrier(SIMT_HERE, vote != 0); }
inline int __syncthreads_or(int vote, SIMT_SITE) { return simt::barrier(SIMT_HERE, vote != 0) > 0; }
inline int __syncthreads_and(int vote, SIMT_SITE) {
  return simt::barrier(SIMT_HERE, vote == 0) == 0;
}

namespace simt {

template <class T>
T shuffle(Collective what, unsigned mask, T value, int argument, int width, Site site) {
  static_assert(sizeof(T) <= 8, "a shuffle takes 8 bytes at most");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = collective(what, mask, bits, argument, width, site);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

inline uint32_t vote(Collective what, unsigned mask, uint32_t value, Site site) {
  return static_cast<uint32_t>(collective(what, mask, value, 0, kWarpSize, site));
}

}  // namespace simt

inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_SITE) {
  simt::vote(simt::Collective::kSync, mask, 0, SIMT_HERE);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, SIMT_SITE) {
  return simt::shuffle(simt::Collective::kShuffle, mask, value, lane, width, SIMT_HERE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  const int lanes = static_cast<int>(delta);
  return simt::shuffle(simt::Collective::kShuffleUp, mask, value, lanes, width, SIMT_HERE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  const int lanes = static_cast<int>(delta);
  return simt::shuffle(simt::Collective::kShuffleDown, mask, value, lanes, width, SIMT_HERE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, SIMT_SITE) {
  return simt::shuffle(simt::Collective::kShuffleXor, mask, value, lanes, width, SIMT_HERE);
}
inline unsigned __ballot_sync(unsigned mask, int vote, SIMT_SITE) {
  return simt::vote(simt::Collective::kBallot, mask, vote != 0, SIMT_HERE);
}
inline int __any_sync(unsigned mask, int vote, SIMT_SITE) {
  return simt::vote(simt::Collective::kBallot, mask, vote != 0, SIMT_HERE) != 0;
}
inline int __all_sync(unsigned mask, int vote, SIMT_SITE) {
  return simt::vote(simt::Collective::kBallot, mask, vote == 0, SIMT_HERE) == 0;
}
inline unsigned __match_any_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::vote(simt::Collective::kMatchAny, mask, value, SIMT_HERE);
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::vote(simt::Collective::kReduceAdd, mask, value, SIMT_HERE);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::vote(simt::Collective::kReduceMin, mask, value, SIMT_HERE);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::vote(simt::Collective::kReduceMax, mask, value, SIMT_HERE);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::vote(simt::Collective::kReduceAnd, mask, value, SIMT_HERE);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::vote(simt::Collective::kReduceOr, mask, value, SIMT_HERE);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, SIMT_SITE) {
  return simt::vote(simt::Collective::kReduceXor, mask, value, SIMT_HERE);
}

inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}
template <class T>
void __stcg(T* address, T value) {
  *address = value;
}

namespace simt {

// Fibers change places only where they wait, so that nothing comes between reading and writing.
template <class T, class F>
__attribute__((no_sanitize("thread"), noinline)) T atomic(T* address, F change) {
  note_atomic(address, sizeof(T));
  const T before = *address;
  *address = change(before);
  return before;
}

template <class T>
struct Same {
  using type = T;
};

}  // namespace simt

#define SIMT_ATOMIC(name, expression)                                     \
  template <class T>                                                      \
  T name(T* address, typename simt::Same<T>::type value) {                \
    return simt::atomic(address, [&](T old) -> T { return expression; }); \
  }
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicMin, value < old ? value : old)
SIMT_ATOMIC(atomicMax, value > old ? value : old)
SIMT_ATOMIC(atomicAnd, old& value)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicXor, old ^ value)
SIMT_ATOMIC(atomicExch, value)
#undef SIMT_ATOMIC
template <class T>
T atomicCAS(T* address, typename simt::Same<T>::type compare, typename simt::Same<T>::type value) {
  return simt::atomic(address, [&](T old) -> T { return old == compare ? value : old; });
}

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value ? __builtin_clz(static_cast<unsigned>(value)) : 32; }
inline int __clzll(long long value) {
  return value ? __builtin_clzll(static_cast<unsigned long long>(value)) : 64;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned chosen = selector >> (4 * i) & 7;
    result |= static_cast<unsigned>(bytes >> (8 * chosen) & 0xff) << (8 * i);
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  return static_cast<unsigned>(both << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  return static_cast<unsigned>(both >> (shift & 31));
}

inline float __uint_as_float(unsigned bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }

// One rounding each: the harness compiles with -ffp-contract=off, and GCC's fmaf is the processor's
// or libm's, both exact.
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline int __float2int_rz(float a) { return static_cast<int>(a); }
inline int __float2int_rn(float a) { return static_cast<int>(__builtin_rintf(a)); }

inline int min(int a, int b) { return b < a ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
inline int max(int a, int b) { return b > a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return b > a ? b : a; }
inline long long max(long long a, long long b) { return b > a ? b : a; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return b > a ? b : a; }

#undef SIMT_SITE
#undef SIMT_HERE
