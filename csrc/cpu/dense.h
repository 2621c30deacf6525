// Dense layers on a tile of samples: the matrix product that everything else is fast because of.
//
// A tile holds kTile samples feature by feature: row f is feature f of all of them. So vectors run
// along samples, weights are broadcast, any width fits without masks, and every output is
// acc = bias; acc = fma(x_k, w_k, acc) for k ascending, the same bits as one sample at a time.
#pragma once

#include "core/bf16.h"
#include "cpu/simd.h"

EVK_NAMESPACE_BEGIN

constexpr int kBlockSamples = 32;  // losses are summed in blocks of these (design section 5)
constexpr int kColumns = 4;        // vectors of samples a micro-kernel holds
constexpr int kTile = kColumns * kLanes > kBlockSamples ? kColumns * kLanes : kBlockSamples;

// Accumulators are kUnits x kColumns registers; the rest holds inputs and one weight.
constexpr int kUnits = kLanes == 16 ? 6 : 3;

// Inputs of a tile that are multiplied before the next units' turn: they stay in the first cache.
constexpr i64 kDepth = 128;

// Weight rows ahead that are fetched: rows are far apart, the processor does not foresee them.
constexpr i64 kPrefetchRows = 4;

// One multiply-add of the product. Fp32 takes one input per step.
struct Fp32 {
  using Scalar = float;
  EVK_INLINE Float multiply_add(const float* x, const float* w, Float acc) {
    return fma(load(x), broadcast(w), acc);
  }
};

#if EVK_HAS_BF16
// Two inputs per step: pairs of bf16 in 32 bits, products summed in fp32.
struct Bf16Pairs {
  using Scalar = u32;
  EVK_INLINE Float multiply_add(const u32* x, const u32* w, Float acc) {
    const __m512i inputs = _mm512_loadu_si512(x);
    const __m512i weights = _mm512_set1_epi32((i32)*w);
    return (Float)_mm512_dpbf16_ps((__m512)acc, (__m512bh)inputs, (__m512bh)weights);
  }
};
#endif

template <class Scalar>
struct DenseOperands {
  const Scalar* x;        // [depth, kTile]
  const Scalar* weights;  // [depth, stride], from the first unit of interest
  i64 weights_stride;
  const float* bias;
  float* y;  // [units, kTile]
};

// U units of C vectors of samples, over `depth` inputs. The first chunk of inputs starts from the
// bias, later ones from what the one before left in y; the last one may end with relu.
template <class A, int U, int C>
EVK_INLINE void dense_block(const DenseOperands<typename A::Scalar>& d, i64 depth, bool first,
                            bool relu) {
  Float acc[U][C];
  for (int u = 0; u < U; ++u) {
    for (int c = 0; c < C; ++c) {
      acc[u][c] = first ? broadcast(d.bias + u) : load(d.y + u * kTile + c * kLanes);
    }
  }
  const typename A::Scalar* x = d.x;
  const typename A::Scalar* w = d.weights;
  for (i64 k = 0; k < depth; ++k) {
    __builtin_prefetch(w + kPrefetchRows * d.weights_stride);
#pragma GCC unroll 6
    for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) acc[u][c] = A::multiply_add(x + c * kLanes, w + u, acc[u][c]);
    }
    x += kTile;
    w += d.weights_stride;
  }
  const Float zero = Element<Float>::all(0.0f);
  for (int u = 0; u < U; ++u) {
    for (int c = 0; c < C; ++c) {
      const Float v = acc[u][c];
      store(d.y + u * kTile + c * kLanes, relu ? Element<Float>::select(v < zero, zero, v) : v);
    }
  }
}

// The last `units` < U of a layer.
template <class A, int U, int C>
EVK_INLINE void dense_rest(const DenseOperands<typename A::Scalar>& d, i64 units, i64 depth,
                           bool first, bool relu) {
  if constexpr (U > 1) {
    if (units == U - 1) {
      dense_block<A, U - 1, C>(d, depth, first, relu);
    } else {
      dense_rest<A, U - 1, C>(d, units, depth, first, relu);
    }
  }
}

template <class A, int C>
void dense_columns(const DenseOperands<typename A::Scalar>& whole, i64 depth, i64 units,
                   bool relu) {
  const i64 chunks = depth > 0 ? (depth + kDepth - 1) / kDepth : 1;
  const i64 chunk = (depth + chunks - 1) / chunks;
  for (i64 k = 0; k == 0 || k < depth; k += chunk) {
    const i64 count = k + chunk < depth ? chunk : depth - k;
    const bool first = k == 0;
    const bool ends_with_relu = relu && k + count == depth;
    DenseOperands<typename A::Scalar> d = whole;
    d.x += k * kTile;
    d.weights += k * d.weights_stride;
    i64 unit = 0;
    for (; unit + kUnits <= units; unit += kUnits) {
      dense_block<A, kUnits, C>(d, count, first, ends_with_relu);
      d.weights += kUnits;
      d.bias += kUnits;
      d.y += kUnits * kTile;
    }
    dense_rest<A, kUnits, C>(d, units - unit, count, first, ends_with_relu);
  }
}

// y [units, kTile] = x W + b for the first `samples` of a tile; those past them are undefined.
template <class A>
void dense_tile(DenseOperands<typename A::Scalar> d, i64 depth, i64 units, i64 samples,
                bool relu) {
  for (i64 done = 0; done < samples; done += kColumns * kLanes) {
    switch ((samples - done + kLanes - 1) / kLanes) {
      case 1: dense_columns<A, 1>(d, depth, units, relu); break;
      case 2: dense_columns<A, 2>(d, depth, units, relu); break;
      case 3: dense_columns<A, 3>(d, depth, units, relu); break;
      default: dense_columns<A, 4>(d, depth, units, relu); break;
    }
    d.x += kColumns * kLanes;
    d.y += kColumns * kLanes;
  }
}

EVK_NAMESPACE_END
