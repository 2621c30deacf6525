// Networks of dense layers in one kernel: a block has one slot and a tile of samples.
//
// The tile's activations lie in shared memory as [feature, sample]; a layer's sums are in registers
// and are written over its input once all are done. The weights of all layers are one sequence of
// chunks, whole rows each, of which the next is on its way while one is multiplied. Every sum is
// acc = bias; acc = fma(x_k, w_k, acc) for k ascending.
#pragma once

#include "cuda/loss_rules.cuh"

EVK_NAMESPACE_BEGIN

constexpr int kMostFusedThreads = 512;
constexpr int kThreadSamples = 8;  // of the sums a thread holds: up to 8 units of 8 samples
constexpr int kThreadUnits = 8;
constexpr i64 kChunkFloats = 4096;  // weights on their way; there are two chunks

struct FusedLayer {
  Parameter weights;  // [inputs, outputs]
  Parameter bias;     // or none
  i32 inputs, outputs, activation;
  float slope;
};

struct FusedNetworkParams {
  FusedLayer layers[kMostFusedSteps];
  i32 layer_count;
  i32 tile;    // samples of a block, a power of two from 16 to 128
  i32 widest;  // features between layers
  const float* x;
  const u8* x_u8;  // instead of x; times x_scale
  float x_scale;
  i64 x_slot_stride, x_sample_stride;
  i64 samples;
  // network_forward
  float* out;  // or null
  i64 out_slot_stride, out_sample_stride;
  // network_loss
  LossTargets wanted;
  float* sample_losses;  // [slots, samples]
  i32* sample_right;     // [slots, samples]
};

// --- weights on their way -----------------------------------------------------------------------

// Rows of a layer that fit a chunk.
EVK_DEVICE int chunk_rows(const FusedLayer& layer) {
  const int fit = static_cast<int>(kChunkFloats) / layer.outputs;
  return fit < layer.inputs ? fit : layer.inputs;
}

struct WeightChunks {
  const FusedNetworkParams& p;
  const i64 slot;
  float* const memory;  // [2, kChunkFloats]
  const float* next;    // weights that come next: of row `row` of layer `layer`
  int layer, row;
  int number;  // of chunks that were sent for

  __device__ __forceinline__ void begin_layer(int number_of_layer) {
    layer = number_of_layer;
    row = 0;
    if (layer < p.layer_count) next = row_of<float>(p.layers[layer].weights, slot);
  }

  // Sends for the next chunk, if there is one, into the half that is free.
  __device__ __forceinline__ void request() {
    if (layer < p.layer_count) {
      const FusedLayer& l = p.layers[layer];
      const int left = l.inputs - row, most = chunk_rows(l);
      const int count = (left < most ? left : most) * l.outputs;
      const float* from = next;
      float* to = memory + number % 2 * kChunkFloats;
      const int thread = threadIdx.x, threads = blockDim.x;
      if (aligned16(from)) {
        for (int i = thread * 4; i + 4 <= count; i += threads * 4) copy_async_16(to + i, from + i);
        for (int i = (count & ~3) + thread; i < count; i += threads) copy_async_4(to + i, from + i);
      } else {
        for (int i = thread; i < count; i += threads) copy_async_4(to + i, from + i);
      }
      row += most;
      next += count;
      if (row >= l.inputs) begin_layer(layer + 1);
    }
    copy_async_commit();
    ++number;
  }

  // The oldest chunk that was sent for, once all threads have it. They are also done with the one
  // before, so that its half is free.
  __device__ __forceinline__ const float* receive() {
    copy_async_wait<0>();
    __syncthreads();
    return memory + (number - 1) % 2 * kChunkFloats;
  }
};

// --- a layer ------------------------------------------------------------------------------------

// Which sums a thread holds. Lanes go along samples first, eight of them at most, so that a warp
// reads few distinct inputs and weights.
struct ThreadTile {
  int column, row, columns, rows;

  __device__ __forceinline__ explicit ThreadTile(int tile) {
    columns = tile / kThreadSamples;
    rows = static_cast<int>(blockDim.x) / columns;
    const int across = columns < 8 ? columns : 8;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int warps_across = columns / across;
    column = lane % across + across * (warp % warps_across);
    row = lane / across + kWarp / across * (warp / warps_across);
  }
  // A thread's samples are two runs of four, half a tile apart: no two lanes meet in a bank.
  __device__ __forceinline__ int sample(int tile, int i) const {
    return column * 4 + i % 4 + (i / 4) * (tile / 2);
  }
};

// U weights of a row; those past `count` are not read.
template <int U, bool Vectors>
EVK_DEVICE void load_weights(const float* w, int count, float (&out)[U]) {
  if constexpr (Vectors) {
#pragma unroll
    for (int u = 0; u < U; u += 4) {
      const Float4 four = u < count ? load4(w + u) : Float4{0.0f, 0.0f, 0.0f, 0.0f};
      out[u] = four.x;
      out[u + 1] = four.y;
      out[u + 2] = four.z;
      out[u + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int u = 0; u < U; ++u) out[u] = u < count ? w[u] : 0.0f;
  }
}

template <int U, bool Vectors>
EVK_DEVICE void multiply_chunk(float (&acc)[U][kThreadSamples], const float* x, const float* w,
                               int rows, int tile, int outputs, int count) {
#pragma unroll 2
  for (int k = 0; k < rows; ++k) {
    float weights[U];
    load_weights<U, Vectors>(w, count, weights);
    const Float4 low = load4(x), high = load4(x + tile / 2);
    const float inputs[kThreadSamples] = {low.x,  low.y,  low.z,  low.w,
                                          high.x, high.y, high.z, high.w};
#pragma unroll
    for (int u = 0; u < U; ++u) {
#pragma unroll
      for (int s = 0; s < kThreadSamples; ++s) acc[u][s] = fma(inputs[s], weights[u], acc[u][s]);
    }
    x += tile;
    w += outputs;
  }
}

// values [features, tile]: the layer's input, then its output.
template <int U, bool Vectors>
EVK_DEVICE void run_layer(const FusedLayer& layer, const ThreadTile& mine, int tile, i64 slot,
                          float* values, WeightChunks& chunks) {
  const int unit = mine.row * U;
  const int count = layer.outputs - unit < U ? layer.outputs - unit : U;  // units that exist
  float acc[U][kThreadSamples];
  const float* bias = layer.bias.base ? row_of<float>(layer.bias, slot) + unit : nullptr;
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const float start = bias && u < count ? bias[u] : 0.0f;
#pragma unroll
    for (int s = 0; s < kThreadSamples; ++s) acc[u][s] = start;
  }
  const int most = chunk_rows(layer);
  for (int first = 0; first < layer.inputs; first += most) {
    const float* weights = chunks.receive();
    chunks.request();
    const int rows = layer.inputs - first < most ? layer.inputs - first : most;
    if (count > 0) {
      multiply_chunk<U, Vectors>(acc, values + first * tile + mine.column * 4, weights + unit, rows,
                                 tile, layer.outputs, count);
    }
  }
  __syncthreads();  // all have read the input
  const bool relu = layer.activation == activation_code::relu;
#pragma unroll
  for (int u = 0; u < U; ++u) {
    if (u >= count) break;
    float* y = values + (unit + u) * tile + mine.column * 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Float4 four{acc[u][half * 4], acc[u][half * 4 + 1], acc[u][half * 4 + 2],
                  acc[u][half * 4 + 3]};
      if (relu) {
        four.x = four.x < 0.0f ? 0.0f : four.x;
        four.y = four.y < 0.0f ? 0.0f : four.y;
        four.z = four.z < 0.0f ? 0.0f : four.z;
        four.w = four.w < 0.0f ? 0.0f : four.w;
      }
      store4(y + half * (tile / 2), four);
    }
  }
  if (relu || layer.activation == activation_code::identity) return;
  // One copy of the longer rules, on what this thread has written.
#pragma unroll 1
  for (int i = 0; i < count * kThreadSamples; ++i) {
    float* y = values + (unit + i / kThreadSamples) * tile + mine.sample(tile, i % kThreadSamples);
    *y = activated(layer.activation, *y, layer.slope);
  }
}

EVK_DEVICE void run_layers(const FusedNetworkParams& p, i64 slot, float* values,
                           WeightChunks& chunks) {
  const ThreadTile mine(p.tile);
  for (int i = 0; i < p.layer_count; ++i) {
    const FusedLayer& layer = p.layers[i];
    const bool vectors = layer.outputs % 4 == 0;
    if (layer.outputs > 4 * mine.rows) {
      vectors ? run_layer<8, true>(layer, mine, p.tile, slot, values, chunks)
              : run_layer<8, false>(layer, mine, p.tile, slot, values, chunks);
    } else if (layer.outputs > 2 * mine.rows) {
      vectors ? run_layer<4, true>(layer, mine, p.tile, slot, values, chunks)
              : run_layer<4, false>(layer, mine, p.tile, slot, values, chunks);
    } else if (layer.outputs > mine.rows) {
      run_layer<2, false>(layer, mine, p.tile, slot, values, chunks);
    } else {
      run_layer<1, false>(layer, mine, p.tile, slot, values, chunks);
    }
  }
  __syncthreads();
}

// --- samples in, results out --------------------------------------------------------------------

// x as [feature, sample]; missing samples are +0. A lane reads one sample, so that what it writes
// does not meet other lanes in a bank.
EVK_DEVICE void load_tile(const FusedNetworkParams& p, i64 slot, i64 first, float* values) {
  const int inputs = p.layers[0].inputs, tile = p.tile;
  const int sample = threadIdx.x % tile;
  const int part = threadIdx.x / tile, parts = blockDim.x / tile;
  const bool there = first + sample < p.samples;
  const i64 at = slot * p.x_slot_stride + (first + sample) * p.x_sample_stride;
  if (p.x_u8) {
    const u8* x = p.x_u8 + at;
    const int fours = there && reinterpret_cast<u64>(x) % 4 == 0 ? inputs / 4 : 0;
    for (int i = part; i < fours; i += parts) {
      const u32 four = *reinterpret_cast<const u32*>(x + i * 4);
      float* to = values + i * 4 * tile + sample;
      EVK_UNROLL(4)
      for (int n = 0; n < 4; ++n) {
        to[n * tile] = static_cast<float>(static_cast<u8>(four >> (8 * n))) * p.x_scale;
      }
    }
    for (int i = fours * 4 + part; i < inputs; i += parts) {
      values[i * tile + sample] = there ? static_cast<float>(x[i]) * p.x_scale : 0.0f;
    }
    return;
  }
  const float* x = p.x + at;
  const int fours = there && aligned16(x) ? inputs / 4 : 0;
  for (int i = part; i < fours; i += parts) {
    const Float4 four = load4(x + i * 4);
    float* to = values + i * 4 * tile + sample;
    to[0] = four.x;
    to[tile] = four.y;
    to[2 * tile] = four.z;
    to[3 * tile] = four.w;
  }
  for (int i = fours * 4 + part; i < inputs; i += parts) {
    values[i * tile + sample] = there ? x[i] : 0.0f;
  }
}

EVK_DEVICE void store_losses(const FusedNetworkParams& p, i64 slot, i64 first, const float* z) {
  const int outputs = p.layers[p.layer_count - 1].outputs;
  for (int i = threadIdx.x; i < p.tile && first + i < p.samples; i += blockDim.x) {
    const i64 sample = first + i, at = slot * p.samples + sample;
    bool right = false;
    p.sample_losses[at] =
        sample_loss(p.wanted, slot, sample, SampleOutputs{z + i, p.tile}, outputs, &right);
    p.sample_right[at] = right;
  }
}

EVK_DEVICE void store_outputs(const FusedNetworkParams& p, i64 slot, i64 first, const float* z) {
  const int outputs = p.layers[p.layer_count - 1].outputs;
  const i64 left = p.samples - first;
  const int count = static_cast<int>(left < p.tile ? left : p.tile) * outputs;
  float* out = p.out + slot * p.out_slot_stride + first * p.out_sample_stride;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int sample = i / outputs, o = i % outputs;
    out[sample * p.out_sample_stride + o] = z[o * p.tile + sample];
  }
}

// Grid: slots x tiles, one after the other.
EVK_KERNEL(kMostFusedThreads) fused_network_kernel(const __grid_constant__ FusedNetworkParams p) {
  EVK_DYNAMIC_SHARED(float, values);  // [widest, tile], then the chunks
  const i64 tiles = ceil_div(p.samples, p.tile);
  const i64 slot = blockIdx.x / tiles, first = blockIdx.x % tiles * p.tile;
  WeightChunks chunks{p, slot, values + static_cast<i64>(p.widest) * p.tile, nullptr, 0, 0, 0};
  chunks.begin_layer(0);
  chunks.request();
  load_tile(p, slot, first, values);
  run_layers(p, slot, values, chunks);
  if (p.out) {
    store_outputs(p, slot, first, values);
  } else {
    store_losses(p, slot, first, values);
  }
}

EVK_NAMESPACE_END
