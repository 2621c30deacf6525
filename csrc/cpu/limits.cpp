// What the machine can do at best, which benchmarks report beside their results: multiply-adds that
// wait for no memory, and memory copied or read without arithmetic.
#include "cpu/arithmetic.h"
#include "cpu/kernels.h"

EVK_NAMESPACE_BEGIN

namespace {

// Sums that do not wait for each other: more than a multiply-add takes cycles times those that
// start per cycle, fewer than there are registers.
constexpr int kSums = kLanes == 16 ? 24 : 12;

// Floats a thread copies or reads in one go.
constexpr i64 kBlock = 1024;

// A result nobody reads would not be computed.
EVK_INLINE void use(Float value) { asm volatile("" : : "m"(value)); }

// The multiply-add of the dense kernels (A) on registers alone. A step does `operations` per sum
// and lane; returns how many were done.
template <class A>
i64 multiply_adds(const MachineLimitParams& p, i64 operations) {
  Float sums[kSums];
  // Equal sums would be computed once.
  for (int i = 0; i < kSums; ++i) sums[i] = Element<Float>::all(static_cast<float>(i));
  for (i64 step = 0; step < p.steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) sums[i] = A::multiply_add(load(p.in), load(p.in), sums[i]);
  }
  for (int i = 0; i < kSums; ++i) use(sums[i]);
  return p.steps * kSums * kLanes * operations;
}

void copy(const float* in, float* out) {
  for (i64 i = 0; i < kBlock; i += kLanes) store(out + i, load(in + i));
}

void copy_streaming(const float* in, float* out) {
  for (i64 i = 0; i < kBlock; i += kLanes) store_streaming(out + i, load(in + i));
}

void read(const float* in, float*) {
  constexpr int kStreams = 8;
  Float sums[kStreams] = {};
  for (i64 i = 0; i < kBlock; i += kStreams * kLanes) {
    for (int s = 0; s < kStreams; ++s) sums[s] = sums[s] + load(in + i + s * kLanes);
  }
  for (int s = 0; s < kStreams; ++s) use(sums[s]);
}

// This thread's part of one pass over the memory. Returns its bytes.
template <void (*move)(const float*, float*)>
i64 pass(const MachineLimitParams& p, i64 bytes_per_float) {
  i64 bytes = 0;
#pragma omp for schedule(static)
  for (i64 first = 0; first < p.count; first += kBlock) {
    move(p.in + first, p.out + first);
    bytes += kBlock * bytes_per_float;
  }
  finish_streaming();
  return bytes;
}

i64 run(const MachineLimitParams& p) {
  switch (p.limit) {
    case MachineLimit::kMultiplyAdd:
      return multiply_adds<Fp32>(p, 2);
#if EVK_HAS_BF16
    case MachineLimit::kBf16Dot:
      return multiply_adds<Bf16>(p, 4);
#endif
    case MachineLimit::kCopy:
      return pass<copy>(p, 8);
    case MachineLimit::kCopyStreaming:
      return pass<copy_streaming>(p, 8);
    case MachineLimit::kRead:
      return pass<read>(p, 4);
    default:
      return 0;
  }
}

}  // namespace

void machine_limit(const MachineLimitParams& p) {
  i64 work = 0;
#pragma omp parallel reduction(+ : work)
  {
    const FloatEnvironment environment;
    work += run(p);
  }
  *p.work = work;
}

EVK_NAMESPACE_END
