// One step of a network on some samples of one slot: what network_samples.cpp runs. Images lie
// channels last, so that vectors run along channels.
#pragma once

#include <string.h>

#include "cpu/conv.h"
#include "cpu/network.h"
#include "cpu/pool_window.h"
#include "cpu/rows.h"

EVK_NAMESPACE_BEGIN

namespace {

constexpr i64 kSlack = 16;  // floats that keep buffers apart and aligned

i64 aligned(i64 floats) { return ceil_div(floats, kSlack) * kSlack; }

i64 positions_in(const Step& s) { return s.height * s.width; }
i64 positions_out(const Step& s) { return s.out_height * s.out_width; }

// Where a value lies: sample s from data + s * stride.
struct Buffer {
  float* data;
  i64 stride;
};

constexpr i64 kMostBuffers = 64;

struct Thread {
  Buffer buffers[kMostBuffers];
  float *panels, *copies, *vectors, *z;
};

// Element by element: f(vector of x, vector of y).
template <class F>
EVK_INLINE void for_elements(const float* x, const float* y, float* out, i64 count, const F& f) {
  i64 i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, f(load(x + i), load(y + i)));
  const i64 left = count - i;
  if (left > 0) store_part(out + i, left, f(load_part(x + i, left), load_part(y + i, left)));
}

// A layer's vector as fp32, widened into `space` where it is stored as bf16; null if it has none.
const float* vector_of(const NetworkParams& p, const Parameter& parameter, i64 slot, i64 count,
                       float* space) {
  if (!parameter.base) return nullptr;
  if (!p.bf16_bank) return parameter.of<float>(slot);
  const u16* stored = parameter.of<u16>(slot);
  for (i64 i = 0; i < count; ++i) space[i] = widen(stored[i]);
  return space;
}

template <class T>
ConvWeights<T> conv_weights(const NetworkParams& p, const Step& s, i64 slot) {
  const bool affine = s.scale.base != nullptr;
  return ConvWeights<T>{s.weights.of<T>(slot),
                        s.bias.base ? s.bias.of<T>(slot) : nullptr,
                        affine ? s.scale.of<T>(slot) : nullptr,
                        affine ? s.shift.of<T>(slot) : nullptr,
                        s.channels,
                        s.kernel_height * s.kernel_width,
                        s.out_channels,
                        p.bf16};
}

i64 pack(const NetworkParams& p, const Step& s, i64 slot, i64 first, float* panel) {
  return p.bf16_bank ? pack_panel(conv_weights<u16>(p, s, slot), first, panel)
                     : pack_panel(conv_weights<float>(p, s, slot), first, panel);
}

// Calls f(panel, width, first channel) for all panels of a step.
template <class F>
EVK_INLINE void for_panels(const NetworkParams& p, const Step& s, float* panels, const F& f) {
  for (i64 first = 0; first < s.out_channels;) {
    const i64 width = panel_width(s.out_channels - first);
    f(panels, width, first);
    panels += (kPanelHead + conv_depth(p, s)) * width;
    first += width;
  }
}

// A plane with its border of +0; write(row, to) puts the row's `width` floats there.
template <class F>
EVK_INLINE void pad_plane(i64 height, i64 width, i64 edge, i64 border, float* out, const F& write) {
  const auto zeros = [&](i64 count) {
    memset(out, 0, static_cast<size_t>(count) * sizeof(float));
    out += count;
  };
  zeros(edge);
  for (i64 row = 0; row < height; ++row) {
    zeros(border);
    write(row, out);
    out += width;
    zeros(border);
  }
  zeros(edge);
}

// The image as a convolution reads it: with its border, and as operands of bf16 if asked for.
void pad_image(const NetworkParams& p, const Step& s, const float* x, float* out) {
  const i64 together = p.bf16 ? kBf16Inputs : 1;
  const i64 pixel = s.channels_first ? 1 : s.channels;  // inputs next to each other
  const i64 out_pixel = s.channels_first ? 1 : conv_channels(p, s);
  const i64 planes = s.channels_first ? s.channels : 1;
  const i64 row = s.width * pixel, out_row = s.width * out_pixel, border = s.pad_width * out_pixel;
  const i64 edge = s.pad_height * (out_row + 2 * border);
  for (i64 plane = 0; plane < planes; plane += s.channels_first ? together : 1) {
    const float* first = x + plane * s.height * row;
    const float* second = plane + 1 < planes && together == 2 ? first + s.height * row : nullptr;
    pad_plane(s.height, out_row, edge, border, out, [&](i64 i, float* to) {
      if (!p.bf16) {
        memcpy(to, first + i * row, static_cast<size_t>(row) * sizeof(float));
      } else if (s.channels_first) {
        pair_bf16(first + i * row, second ? second + i * row : nullptr, row, to);
      } else if (pixel % together == 0) {
        round_inputs(first + i * row, row, to);
      } else {
        for (i64 j = 0; j < s.width; ++j) {
          round_inputs(first + i * row + j * pixel, pixel, to + j * out_pixel);
        }
      }
    });
    out += s.height * (out_row + 2 * border) + 2 * edge;
  }
}

Buffer pad_images(const NetworkParams& p, const Step& s, Buffer x, i64 count, float* copies) {
  if (!s.pad_height && !s.pad_width && !p.bf16) return x;
  const Buffer padded{copies, aligned(padded_image(p, s))};
  for (i64 sample = 0; sample < count; ++sample) {
    pad_image(p, s, x.data + sample * x.stride, padded.data + sample * padded.stride);
  }
  return padded;
}

// `panels`: made before, or where one at a time is made.
void run_conv(const NetworkParams& p, const Step& s, i64 slot, i64 count, Buffer x, Buffer y,
              Thread& t, float* panels, bool ready) {
  x = pad_images(p, s, x, count, t.copies);
  const bool relu = s.activation == activation_code::relu;
  ConvImages images{};
  images.x = x.data;
  images.x_stride = x.stride;
  images.y = y.data;
  images.y_stride = y.stride;
  images.samples = count;
  images.positions = positions_out(s);
  images.channels = s.out_channels;
  images.offsets = s.offsets;
  images.places = s.places;
  images.depth = conv_depth(p, s);
  images.affine = s.scale.base != nullptr;
  images.relu = relu;
  for_panels(p, s, panels, [&](float* panel, i64 width, i64 first) {
    if (!ready) pack(p, s, slot, first, panel = panels);
    p.bf16 ? conv_panel<Bf16>(images, panel, width, first)
           : conv_panel<Fp32>(images, panel, width, first);
  });
  if (relu) return;
  for (i64 i = 0; i < count; ++i) {
    activate_in_place(y.data + i * y.stride, s.outputs, s.activation, s.slope);
  }
}

// y = x W + start; without a start, y is gone on from.
template <class W>
void multiply_rows(const Parameter& weights, i64 slot, Buffer x, Buffer y, const float* start,
                   i64 count, i64 inputs, i64 outputs) {
  using T = typename W::Stored;
  dense_rows<W>(
      RowOperands<T>{x.data, x.stride, weights.of<T>(slot), outputs, start, y.data, y.stride},
      count, inputs, outputs);
}

void multiply(const NetworkParams& p, const Parameter& weights, i64 slot, Buffer x, Buffer y,
              const float* start, i64 count, i64 inputs, i64 outputs) {
  // Stored bf16 needs no rounding: it is widened like any, where operands are single floats.
  if (p.bf16 && kBf16Inputs == 2 && p.bf16_bank) {
    multiply_rows<AsBf16<u16>>(weights, slot, x, y, start, count, inputs, outputs);
  } else if (p.bf16_bank) {
    multiply_rows<AsStored<u16>>(weights, slot, x, y, start, count, inputs, outputs);
  } else if (p.bf16) {
    multiply_rows<AsBf16<float>>(weights, slot, x, y, start, count, inputs, outputs);
  } else {
    multiply_rows<AsStored<float>>(weights, slot, x, y, start, count, inputs, outputs);
  }
}

const float* start_of_sums(const NetworkParams& p, const Step& s, i64 slot, Thread& t) {
  const float* bias = vector_of(p, s.bias, slot, s.out_channels, t.vectors);
  if (bias) return bias;
  memset(t.vectors, 0, static_cast<size_t>(s.out_channels) * sizeof(float));
  return t.vectors;
}

void run_dense(const NetworkParams& p, const Step& s, i64 slot, i64 count, Buffer x, Buffer y,
               Thread& t) {
  if (p.bf16) {
    const Buffer operands{t.copies, aligned(s.inputs)};
    for (i64 i = 0; i < count; ++i) {
      round_inputs(x.data + i * x.stride, s.inputs, operands.data + i * operands.stride);
    }
    x = operands;
  }
  multiply(p, s.weights, slot, x, y, start_of_sums(p, s, slot, t), count, s.inputs, s.outputs);
  for (i64 i = 0; i < count; ++i) {
    activate_in_place(y.data + i * y.stride, s.outputs, s.activation, s.slope);
  }
}

// Floats of a sample beside its buffers.
i64 elman_copy(const Step& s) { return aligned(s.inputs + 3 * s.out_channels); }

void run_elman(const NetworkParams& p, const Step& s, i64 slot, i64 count, Buffer x, Buffer y,
               Thread& t) {
  const i64 features = s.inputs / s.length, outputs = s.out_channels;
  const float* bias = start_of_sums(p, s, slot, t);
  // Per sample: the inputs as operands of bf16, the states before and now, and the one before as
  // operands.
  const i64 operands = p.bf16 ? bf16_operands(features) : features;
  const i64 stride = elman_copy(s);
  const auto state = [&](i64 number) {
    return Buffer{t.copies + s.inputs + number * outputs, stride};
  };
  for (i64 sample = 0; sample < count; ++sample) {
    float* copy = t.copies + sample * stride;
    for (i64 step = 0; p.bf16 && step < s.length; ++step) {
      round_inputs(x.data + sample * x.stride + step * features, features, copy + step * operands);
    }
    memset(copy + s.inputs, 0, static_cast<size_t>(3 * outputs) * sizeof(float));
  }
  if (p.bf16) x = Buffer{t.copies, stride};
  for (i64 step = 0; step < s.length; ++step) {
    const Buffer before = state(p.bf16 ? 2 : step % 2), now = state((step + 1) % 2);
    const Buffer input{x.data + step * operands, x.stride};
    multiply(p, s.weights, slot, input, now, bias, count, features, outputs);
    multiply(p, s.recurrent, slot, before, now, nullptr, count, outputs, outputs);
    for (i64 sample = 0; sample < count; ++sample) {
      float* values = now.data + sample * now.stride;
      activate_in_place(values, outputs, s.activation, s.slope);
      if (s.whole_sequence || step + 1 == s.length) {
        float* out = y.data + sample * y.stride + (s.whole_sequence ? step * outputs : 0);
        memcpy(out, values, static_cast<size_t>(outputs) * sizeof(float));
      }
      if (p.bf16) round_inputs(values, outputs, before.data + sample * before.stride);
    }
  }
}

template <bool Max>
void pool_image(const float* x, const Step& s, float* y) {
  const i64 channel_stride = s.channels_first ? positions_in(s) : 1;
  const i64 column_stride = s.channels_first ? 1 : s.channels;
  const i64 row_stride = s.width * column_stride;
  for (i64 i = 0; i < s.out_height; ++i) {
    const Window rows = rows_of(s, i);
    for (i64 j = 0; j < s.out_width; ++j, y += s.channels) {
      const Window columns = columns_of(s, j);
      const float elements = window_elements(s, rows, columns);
      i64 channel = 0;
      if (channel_stride == 1) {
        for (; channel + kLanes <= s.channels; channel += kLanes) {
          store(y + channel, pool_window<Max, Float>(x + channel, row_stride, column_stride, rows,
                                                     columns, elements));
        }
      }
      for (; channel < s.channels; ++channel) {
        y[channel] = pool_window<Max, float>(x + channel * channel_stride, row_stride,
                                             column_stride, rows, columns, elements);
      }
    }
  }
}

void affine_image(const float* x, const Step& s, const float* scale, const float* shift, float* y) {
  for (i64 position = 0; position < positions_in(s); ++position) {
    const i64 at = position * s.channels;
    i64 c = 0;
    for (; c + kLanes <= s.channels; c += kLanes) {
      store(y + at + c, load(x + at + c) * load(scale + c) + load(shift + c));
    }
    for (; c < s.channels; ++c) y[at + c] = x[at + c] * scale[c] + shift[c];
  }
  activate_in_place(y, s.outputs, s.activation, s.slope);
}

// rows x columns to columns x rows.
void transpose(const float* x, i64 rows, i64 columns, float* y) {
  for (i64 i = 0; i < rows; ++i) {
    for (i64 j = 0; j < columns; ++j) y[j * rows + i] = x[i * columns + j];
  }
}

// Every sample by itself.
void run_image(const NetworkParams& p, const Step& s, i64 slot, const float* x, const float* other,
               float* y, Thread& t) {
  switch (s.kind) {
    case StepKind::kMaxPool:
      return pool_image<true>(x, s, y);
    case StepKind::kAvgPool:
    case StepKind::kGlobalAvgPool:
      return pool_image<false>(x, s, y);
    case StepKind::kAffine: {
      const float* scale = vector_of(p, s.scale, slot, s.channels, t.vectors);
      const float* shift =
          vector_of(p, s.shift, slot, s.channels, t.vectors + aligned(s.out_channels));
      return affine_image(x, s, scale, shift, y);
    }
    case StepKind::kAdd:
      for_elements(x, other, y, s.outputs, [](Float a, Float b) { return a + b; });
      return activate_in_place(y, s.outputs, s.activation, s.slope);
    case StepKind::kActivation:
      memmove(y, x, static_cast<size_t>(s.outputs) * sizeof(float));
      return activate_in_place(y, s.outputs, s.activation, s.slope);
    case StepKind::kChannelsFirst:
      return transpose(x, positions_in(s), s.channels, y);
    case StepKind::kChannelsLast:
      return transpose(x, s.channels, positions_in(s), y);
    default:
      return;
  }
}

// `count` samples from number `first` of the group. `panels`: of this convolution, made before if
// they are `ready`.
void run_step(const NetworkParams& p, const Step& s, i64 slot, i64 first, i64 count, Thread& t,
              float* panels, bool ready) {
  const auto from = [&](int number) {
    const Buffer& b = t.buffers[number];
    return Buffer{b.data + first * b.stride, b.stride};
  };
  const Buffer x = from(s.source), y = from(s.target);
  switch (s.kind) {
    case StepKind::kConv:
      return run_conv(p, s, slot, count, x, y, t, panels, ready);
    case StepKind::kDense:
      return run_dense(p, s, slot, count, x, y, t);
    case StepKind::kElman:
      return run_elman(p, s, slot, count, x, y, t);
    default: {
      const Buffer other = s.kind == StepKind::kAdd ? from(s.other) : x;
      for (i64 sample = 0; sample < count; ++sample) {
        run_image(p, s, slot, x.data + sample * x.stride, other.data + sample * other.stride,
                  y.data + sample * y.stride, t);
      }
    }
  }
}

}  // namespace

EVK_NAMESPACE_END
