// Launches of the losses.
#include "cuda/launch.h"
#include "cuda/loss.cuh"
#include "cuda/loss.h"

EVK_NAMESPACE_BEGIN

LossTargets loss_targets(const NetworkParams& p, i64 first) {
  LossTargets t{};
  t.loss = p.loss;
  t.labels = p.labels ? p.labels + first * p.label_slot_stride : nullptr;
  t.targets = p.targets ? p.targets + first * p.label_slot_stride : nullptr;
  t.label_slot_stride = p.label_slot_stride;
  t.target_sample_stride = p.target_sample_stride;
  t.classes = p.classes ? p.classes + first : nullptr;
  return t;
}

int sample_losses(const NetworkParams& p, i64 first, i64 slots, const Values<const float>& z,
                  float* losses, i32* right, void* stream) {
  SampleLossesParams s{};
  s.z = z;
  s.slots = slots;
  s.samples = p.samples;
  s.outputs = static_cast<i32>(p.outputs);
  s.wanted = loss_targets(p, first);
  s.losses = losses;
  s.right = right;
  const i64 blocks = ceil_div(slots * p.samples, kLossThreads);
  return launch(sample_losses_kernel, grid_of(blocks), kLossThreads, 0, stream, s);
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
