// Pools: a thread has one window.
#pragma once

#include "core/pool.h"
#include "cuda/elementwise.cuh"

EVK_NAMESPACE_BEGIN

constexpr int kPoolThreads = 256;

struct PoolKernelParams {
  Values<const float> x;  // images [channels, height, width]
  Values<float> y;
  i64 slots, samples, channels;
  i64 x_channel_stride, x_row_stride, y_channel_stride, y_row_stride;
  i64 height, width, out_height, out_width;
  i64 kernel_height, kernel_width, stride_height, stride_width, pad_height, pad_width;
  bool count_include_pad;
};

template <bool Max>
EVK_KERNEL(kPoolThreads)
pool_kernel(const __grid_constant__ PoolKernelParams p) {
  i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.slots * p.samples * p.channels * p.out_height * p.out_width) return;
  const auto next = [&](i64 size) {
    const i64 at = i % size;
    i /= size;
    return at;
  };
  const i64 column = next(p.out_width), row = next(p.out_height), channel = next(p.channels);
  const i64 sample = next(p.samples), slot = i;
  const Window rows = rows_of(p, row), columns = columns_of(p, column);
  const float* x = p.x.of(slot, sample) + channel * p.x_channel_stride;
  float acc = Max ? x[rows.begin * p.x_row_stride + columns.begin] : 0.0f;
  for (i64 r = rows.begin; r < rows.end; ++r) {
    for (i64 c = columns.begin; c < columns.end; ++c) {
      const float value = x[r * p.x_row_stride + c];
      acc = Max ? larger(acc, value) : acc + value;
    }
  }
  if constexpr (!Max) acc = acc / window_elements(p, rows, columns);
  p.y.of(slot, sample)[channel * p.y_channel_stride + row * p.y_row_stride + column] = acc;
}

EVK_NAMESPACE_END
