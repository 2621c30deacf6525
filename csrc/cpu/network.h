// What all ways through a network share: how batches are cut, activations, from logits to losses.
#pragma once

#include <omp.h>

#include "core/activation.h"
#include "core/loss.h"
#include "cpu/dense.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"

EVK_NAMESPACE_BEGIN

EVK_INLINE i64 larger_of(i64 a, i64 b) { return a > b ? a : b; }
EVK_INLINE i64 smaller_of(i64 a, i64 b) { return a < b ? a : b; }

// How a slot's batch is cut into tasks of whole units (tiles or samples): only with too few slots
// for all threads, since every task reads the slot's weights.
struct Cut {
  i64 units_per_task, tasks_per_slot;
};

EVK_INLINE Cut cut_slots(i64 slots, i64 units, int threads) {
  const i64 wanted = threads == 1 ? 1 : ceil_div(2 * threads, larger_of(slots, 1));
  const i64 per_task = ceil_div(units, larger_of(smaller_of(wanted, units), 1));
  return Cut{per_task, ceil_div(units, per_task)};
}

// Of a convolution: the channels that its operands count (arithmetic.h), operands of one output,
// and of its image with the border.
EVK_INLINE i64 conv_channels(const NetworkParams& p, const Step& s) {
  return p.bf16 ? bf16_operands(s.channels) : s.channels;
}
EVK_INLINE i64 conv_depth(const NetworkParams& p, const Step& s) {
  return conv_channels(p, s) * s.kernel_height * s.kernel_width;
}
EVK_INLINE i64 padded_image(const NetworkParams& p, const Step& s) {
  return conv_channels(p, s) * (s.height + 2 * s.pad_height) * (s.width + 2 * s.pad_width);
}

// --- activations --------------------------------------------------------------------------------

template <int Code>
void activate_all(float* y, i64 count, float slope) {
  i64 i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(y + i, activate<Code, Float>(load(y + i), slope));
  }
  if (i < count) {
    store_part(y + i, count - i, activate<Code, Float>(load_part(y + i, count - i), slope));
  }
}

EVK_INLINE void activate_in_place(float* y, i64 count, int activation, float slope) {
  namespace code = activation_code;
  switch (activation) {
    case code::relu:
      return activate_all<code::relu>(y, count, slope);
    case code::leaky_relu:
      return activate_all<code::leaky_relu>(y, count, slope);
    case code::tanh:
      return activate_all<code::tanh>(y, count, slope);
    case code::sigmoid:
      return activate_all<code::sigmoid>(y, count, slope);
    case code::gelu:
      return activate_all<code::gelu>(y, count, slope);
    case code::gelu_tanh:
      return activate_all<code::gelu_tanh>(y, count, slope);
    case code::silu:
      return activate_all<code::silu>(y, count, slope);
    default:
      return;
  }
}

// --- losses -------------------------------------------------------------------------------------

// Of every sample of every slot, [slots, samples].
struct SampleResults {
  float* loss;
  u8* right;

  EVK_INLINE_MEMBER static i64 bytes(const NetworkParams& p) {
    return p.out ? 0 : ceil_div(p.slots * p.samples * i64{sizeof(float) + 1}, 64) * 64;
  }
  EVK_INLINE_MEMBER static SampleResults at(void* memory, const NetworkParams& p) {
    float* loss = static_cast<float*>(memory);
    return SampleResults{loss, reinterpret_cast<u8*>(loss + p.slots * p.samples)};
  }
};

// v[0] = the sum of 32 losses by halves.
EVK_INLINE float block_sum(float* v) {
  for (int half = kBlockSamples / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] = v[i] + v[i + half];
  }
  return v[0];
}

// The losses of `count` <= kTile samples from `first`, whose outputs are z [outputs, kTile].
EVK_INLINE void store_losses(const NetworkParams& p, const SampleResults& results, i64 slot,
                             i64 first, i64 count, const float* z) {
  const i64 classes = p.classes ? p.classes[slot] : p.outputs;
  float* loss = results.loss + slot * p.samples + first;
  u8* right = results.right + slot * p.samples + first;
  if (p.loss == Loss::kCrossEntropy) {
    float log_sums[kTile], predictions[kTile];
    for (i64 v = 0; v < count; v += kLanes) {
      const auto e = log_sum_exp<Float>(classes, [&](i64 c) { return load(z + c * kTile + v); });
      store(log_sums + v, e.value);
      store(predictions + v, e.prediction);
    }
    const int64_t* labels = p.labels + slot * p.label_slot_stride + first;
    for (i64 i = 0; i < count; ++i) {
      loss[i] = log_sums[i] - z[labels[i] * kTile + i];
      right[i] = static_cast<i64>(predictions[i]) == labels[i];
    }
  } else {
    const float* target = p.targets + slot * p.label_slot_stride + first * p.target_sample_stride;
    for (i64 i = 0; i < count; ++i) {
      loss[i] = squared_error(
          classes, [&](i64 o) { return z[o * kTile + i]; }, target + i * p.target_sample_stride);
      right[i] = 0;
    }
  }
}

// Weighted losses in blocks of 32 samples (missing ones +0) by halves, their sums in order.
EVK_INLINE void finish_slot(const NetworkParams& p, const SampleResults& results, i64 slot) {
  const float* loss = results.loss + slot * p.samples;
  const u8* right = results.right + slot * p.samples;
  const float* weights =
      p.sample_weights ? p.sample_weights + slot * p.weight_slot_stride : nullptr;
  float sum = 0.0f;
  i32 correct = 0;
  for (i64 first = 0; first < p.samples; first += kBlockSamples) {
    float block[kBlockSamples] = {};
    for (i64 i = 0; i < smaller_of(kBlockSamples, p.samples - first); ++i) {
      block[i] = weights ? loss[first + i] * weights[first + i] : loss[first + i];
      correct += right[first + i];
    }
    sum = sum + block_sum(block);
  }
  p.out_loss[slot] = sum / static_cast<float>(p.samples);
  p.out_correct[slot] = correct;
}

// --- tiles --------------------------------------------------------------------------------------

// Rows of features, kTile samples each.
using Tile = float*;

EVK_INLINE i64 samples_in_tile(const NetworkParams& p, i64 tile) {
  const i64 left = p.samples - tile * kTile;
  return left < kTile ? left : kTile;
}

// The samples of a tile's rows; what else is in it is nobody's.
EVK_INLINE void activate_tile(Tile y, i64 rows, i64 samples, int activation, float slope) {
  const i64 used = ceil_div(samples, kLanes) * kLanes;
  if (used == kTile) return activate_in_place(y, rows * kTile, activation, slope);
  for (i64 row = 0; row < rows; ++row) activate_in_place(y + row * kTile, used, activation, slope);
}

// Some samples, feature by feature; what is missing is +0.
template <class T, class Value>
void load_rows(const T* x, i64 sample_stride, i64 count, i64 features, Tile out,
               const Value& value) {
  constexpr i64 strip = 16;  // features at a time: their rows stay in the first cache
  for (i64 first = 0; first < features; first += strip) {
    const i64 end = smaller_of(first + strip, features);
    for (i64 sample = 0; sample < count; ++sample) {
      const T* row = x + sample * sample_stride;
      for (i64 f = first; f < end; ++f) out[f * kTile + sample] = value(row[f]);
    }
    for (i64 f = first; f < end; ++f) {
      for (i64 sample = count; sample < kTile; ++sample) out[f * kTile + sample] = 0.0f;
    }
  }
}

// What network.cpp chooses from.
i64 tiles_workspace_bytes(const NetworkParams& p);
void run_tiles(const NetworkParams& p);
i64 samples_workspace_bytes(const NetworkParams& p);
void run_samples(const NetworkParams& p);

EVK_NAMESPACE_END
