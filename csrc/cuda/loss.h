// Launches of the kernels of loss.cuh, for both ways through a network: for `slots` slots from
// `first`, whose samples have a loss and a flag each, [slots, samples].
#pragma once

#include "cuda/loss_rules.cuh"

EVK_NAMESPACE_BEGIN

// Those of slots from `first` on.
LossTargets loss_targets(const NetworkParams& p, i64 first);

int sample_losses(const NetworkParams& p, i64 first, i64 slots, const Values<const float>& z,
                  float* losses, i32* right, void* stream);
// What the samples' losses come to.
int finish_losses(const NetworkParams& p, i64 first, i64 slots, const float* losses,
                  const i32* right, void* stream);

EVK_NAMESPACE_END
