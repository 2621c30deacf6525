// The launch of the fused kernel, for what layers.cu leaves to it.
#pragma once

#include "cuda/elementwise.cuh"

EVK_NAMESPACE_BEGIN

// Steps from `step` on, all dense, for `slots` slots from `first`. They read x, or bytes where x
// has no data. With losses, [slots, samples] of them and as many flags behind, instead of outputs.
struct FusedRun {
  i64 step, first, slots;
  Values<const float> x;
  Values<const u8> bytes;
  float* losses;
};

int run_fused(const NetworkParams& p, const FusedRun& run, void* stream);

EVK_NAMESPACE_END
