// What csrc/cuda offers to its bindings, without a CUDA header. Every op is launched on the
// caller's stream (a cudaStream_t) and returns the error of its launches (a cudaError_t), 0 for
// none. It allocates nothing and does not wait for the device. All pointers are the device's.
#pragma once

#include <stddef.h>

#include "core/params.h"

namespace evk {
namespace cuda {

int init_genomes(const InitGenomesParams& p, void* stream);
int crossover_mutate(const CrossoverMutateParams& p, void* stream);
int mutate_sigma(const MutateSigmaParams& p, void* stream);
int replay(const ReplayParams& p, void* stream);
int nes_sample(const NesSampleParams& p, void* stream);
int nes_update(const NesUpdateParams& p, void* stream);

// Where the values of a network lie, as evokern/backends/plan.py makes it: the places of its steps
// are the input, what the caller gets, and buffers in the memory.
constexpr int64_t kInputPlace = 0, kOutPlace = 1;

// Rows of Plan.routes: the number of a step; the places that it reads, adds and writes.
struct Route {
  int64_t step, source, other, target;
};
static_assert(sizeof(Route) == 4 * sizeof(int64_t));

// Rows of Plan.places.
struct Buffer {
  int64_t offset;         // in bytes
  int64_t sample_stride;  // in floats
  int64_t per_slot;       // whether every slot has one
};
static_assert(sizeof(Buffer) == 3 * sizeof(int64_t));

struct LayersPlan {
  int64_t slots;        // that run at a time
  bool shared;          // one batch for all slots
  const Route* routes;  // [route_count]
  int64_t route_count;
  int64_t head_routes;    // run once for all slots
  const Buffer* buffers;  // by place; those of the input and of what the caller gets say nothing
  int64_t output;         // place of the network's output
  int64_t copy;           // place of the input's bytes as floats, or -1
  int64_t state;          // place of the states of recurrent layers, or -1
  int64_t losses;         // offset in bytes
  int64_t fused_step;     // from here on, after all routes, one kernel: number of a step, or -1
  void* memory;           // aligned to 16
};

// Samples of a block of the fused kernel on this thread's device, for dense layers of at most
// `widest` features: 0 where they do not fit.
int fused_tile(int64_t widest, int64_t samples, int64_t* tile);

// A network of any layers in fp32.
int run_steps(const NetworkParams& p, const LayersPlan& plan, void* stream);
int pool2d(const PoolParams& p, bool max, void* stream);
int affine(const AffineParams& p, void* stream);
int residual(const ResidualParams& p, void* stream);

// Bytes of the host to the device; the host's may be reused at once. Up to 30 KB, in whole words,
// can be part of a CUDA graph.
int upload(void* to, const void* from, size_t bytes, void* stream);
// The way back; waits for what the stream has to do before.
int download(void* to, const void* from, size_t bytes, void* stream);
// Waits for the stream; the error is of anything that ran there before.
int synchronize(void* stream);
const char* error_text(int error);

// Devices that CUDA finds; 0 where it fails, and then why.
int device_count(int* error);
// 80 for compute capability 8.0.
int capability(int device, int* result);
// Free and all memory of this thread's device.
int memory_info(size_t* free_bytes, size_t* all_bytes);
// Makes `device` the one of this thread; `before` is the one it was. kNoDevice: the thread has no
// context, so that going back makes none on a device that nobody uses.
constexpr int kNoDevice = -1;
int select_device(int device, int* before);

}  // namespace cuda
}  // namespace evk
