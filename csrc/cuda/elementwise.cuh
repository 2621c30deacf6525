// What is done element by element: copies, sums, affine, activations, bytes to floats.
#pragma once

#include "core/activation.h"
#include "core/bf16.h"
#include "cuda/device.h"

EVK_NAMESPACE_BEGIN

// Sample b of slot s lies from data + s * slot_stride + b * sample_stride.
template <class T>
struct Values {
  T* data;
  i64 slot_stride, sample_stride;

  EVK_INLINE_MEMBER T* of(i64 slot, i64 sample) const {
    return data + slot * slot_stride + sample * sample_stride;
  }
};

template <class T>
EVK_DEVICE const T* row_of(const Parameter& p, i64 slot) {
  return static_cast<const T*>(p.base) + p.row[slot] * p.stride;
}

// Number i of a slot's vector.
EVK_DEVICE float entry_of(const Parameter& p, bool bf16_bank, i64 slot, i64 i) {
  return bf16_bank ? widen(row_of<u16>(p, slot)[i]) : row_of<float>(p, slot)[i];
}

EVK_DEVICE float activated(int code, float x, float slope) {
  namespace a = activation_code;
  switch (code) {
    case a::relu:
      return activate<a::relu, float>(x, slope);
    case a::leaky_relu:
      return activate<a::leaky_relu, float>(x, slope);
    case a::tanh:
      return activate<a::tanh, float>(x, slope);
    case a::sigmoid:
      return activate<a::sigmoid, float>(x, slope);
    case a::gelu:
      return activate<a::gelu, float>(x, slope);
    case a::gelu_tanh:
      return activate<a::gelu_tanh, float>(x, slope);
    case a::silu:
      return activate<a::silu, float>(x, slope);
    default:
      return x;
  }
}

constexpr int kElementThreads = 256;

enum class Rule : int { kCopy, kAdd, kAffine, kBytes };

struct ElementsParams {
  Values<const float> x, other;
  Values<const u8> bytes;
  float bytes_scale;
  Parameter scale, shift;  // affine
  bool bf16_bank;
  i64 length;  // features of a channel
  i64 x_channel_stride, y_channel_stride;
  Values<float> y;
  i64 slots, samples, features;
  bool wide;  // whatever is read and written of a sample starts at a multiple of 16 bytes
  int activation;
  float slope;
};

struct Four {
  float at[4];
};

// The first `count` of four floats from x.
EVK_DEVICE Four load_four(const float* x, int count, bool wide) {
  if (wide && count == 4) {
    const Float4 four = load4(x);
    return Four{four.x, four.y, four.z, four.w};
  }
  Four four = {};
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    if (i < count) four.at[i] = x[i];
  }
  return four;
}

EVK_DEVICE void store_four(float* y, const Four& four, int count, bool wide) {
  if (wide && count == 4) {
    store4(y, Float4{four.at[0], four.at[1], four.at[2], four.at[3]});
    return;
  }
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    if (i < count) y[i] = four.at[i];
  }
}

// Four features from number `first`, whose channels may lie apart.
EVK_DEVICE void affine_four(const ElementsParams& p, i64 slot, i64 sample, i64 first, int count) {
  const float* x = p.x.of(slot, sample);
  float* y = p.y.of(slot, sample);
  const bool together = p.x_channel_stride == p.length && p.y_channel_stride == p.length;
  Four four = {};
  if (together) four = load_four(x + first, count, p.wide);
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    if (i < count) {
      const i64 channel = (first + i) / p.length, at = (first + i) % p.length;
      const float value = together ? four.at[i] : x[channel * p.x_channel_stride + at];
      const float scaled = value * entry_of(p.scale, p.bf16_bank, slot, channel);
      const float shifted = scaled + entry_of(p.shift, p.bf16_bank, slot, channel);
      four.at[i] = activated(p.activation, shifted, p.slope);
      if (!together) y[channel * p.y_channel_stride + at] = four.at[i];
    }
  }
  if (together) store_four(y + first, four, count, p.wide);
}

// Threads along x take four features each, along y samples. Grid: blocks of samples x parts of the
// features.
template <Rule R>
EVK_KERNEL(kElementThreads)
elements_kernel(const __grid_constant__ ElementsParams p) {
  const i64 part = 4 * static_cast<i64>(blockDim.x);
  const i64 parts = ceil_div(p.features, part);
  const i64 row = blockIdx.x / parts * blockDim.y + threadIdx.y;
  const i64 first = blockIdx.x % parts * part + 4 * static_cast<i64>(threadIdx.x);
  if (row >= p.slots * p.samples || first >= p.features) return;
  const i64 slot = row / p.samples, sample = row % p.samples;
  const int count = p.features - first < 4 ? static_cast<int>(p.features - first) : 4;
  if constexpr (R == Rule::kAffine) {
    affine_four(p, slot, sample, first, count);
  } else {
    Four four = {};
    if constexpr (R == Rule::kBytes) {
      const u8* x = p.bytes.of(slot, sample) + first;
      EVK_UNROLL(4)
      for (int i = 0; i < 4; ++i) {
        if (i < count) four.at[i] = static_cast<float>(x[i]) * p.bytes_scale;
      }
    } else {
      four = load_four(p.x.of(slot, sample) + first, count, p.wide);
    }
    if constexpr (R == Rule::kAdd) {
      const Four other = load_four(p.other.of(slot, sample) + first, count, p.wide);
      EVK_UNROLL(4)
      for (int i = 0; i < 4; ++i) four.at[i] = four.at[i] + other.at[i];
    }
    if constexpr (R != Rule::kBytes) {
      EVK_UNROLL(4)
      for (int i = 0; i < 4; ++i) four.at[i] = activated(p.activation, four.at[i], p.slope);
    }
    store_four(p.y.of(slot, sample) + first, four, count, p.wide);
  }
}

EVK_NAMESPACE_END
