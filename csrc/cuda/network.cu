// Launches of the fused dense stack: which networks it takes, and the tile.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/loss.h"
#include "cuda/network.cuh"
#include "cuda/network.h"

EVK_NAMESPACE_BEGIN

namespace {

constexpr i64 kWidestFused = 1024;
constexpr i64 kMostTile = 128;
constexpr i64 kLeastTile = 16;
constexpr i64 kLeastThreads = 128;

// What a block may ask for on this thread's device.
int shared_limit(int* bytes) {
  int device = 0;
  if (const int error = static_cast<int>(cudaGetDevice(&device))) return error;
  return static_cast<int>(
      cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
}

i64 shared_bytes_of(i64 widest, i64 tile) {
  return (widest * tile + 2 * kChunkFloats) * i64{sizeof(float)};
}

// The sums of a layer fit the registers of a block.
bool sums_fit(i64 widest, i64 tile) {
  return widest * tile <= i64{kMostFusedThreads} * kThreadUnits * kThreadSamples;
}

unsigned fused_threads(i64 widest, i64 tile) {
  i64 threads = kLeastThreads;
  while (threads * kThreadUnits * kThreadSamples < widest * tile) threads *= 2;
  return static_cast<unsigned>(threads);
}

i64 widest_of(const NetworkParams& p, i64 step) {
  i64 widest = p.steps[step].inputs;
  for (i64 i = step; i < p.step_count; ++i) {
    if (p.steps[i].outputs > widest) widest = p.steps[i].outputs;
  }
  return widest;
}

FusedNetworkParams fused_params(const NetworkParams& p, const FusedRun& run) {
  FusedNetworkParams f{};
  const auto here = [&](Parameter parameter) {
    if (parameter.base) parameter.row += run.first;
    return parameter;
  };
  f.layer_count = static_cast<i32>(p.step_count - run.step);
  for (i64 i = 0; i < f.layer_count; ++i) {
    const Step& s = p.steps[run.step + i];
    FusedLayer& layer = f.layers[i];
    layer.weights = here(s.weights);
    layer.bias = here(s.bias);
    layer.inputs = static_cast<i32>(s.inputs);
    layer.outputs = static_cast<i32>(s.outputs);
    layer.activation = s.activation;
    layer.slope = s.slope;
  }
  f.x = run.x.data;
  f.x_u8 = run.x.data ? nullptr : run.bytes.data;
  f.x_scale = p.x_scale;
  f.x_slot_stride = run.x.data ? run.x.slot_stride : run.bytes.slot_stride;
  f.x_sample_stride = run.x.data ? run.x.sample_stride : run.bytes.sample_stride;
  f.samples = p.samples;
  f.out = p.out ? p.out + run.first * p.out_slot_stride : nullptr;
  f.out_slot_stride = p.out_slot_stride;
  f.out_sample_stride = p.out_sample_stride;
  f.wanted = loss_targets(p, run.first);
  f.sample_losses = run.losses;
  f.sample_right = reinterpret_cast<i32*>(run.losses + run.slots * p.samples);
  return f;
}

}  // namespace

// From the shape and the shared memory of a block alone.
int fused_tile(int64_t widest, int64_t samples, int64_t* tile) {
  int limit = 0;
  *tile = 0;
  if (const int error = shared_limit(&limit)) return error;
  if (widest > kWidestFused) return 0;
  i64 fit = kMostTile;
  while (fit >= kLeastTile && (shared_bytes_of(widest, fit) > limit || !sums_fit(widest, fit))) {
    fit /= 2;
  }
  while (fit > kLeastTile && fit / 2 >= samples) fit /= 2;
  if (fit >= kLeastTile) *tile = fit;
  return 0;
}

int run_fused(const NetworkParams& p, const FusedRun& run, void* stream) {
  const i64 widest = widest_of(p, run.step);
  int64_t tile = 0;
  if (const int error = fused_tile(widest, p.samples, &tile)) return error;
  const i64 bytes = shared_bytes_of(widest, tile);
  if (const int error = allow_shared_bytes(fused_network_kernel, static_cast<int>(bytes))) {
    return error;
  }
  FusedNetworkParams f = fused_params(p, run);
  f.tile = static_cast<i32>(tile);
  f.widest = static_cast<i32>(widest);
  const i64 blocks = run.slots * ceil_div(p.samples, tile);
  const int error = launch(fused_network_kernel, grid_of(blocks), dim3(fused_threads(widest, tile)),
                           static_cast<size_t>(bytes), stream, f);
  if (error || p.out) return error;
  return finish_losses(p, run.first, run.slots, f.sample_losses, f.sample_right, stream);
}

EVK_NAMESPACE_END
