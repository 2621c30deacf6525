// Dense layers of many slots. Every sum is acc = bias; acc = fma(x_k, w_k, acc) for k ascending.
//
// Tiles: a block has a tile of rows (samples, or a convolution's positions) x outputs of one slot.
// Chunks of inputs [k, row] and weights [k, output] come to shared memory by asynchronous copies
// while the chunk before is multiplied. A chunk ends where the depth does, since a product with
// what lies behind would not be harmless (0 * infinity); missing rows and outputs are +0 there, and
// are not stored.
//
// Few samples: a thread has some outputs of all samples, so that weights are read once, straight
// from memory, and inputs lie in shared memory.
#pragma once

#include "cuda/elementwise.cuh"

EVK_NAMESPACE_BEGIN

constexpr int kTileThreads = 128;
constexpr int kTileDepth = 16;  // of a chunk

template <int Rows, int Columns, int ThreadRows, int ThreadColumns>
struct Tile {
  static constexpr int rows = Rows, columns = Columns;
  static constexpr int thread_rows = ThreadRows, thread_columns = ThreadColumns;
  static constexpr int threads_across = Columns / ThreadColumns;
  static_assert(Rows / ThreadRows * threads_across == kTileThreads);
  // A thread's rows are runs of four an equal part of the tile apart, so that what a warp reads at
  // once lies side by side; its columns too.
  static constexpr int row_runs = ThreadRows / 4, column_runs = ThreadColumns / 4;
  static constexpr int run_rows = Rows / row_runs, run_columns = Columns / column_runs;
  // Eight lanes that write eight inputs of a row do not meet in a bank.
  static constexpr int x_stride = Rows + 4;
  static constexpr int x_floats = kTileDepth * x_stride;
  static constexpr int w_floats = kTileDepth * Columns;
  // Sums on their way out, a run of every thread's rows at a time.
  static constexpr int stage_stride = Columns + 4;
  static constexpr int stage_floats = run_rows * stage_stride;
  static constexpr int chunk_floats = 2 * (x_floats + w_floats);
  static constexpr int floats = chunk_floats > stage_floats ? chunk_floats : stage_floats;
};

template <class T>
EVK_DEVICE int first_row() {
  return static_cast<int>(threadIdx.x) / T::threads_across * 4;
}

template <class T>
EVK_DEVICE int first_column() {
  return static_cast<int>(threadIdx.x) % T::threads_across * 4;
}

// What a thread adds up.
template <class T>
struct Sums {
  float at[T::thread_rows][T::thread_columns];
};

// A slot's weights from the tile's first column on.
struct TileWeights {
  const void* from;
  i64 stride, depth;
  int columns;  // that exist, of the tile
  bool bf16, wide;
};

template <class T>
EVK_DEVICE void load_weights(const TileWeights& w, i64 k, float* to) {
  const int rows = w.depth - k < kTileDepth ? static_cast<int>(w.depth - k) : kTileDepth;
  if (w.wide) {
    constexpr int across = T::columns / 4;
    EVK_UNROLL(2)
    for (int i = threadIdx.x; i < rows * across; i += kTileThreads) {
      const int row = i / across, column = i % across * 4;
      float* at = to + row * T::columns + column;
      if (column < w.columns) {
        copy_async_16(at, static_cast<const float*>(w.from) + (k + row) * w.stride + column);
      } else {
        store4(at, Float4{0.0f, 0.0f, 0.0f, 0.0f});
      }
    }
    return;
  }
  EVK_UNROLL(4)
  for (int i = threadIdx.x; i < rows * T::columns; i += kTileThreads) {
    const int row = i / T::columns, column = i % T::columns;
    const i64 at = (k + row) * w.stride + column;
    if (column >= w.columns) {
      to[i] = 0.0f;
    } else if (w.bf16) {
      to[i] = widen(static_cast<const u16*>(w.from)[at]);
    } else {
      copy_async_4(to + i, static_cast<const float*>(w.from) + at);
    }
  }
}

// Samples [rows, depth] of a slot as a tile's inputs.
struct DenseInputs {
  const float* from;  // null: +0
  i64 sample_stride, depth;
  int rows;  // that exist, of the tile

  EVK_INLINE_MEMBER void prepare(i64) const {}

  template <class T>
  __device__ __forceinline__ void load(i64 k, float* to) const {
    constexpr int across = 8;  // lanes next to each other in memory
    const int lane = threadIdx.x % across;
    for (int row = threadIdx.x / across; row < T::rows; row += kTileThreads / across) {
      const bool there = from && row < rows;
      EVK_UNROLL(2)
      for (int i = lane; i < kTileDepth; i += across) {
        if (k + i >= depth) break;
        float* at = to + i * T::x_stride + row;
        if (there) {
          copy_async_4(at, from + row * sample_stride + k + i);
        } else {
          *at = 0.0f;
        }
      }
    }
  }
};

struct alignas(8) Half4 {
  u16 x, y, z, w;
};

// Vector numbers as floats: one, or four that start at a multiple of their size.
template <int Vector>
EVK_DEVICE void load_vector(const float* from, float* to) {
  if constexpr (Vector == 4) {
    const Float4 four = load4(from);
    to[0] = four.x;
    to[1] = four.y;
    to[2] = four.z;
    to[3] = four.w;
  } else {
    to[0] = *from;
  }
}

template <int Vector>
EVK_DEVICE void load_vector(const u16* from, float* to) {
  if constexpr (Vector == 4) {
    const Half4 four = *reinterpret_cast<const Half4*>(from);
    to[0] = widen(four.x);
    to[1] = widen(four.y);
    to[2] = widen(four.z);
    to[3] = widen(four.w);
  } else {
    to[0] = widen(*from);
  }
}

// x and w: of the thread's first row and column.
template <class T>
EVK_DEVICE void multiply_chunk(const float* x, const float* w, int depth, Sums<T>& sums) {
  EVK_UNROLL(2)
  for (int k = 0; k < depth; ++k) {
    float inputs[T::thread_rows], weights[T::thread_columns];
    EVK_UNROLL(2)
    for (int run = 0; run < T::row_runs; ++run) {
      load_vector<4>(x + k * T::x_stride + run * T::run_rows, inputs + run * 4);
    }
    EVK_UNROLL(2)
    for (int run = 0; run < T::column_runs; ++run) {
      load_vector<4>(w + k * T::columns + run * T::run_columns, weights + run * 4);
    }
    EVK_UNROLL(8)
    for (int row = 0; row < T::thread_rows; ++row) {
      EVK_UNROLL(8)
      for (int column = 0; column < T::thread_columns; ++column) {
        sums.at[row][column] = fma(inputs[row], weights[column], sums.at[row][column]);
      }
    }
  }
}

// sums += x W. `memory` has chunk_floats; all threads are done with it at the end. `busy`: whether
// any sum of this thread is wanted.
template <class T, class X>
EVK_DEVICE void multiply(const X& x, const TileWeights& w, bool busy, float* memory,
                         Sums<T>& sums) {
  const auto load = [&](i64 k, int half) {
    float* to = memory + half * (T::x_floats + T::w_floats);
    x.template load<T>(k, to);
    load_weights<T>(w, k, to + T::x_floats);
    copy_async_commit();
  };
  load(0, 0);
  int half = 0;
  for (i64 k = 0; k < w.depth; k += kTileDepth, half ^= 1) {
    copy_async_wait<0>();
    __syncthreads();  // all have the chunk, and are done with the one before
    const i64 left = w.depth - k;
    if (left > kTileDepth) load(k + kTileDepth, half ^ 1);
    x.prepare(k + 2 * kTileDepth);
    if (!busy) continue;
    const float* chunk = memory + half * (T::x_floats + T::w_floats);
    multiply_chunk<T>(chunk + first_row<T>(), chunk + T::x_floats + first_column<T>(),
                      left < kTileDepth ? static_cast<int>(left) : kTileDepth, sums);
  }
  __syncthreads();
}

template <class T>
EVK_DEVICE void start_sums(const Parameter& bias, bool bf16_bank, i64 slot, i64 column, i64 outputs,
                           Sums<T>& sums) {
  EVK_UNROLL(8)
  for (int i = 0; i < T::thread_columns; ++i) {
    const i64 output = column + first_column<T>() + i % 4 + i / 4 * T::run_columns;
    float start = 0.0f;
    if (bias.base && output < outputs) start = entry_of(bias, bf16_bank, slot, output);
    EVK_UNROLL(8)
    for (int row = 0; row < T::thread_rows; ++row) sums.at[row][i] = start;
  }
}

// Run number `run` of all threads' rows to stage [run_rows, stage_stride].
template <class T>
EVK_DEVICE void stage_sums(const Sums<T>& sums, int run, float* stage) {
  EVK_UNROLL(4)
  for (int row = 0; row < 4; ++row) {
    EVK_UNROLL(2)
    for (int i = 0; i < T::column_runs; ++i) {
      const float* four = sums.at[run * 4 + row] + i * 4;
      store4(
          stage + (first_row<T>() + row) * T::stage_stride + first_column<T>() + i * T::run_columns,
          Float4{four[0], four[1], four[2], four[3]});
    }
  }
}

struct DenseOperand {
  Values<const float> x;  // [slots, samples, depth]; data null: +0
  Parameter weights;      // [depth, outputs]
  i64 depth;              // 0: there is no such operand
};

// y = activation(bias + first x W + second x W), in this order.
struct DenseParams {
  DenseOperand first, second;
  Parameter bias;
  bool bf16_bank;
  bool wide;  // weights can be read 4 at a time
  Values<float> y;
  i64 slots, samples, outputs;
  int activation;
  float slope;
};

template <class T>
EVK_DEVICE void multiply_operand(const DenseParams& p, const DenseOperand& operand, i64 slot,
                                 i64 row, i64 column, bool busy, float* memory, Sums<T>& sums) {
  const i64 rows = p.samples - row, columns = p.outputs - column;
  const DenseInputs x{operand.x.data ? operand.x.of(slot, row) : nullptr, operand.x.sample_stride,
                      operand.depth, rows < T::rows ? static_cast<int>(rows) : T::rows};
  const void* from = p.bf16_bank
                         ? static_cast<const void*>(row_of<u16>(operand.weights, slot) + column)
                         : row_of<float>(operand.weights, slot) + column;
  const TileWeights w{from,          p.outputs,
                      operand.depth, columns < T::columns ? static_cast<int>(columns) : T::columns,
                      p.bf16_bank,   p.wide && !p.bf16_bank};
  multiply<T>(x, w, busy, memory, sums);
}

// Grid: slots x tiles of samples x tiles of outputs.
template <class T>
EVK_KERNEL(kTileThreads)
dense_kernel(const __grid_constant__ DenseParams p) {
  __shared__ __align__(16) float memory[T::floats];
  const i64 across = ceil_div(p.outputs, T::columns);
  const i64 down = ceil_div(p.samples, T::rows);
  const i64 column = blockIdx.x % across * T::columns;
  const i64 row = blockIdx.x / across % down * T::rows, slot = blockIdx.x / across / down;
  const bool busy = row + first_row<T>() < p.samples && column + first_column<T>() < p.outputs;
  Sums<T> sums;
  start_sums(p.bias, p.bf16_bank, slot, column, p.outputs, sums);
  EVK_UNROLL(1)
  for (int i = 0; i < 2; ++i) {
    const DenseOperand operand = i == 0 ? p.first : p.second;
    if (operand.depth > 0) multiply_operand(p, operand, slot, row, column, busy, memory, sums);
  }
  EVK_UNROLL(2)
  for (int run = 0; run < T::row_runs; ++run) {
    if (run > 0) __syncthreads();
    stage_sums(sums, run, memory);
    __syncthreads();
    EVK_UNROLL(1)
    for (int i = threadIdx.x; i < T::run_rows * T::columns; i += kTileThreads) {
      const i64 sample = row + run * T::run_rows + i / T::columns;
      const i64 output = column + i % T::columns;
      if (sample >= p.samples || output >= p.outputs) continue;
      const float sum = memory[i / T::columns * T::stage_stride + i % T::columns];
      p.y.of(slot, sample)[output] = activated(p.activation, sum, p.slope);
    }
  }
}

// --- few samples --------------------------------------------------------------------------------

constexpr int kMostFew = 8;  // samples
constexpr int kFewThreads = 128;
constexpr int kFewDepth = 512;  // inputs in shared memory
constexpr int kRowsAhead = 8;   // weights of a thread that are on their way

template <int Samples, int Vector>
struct FewSums {
  float at[Samples][Vector];
};

template <int Samples, int Vector>
EVK_DEVICE void multiply_row(const float* inputs, int stride, const float* weights,
                             FewSums<Samples, Vector>& sums) {
  EVK_UNROLL(8)
  for (int sample = 0; sample < Samples; ++sample) {
    EVK_UNROLL(4)
    for (int i = 0; i < Vector; ++i) {
      sums.at[sample][i] = fma(inputs[sample * stride], weights[i], sums.at[sample][i]);
    }
  }
}

// x [Samples, kFewDepth] in shared memory, w [depth, stride] from the thread's first output.
template <class W, int Samples, int Vector>
EVK_DEVICE void multiply_few(const float* x, const W* w, i64 stride, int depth,
                             FewSums<Samples, Vector>& sums) {
  int k = 0;
  EVK_UNROLL(1)
  for (; k + kRowsAhead <= depth; k += kRowsAhead) {
    float weights[kRowsAhead][Vector];
    EVK_UNROLL(8)
    for (int i = 0; i < kRowsAhead; ++i, w += stride) load_vector<Vector>(w, weights[i]);
    EVK_UNROLL(2)
    for (int four = 0; four < kRowsAhead; four += 4) {
      float inputs[Samples][4];
      EVK_UNROLL(8)
      for (int sample = 0; sample < Samples; ++sample) {
        load_vector<4>(x + sample * kFewDepth + k + four, inputs[sample]);
      }
      EVK_UNROLL(4)
      for (int i = 0; i < 4; ++i) multiply_row(inputs[0] + i, 4, weights[four + i], sums);
    }
  }
  EVK_UNROLL(1)
  for (; k < depth; ++k, w += stride) {
    float weights[Vector];
    load_vector<Vector>(w, weights);
    multiply_row(x + k, kFewDepth, weights, sums);
  }
}

template <class W, int Samples, int Vector>
EVK_DEVICE void multiply_few_operand(const DenseParams& p, const DenseOperand& operand, i64 slot,
                                     i64 output, float* memory, FewSums<Samples, Vector>& sums) {
  for (i64 k = 0; k < operand.depth; k += kFewDepth) {
    const i64 left = operand.depth - k;
    const int depth = left < kFewDepth ? static_cast<int>(left) : kFewDepth;
    __syncthreads();  // all are done with the inputs before
    for (int sample = 0; sample < Samples; ++sample) {
      const bool there = operand.x.data && sample < p.samples;
      const float* x = there ? operand.x.of(slot, sample) + k : nullptr;
      for (int i = threadIdx.x; i < depth; i += blockDim.x) {
        memory[sample * kFewDepth + i] = there ? x[i] : 0.0f;
      }
    }
    __syncthreads();
    if (output >= p.outputs) continue;
    const W* w = row_of<W>(operand.weights, slot) + k * p.outputs + output;
    multiply_few(memory, w, p.outputs, depth, sums);
  }
}

// Grid: slots x parts of the outputs, Vector for every thread.
template <class W, int Samples, int Vector>
EVK_KERNEL(kFewThreads)
dense_few_kernel(const __grid_constant__ DenseParams p) {
  __shared__ __align__(16) float memory[Samples * kFewDepth];
  const int width = static_cast<int>(blockDim.x) * Vector;
  static_assert(kFewThreads * Vector <= kFewDepth);
  const i64 parts = ceil_div(p.outputs, width);
  const i64 slot = blockIdx.x / parts, first = blockIdx.x % parts * width;
  const i64 output = first + static_cast<i64>(threadIdx.x) * Vector;
  FewSums<Samples, Vector> sums;
  EVK_UNROLL(4)
  for (int i = 0; i < Vector; ++i) {
    float start = 0.0f;
    if (p.bias.base && output < p.outputs) {
      start = entry_of(p.bias, sizeof(W) == 2, slot, output + i);
    }
    EVK_UNROLL(8)
    for (int sample = 0; sample < Samples; ++sample) sums.at[sample][i] = start;
  }
  EVK_UNROLL(1)
  for (int i = 0; i < 2; ++i) {
    multiply_few_operand<W>(p, i == 0 ? p.first : p.second, slot, output, memory, sums);
  }
  __syncthreads();
  // By way of shared memory, so that the activation is there once, not once for every sum.
  EVK_UNROLL(8)
  for (int sample = 0; sample < Samples; ++sample) {
    float* to = memory + sample * width + static_cast<int>(threadIdx.x) * Vector;
    const float* sum = sums.at[sample];
    if constexpr (Vector == 4) {
      store4(to, Float4{sum[0], sum[1], sum[2], sum[3]});
    } else {
      *to = *sum;
    }
  }
  __syncthreads();
  const int count = p.outputs - first < width ? static_cast<int>(p.outputs - first) : width;
  for (int sample = 0; sample < Samples && sample < p.samples; ++sample) {
    float* y = p.y.of(slot, sample) + first;
    EVK_UNROLL(1)
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      y[i] = activated(p.activation, memory[sample * width + i], p.slope);
    }
  }
}

EVK_NAMESPACE_END
