// Launches of nes_sample, nes_update.
#include "cuda/categorical.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"

EVK_NAMESPACE_BEGIN

namespace {

unsigned blocks_for(i64 count, i64 per_block) {
  return static_cast<unsigned>(ceil_div(count, per_block));
}

}  // namespace

int nes_sample(const NesSampleParams& p, void* stream) {
  if (p.rows.count == 0) return 0;
  const i64 y = p.samples < 1 ? 1 : p.samples < 65535 ? p.samples : 65535;
  const dim3 grid(blocks_for(p.rows.count, kRowThreads), static_cast<unsigned>(y));
  return launch(nes_sample_kernel, grid, kRowThreads, 0, stream, p);
}

int nes_update(const NesUpdateParams& p, void* stream) {
  if (p.rows.count == 0) return 0;
  const unsigned blocks = blocks_for(p.samples, kRowThreads);
  const int error = launch(nes_utilities_kernel, blocks, kRowThreads, 0, stream, p);
  if (error != 0) return error;
  constexpr int rows = kRowThreads / kWarp;
  const dim3 block(kWarp, rows);
  return launch(nes_update_kernel, blocks_for(p.rows.count, rows), block, 0, stream, p);
}

EVK_NAMESPACE_END
