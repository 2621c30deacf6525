// Small arrays of the host as the parameter of a kernel. Such a copy does not wait, and needs the
// host's memory no more once it is launched: so a CUDA graph can hold it.
#pragma once

#include "cuda/device.h"

EVK_NAMESPACE_BEGIN

constexpr int kParcelWords = 960;  // what a launch carries beside two numbers, in all 4 KiB
constexpr int kParcelThreads = 128;

struct Parcel {
  u32* to;
  i64 count;
  u32 words[kParcelWords];
};

EVK_KERNEL(kParcelThreads) store_parcel_kernel(const __grid_constant__ Parcel p) {
  for (i64 i = threadIdx.x; i < p.count; i += kParcelThreads) p.to[i] = p.words[i];
}

EVK_NAMESPACE_END
