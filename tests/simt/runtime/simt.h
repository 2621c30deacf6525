// Runs CUDA kernels on the CPU. Every thread of a block is a fiber; the block's fibers take turns
// on one thread of the system, each until it has to wait for others. Blocks run one after another.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "vector_types.h"

#pragma GCC visibility push(hidden)

namespace simt {

constexpr unsigned kWarpSize = 32;

// threadIdx, blockIdx, blockDim, gridDim of the thread that runs.
struct Builtins {
  uint3 thread, block;
  dim3 threads, blocks;
};
extern Builtins builtins;

// Where the kernel's source calls.
struct Site {
  const char* file;
  int line;
};

// Returns once all threads of the block are here, the number of those whose vote is true.
int barrier(Site site, bool vote = false);

enum class Collective : int {
  kSync,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kMatchAny,
  kReduceAdd,
  kReduceMin,
  kReduceMax,
  kReduceAnd,
  kReduceOr,
  kReduceXor,
};

// Returns once all living lanes of the mask are here, what this lane gets out of it.
uint64_t collective(Collective what, uint32_t mask, uint64_t value, int argument, int width,
                    Site site);

// Dynamic shared memory of the block.
void* dynamic_shared();

// The bytes arrive when they are waited for: a kernel that does not wait sees what was there.
void copy_async(void* shared, const void* global, size_t bytes);
void copy_async_commit();
void copy_async_wait(int groups_left);

// To be called before the access.
void note_atomic(const void* address, size_t bytes);

using Kernel = void (*)(const void* arguments);

// Runs `kernel` in every thread; `key` is the address of the __global__ function. Returns a
// cudaError_t where CUDA would refuse the launch; throws Failure where the kernel is wrong.
int launch_kernel(const void* key, dim3 grid, dim3 block, size_t shared_bytes, Kernel kernel,
                  const void* arguments);

template <class F>
int launch(const void* key, dim3 grid, dim3 block, size_t shared_bytes, const F& call) {
  return launch_kernel(
      key, grid, block, shared_bytes, [](const void* f) { (*static_cast<const F*>(f))(); }, &call);
}

int set_dynamic_shared_limit(const void* key, int bytes);
int shared_limit();  // of a block on this device, in bytes
int last_error(bool clear);
const char* error_text(int error);

}  // namespace simt

#pragma GCC visibility pop
