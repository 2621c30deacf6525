// What every element rule is written in: exact integers, fp32 operations that round once, and
// selection. A rule is a template over F, which is `float` (reference builds, CUDA threads) or a
// SIMD type (csrc/cpu/simd.h); the operators + - * / and comparisons work on both, and Element<F>
// gives the rest. Nothing here uses std, libm or a framework.
//
// Everything lives in a namespace per instruction set, so that the linker can never mix code
// compiled for different processors.
#pragma once

#if defined(__CUDACC__) || defined(EVK_SIMT)  // EVK_SIMT: the harness of tests/simt
#define EVK_ISA cuda
#elif !defined(EVK_ISA)
#define EVK_ISA baseline
#endif

#define EVK_NAMESPACE_BEGIN \
  namespace evk {           \
  namespace EVK_ISA {
#define EVK_NAMESPACE_END \
  }                       \
  }

#if defined(__CUDACC__)
#define EVK_INLINE_MEMBER __host__ __device__ __forceinline__
#else
#define EVK_INLINE_MEMBER inline __attribute__((always_inline))
#endif
#define EVK_INLINE static EVK_INLINE_MEMBER

#define EVK_PRAGMA(text) _Pragma(#text)
#if defined(__CUDACC__)
#define EVK_UNROLL(count) EVK_PRAGMA(unroll count)
#else
#define EVK_UNROLL(count) EVK_PRAGMA(GCC unroll count)
#endif

EVK_NAMESPACE_BEGIN

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;
using i64 = long long;

EVK_INLINE i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

template <class F>
struct Element;

template <>
struct Element<float> {
  using Uint = u32;
  using Int = i32;
  static constexpr int lanes = 1;

  EVK_INLINE float all(float value) { return value; }
  EVK_INLINE u32 all_uint(u32 value) { return value; }
#if defined(__CUDACC_RTC__)  // knows CUDA's names only
  EVK_INLINE u32 bits(float value) { return __float_as_uint(value); }
  EVK_INLINE float from_bits(u32 value) { return __uint_as_float(value); }
  EVK_INLINE float sqrt(float value) { return __fsqrt_rn(value); }
#else
  EVK_INLINE u32 bits(float value) {
    u32 result;
    __builtin_memcpy(&result, &value, 4);
    return result;
  }
  EVK_INLINE float from_bits(u32 value) {
    float result;
    __builtin_memcpy(&result, &value, 4);
    return result;
  }
  // Correctly rounded (nvcc: -prec-sqrt=true).
  EVK_INLINE float sqrt(float value) { return __builtin_sqrtf(value); }
#endif
  EVK_INLINE float select(bool condition, float yes, float no) { return condition ? yes : no; }
  // Exact for |value| <= 2^24, which is all that the rules convert.
  EVK_INLINE float to_float(i32 value) { return static_cast<float>(value); }
  // Towards zero; the value must fit.
  EVK_INLINE i32 to_int(float value) { return static_cast<i32>(value); }
  EVK_INLINE i32 as_int(u32 value) { return static_cast<i32>(value); }
  EVK_INLINE u32 as_uint(i32 value) { return static_cast<u32>(value); }
};

EVK_NAMESPACE_END
