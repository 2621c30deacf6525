// The grids of the kernels that make genes (genes.cuh).
#pragma once

#include "cuda/genes.cuh"

EVK_NAMESPACE_BEGIN

struct Geometry {
  dim3 grid, block;
};

// `blocks` along y, what it has no room for along z.
static inline dim3 grid_of_rows(i64 x, i64 blocks) {
  constexpr i64 most = 65535;
  const i64 z = ceil_div(blocks, most), y = ceil_div(blocks, z);
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

// A thread for every four genes of every genome. Short genomes share blocks.
static inline Geometry geometry_of(i64 genes, i64 genomes) {
  const i64 threads = ceil_div(genes, 4);
  unsigned x = kThreads;
  while (x > 1 && x / 2 >= threads) x /= 2;
  const unsigned y = kThreads / x;
  return Geometry{grid_of_rows(ceil_div(threads, x), ceil_div(genomes, y)), dim3(x, y)};
}

EVK_NAMESPACE_END
