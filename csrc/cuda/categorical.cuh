// nes_sample, nes_update. `rows.fault` begins as count + 1 and becomes the first wrong row, or
// count, as core/params.h says. Sums over entries and samples are ascending, each by one thread.
#pragma once

#include "core/categorical.h"
#include "core/philox.h"
#include "cuda/device.h"

EVK_NAMESPACE_BEGIN

constexpr int kRowThreads = 128;

// One row of probabilities; masked entries are +0.
struct Row {
  const float* entries;
  const bool* mask;  // or null

  EVK_INLINE_MEMBER Row(const CategoricalRows& rows, i64 number)
      : entries(rows.probabilities + number * rows.stride),
        mask(rows.mask ? rows.mask + number * rows.mask_stride : nullptr) {}

  EVK_INLINE_MEMBER bool absent(i64 k) const { return mask && mask[k]; }
  EVK_INLINE_MEMBER float entry(i64 k) const { return absent(k) ? 0.0f : entries[k]; }
  EVK_INLINE_MEMBER i32 weight(i64 k) const { return sampling_weight<float>(entry(k)); }

  EVK_INLINE_MEMBER bool wrong(i64 choices) const {
    double sum = 0.0;
    float least = 0.0f;
    for (i64 k = 0; k < choices; ++k) {
      const float p = entry(k);
      sum = sum + static_cast<double>(p);
      least = p < least ? p : least;
    }
    return !is_distribution(sum, least);
  }
};

EVK_DEVICE void report(const CategoricalRows& rows, i64 fault) {
  atomicMin(reinterpret_cast<u64*>(rows.fault), static_cast<u64>(fault));
}

// A thread has a row along x and every gridDim.y-th sample. Wrong rows give 0.
EVK_KERNEL(kRowThreads) nes_sample_kernel(const NesSampleParams p) {
  const i64 n = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= p.rows.count) return;
  const Row row(p.rows, n);
  const bool wrong = row.wrong(p.rows.choices);
  if (wrong && blockIdx.y == 0) report(p.rows, n);
  const i64 choices = wrong ? 0 : p.rows.choices;
  i32 total = 0;
  for (i64 k = 0; k < choices; ++k) total += row.weight(k);
  for (i64 s = blockIdx.y; s < p.samples; s += gridDim.y) {
    Words<u64> c[1] = {{static_cast<u32>(n >> 2), static_cast<u32>(s), p.step, kNes}};
    philox(c, key_of(p.seed));
    const u64 low = n & 1 ? c[0].y : c[0].x, high = n & 1 ? c[0].w : c[0].z;
    const u32 word = static_cast<u32>(n & 2 ? high : low);
    const i32 target = static_cast<i32>(multiply_high(word, static_cast<u32>(total)));
    i64 chosen = 0;
    // The last sum is above every target.
    for (i32 sum = 0; chosen < choices - 1; ++chosen) {
      sum += row.weight(chosen);
      if (sum > target) break;
    }
    p.out[s * p.out_stride + n] = static_cast<i32>(chosen);
  }
}

EVK_KERNEL(kRowThreads) nes_utilities_kernel(const NesUpdateParams p) {
  const i64 s = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (s < p.samples) p.utilities[s] = utility(p.losses, p.samples, s);
}

// The sum over samples of u (d - q), d = 1 where entry k was chosen.
EVK_DEVICE float gradient(const NesUpdateParams& p, i64 n, i64 k, float q) {
  const float if_chosen = 1.0f - q, if_not = 0.0f - q;
  float sum = 0.0f;
  for (i64 s = 0; s < p.samples; ++s) {
    const bool hit = p.assignments[s * p.assignments_stride + n] == k;
    sum = sum + p.utilities[s] * (hit ? if_chosen : if_not);
  }
  return sum;
}

// A warp has a row. Nothing is read from `probabilities` after `out`, which may be the same memory,
// was written. A wrong row gives anything.
EVK_KERNEL(kRowThreads) nes_update_kernel(const NesUpdateParams p) {
  const i64 n = static_cast<i64>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (n >= p.rows.count) return;
  const int lane = static_cast<int>(threadIdx.x);
  const i64 choices = p.rows.choices;
  const Row row(p.rows, n);
  if (lane == 0 && row.wrong(choices)) report(p.rows, n);
  bool wrong = false;
  for (i64 s = lane; s < p.samples; s += kWarp) {
    const i32 chosen = p.assignments[s * p.assignments_stride + n];
    wrong |= chosen < 0 || chosen >= choices || row.absent(chosen);
  }
  if (wrong) report(p.rows, p.rows.count);
  __syncwarp(kWholeWarp);

  const float samples = static_cast<float>(p.samples);
  const float base = p.keep_minimum ? p.min_probability : 0.0f;
  float* const out = p.out + n * p.out_stride;
  for (i64 k = lane; k < choices; k += kWarp) {
    const float q = row.entry(k);
    const float step =
        stepped<float>(q, gradient(p, n, k, q), samples, p.learning_rate, p.min_probability);
    out[k] = row.absent(k) ? 0.0f : step - base;
  }
  __syncwarp(kWholeWarp);
  float total = 0.0f, present = 0.0f;
  if (lane == 0) {
    for (i64 k = 0; k < choices; ++k) {
      total = total + out[k];
      present = present + (row.absent(k) ? 0.0f : 1.0f);
    }
  }
  total = __shfl_sync(kWholeWarp, total, 0);
  present = __shfl_sync(kWholeWarp, present, 0);
  __syncwarp(kWholeWarp);  // shuffles order no memory
  const float equal = 1.0f / present;
  const float left = left_over<float>(present, base);
  for (i64 k = lane; k < choices; k += kWarp) {
    out[k] = row.absent(k) ? 0.0f : normalised<float>(out[k], total, equal, base, left);
  }
}

EVK_NAMESPACE_END
