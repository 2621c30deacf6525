// Dense layers on few samples: the weights are read once, in the order of memory, for all of them.
//
// Vectors run along outputs, as the weights [inputs, outputs] lie, and inputs are broadcast. Every
// output is acc = bias; acc = fma(x_k, w_k, acc) for k ascending, the same bits as dense.h.
#pragma once

#include "cpu/arithmetic.h"

EVK_NAMESPACE_BEGIN

// Weight rows that are multiplied before the next ones' turn. They lie next to each other, so that
// memory is read in its order, and stay in the first cache for all samples.
constexpr i64 kRows = 8;

// Rows are fetched this many turns ahead.
constexpr i64 kTurnsAhead = 4;

template <class T>
struct RowOperands {
  const float* x;    // [samples, operands]
  i64 x_stride;      // between samples
  const T* weights;  // [rows, stride], from the first output of interest
  i64 stride;
  const float* start;  // [outputs]: what sums begin with; null: go on from y
  float* y;
  i64 y_stride;
};

// How weights are multiplied: as they are stored, or as bf16. An operand is made of the weights of
// so many inputs.
template <class T>
struct AsStored : Fp32 {
  using Stored = T;
  static constexpr int inputs = 1;
  EVK_INLINE Float operand(Float first, Float) { return first; }
};

template <class T>
struct AsBf16 : Bf16 {
  using Stored = T;
  static constexpr int inputs = kBf16Inputs;
  EVK_INLINE Float operand(Float first, Float second) { return bf16_operand(first, second); }
};

// Lines of memory in order, some with every strip of outputs.
struct Fetch {
  const char* at;  // null: nothing is left

  EVK_INLINE_MEMBER void bytes(i64 count) {
    if (!at) return;
    for (i64 line = 0; line < count; line += 64) __builtin_prefetch(at + line, 0, 3);
    at += count;
  }
};

template <class W>
EVK_INLINE Float weights_at(const typename W::Stored* w, i64 stride, bool both) {
  const Float zero = Element<Float>::all(0.0f);
  return W::operand(load(w), W::inputs == 2 && both ? load(w + stride) : zero);
}

template <class W>
EVK_INLINE Float weights_part(const typename W::Stored* w, i64 stride, bool both, i64 count) {
  const Float zero = Element<Float>::all(0.0f);
  return W::operand(load_part(w, count),
                    W::inputs == 2 && both ? load_part(w + stride, count) : zero);
}

// P samples, V vectors of outputs, `rows` rows of weights.
template <class W, int P, int V>
EVK_INLINE void rows_block(const RowOperands<typename W::Stored>& d, i64 rows) {
  Float acc[P][V];
#pragma GCC unroll 4
  for (int s = 0; s < P; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      acc[s][v] = load((d.start ? d.start : d.y + s * d.y_stride) + v * kLanes);
    }
  }
  const auto* w = d.weights;
  const float* x = d.x;
  const auto multiply = [&](bool both) __attribute__((always_inline)) {
    Float weights[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) weights[v] = weights_at<W>(w + v * kLanes, d.stride, both);
#pragma GCC unroll 4
    for (int s = 0; s < P; ++s) {
      const Float input = broadcast(x + s * d.x_stride);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[s][v] = W::multiply_add(input, weights[v], acc[s][v]);
    }
    w += W::inputs * d.stride;
    ++x;
  };
  for (i64 k = W::inputs; k <= rows; k += W::inputs) multiply(true);
  if (rows % W::inputs) multiply(false);
#pragma GCC unroll 4
  for (int s = 0; s < P; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(d.y + s * d.y_stride + v * kLanes, acc[s][v]);
  }
}

// The last outputs, fewer than a vector.
template <class W, int P>
EVK_INLINE void rows_tail(const RowOperands<typename W::Stored>& d, i64 rows, i64 count) {
  Float acc[P];
  for (int s = 0; s < P; ++s) {
    acc[s] = load_part(d.start ? d.start : d.y + s * d.y_stride, count);
  }
  for (i64 k = 0; k < rows; k += W::inputs) {
    const Float weights = weights_part<W>(d.weights + k * d.stride, d.stride, k + 1 < rows, count);
    for (int s = 0; s < P; ++s) {
      const Float input = broadcast(d.x + s * d.x_stride + k / W::inputs);
      acc[s] = W::multiply_add(input, weights, acc[s]);
    }
  }
  for (int s = 0; s < P; ++s) store_part(d.y + s * d.y_stride, count, acc[s]);
}

// All outputs of P samples, V vectors at a time, then by halves.
template <class W, int P, int V>
void rows_outputs(RowOperands<typename W::Stored> d, i64 left, i64 rows, Fetch fetch) {
  constexpr i64 width = V * kLanes;
  for (; left >= width; left -= width) {
    fetch.bytes(rows * width * i64{sizeof(typename W::Stored)});
    rows_block<W, P, V>(d, rows);
    d.weights += width;
    d.y += width;
    if (d.start) d.start += width;
  }
  if constexpr (V > 1) {
    rows_outputs<W, P, V / 2>(d, left, rows, fetch);
  } else if (left > 0) {
    rows_tail<W, P>(d, rows, left);
  }
}

// One sample and kRows rows: every sum is loaded, gone on with and stored, since there are more of
// them than registers.
template <class W>
void single_sample(RowOperands<typename W::Stored> d, i64 left, Fetch fetch) {
  using T = typename W::Stored;
  constexpr i64 operands = kRows / W::inputs;
  Float x[operands];
  for (i64 k = 0; k < operands; ++k) x[k] = broadcast(d.x + k);
  for (; left >= kLanes; left -= kLanes) {
    fetch.bytes(kRows * kLanes * i64{sizeof(T)});
    Float acc = load(d.start ? d.start : d.y);
#pragma GCC unroll 8
    for (i64 k = 0; k < operands; ++k) {
      const auto* w = d.weights + k * W::inputs * d.stride;
      acc = W::multiply_add(x[k], weights_at<W>(w, d.stride, true), acc);
    }
    store(d.y, acc);
    d.weights += kLanes;
    d.y += kLanes;
    if (d.start) d.start += kLanes;
  }
  if (left > 0) rows_tail<W, 1>(d, kRows, left);
}

// y [samples, outputs] = x W + start. Few samples take more outputs at a time, so that there are
// always enough sums to overlap.
template <class W>
void dense_rows(const RowOperands<typename W::Stored>& whole, i64 samples, i64 inputs,
                i64 outputs) {
  for (i64 k = 0; k == 0 || k < inputs; k += kRows) {
    const i64 rows = k + kRows < inputs ? kRows : inputs - k;
    const auto* ahead = whole.weights + (k + kTurnsAhead * kRows) * whole.stride;
    Fetch fetch{k + kTurnsAhead * kRows < inputs ? reinterpret_cast<const char*>(ahead) : nullptr};
    RowOperands<typename W::Stored> d = whole;
    d.x += k / W::inputs;
    d.weights += k * whole.stride;
    if (k > 0) d.start = nullptr;
    for (i64 left = samples; left > 0; fetch.at = nullptr) {
      const i64 taken = left < 4 ? left : 4;
      if (taken == 4) {
        rows_outputs<W, 4, 3>(d, outputs, rows, fetch);
      } else if (taken == 3) {
        rows_outputs<W, 3, 4>(d, outputs, rows, fetch);
      } else if (taken == 2) {
        rows_outputs<W, 2, 4>(d, outputs, rows, fetch);
      } else if (rows == kRows) {
        single_sample<W>(d, outputs, fetch);
      } else {
        rows_outputs<W, 1, 8>(d, outputs, rows, fetch);
      }
      d.x += taken * d.x_stride;
      d.y += taken * d.y_stride;
      left -= taken;
    }
  }
}

EVK_NAMESPACE_END
