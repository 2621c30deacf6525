// Launches of the losses.
#include "cuda/launch.h"
#include "cuda/loss.cuh"
#include "cuda/loss.h"

EVK_NAMESPACE_BEGIN

int sample_losses(const SampleLossesParams& p, void* stream) {
  const i64 blocks = (p.slots * p.samples + kLossThreads - 1) / kLossThreads;
  return launch(sample_losses_kernel, grid_of(blocks), kLossThreads, 0, stream, p);
}

int finish_losses(const FinishLossesParams& p, void* stream) {
  constexpr i64 slots_of_block = kLossThreads / kWarp;
  const i64 blocks = (p.slots + slots_of_block - 1) / slots_of_block;
  return launch(finish_losses_kernel, grid_of(blocks), kLossThreads, 0, stream, p);
}

EVK_NAMESPACE_END
