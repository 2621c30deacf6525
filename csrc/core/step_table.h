// The table of steps that evokern/backends/steps.py makes of a network, row by row, and
// the window of a pool: for the bindings of every back end.
#pragma once

#include "core/params.h"

namespace evk {

// Fields of a row. Parameters are a bank (-1: none) and an offset into its rows.
enum StepField {
  kKind,
  kActivation,
  kInputs,
  kOutputs,
  kSource,
  kOther,
  kTarget,
  kWeights,
  kBias = kWeights + 2,
  kRecurrent = kBias + 2,
  kScale = kRecurrent + 2,
  kShift = kScale + 2,
  kLength = kShift + 2,
  kWholeSequence,
  kChannels,
  kHeight,
  kWidth,
  kChannelsFirst,
  kKernelHeight,
  kKernelWidth,
  kStrideHeight,
  kStrideWidth,
  kPadHeight,
  kPadWidth,
  kOutChannels,
  kOutHeight,
  kOutWidth,
  kCountIncludePad,
  kOffsets,
  kPlaces,
  kStepFields
};

// The step of row f, without its tables of places. parameter(bank and offset) finds parameters.
template <class F>
Step step_of(const int64_t* f, float slope, const F& parameter) {
  Step s{};
  s.kind = static_cast<StepKind>(f[kKind]);
  s.activation = static_cast<int>(f[kActivation]);
  s.slope = slope;
  s.inputs = f[kInputs];
  s.outputs = f[kOutputs];
  s.source = static_cast<int>(f[kSource]);
  s.other = static_cast<int>(f[kOther]);
  s.target = static_cast<int>(f[kTarget]);
  s.weights = parameter(f + kWeights);
  s.bias = parameter(f + kBias);
  s.recurrent = parameter(f + kRecurrent);
  s.scale = parameter(f + kScale);
  s.shift = parameter(f + kShift);
  s.length = f[kLength];
  s.whole_sequence = f[kWholeSequence] != 0;
  s.channels = f[kChannels];
  s.height = f[kHeight];
  s.width = f[kWidth];
  s.channels_first = f[kChannelsFirst] != 0;
  s.kernel_height = f[kKernelHeight];
  s.kernel_width = f[kKernelWidth];
  s.stride_height = f[kStrideHeight];
  s.stride_width = f[kStrideWidth];
  s.pad_height = f[kPadHeight];
  s.pad_width = f[kPadWidth];
  s.out_channels = f[kOutChannels];
  s.out_height = f[kOutHeight];
  s.out_width = f[kOutWidth];
  s.count_include_pad = f[kCountIncludePad] != 0;
  return s;
}

// Kernel, stride and padding of a pool, each (height, width).
inline void set_window(Step& s, const int64_t* geometry) {
  s.kernel_height = geometry[0];
  s.kernel_width = geometry[1];
  s.stride_height = geometry[2];
  s.stride_width = geometry[3];
  s.pad_height = geometry[4];
  s.pad_width = geometry[5];
}

}  // namespace evk
