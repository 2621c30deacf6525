// The loss of one sample, for the kernels of loss.cuh and network.cuh.
#pragma once

#include "core/loss.h"
#include "cuda/elementwise.cuh"

EVK_NAMESPACE_BEGIN

// What outputs are compared with.
struct LossTargets {
  Loss loss;
  const int64_t* labels;
  const float* targets;
  i64 label_slot_stride, target_sample_stride;
  const i32* classes;  // [slots] or null
};

// Outputs of one sample, `stride` apart.
struct SampleOutputs {
  const float* first;
  int stride;

  EVK_INLINE_MEMBER float operator()(int number) const { return first[number * stride]; }
};

// NaN where `label` is none of the classes: on a device nobody has looked at labels before.
EVK_DEVICE float cross_entropy(const SampleOutputs& z, int classes, i64 label, bool* right) {
  const LogSumExp<float> e = log_sum_exp<float>(classes, z);
  const bool known = label >= 0 && label < classes;
  *right = known && static_cast<int>(e.prediction) == label;
  return e.value - (known ? z(static_cast<int>(label)) : quiet_nan<float>());
}

EVK_DEVICE float sample_loss(const LossTargets& t, i64 slot, i64 sample, const SampleOutputs& z,
                             int outputs, bool* right) {
  const int classes = t.classes ? t.classes[slot] : outputs;
  if (t.loss == Loss::kCrossEntropy) {
    return cross_entropy(z, classes, t.labels[slot * t.label_slot_stride + sample], right);
  }
  *right = false;
  return squared_error(classes, z,
                       t.targets + slot * t.label_slot_stride + sample * t.target_sample_stride);
}

EVK_NAMESPACE_END
