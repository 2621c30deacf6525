// Launches of the kernels of loss.cuh, for both ways through a network.
#pragma once

#include "cuda/loss_rules.cuh"

EVK_NAMESPACE_BEGIN

int sample_losses(const SampleLossesParams& p, void* stream);
int finish_losses(const FinishLossesParams& p, void* stream);

EVK_NAMESPACE_END
