// What laplace_mutate's kernels take. Strides are in elements; Python has checked everything.
#pragma once

#include <stdint.h>

struct LaplaceParams {
  const float* genomes;  // [slots, genes]
  int64_t genomes_stride;
  const float* sigma;  // [slots]
  float* out;          // [slots, genes], may be `genomes` itself
  int64_t out_stride;
  int64_t slots, genes;
  uint64_t seed;
  uint32_t generation, first;
};

// On the device, which the pointers are of. The stream is a cudaStream_t; returns CUDA's words for
// what is wrong with the launch, or null.
const char* laplace_mutate_cuda(const LaplaceParams& p, void* stream);
