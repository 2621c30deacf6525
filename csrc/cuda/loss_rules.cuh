// The losses of samples, and what the kernels of loss.cuh take.
#pragma once

#include "core/activation.h"
#include "core/pool.h"
#include "cuda/elementwise.cuh"

EVK_NAMESPACE_BEGIN

// The loss of one sample, whose logits are z [classes] `stride` apart. NaN where `label` is none of
// them: on a device nobody has looked at labels before.
EVK_DEVICE float cross_entropy(const float* z, int stride, int classes, i64 label, bool* right) {
  float most = z[0];
  int prediction = 0;
  for (int c = 1; c < classes; ++c) {
    const float logit = z[c * stride];
    if (logit > most) prediction = c;
    most = larger(most, logit);
  }
  float sum = 0.0f;
  for (int c = 0; c < classes; ++c) sum = sum + exp<float>(z[c * stride] - most);
  *right = most == most && prediction == label;
  const bool known = label >= 0 && label < classes;
  const float wanted = known ? z[label * stride] : quiet_nan<float>();
  return (log<float>(sum) + most) - wanted;
}

EVK_DEVICE float squared_error(const float* z, int stride, int outputs, const float* target) {
  float sum = 0.0f;
  for (int o = 0; o < outputs; ++o) {
    const float error = z[o * stride] - target[o];
    sum = sum + error * error;
  }
  return sum / static_cast<float>(outputs);
}

struct SampleLossesParams {
  Values<const float> z;  // [slots, samples, outputs]
  i64 slots, samples;
  i32 outputs;
  Loss loss;
  const int64_t* labels;
  const float* targets;
  i64 label_slot_stride, target_sample_stride;
  const i32* classes;  // [slots] or null
  float* losses;       // [slots, samples]
  i32* right;          // [slots, samples]
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

EVK_NAMESPACE_END
