// Launches of replay.
#include "cuda/geometry.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/lineage.cuh"

EVK_NAMESPACE_BEGIN

int replay(const ReplayParams& p, void* stream) {
  if (p.outputs == 0 || p.genes == 0) return 0;
  if (p.lengths) {
    const dim3 grid = grid_of_rows(p.part_count, p.runs);
    const int error = launch(unit_lengths_kernel, grid, kThreads, 0, stream, p);
    if (error != 0) return error;
  }
  const Geometry g = geometry_of(p.genes, p.independent ? p.runs : 1);
  const dim3 block(g.block.x, p.independent ? g.block.y : 1);
  const auto with = [&](auto kernel) { return launch(kernel, g.grid, block, 0, stream, p); };
  switch (p.kind) {
    case CrossoverKind::kUniform:
      return with(replay_kernel<CrossoverKind::kUniform>);
    case CrossoverKind::kArithmetic:
      return with(replay_kernel<CrossoverKind::kArithmetic>);
    case CrossoverKind::kRows:
      return with(replay_kernel<CrossoverKind::kRows>);
    default:
      return with(replay_kernel<CrossoverKind::kNone>);
  }
}

EVK_NAMESPACE_END
