// The only file with intrinsics: vectors of 1, 8 or 16 floats and what the rules and kernels do
// with them beyond the operators that GCC's vector types have by themselves.
//
// `Float` is the widest vector of the instruction set, `Word` its 32-bit unsigned twin and
// `Counter` a vector of 64-bit lanes for Philox (core/philox.h).
#pragma once

#include <stddef.h>

#include "core/bf16.h"
#include "core/philox.h"

#define EVK_CAT_(a, b) a##b
#define EVK_CAT(a, b) EVK_CAT_(a, b)
#define EVK_NAMED_avx512_bf16 1
#define EVK_HAS_BF16 EVK_CAT(EVK_NAMED_, EVK_ISA)

#if defined(EVK_EMULATE_AVX512)
// Development builds run the 16-lane kernels on processors without AVX-512, through SIMDe.
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#define EVK_LANES 16
#elif defined(__AVX512F__)
#include <immintrin.h>
#define EVK_LANES 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define EVK_LANES 8
#else
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#define EVK_LANES 1
#endif

EVK_NAMESPACE_BEGIN

constexpr int kLanes = EVK_LANES;

#if EVK_LANES == 1

using Float = float;
using Word = u32;
using Counter = u64;

// One rounding, in double (Boldo and Melquiond 2008): the sum is rounded to odd, so that the
// second rounding, to float, cannot be wrong.
EVK_INLINE float fma(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  const double p = static_cast<double>(a) * static_cast<double>(b);
  const double s = p + static_cast<double>(c);
  const double bb = s - p;
  const double t = (p - (s - bb)) + (static_cast<double>(c) - bb);
  u64 bits;
  __builtin_memcpy(&bits, &s, 8);
  const bool finite = (bits & 0x7ff0000000000000ull) != 0x7ff0000000000000ull;
  if (t != 0.0 && finite && (bits & 1) == 0) {
    bits += ((t > 0.0) == (s > 0.0)) ? 1 : -1;
    double odd;
    __builtin_memcpy(&odd, &bits, 8);
    return static_cast<float>(odd);
  }
  return static_cast<float>(s);
#endif
}
EVK_INLINE Float broadcast(const float* p) { return *p; }
EVK_INLINE Float load(const float* p) { return *p; }
EVK_INLINE void store(float* p, Float v) { *p = v; }
EVK_INLINE Float load_part(const float* p, i64 count) { return count > 0 ? *p : 0.0f; }
EVK_INLINE void store_part(float* p, i64 count, Float v) {
  if (count > 0) *p = v;
}
EVK_INLINE Float load(const u16* p) {
  return Element<float>::from_bits(static_cast<u32>(*p) << 16);
}
EVK_INLINE Float load_part(const u16* p, i64 count) { return count > 0 ? load(p) : 0.0f; }
EVK_INLINE void store_streaming(float* p, Float v) { *p = v; }
EVK_INLINE void finish_streaming() {}
EVK_INLINE Word multiply_high(Word a, u32 b) {
  return static_cast<u32>((static_cast<u64>(a) * b) >> 32);
}
EVK_INLINE Counter block_order() { return 0; }
EVK_INLINE void words_in_gene_order(const Words<u64>& c, Word out[4]) {
  out[0] = static_cast<u32>(c.x);
  out[1] = static_cast<u32>(c.y);
  out[2] = static_cast<u32>(c.z);
  out[3] = static_cast<u32>(c.w);
}
EVK_INLINE void word_pairs(const Words<u64>& c, Word first[2], Word second[2]) {
  first[0] = static_cast<u32>(c.x);
  second[0] = static_cast<u32>(c.y);
  first[1] = static_cast<u32>(c.z);
  second[1] = static_cast<u32>(c.w);
}
EVK_INLINE void pairs_in_gene_order(const Float first[2], const Float second[2], Float out[4]) {
  out[0] = first[0];
  out[1] = second[0];
  out[2] = first[1];
  out[3] = second[1];
}

#else  // 8 and 16 lanes: the same code over GCC vector types, a handful of intrinsics apart

typedef float Float __attribute__((vector_size(4 * EVK_LANES)));
typedef u32 Word __attribute__((vector_size(4 * EVK_LANES)));
typedef i32 Signed __attribute__((vector_size(4 * EVK_LANES)));
typedef u64 Counter __attribute__((vector_size(4 * EVK_LANES)));

#if EVK_LANES == 8
#define EVK_MM(name) _mm256_##name
typedef __m256 NativeFloat;
typedef __m256i NativeInt;
typedef __m128i HalfInt;
EVK_INLINE HalfInt load_half(const u16* p) { return _mm_loadu_si128((const HalfInt*)p); }
EVK_INLINE NativeInt even_then_odd(NativeInt even, NativeInt odd) {
  return _mm256_blend_epi32(even, odd, 0xaa);
}
// Blocks 0 1 | 2 3 come out of the two unpacks when the lanes hold blocks 0 2 1 3.
EVK_INLINE Counter block_order() { return Counter{0, 2, 1, 3}; }
#else
#define EVK_MM(name) _mm512_##name
typedef __m512 NativeFloat;
typedef __m512i NativeInt;
typedef __m256i HalfInt;
EVK_INLINE HalfInt load_half(const u16* p) { return _mm256_loadu_si256((const HalfInt*)p); }
EVK_INLINE NativeInt even_then_odd(NativeInt even, NativeInt odd) {
  return _mm512_mask_blend_epi32(0xaaaa, even, odd);
}
EVK_INLINE Counter block_order() { return Counter{0, 4, 1, 5, 2, 6, 3, 7}; }
#endif

template <>
struct Element<Float> {
  using Uint = Word;
  using Int = Signed;
  static constexpr int lanes = EVK_LANES;

  EVK_INLINE Float all(float value) { return (Float)EVK_MM(set1_ps)(value); }
  EVK_INLINE Word all_uint(u32 value) { return (Word)EVK_MM(set1_epi32)((i32)value); }
  EVK_INLINE Word bits(Float value) { return (Word)value; }
  EVK_INLINE Float from_bits(Word value) { return (Float)value; }
  EVK_INLINE Float select(Signed condition, Float yes, Float no) { return condition ? yes : no; }
  EVK_INLINE Float to_float(Signed value) { return __builtin_convertvector(value, Float); }
  EVK_INLINE Signed to_int(Float value) { return __builtin_convertvector(value, Signed); }
  EVK_INLINE Signed as_int(Word value) { return (Signed)value; }
  EVK_INLINE Word as_uint(Signed value) { return (Word)value; }
  EVK_INLINE Float sqrt(Float value) { return (Float)EVK_MM(sqrt_ps)((NativeFloat)value); }
};

template <>
struct Wide<Counter> {
  static constexpr int lanes = EVK_LANES / 2;
  EVK_INLINE Counter all(u32 value) { return Counter{} + static_cast<u64>(value); }
  EVK_INLINE Counter multiply_low(Counter a, Counter b) {
    return (Counter)EVK_MM(mul_epu32)((NativeInt)a, (NativeInt)b);
  }
};

EVK_INLINE Float fma(Float a, Float b, Float c) {
  return (Float)EVK_MM(fmadd_ps)((NativeFloat)a, (NativeFloat)b, (NativeFloat)c);
}
EVK_INLINE Float broadcast(const float* p) { return (Float)EVK_MM(set1_ps)(*p); }
EVK_INLINE Float load(const float* p) { return (Float)EVK_MM(loadu_ps)(p); }
EVK_INLINE void store(float* p, Float v) { EVK_MM(storeu_ps)(p, (NativeFloat)v); }
// The first `count` < kLanes elements; memory past them is not touched, lanes past them are 0.
#if EVK_LANES == 8
EVK_INLINE NativeInt first_lanes(i64 count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
EVK_INLINE Float load_part(const float* p, i64 count) {
  return (Float)_mm256_maskload_ps(p, first_lanes(count));
}
EVK_INLINE void store_part(float* p, i64 count, Float v) {
  _mm256_maskstore_ps(p, first_lanes(count), (NativeFloat)v);
}
#elif defined(EVK_EMULATE_AVX512)  // SIMDe has no such loads
EVK_INLINE Float load_part(const float* p, i64 count) {
  Float v{};
  __builtin_memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
  return v;
}
EVK_INLINE void store_part(float* p, i64 count, Float v) {
  __builtin_memcpy(p, &v, static_cast<size_t>(count) * sizeof(float));
}
#else
EVK_INLINE Float load_part(const float* p, i64 count) {
  return (Float)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << count) - 1), p);
}
EVK_INLINE void store_part(float* p, i64 count, Float v) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1 << count) - 1), (NativeFloat)v);
}
#endif
// bf16 as floats.
EVK_INLINE Float load(const u16* p) {
#if defined(EVK_EMULATE_AVX512)
  Word words;
  for (int i = 0; i < kLanes; ++i) words[i] = p[i];
#else
  const Word words = (Word)EVK_MM(cvtepu16_epi32)(load_half(p));
#endif
  return (Float)(words << 16);
}
EVK_INLINE Float load_part(const u16* p, i64 count) {
  u16 part[kLanes] = {};
  __builtin_memcpy(part, p, static_cast<size_t>(count) * sizeof(u16));
  return load(part);
}
// Past the cache; p must be aligned to a vector.
EVK_INLINE void store_streaming(float* p, Float v) {
#if defined(EVK_EMULATE_AVX512)
  store(p, v);
#else
  EVK_MM(stream_ps)(p, (NativeFloat)v);
#endif
}
EVK_INLINE void finish_streaming() { _mm_sfence(); }
EVK_INLINE Word multiply_high(Word a, u32 b) {
  const Counter wide = Wide<Counter>::all(b);
  const Counter even = Wide<Counter>::multiply_low((Counter)a, wide) >> 32;
  const Counter odd = Wide<Counter>::multiply_low((Counter)a >> 32, wide);
  return (Word)even_then_odd((NativeInt)even, (NativeInt)odd);
}
EVK_INLINE Word multiply_high(Word a, Word b) {
  const Counter even = Wide<Counter>::multiply_low((Counter)a, (Counter)b) >> 32;
  const Counter odd = Wide<Counter>::multiply_low((Counter)a >> 32, (Counter)b >> 32);
  return (Word)even_then_odd((NativeInt)even, (NativeInt)odd);
}
// Word j of block b belongs to gene 4b + j: two vectors of genes out of one vector of counters.
EVK_INLINE void words_in_gene_order(const Words<Counter>& c, Word out[2]) {
  const NativeInt xy = even_then_odd((NativeInt)c.x, (NativeInt)(c.y << 32));
  const NativeInt zw = even_then_odd((NativeInt)c.z, (NativeInt)(c.w << 32));
  out[0] = (Word)EVK_MM(unpacklo_epi64)(xy, zw);
  out[1] = (Word)EVK_MM(unpackhi_epi64)(xy, zw);
}
// Words (0,1) and (2,3) of every block, as two vectors.
EVK_INLINE void word_pairs(const Words<Counter>& c, Word first[1], Word second[1]) {
  first[0] = (Word)even_then_odd((NativeInt)c.x, (NativeInt)(c.z << 32));
  second[0] = (Word)even_then_odd((NativeInt)c.y, (NativeInt)(c.w << 32));
}
EVK_INLINE void pairs_in_gene_order(const Float first[1], const Float second[1], Float out[2]) {
  out[0] = (Float)EVK_MM(unpacklo_ps)((NativeFloat)first[0], (NativeFloat)second[0]);
  out[1] = (Float)EVK_MM(unpackhi_ps)((NativeFloat)first[0], (NativeFloat)second[0]);
}

#endif

#if EVK_HAS_BF16

// Pairs of bf16, side by side in the place of one float each, the first in its low half.
EVK_INLINE Float pair_to_bf16(Float first, Float second) {
#if defined(EVK_EMULATE_AVX512)  // SIMDe has no such conversion
  const Word low = Element<Float>::bits(round_to_bf16(first)) >> 16;
  return Element<Float>::from_bits(low | Element<Float>::bits(round_to_bf16(second)));
#else
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (Float)_mm512_permutexvar_epi16(order, halves);
#endif
}
// acc plus the products of both numbers of the pairs.
EVK_INLINE Float dot_bf16(Float x, Float w, Float acc) {
  return (Float)_mm512_dpbf16_ps((__m512)acc, (__m512bh)x, (__m512bh)w);
}

#endif

// Two vectors side by side: every operation is done on the one, then on the other. Long chains of
// operations (the normal deviates) overlap this way where one alone would wait for itself.
template <class V>
struct Two {
  V a, b;
};
#define EVK_TWO_OPERATOR(op)                                                   \
  template <class V>                                                           \
  EVK_INLINE auto operator op(Two<V> x, Two<V> y)->Two<decltype(x.a op y.a)> { \
    return {x.a op y.a, x.b op y.b};                                           \
  }                                                                            \
  template <class V, class S>                                                  \
  EVK_INLINE auto operator op(Two<V> x, S y)->Two<decltype(x.a op y)> {        \
    return {x.a op y, x.b op y};                                               \
  }
EVK_TWO_OPERATOR(+)
EVK_TWO_OPERATOR(-)
EVK_TWO_OPERATOR(*)
EVK_TWO_OPERATOR(/)
EVK_TWO_OPERATOR(<)
EVK_TWO_OPERATOR(<<)
EVK_TWO_OPERATOR(>>)
EVK_TWO_OPERATOR(^)
EVK_TWO_OPERATOR(&)
#undef EVK_TWO_OPERATOR

template <class V>
struct Element<Two<V>> {
  using E = Element<V>;
  using Uint = Two<typename E::Uint>;
  using Int = Two<typename E::Int>;
  using F = Two<V>;

  EVK_INLINE Uint bits(F x) { return {E::bits(x.a), E::bits(x.b)}; }
  EVK_INLINE F from_bits(Uint x) { return {E::from_bits(x.a), E::from_bits(x.b)}; }
  EVK_INLINE F to_float(Int x) { return {E::to_float(x.a), E::to_float(x.b)}; }
  EVK_INLINE Int as_int(Uint x) { return {E::as_int(x.a), E::as_int(x.b)}; }
  EVK_INLINE Uint as_uint(Int x) { return {E::as_uint(x.a), E::as_uint(x.b)}; }
  EVK_INLINE F sqrt(F x) { return {E::sqrt(x.a), E::sqrt(x.b)}; }
  template <class C>
  EVK_INLINE F select(C c, F x, F y) {
    return {E::select(c.a, x.a, y.a), E::select(c.b, x.b, y.b)};
  }
};

// The keys of all ten rounds as vectors, so that the inner loops only read them.
struct RoundKeys {
  Counter low[10], high[10];

  explicit RoundKeys(Key key) {
    for (int round = 0; round < 10; ++round) {
      low[round] = Wide<Counter>::all(key.round_low(round));
      high[round] = Wide<Counter>::all(key.round_high(round));
    }
  }
  EVK_INLINE_MEMBER Counter round_low(int round) const { return low[round]; }
  EVK_INLINE_MEMBER Counter round_high(int round) const { return high[round]; }
};

// Vectors of counters that are drawn at once, and the genes they draw for: four vectors of floats.
constexpr int kDraws = kLanes == 1 ? 1 : 2;
constexpr int kParts = 4;
constexpr int kGroup = kParts * kLanes;

// The arithmetic of docs/bits.md in this thread: subnormals kept, round to nearest; the caller's
// settings come back at the end.
class FloatEnvironment {
 public:
#if defined(__SSE2__)
  FloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~FloatEnvironment() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#else
  FloatEnvironment() {}
#endif
  FloatEnvironment(const FloatEnvironment&) = delete;
};

EVK_NAMESPACE_END
