// Convolutions as products on tiles (dense.cuh): a row is a position of a sample's output, a column
// a channel, and the depth runs by channel, kernel row, kernel column. Images are channels first,
// so that lanes next to each other read positions next to each other.
#pragma once

#include "cuda/dense.cuh"

EVK_NAMESPACE_BEGIN

struct ConvParams {
  Values<const float> x;   // images [channels, height, width]
  Values<const u8> bytes;  // instead of x, times bytes_scale
  float bytes_scale;
  Parameter weights, bias;  // [channels * kernel_height * kernel_width, out_channels]
  Parameter scale, shift;   // of what follows, or none
  bool bf16_bank, wide;
  Values<float> y;  // images [out_channels, out_height, out_width]
  i64 slots, samples;
  i32 channels, height, width;
  i32 kernel_height, kernel_width, stride_height, stride_width, pad_height, pad_width;
  i32 out_channels, out_height, out_width;
  int activation;
  float slope;
};

// Where a weight row reads, relative to where a window begins.
struct Tap {
  i64 offset;
  i32 row, column;
};

// Padding is +0, and multiplied.
struct ConvInputs {
  const ConvParams& p;
  Tap* taps;  // [2, kTileDepth], of the chunks that come next
  i64 depth;
  bool there;         // whether this thread's row exists
  i32 row, column;    // where its window begins
  const float* from;  // of the window
  const u8* bytes;

  // `position`: of this thread's row, counted over all samples.
  __device__ __forceinline__ ConvInputs(const ConvParams& params, Tap* memory, i64 slot,
                                        i64 position)
      : p(params), taps(memory), from(nullptr), bytes(nullptr) {
    const i64 positions = static_cast<i64>(p.out_height) * p.out_width;
    depth = static_cast<i64>(p.channels) * p.kernel_height * p.kernel_width;
    there = position < p.samples * positions;
    const i64 sample = there ? position / positions : 0;
    const i32 place = there ? static_cast<i32>(position % positions) : 0;
    row = place / p.out_width * p.stride_height - p.pad_height;
    column = place % p.out_width * p.stride_width - p.pad_width;
    const i64 offset = static_cast<i64>(row) * p.width + column;
    if (p.bytes.data) {
      bytes = p.bytes.of(slot, sample) + offset;
    } else {
      from = p.x.of(slot, sample) + offset;
    }
  }

  // The taps of the chunk from k on; the first threads have one each.
  __device__ __forceinline__ void prepare(i64 k) const {
    const i64 number = k + threadIdx.x;
    if (threadIdx.x >= kTileDepth || number >= depth) return;
    const i64 area = static_cast<i64>(p.kernel_height) * p.kernel_width;
    const i64 channel = number / area;
    const i32 place = static_cast<i32>(number % area);
    const i32 tap_row = place / p.kernel_width, tap_column = place % p.kernel_width;
    const i64 offset = (channel * p.height + tap_row) * p.width + tap_column;
    taps[number % (2 * kTileDepth)] = Tap{offset, tap_row, tap_column};
  }

  __device__ __forceinline__ bool reads(const Tap& tap) const {
    return there && static_cast<u32>(row + tap.row) < static_cast<u32>(p.height) &&
           static_cast<u32>(column + tap.column) < static_cast<u32>(p.width);
  }

  template <class T>
  __device__ __forceinline__ void load(i64 k, float* to) const {
    constexpr int step = kTileThreads / T::rows, count = kTileDepth / step;
    const Tap* chunk = taps + k % (2 * kTileDepth);
    const int first = threadIdx.x / T::rows;
    float* at = to + first * T::x_stride + threadIdx.x % T::rows;
    if (bytes) {
      constexpr int together = count < 8 ? count : 8;  // asked for before any is waited for
      EVK_UNROLL(1)
      for (int begin = 0; begin < count; begin += together) {
        float values[together];
        EVK_UNROLL(8)
        for (int i = 0; i < together; ++i) {
          const int number = first + (begin + i) * step;
          values[i] = 0.0f;
          if (k + number < depth && reads(chunk[number])) {
            values[i] = static_cast<float>(bytes[chunk[number].offset]) * p.bytes_scale;
          }
        }
        EVK_UNROLL(8)
        for (int i = 0; i < together; ++i) at[(begin + i) * step * T::x_stride] = values[i];
      }
      return;
    }
    EVK_UNROLL(4)
    for (int i = 0; i < count; ++i) {
      if (k + first + i * step >= depth) break;
      const Tap tap = chunk[first + i * step];
      if (reads(tap)) {
        copy_async_4(at + i * step * T::x_stride, from + tap.offset);
      } else {
        at[i * step * T::x_stride] = 0.0f;
      }
    }
  }
};

// Grid: slots x tiles of positions x tiles of channels.
template <class T>
EVK_KERNEL(kTileThreads)
conv_kernel(const __grid_constant__ ConvParams p) {
  __shared__ __align__(16) float memory[T::floats];
  __shared__ Tap taps[2 * kTileDepth];
  const i64 positions = static_cast<i64>(p.out_height) * p.out_width;
  const i64 rows = p.samples * positions;
  const i64 across = ceil_div(p.out_channels, T::columns);
  const i64 down = ceil_div(rows, T::rows);
  const int first_channel = static_cast<int>(blockIdx.x % across) * T::columns;
  const i64 row = blockIdx.x / across % down * T::rows, slot = blockIdx.x / across / down;
  const int channels = p.out_channels - first_channel;
  const ConvInputs x(p, taps, slot, row + threadIdx.x % T::rows);
  x.prepare(0);
  x.prepare(kTileDepth);
  __syncthreads();
  const void* from = p.bf16_bank
                         ? static_cast<const void*>(row_of<u16>(p.weights, slot) + first_channel)
                         : row_of<float>(p.weights, slot) + first_channel;
  const TileWeights w{from,        p.out_channels,
                      x.depth,     channels < T::columns ? channels : T::columns,
                      p.bf16_bank, p.wide && !p.bf16_bank};
  const bool busy = row + first_row<T>() < rows && first_column<T>() < channels;
  Sums<T> sums;
  start_sums(p.bias, p.bf16_bank, slot, first_channel, p.out_channels, sums);
  multiply<T>(x, w, busy, memory, sums);
  EVK_UNROLL(2)
  for (int run = 0; run < T::row_runs; ++run) {
    if (run > 0) __syncthreads();
    stage_sums(sums, run, memory);
    __syncthreads();
    // A thread stays at its position. Every eight lanes begin with another channel, so that none
    // meet in a bank.
    const int staged = threadIdx.x % T::run_rows;
    const i64 position = row + run * T::run_rows + staged;
    if (position >= rows) continue;
    float* y = p.y.of(slot, position / positions) + position % positions;
    EVK_UNROLL(1)
    for (int i = threadIdx.x / T::run_rows; i < T::columns; i += kTileThreads / T::run_rows) {
      const int column = (i & ~3) | ((i + staged / 8) & 3);
      if (column >= w.columns) continue;
      const i64 channel = first_channel + column;
      float value = memory[staged * T::stage_stride + column];
      if (p.scale.base) {
        value = value * entry_of(p.scale, p.bf16_bank, slot, channel);
        value = value + entry_of(p.shift, p.bf16_bank, slot, channel);
      }
      y[channel * positions] = activated(p.activation, value, p.slope);
    }
  }
}

EVK_NAMESPACE_END
