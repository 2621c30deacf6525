// Launches of the losses.
#include "cuda/launch.h"
#include "cuda/loss.cuh"
#include "cuda/loss.h"

EVK_NAMESPACE_BEGIN

int sample_losses(const SampleLossesParams& p, void* stream) {
  const i64 blocks = (p.slots * p.samples + kLossThreads - 1) / kLossThreads;
  return launch(sample_losses_kernel, grid_of(blocks), kLossThreads, 0, stream, p);
}

int finish_losses(const NetworkParams& p, i64 first, i64 slots, const float* losses,
                  const i32* right, void* stream) {
  FinishLossesParams f{};
  f.losses = losses;
  f.right = right;
  f.slots = slots;
  f.samples = p.samples;
  f.sample_weights = p.sample_weights ? p.sample_weights + first * p.weight_slot_stride : nullptr;
  f.weight_slot_stride = p.weight_slot_stride;
  f.out_loss = p.out_loss + first;
  f.out_correct = p.out_correct + first;
  constexpr i64 slots_of_block = kLossThreads / kWarp;
  const i64 blocks = ceil_div(slots, slots_of_block);
  return launch(finish_losses_kernel, grid_of(blocks), kLossThreads, 0, stream, f);
}

EVK_NAMESPACE_END
