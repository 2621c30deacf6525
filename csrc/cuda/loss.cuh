// From outputs to losses: of every sample, then their mean in the order of docs/bits.md.
#pragma once

#include "cuda/loss_rules.cuh"

EVK_NAMESPACE_BEGIN

constexpr int kLossThreads = 128;

struct SampleLossesParams {
  Values<const float> z;  // [slots, samples, outputs]
  i64 slots, samples;
  i32 outputs;
  LossTargets wanted;
  float* losses;  // [slots, samples]
  i32* right;     // [slots, samples]
};

struct FinishLossesParams {
  const float* losses;  // [slots, samples]
  const i32* right;     // [slots, samples]: 1 or 0
  i64 slots, samples;
  const float* sample_weights;  // [slots, samples], [samples] with weight_slot_stride 0, or null
  i64 weight_slot_stride;
  float* out_loss;  // [slots]
  i32* out_correct;
};

// A thread has a sample.
EVK_KERNEL(kLossThreads) sample_losses_kernel(const __grid_constant__ SampleLossesParams p) {
  const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.slots * p.samples) return;
  const i64 slot = i / p.samples, sample = i % p.samples;
  const SampleOutputs z{p.z.of(slot, sample), 1};
  bool right = false;
  p.losses[i] = sample_loss(p.wanted, slot, sample, z, p.outputs, &right);
  p.right[i] = right;
}

// A warp has a slot: weighted losses in blocks of 32 samples (missing ones +0) by halves, their
// sums in order.
EVK_KERNEL(kLossThreads) finish_losses_kernel(const __grid_constant__ FinishLossesParams p) {
  const i64 slot = static_cast<i64>(blockIdx.x) * (kLossThreads / kWarp) + threadIdx.x / kWarp;
  if (slot >= p.slots) return;
  const int lane = threadIdx.x % kWarp;
  float sum = 0.0f;
  i32 correct = 0;
  for (i64 first = 0; first < p.samples; first += kWarp) {
    float loss = 0.0f;
    if (first + lane < p.samples) {
      loss = p.losses[slot * p.samples + first + lane];
      if (p.sample_weights) {
        loss = loss * p.sample_weights[slot * p.weight_slot_stride + first + lane];
      }
      correct += p.right[slot * p.samples + first + lane];
    }
    EVK_UNROLL(5)
    for (int half = kWarp / 2; half > 0; half /= 2) {
      // Lanes from `half` on add what nobody reads.
      loss = loss + __shfl_down_sync(kWholeWarp, loss, half);
    }
    sum = sum + loss;
  }
  for (int half = kWarp / 2; half > 0; half /= 2) {
    correct += __shfl_down_sync(kWholeWarp, correct, half);
  }
  if (lane != 0) return;
  p.out_loss[slot] = sum / static_cast<float>(p.samples);
  p.out_correct[slot] = correct;
}

EVK_NAMESPACE_END
