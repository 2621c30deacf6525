// Convolutions on a tile of samples: dense.h's product, whose inputs lie at `offsets` from where a
// position begins. Vectors run along samples, so that few channels cost nothing.
#pragma once

#include "cpu/dense.h"

EVK_NAMESPACE_BEGIN

// Weight rows that are multiplied at all positions before the next ones' turn.
constexpr i64 kConvTileDepth = 128;

struct ConvTile {
  const float* x;        // rows of the (padded) image [C, H, W], kTile samples each
  const float* weights;  // [depth, channels]
  const float* bias;     // [channels]
  float* y;              // [channels, positions, kTile]
  const i32* offsets;    // [depth], in rows
  const i32* places;     // [positions], in rows
  i64 depth, channels, positions;
  bool relu;
};

// Rows [first, first + depth) of U channels at one position, C vectors of samples.
template <class A, int U, int C>
EVK_INLINE void conv_tile_block(const ConvTile& c, const float* x, i64 channel, float* y, i64 first,
                                i64 depth) {
  const i64 unit = c.positions * kTile;
  Float acc[U][C];
#pragma GCC unroll 24
  for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
    for (int v = 0; v < C; ++v) {
      acc[u][v] = first == 0 ? broadcast(c.bias + channel + u) : load(y + u * unit + v * kLanes);
    }
  }
  const float* w = c.weights + first * c.channels + channel;
  const i32* offsets = c.offsets + first;
  for (i64 k = 0; k < depth; ++k) {
    const float* row = x + i64{offsets[k]} * kTile;
#pragma GCC unroll 24
    for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
      for (int v = 0; v < C; ++v) {
        acc[u][v] = A::multiply_add(load(row + v * kLanes), broadcast(w + u), acc[u][v]);
      }
    }
    w += c.channels;
  }
  const bool relu = c.relu && first + depth == c.depth;
  const Float zero = Element<Float>::all(0.0f);
#pragma GCC unroll 24
  for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
    for (int v = 0; v < C; ++v) {
      const Float value = acc[u][v];
      store(y + u * unit + v * kLanes,
            relu ? Element<Float>::select(value < zero, zero, value) : value);
    }
  }
}

// All channels from `channel`, U at a time, then what is left by halves.
template <class A, int U, int C>
void conv_tile_channels(const ConvTile& c, const float* x, i64 channel, float* y, i64 first,
                        i64 depth) {
  for (; channel + U <= c.channels; channel += U) {
    conv_tile_block<A, U, C>(c, x, channel, y, first, depth);
    y += U * c.positions * kTile;
  }
  if constexpr (U > 1) conv_tile_channels<A, U / 2, C>(c, x, channel, y, first, depth);
}

template <class A, int C>
void conv_tile_columns(const ConvTile& c) {
  const i64 chunks = ceil_div(c.depth, kConvTileDepth);
  const i64 chunk = ceil_div(c.depth, chunks);
  for (i64 first = 0; first < c.depth; first += chunk) {
    const i64 depth = first + chunk < c.depth ? chunk : c.depth - first;
    for (i64 position = 0; position < c.positions; ++position) {
      const float* x = c.x + i64{c.places[position]} * kTile;
      conv_tile_channels<A, kAccumulators / C, C>(c, x, 0, c.y + position * kTile, first, depth);
    }
  }
}

// The first `samples` of a tile; those past them are undefined.
template <class A>
void conv_tile(ConvTile c, i64 samples) {
  for (i64 done = 0; done < samples; done += kColumns * kLanes) {
    switch (ceil_div(samples - done, kLanes)) {
      case 1:
        conv_tile_columns<A, 1>(c);
        break;
      case 2:
        conv_tile_columns<A, 2>(c);
        break;
      case 3:
        conv_tile_columns<A, 3>(c);
        break;
      default:
        conv_tile_columns<A, 4>(c);
        break;
    }
    c.x += kColumns * kLanes;
    c.y += kColumns * kLanes;
  }
}

EVK_NAMESPACE_END
