// Kernels with one mistake each, for the detectors of the harness to find, and the same kernels
// without it (kRight), which must raise nothing. Written as csrc/cuda is.
#include <string.h>

#include "cuda/launch.h"
#include "planted.h"

EVK_NAMESPACE_BEGIN

constexpr int kThreads = 64;
constexpr u32 kLowerHalf = 0x0000ffffu;

EVK_DEVICE i64 thread_of_grid() { return static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; }

template <bool kRight>
EVK_KERNEL(kThreads)
missing_barrier(const Arguments a) {
  __shared__ float s[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  s[i] = a.in[i];
  if (kRight) __syncthreads();
  a.out[i] = s[kThreads - 1 - i];
}

// The second barrier of a loop, without which a fast thread writes what a slow one still reads.
template <bool kRight>
EVK_KERNEL(kThreads)
missing_second_barrier(const Arguments a) {
  __shared__ float s[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int round = 0; round < 3; ++round) {
    s[i] = a.in[i] + static_cast<float>(round);
    __syncthreads();
    sum += s[kThreads - 1 - i];
    if (kRight) __syncthreads();
  }
  a.out[i] = sum;
}

template <bool kRight>
EVK_KERNEL(kWarp)
missing_syncwarp(const Arguments a) {
  __shared__ float s;
  const int i = static_cast<int>(threadIdx.x);
  if (i == 0) s = a.in[0];
  if (kRight) __syncwarp(kWholeWarp);
  a.out[i] = s;
}

// Pairs of lanes, then pairs of pairs: what was ordered by the first mask stays ordered.
template <bool kRight>
EVK_KERNEL(kWarp)
syncwarp_of_other_lanes(const Arguments a) {
  __shared__ float s[kWarp];
  const u32 i = threadIdx.x;
  s[i] = a.in[i];
  __syncwarp(3u << (i & ~1u));
  __syncwarp(kRight ? 15u << (i & ~3u) : 3u << (i & ~1u));
  a.out[i] = s[i ^ 3u];
}

// Waits, but after the use.
template <bool kRight>
EVK_KERNEL(kThreads)
missing_wait(const Arguments a) {
  __shared__ float s[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  copy_async_4(s + i, a.in + i);
  copy_async_commit();
  if (kRight) copy_async_wait<0>();
  __syncthreads();
  a.out[i] = s[kThreads - 1 - i];
  copy_async_wait<0>();
}

template <bool kRight>
EVK_KERNEL(kThreads)
copy_left_behind(const Arguments a) {
  __shared__ float s[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  copy_async_4(s + i, a.in + i);
  copy_async_commit();
  if (kRight) copy_async_wait<0>();
  a.out[i] = a.in[i];
}

// Two buffers: while one is used, the other is filled. The mistake waits for one group too few.
template <bool kRight>
EVK_KERNEL(kThreads)
double_buffer(const Arguments a) {
  __shared__ float s[2][kThreads];
  const int i = static_cast<int>(threadIdx.x);
  float sum = 0;
  copy_async_4(&s[0][i], a.in + i);
  copy_async_commit();
  for (int round = 0; round < 4; ++round) {
    if (round < 3) copy_async_4(&s[(round + 1) % 2][i], a.in + i);
    copy_async_commit();
    copy_async_wait<kRight ? 1 : 2>();
    __syncthreads();
    sum += s[round % 2][kThreads - 1 - i];
    __syncthreads();
  }
  copy_async_wait<0>();
  a.out[i] = sum;
}

template <bool kRight>
EVK_KERNEL(kThreads)
copy_misaligned(const Arguments a) {
  __shared__ Float4 s[2];
  copy_async_16(s, a.in + (kRight ? 0 : 1));
  copy_async_commit();
  copy_async_wait<0>();
  a.out[threadIdx.x] = s[0].x;
}

template <bool kRight>
EVK_KERNEL(kThreads)
copy_to_global(const Arguments a) {
  __shared__ float s[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  copy_async_4(kRight ? s + i : a.out + i, a.in + i);
  copy_async_commit();
  copy_async_wait<0>();
  a.out[i] = a.in[i];
}

template <bool kRight>
EVK_KERNEL(kThreads)
index_overrun(const Arguments a) {
  __shared__ float s[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  s[i + a.n * !kRight] = a.in[i];
  a.out[i] = s[i];
}

// The caller alone knows how large the array is.
__device__ __noinline__ void put(float* address, float value) { *address = value; }

template <bool kRight>
EVK_KERNEL(kThreads)
static_overrun(const Arguments a) {
  __shared__ float s[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  put(s + i + a.n * !kRight, a.in[i]);
  a.out[i] = s[i];
}

template <bool kRight>
EVK_KERNEL(kThreads)
dynamic_overrun(const Arguments a) {
  EVK_DYNAMIC_SHARED(float, s);
  const int i = static_cast<int>(threadIdx.x);
  s[i + a.n * !kRight] = a.in[i];
  a.out[i] = s[i];
}

template <bool kRight>
EVK_KERNEL(kThreads)
global_overrun(const Arguments a) {
  const int i = static_cast<int>(threadIdx.x);
  a.out[i] = a.in[i + a.n * !kRight];
}

template <bool kRight>
EVK_KERNEL(kThreads)
divergent_barrier(const Arguments a) {
  const int i = static_cast<int>(threadIdx.x);
  if (kRight || i < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  a.out[i] = a.in[i];
}

template <bool kRight>
EVK_KERNEL(kThreads)
early_exit(const Arguments a) {
  const int i = static_cast<int>(threadIdx.x);
  if (!kRight && i < 16) return;
  __syncthreads();
  a.out[i] = a.in[i];
}

template <bool kRight>
EVK_KERNEL(kThreads)
missing_lanes(const Arguments a) {
  const int i = static_cast<int>(threadIdx.x);
  float v = a.in[i];
  if (i < 16) v = __shfl_xor_sync(kRight ? kLowerHalf : kWholeWarp, v, 1);
  __syncthreads();
  a.out[i] = v;
}

template <bool kRight>
EVK_KERNEL(kWarp)
different_masks(const Arguments a) {
  const int i = static_cast<int>(threadIdx.x);
  const u32 low = kRight ? kLowerHalf : kWholeWarp;
  const float v = __shfl_xor_sync(i < 16 ? low : kWholeWarp ^ kLowerHalf, a.in[i], 1);
  __syncwarp(kWholeWarp);
  a.out[i] = v;
}

template <bool kRight>
EVK_KERNEL(kWarp)
lane_outside_its_mask(const Arguments a) {
  const int i = static_cast<int>(threadIdx.x);
  a.out[i] = __shfl_sync(kRight ? kWholeWarp : kLowerHalf, a.in[i], 0);
}

template <bool kRight>
EVK_KERNEL(kThreads)
unwritten_output(const Arguments a) {
  const i64 i = thread_of_grid();
  if (kRight ? i < a.n : i < a.n - 1) a.out[i] = a.in[i];
}

template <bool kRight>
EVK_KERNEL(kThreads)
unwritten_shared(const Arguments a) {
  __shared__ float s[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  if (kRight || i < kThreads / 2) s[i] = a.in[i];
  __syncthreads();
  a.out[i] = s[i];
}

// What one block leaves in shared memory is not there for the next.
template <bool kRight>
EVK_KERNEL(kThreads)
shared_of_another_block(const Arguments a) {
  __shared__ float s[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  if (kRight || blockIdx.x == 0) s[i] = a.in[i];
  __syncthreads();
  a.out[thread_of_grid()] = s[i];
}

template <bool kRight>
EVK_KERNEL(kThreads)
race_between_blocks(const Arguments a) {
  const int i = static_cast<int>(threadIdx.x);
  if (kRight) {
    atomicAdd(a.out + i, a.in[i]);
  } else {
    a.out[i] += a.in[i];
  }
}

// Bytes next to each other are no race, even in one word.
template <bool kRight>
EVK_KERNEL(kThreads)
bytes_of_a_word(const Arguments a) {
  u8* bytes = reinterpret_cast<u8*>(a.out);
  const u32 i = threadIdx.x;
  bytes[kRight ? i : i / 2] = static_cast<u8>(i);
}

// From here on right ones, whose results, bytes and bank conflicts are known.

template <bool>
EVK_KERNEL(kThreads)
copy_floats(const Arguments a) {
  const i64 i = thread_of_grid();
  if (i < a.n) a.out[i] = a.in[i];
}

template <bool>
EVK_KERNEL(kThreads)
copy_float4(const Arguments a) {
  const i64 i = 4 * thread_of_grid();
  if (i < a.n) {
    store4(a.out + i, load4(a.in + i));
  }
}

// Each lane writes and reads a place n places from its neighbour's.
template <bool>
EVK_KERNEL(kWarp)
touch_float(const Arguments a) {
  EVK_DYNAMIC_SHARED(float, s);
  s[threadIdx.x * a.n] = a.in[threadIdx.x];
  a.out[threadIdx.x] = s[threadIdx.x * a.n];
}

template <bool>
EVK_KERNEL(kWarp)
touch_float2(const Arguments a) {
  EVK_DYNAMIC_SHARED(float2, s);
  s[threadIdx.x * a.n] = *reinterpret_cast<const float2*>(a.in + 2 * threadIdx.x);
  *reinterpret_cast<float2*>(a.out + 2 * threadIdx.x) = s[threadIdx.x * a.n];
}

template <bool>
EVK_KERNEL(kWarp)
touch_float4(const Arguments a) {
  EVK_DYNAMIC_SHARED(Float4, s);
  s[threadIdx.x * a.n] = load4(a.in + 4 * threadIdx.x);
  store4(a.out + 4 * threadIdx.x, s[threadIdx.x * a.n]);
}

template <bool>
EVK_KERNEL(kWarp)
touch_by_copy(const Arguments a) {
  EVK_DYNAMIC_SHARED(Float4, s);
  copy_async_16(s + threadIdx.x * a.n, a.in + 4 * threadIdx.x);
  copy_async_commit();
  copy_async_wait<0>();
  store4(a.out + 4 * threadIdx.x, s[threadIdx.x * a.n]);
}

template <bool>
EVK_KERNEL(kWarp)
broadcast(const Arguments a) {
  EVK_DYNAMIC_SHARED(float, s);
  if (threadIdx.x == 0) s[0] = a.in[0];
  __syncthreads();
  a.out[threadIdx.x] = s[0];
}

// One result of every collective, for each lane: out [16, 32].
template <bool>
EVK_KERNEL(kWarp)
collectives(const Arguments a) {
  const u32 lane = threadIdx.x;
  const float v = a.in[lane];
  float* out = a.out + lane;
  int row = 0;
  const auto put = [&](float value) { out[kWarp * row++] = value; };
  put(__shfl_sync(kWholeWarp, v, 5));
  put(__shfl_sync(kWholeWarp, v, 9, 8));
  put(__shfl_up_sync(kWholeWarp, v, 3));
  put(__shfl_down_sync(kWholeWarp, v, 3));
  put(__shfl_down_sync(kWholeWarp, v, 3, 16));
  put(__shfl_xor_sync(kWholeWarp, v, 16));
  put(static_cast<float>(__ballot_sync(kWholeWarp, lane < 3)));
  put(static_cast<float>(__any_sync(kWholeWarp, lane == 7)));
  put(static_cast<float>(__all_sync(kWholeWarp, lane < 31)));
  put(static_cast<float>(__match_any_sync(kWholeWarp, lane / 20)));
  put(static_cast<float>(__reduce_add_sync(kWholeWarp, lane)));
  put(static_cast<float>(__reduce_max_sync(kWholeWarp, lane)));
  put(static_cast<float>(__reduce_min_sync(kWholeWarp, lane + 2)));
  put(static_cast<float>(__syncthreads_count(lane < 9)));
  put(static_cast<float>(__syncthreads_or(lane == 4)));
  put(static_cast<float>(__syncthreads_and(lane < 31)));
}

struct Planted {
  const char* name;
  void (*wrong)(const Arguments);
  void (*right)(const Arguments);
};

#define PLANTED(name) {#name, name<false>, name<true>}

const Planted kPlanted[] = {
    PLANTED(missing_barrier),
    PLANTED(missing_second_barrier),
    PLANTED(missing_syncwarp),
    PLANTED(syncwarp_of_other_lanes),
    PLANTED(missing_wait),
    PLANTED(copy_left_behind),
    PLANTED(double_buffer),
    PLANTED(copy_misaligned),
    PLANTED(copy_to_global),
    PLANTED(index_overrun),
    PLANTED(static_overrun),
    PLANTED(dynamic_overrun),
    PLANTED(global_overrun),
    PLANTED(divergent_barrier),
    PLANTED(early_exit),
    PLANTED(missing_lanes),
    PLANTED(different_masks),
    PLANTED(lane_outside_its_mask),
    PLANTED(unwritten_output),
    PLANTED(unwritten_shared),
    PLANTED(shared_of_another_block),
    PLANTED(race_between_blocks),
    PLANTED(bytes_of_a_word),
    PLANTED(copy_floats),
    PLANTED(copy_float4),
    PLANTED(touch_float),
    PLANTED(touch_float2),
    PLANTED(touch_float4),
    PLANTED(touch_by_copy),
    PLANTED(broadcast),
    PLANTED(collectives),
};

EVK_NAMESPACE_END

int run_planted(const char* name, bool right, const Arguments& a, unsigned blocks, unsigned threads,
                size_t shared_bytes) {
  static int launches = 0;
  ++launches;
  for (const auto& planted : evk::cuda::kPlanted) {
    if (strcmp(planted.name, name) != 0) continue;
    return evk::cuda::launch(right ? planted.right : planted.wrong, blocks, threads, shared_bytes,
                             nullptr, a);
  }
  return strcmp(name, "launches") == 0 ? launches : -1;
}
