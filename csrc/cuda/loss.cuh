// From outputs to losses: of every sample, then their mean in the order of docs/bits.md.
#pragma once

#include "cuda/loss_rules.cuh"

EVK_NAMESPACE_BEGIN

constexpr int kLossThreads = 128;

// A thread has a sample.
EVK_KERNEL(kLossThreads) sample_losses_kernel(const __grid_constant__ SampleLossesParams p) {
  const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.slots * p.samples) return;
  const i64 slot = i / p.samples, sample = i % p.samples;
  const float* z = p.z.of(slot, sample);
  const i32 classes = p.classes ? p.classes[slot] : p.outputs;
  bool right = false;
  if (p.loss == Loss::kCrossEntropy) {
    const i64 label = p.labels[slot * p.label_slot_stride + sample];
    p.losses[i] = cross_entropy(z, 1, classes, label, &right);
  } else {
    const float* target = p.targets + slot * p.label_slot_stride + sample * p.target_sample_stride;
    p.losses[i] = squared_error(z, 1, classes, target);
  }
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
