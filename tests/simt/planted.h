// The kernels of planted.cu, by name.
#pragma once

#include <stddef.h>

struct Arguments {
  const float* in;
  float* out;
  int n;
};

// `right` chooses the twin without the bug. Returns a cudaError_t, -1 for an unknown name, and for
// "launches" how often it was called.
int run_planted(const char* name, bool right, const Arguments& a, unsigned blocks, unsigned threads,
                size_t shared_bytes);
