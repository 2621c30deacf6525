// Dense layers on few samples: the weights are read once, in the order of memory, for all of them.
//
// Vectors run along outputs, as the weights [inputs, outputs] lie, and inputs are broadcast. Every
// output is acc = bias; acc = fma(x_k, w_k, acc) for k ascending, the same bits as dense.h.
#pragma once

#include "core/bf16.h"
#include "cpu/simd.h"

EVK_NAMESPACE_BEGIN

// Weight rows that are multiplied before the next ones' turn: long enough for what loading and
// storing sums costs, and about as far ahead as memory is away. More than kHeld samples read them
// again, from a copy: the rows of a strip lie a power of two apart, on the same lines of the cache.
constexpr i64 kRowChunk = 32;
constexpr i64 kCopiedChunk = 64;
constexpr i64 kHeld = 4;

template <class T>
struct RowOperands {
  const float* x;
  i64 x_stride;      // between samples
  const T* weights;  // [depth, stride], from the first output of interest
  i64 stride;
  const float* start;  // [outputs]: what sums begin with; null: go on from y
  float* y;
  i64 y_stride;
};

// How weights come: as they are stored, or rounded to bf16 on the way.
template <class T>
struct AsStored {
  using Stored = T;
  EVK_INLINE Float use(Float w) { return w; }
};

struct RoundedToBf16 {
  using Stored = float;
  EVK_INLINE Float use(Float w) { return round_to_bf16(w); }
};

// V vectors of the weight row that is `rows` further on.
template <int V, class T>
EVK_INLINE void prefetch_row(const T* w, i64 rows, i64 stride) {
  const char* ahead = reinterpret_cast<const char*>(w + rows * stride);
  for (i64 at = 0; at < V * kLanes * i64{sizeof(T)}; at += 64) {
    __builtin_prefetch(ahead + at, 0, 2);
  }
}

// P samples, V vectors of outputs, `depth` rows of weights.
template <class W, int P, int V>
EVK_INLINE void rows_block(const RowOperands<typename W::Stored>& d, i64 depth, bool prefetch) {
  Float acc[P][V];
#pragma GCC unroll 4
  for (int s = 0; s < P; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      acc[s][v] = load((d.start ? d.start : d.y + s * d.y_stride) + v * kLanes);
    }
  }
  const auto* w = d.weights;
  for (i64 k = 0; k < depth; ++k) {
    if (prefetch) prefetch_row<V>(w, kRowChunk, d.stride);
    Float weights[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) weights[v] = W::use(load(w + v * kLanes));
#pragma GCC unroll 4
    for (int s = 0; s < P; ++s) {
      const Float input = broadcast(d.x + s * d.x_stride + k);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[s][v] = fma(input, weights[v], acc[s][v]);
    }
    w += d.stride;
  }
#pragma GCC unroll 4
  for (int s = 0; s < P; ++s) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(d.y + s * d.y_stride + v * kLanes, acc[s][v]);
  }
}

template <class W, int V>
void rows_samples(RowOperands<typename W::Stored> d, i64 samples, i64 depth, bool prefetch) {
  for (; samples >= kHeld; samples -= kHeld, prefetch = false) {
    rows_block<W, kHeld, V>(d, depth, prefetch);
    d.x += kHeld * d.x_stride;
    d.y += kHeld * d.y_stride;
  }
  if (samples == 3) rows_block<W, 3, V>(d, depth, prefetch);
  if (samples == 2) rows_block<W, 2, V>(d, depth, prefetch);
  if (samples == 1) rows_block<W, 1, V>(d, depth, prefetch);
}

// V vectors of outputs of all samples.
template <class W, int V>
void rows_strip(const RowOperands<typename W::Stored>& d, i64 samples, i64 depth, bool prefetch) {
  if (samples <= kHeld) return rows_samples<W, V>(d, samples, depth, prefetch);
  constexpr i64 width = V * kLanes;
  float copy[kCopiedChunk * width];
  const auto* w = d.weights;
  for (i64 k = 0; k < depth; ++k, w += d.stride) {
    if (prefetch) prefetch_row<V>(w, kCopiedChunk, d.stride);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(copy + k * width + v * kLanes, W::use(load(w + v * kLanes)));
  }
  const RowOperands<float> copied{d.x, d.x_stride, copy, width, d.start, d.y, d.y_stride};
  rows_samples<AsStored<float>, V>(copied, samples, depth, false);
}

// The last outputs, fewer than a vector.
template <class W>
void rows_tail(const RowOperands<typename W::Stored>& d, i64 samples, i64 depth, i64 count) {
  float copy[kCopiedChunk * kLanes];
  for (i64 k = 0; k < depth; ++k) {
    store(copy + k * kLanes, W::use(load_part(d.weights + k * d.stride, count)));
  }
  for (i64 s = 0; s < samples; ++s) {
    float* y = d.y + s * d.y_stride;
    Float acc = load_part(d.start ? d.start : y, count);
    for (i64 k = 0; k < depth; ++k) {
      acc = fma(broadcast(d.x + s * d.x_stride + k), load(copy + k * kLanes), acc);
    }
    store_part(y, count, acc);
  }
}

// All outputs, V vectors at a time, then by halves.
template <class W, int V>
void rows_outputs(RowOperands<typename W::Stored> d, i64 left, i64 samples, i64 depth,
                  bool prefetch) {
  constexpr i64 width = V * kLanes;
  for (; left >= width; left -= width) {
    rows_strip<W, V>(d, samples, depth, prefetch);
    d.weights += width;
    d.y += width;
    if (d.start) d.start += width;
  }
  if constexpr (V > 1) {
    rows_outputs<W, V / 2>(d, left, samples, depth, prefetch);
  } else if (left > 0) {
    rows_tail<W>(d, samples, depth, left);
  }
}

// y [samples, outputs] = x W + start.
template <class W>
void dense_rows(const RowOperands<typename W::Stored>& whole, i64 samples, i64 inputs,
                i64 outputs) {
  const i64 chunk = samples > kHeld ? kCopiedChunk : kRowChunk;
  for (i64 k = 0; k == 0 || k < inputs; k += chunk) {
    const i64 depth = k + chunk < inputs ? chunk : inputs - k;
    const bool prefetch = k + chunk < inputs;
    RowOperands<typename W::Stored> d = whole;
    d.x += k;
    d.weights += k * whole.stride;
    if (k > 0) d.start = nullptr;
    // Few samples take more outputs, so that there are always enough sums to overlap.
    if (samples == 1) {
      rows_outputs<W, 8>(d, outputs, samples, depth, prefetch);
    } else if (samples < kHeld) {
      rows_outputs<W, 4>(d, outputs, samples, depth, prefetch);
    } else {
      rows_outputs<W, 3>(d, outputs, samples, depth, prefetch);
    }
  }
}

EVK_NAMESPACE_END
