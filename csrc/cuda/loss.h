// Launches of the kernels of loss.cuh, for both ways through a network.
#pragma once

#include "cuda/loss_rules.cuh"

EVK_NAMESPACE_BEGIN

int sample_losses(const SampleLossesParams& p, void* stream);
// Of `slots` slots from `first`: what the samples' losses [slots, samples] come to.
int finish_losses(const NetworkParams& p, i64 first, i64 slots, const float* losses,
                  const i32* right, void* stream);

EVK_NAMESPACE_END
