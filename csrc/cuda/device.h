// What kernels are written in beside the core's rules: the few things that CUDA C++ has and C++ has
// not, in a form that nvcc, NVRTC and the harness of tests/simt all take. Inline PTX stands here
// only, next to its twin for the harness.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <cuda_runtime.h>  // the harness (EVK_SIMT) has one of its own
#endif

#include "core/element.h"
#include "core/params.h"

// Dynamic shared memory as an array of T, aligned to 16 bytes.
#if defined(EVK_SIMT)
#define EVK_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(simt::dynamic_shared())
#else
#define EVK_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char evk_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(evk_dynamic_shared)
#endif

#define EVK_KERNEL(threads) __global__ void __launch_bounds__(threads)
#define EVK_DEVICE static __device__ __forceinline__

EVK_NAMESPACE_BEGIN

constexpr int kWarp = 32;
constexpr u32 kWholeWarp = 0xffffffffu;

// The only fma of the forward pass (docs/bits.md).
EVK_DEVICE float fma(float a, float b, float c) {
#if defined(EVK_SPLIT_FMA)  // `make inspect` looks for fma that nobody wrote
  return a * b + c;
#else
  return __fmaf_rn(a, b, c);
#endif
}

EVK_DEVICE u32 multiply_high(u32 a, u32 b) { return __umulhi(a, b); }

struct alignas(16) Float4 {
  float x, y, z, w;
};

// 16 bytes at once, from and to addresses that are multiples of 16.
EVK_DEVICE Float4 load4(const float* p) { return *reinterpret_cast<const Float4*>(p); }
EVK_DEVICE void store4(float* p, Float4 v) { *reinterpret_cast<Float4*>(p) = v; }

EVK_DEVICE bool aligned16(const void* p) { return reinterpret_cast<u64>(p) % 16 == 0; }

// --- copies from global to shared memory that run by themselves ---------------------------------
//
// A copy belongs to the group that the thread commits next; wait<N> returns when all but the N
// newest groups of this thread have arrived. Other threads see them after a barrier.

// 16 bytes between addresses that are multiples of 16.
EVK_DEVICE void copy_async_16(void* shared, const void* global) {
#if defined(EVK_SIMT)
  simt::copy_async(shared, global, 16);
#else
  const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#endif
}

// 4 bytes, multiples of 4.
EVK_DEVICE void copy_async_4(void* shared, const void* global) {
#if defined(EVK_SIMT)
  simt::copy_async(shared, global, 4);
#else
  const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(global) : "memory");
#endif
}

EVK_DEVICE void copy_async_commit() {
#if defined(EVK_SIMT)
  simt::copy_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int N>
EVK_DEVICE void copy_async_wait() {
#if defined(EVK_SIMT)
  simt::copy_async_wait(N);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

EVK_NAMESPACE_END
