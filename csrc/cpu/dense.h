// Dense layers on a tile of samples: the matrix product that everything else is fast because of.
//
// A tile holds kTile samples feature by feature: row f is feature f of all of them. So vectors run
// along samples, weights are broadcast, any width fits without masks, and every output is
// acc = bias; acc = fma(x_k, w_k, acc) for k ascending, the same bits as one sample at a time.
// A is the arithmetic; with bf16, depths count operands (arithmetic.h).
#pragma once

#include "cpu/arithmetic.h"

EVK_NAMESPACE_BEGIN

constexpr int kBlockSamples = 32;  // losses are summed in blocks of these (docs/bits.md)
constexpr int kColumns = 4;        // vectors of samples a micro-kernel holds
constexpr int kTile = kColumns * kLanes > kBlockSamples ? kColumns * kLanes : kBlockSamples;

// Registers for accumulators, units x columns of them; the rest holds inputs and one weight. Few
// columns (small batches) take more units, so that there are always enough chains to overlap.
constexpr int kAccumulators = kLanes == 16 ? 24 : 12;

// Inputs of a tile that are multiplied before the next units' turn: they stay in the first cache.
constexpr i64 kDepth = 128;

// Weight rows ahead that are fetched: rows are far apart, the processor does not foresee them.
constexpr i64 kPrefetchRows = 2;

// Weights that are needed soon, fetched into the second cache line by line while others are
// multiplied: every individual brings weights of its own, used for one batch only.
struct Lookahead {
  struct Range {
    const char* begin;
    const char* end;
  };

  // Fetches `first`, then `second`; either may be empty.
  Lookahead(Range first, Range second) : at_(first.begin), end_(first.end), second_(second) {
    moved_to(at_);
  }

  const char* at() const { return at_; }
  i64 step() const { return step_; }
  void moved_to(const char* at) {
    at_ = at;
    if (at_ < end_) return;
    at_ = second_.begin;
    end_ = second_.end;
    step_ = at_ < end_ ? 64 : 0;
    second_ = Range{at_, at_};
  }

 private:
  const char* at_;
  const char* end_;
  Range second_;
  i64 step_ = 64;
};

struct DenseOperands {
  const float* x;        // [depth, kTile]
  const float* weights;  // [depth, stride], from the first unit of interest
  i64 weights_stride;
  const float* bias;
  float* y;  // [units, kTile]
};

// U units of C vectors of samples, over `depth` inputs. The first chunk of inputs starts from the
// bias, later ones from what the one before left in y; the last one may end with relu.
template <class A, int U, int C>
EVK_INLINE void dense_block(const DenseOperands& d, i64 depth, bool first, bool relu,
                            Lookahead& lookahead) {
  Float acc[U][C];
  for (int u = 0; u < U; ++u) {
    for (int c = 0; c < C; ++c) {
      acc[u][c] = first ? broadcast(d.bias + u) : load(d.y + u * kTile + c * kLanes);
    }
  }
  const float* x = d.x;
  const float* w = d.weights;
  const char* ahead = lookahead.at();
  const i64 ahead_step = lookahead.step();
  for (i64 k = 0; k < depth; ++k) {
    __builtin_prefetch(w + kPrefetchRows * d.weights_stride);
    __builtin_prefetch(ahead, 0, 2);
    ahead += ahead_step;
#pragma GCC unroll 24
    for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        acc[u][c] = A::multiply_add(load(x + c * kLanes), broadcast(w + u), acc[u][c]);
      }
    }
    x += kTile;
    w += d.weights_stride;
  }
  lookahead.moved_to(ahead);
  const Float zero = Element<Float>::all(0.0f);
  for (int u = 0; u < U; ++u) {
    for (int c = 0; c < C; ++c) {
      const Float v = acc[u][c];
      store(d.y + u * kTile + c * kLanes, relu ? Element<Float>::select(v < zero, zero, v) : v);
    }
  }
}

// All `units` of a layer, U at a time, then what is left by halves.
template <class A, int U, int C>
void dense_units(DenseOperands d, i64 units, i64 depth, bool first, bool relu,
                 Lookahead& lookahead) {
  for (; units >= U; units -= U) {
    dense_block<A, U, C>(d, depth, first, relu, lookahead);
    d.weights += U;
    d.bias += U;
    d.y += U * kTile;
  }
  if constexpr (U > 1) dense_units<A, U / 2, C>(d, units, depth, first, relu, lookahead);
}

template <class A, int C>
void dense_columns(const DenseOperands& whole, i64 depth, i64 units, bool relu,
                   Lookahead& lookahead) {
  const i64 chunks = depth > 0 ? ceil_div(depth, kDepth) : 1;  // no inputs: y = b
  const i64 chunk = ceil_div(depth, chunks);
  for (i64 k = 0, left = chunks; left > 0; k += chunk, --left) {
    const i64 count = k + chunk < depth ? chunk : depth - k;
    DenseOperands d = whole;
    d.x += k * kTile;
    d.weights += k * d.weights_stride;
    dense_units<A, kAccumulators / C, C>(d, units, count, k == 0, relu && k + count == depth,
                                         lookahead);
  }
}

// y [units, kTile] = x W + b for the first `samples` of a tile; those past them are undefined.
template <class A>
void dense_tile(DenseOperands d, i64 depth, i64 units, i64 samples, bool relu,
                Lookahead& lookahead) {
  for (i64 done = 0; done < samples; done += kColumns * kLanes) {
    switch (ceil_div(samples - done, kLanes)) {
      case 1:
        dense_columns<A, 1>(d, depth, units, relu, lookahead);
        break;
      case 2:
        dense_columns<A, 2>(d, depth, units, relu, lookahead);
        break;
      case 3:
        dense_columns<A, 3>(d, depth, units, relu, lookahead);
        break;
      default:
        dense_columns<A, 4>(d, depth, units, relu, lookahead);
        break;
    }
    d.x += kColumns * kLanes;
    d.y += kColumns * kLanes;
  }
}

EVK_NAMESPACE_END
