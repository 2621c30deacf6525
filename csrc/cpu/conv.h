// Convolutions of single images: a matrix product whose rows are the output's positions, without
// the matrix.
//
// The image lies still (padded if need be); `offsets` says where in it each weight row reads,
// relative to where a position begins. Vectors run along output channels, as the weights lie, and
// the output is [positions, channels]. Every output is acc = bias; acc = fma(x_k, w_k, acc) for k
// ascending over channel, kernel row, kernel column. A is the arithmetic; with bf16, the image and
// depths count operands of two channels (arithmetic.h).
#pragma once

#include "core/activation.h"
#include "cpu/arithmetic.h"

EVK_NAMESPACE_BEGIN

// Registers: positions x vectors of accumulators, one weight per vector, one input.
constexpr int kPositions = 6;
constexpr int kPanelVectors = 2;

// A panel: what one micro-kernel needs of some output channels, padded with +0 to whole vectors:
// bias, scale, shift, then the weights [depth, width].
constexpr i64 kPanelHead = 3;

EVK_INLINE i64 panel_width(i64 channels_left) {
  return channels_left > kLanes ? kPanelVectors * kLanes : kLanes;
}

// Floats of all panels of a layer.
EVK_INLINE i64 panel_floats(i64 depth, i64 channels) {
  return (kPanelHead + depth) * ceil_div(channels, kLanes) * kLanes;
}

template <class T>
struct ConvWeights {
  const T* weights;  // [depth, channels]
  const T* bias;     // or null
  const T* scale;    // or null, with shift
  const T* shift;
  i64 inputs, window, channels;  // depth = inputs * window
  bool bf16;
};

// The panel of the channels from `first`; returns its width.
template <class T>
i64 pack_panel(const ConvWeights<T>& c, i64 first, float* panel) {
  const i64 width = panel_width(c.channels - first);
  const i64 count = c.channels - first < width ? c.channels - first : width;
  const auto part = [&](const T* from, i64 i) {
    const i64 left = count - i;
    return left >= kLanes ? load(from + i) : load_part(from + i, left > 0 ? left : 0);
  };
  const auto row = [&](const T* from, float missing) {
    for (i64 i = 0; i < width; i += kLanes) {
      store(panel + i, from ? part(from, i) : Element<Float>::all(missing));
    }
    panel += width;
  };
  row(c.bias ? c.bias + first : nullptr, 0.0f);
  row(c.scale ? c.scale + first : nullptr, 1.0f);
  row(c.scale ? c.shift + first : nullptr, 0.0f);
  const i64 together = c.bf16 ? kBf16Inputs : 1;
  for (i64 input = 0; input < c.inputs; input += together) {
    for (i64 k = input * c.window; k < (input + 1) * c.window; ++k) {
      const T* from = c.weights + k * c.channels + first;
      if (!c.bf16) {
        row(from, 0.0f);
        continue;
      }
      const T* other = from + c.window * c.channels;
      const bool both = together == 2 && input + 1 < c.inputs;
      for (i64 i = 0; i < width; i += kLanes) {
        const Float second = both ? part(other, i) : Element<Float>::all(0.0f);
        store(panel + i, bf16_operand(part(from, i), second));
      }
      panel += width;
    }
  }
  return width;
}

// Weight rows that are multiplied before the next ones' turn: they stay in the first cache, beside
// what the positions read of the image.
constexpr i64 kConvDepth = 256;

// One panel's share of the rows, and what is done before and after it: the first rows start from
// the bias, later ones from what y holds; affine and relu follow the last.
struct ConvRows {
  const i32* offsets;
  i64 depth;
  const float* head;     // of the panel
  const float* weights;  // [depth, width]
  i64 count;             // channels that exist, of the width
  bool first, affine, relu;
};

EVK_INLINE Float load_count(const float* p, i64 count) {
  return count >= kLanes ? load(p) : load_part(p, count > 0 ? count : 0);
}

EVK_INLINE void store_count(float* p, i64 count, Float v) {
  count >= kLanes ? store(p, v) : store_part(p, count > 0 ? count : 0, v);
}

template <class A, int P, int V>
EVK_INLINE void conv_block(const ConvRows& r, const float* const* x, float* const* y) {
  constexpr i64 width = V * kLanes;
  Float acc[P][V];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      acc[p][v] =
          r.first ? load(r.head + v * kLanes) : load_count(y[p] + v * kLanes, r.count - v * kLanes);
    }
  }
  const float* place[P];
  for (int p = 0; p < P; ++p) place[p] = x[p];
  const float* w = r.weights;
  for (i64 k = 0; k < r.depth; ++k) {
    const i64 offset = r.offsets[k];
    Float weights[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) weights[v] = load(w + v * kLanes);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const Float input = broadcast(place[p] + offset);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[p][v] = A::multiply_add(input, weights[v], acc[p][v]);
    }
    w += width;
  }
  const Float zero = Element<Float>::all(0.0f);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const Float scale = load(r.head + width + v * kLanes);
    const Float shift = load(r.head + 2 * width + v * kLanes);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      Float value = acc[p][v];
      if (r.affine) value = value * scale + shift;
      if (r.relu) value = Element<Float>::select(value < zero, zero, value);
      store_count(y[p] + v * kLanes, r.count - v * kLanes, value);
    }
  }
}

template <class A, int V>
void conv_positions(const ConvRows& r, const float* const* x, float* const* y, i64 positions) {
  switch (positions) {
    case 1:
      return conv_block<A, 1, V>(r, x, y);
    case 2:
      return conv_block<A, 2, V>(r, x, y);
    case 3:
      return conv_block<A, 3, V>(r, x, y);
    case 4:
      return conv_block<A, 4, V>(r, x, y);
    case 5:
      return conv_block<A, 5, V>(r, x, y);
    default:
      return conv_block<A, kPositions, V>(r, x, y);
  }
}

struct ConvImages {
  const float* x;
  i64 x_stride;  // between samples
  float* y;      // [samples, positions, channels]
  i64 y_stride;
  i64 samples, positions, channels;
  const i32* offsets;  // [depth]
  const i32* places;   // [positions]
  i64 depth;
  bool affine, relu;  // what follows the sums
};

// Some rows of a panel, whose channels start at `channel`, at all positions of all samples.
template <class A>
EVK_INLINE void conv_rows(const ConvImages& c, const ConvRows& r, i64 width, i64 channel) {
  const i64 total = c.samples * c.positions;
  i64 sample = 0, position = 0;
  for (i64 done = 0; done < total;) {
    // The last ones are shared out: one position alone would wait for its own sums.
    const i64 left = total - done;
    const i64 held = left >= 2 * kPositions ? kPositions
                     : left > kPositions    ? (left + 1) / 2
                                            : left;
    const float* x[kPositions];
    float* y[kPositions];
    for (i64 i = 0; i < held; ++i) {
      x[i] = c.x + sample * c.x_stride + c.places[position];
      y[i] = c.y + sample * c.y_stride + position * c.channels + channel;
      if (++position == c.positions) {
        position = 0;
        ++sample;
      }
    }
    width > kLanes ? conv_positions<A, kPanelVectors>(r, x, y, held)
                   : conv_positions<A, 1>(r, x, y, held);
    done += held;
  }
}

// The channels of one panel, from `channel`, at all positions of all samples.
template <class A>
EVK_INLINE void conv_panel(const ConvImages& c, const float* panel, i64 width, i64 channel) {
  const i64 chunks = ceil_div(c.depth, kConvDepth);
  const i64 chunk = ceil_div(c.depth, chunks);
  const i64 count = c.channels - channel < width ? c.channels - channel : width;
  for (i64 k = 0; k < c.depth; k += chunk) {
    const bool last = k + chunk >= c.depth;
    const ConvRows rows{c.offsets + k,
                        last ? c.depth - k : chunk,
                        panel,
                        panel + (kPanelHead + k) * width,
                        count,
                        k == 0,
                        last && c.affine,
                        last && c.relu};
    conv_rows<A>(c, rows, width, channel);
  }
}

EVK_NAMESPACE_END
