// Launches of init_genomes, crossover_mutate, mutate_sigma.
#include "cuda/geometry.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/variation.cuh"

EVK_NAMESPACE_BEGIN

int init_genomes(const InitGenomesParams& p, void* stream) {
  if (p.individuals == 0 || p.genes == 0) return 0;
  const Geometry g = geometry_of(p.genes, p.individuals);
  const int error = launch(init_genomes_kernel, g.grid, g.block, 0, stream, p);
  if (error != 0 || p.scheme != InitScheme::kUnitRows) return error;
  return launch(unit_rows_kernel, grid_of_rows(p.part_count, p.individuals), kThreads, 0, stream,
                p);
}

int crossover_mutate(const CrossoverMutateParams& p, void* stream) {
  if (p.slots == 0 || p.genes == 0) return 0;
  const Geometry g = geometry_of(p.genes, p.slots);
  const auto with = [&](auto kernel) { return launch(kernel, g.grid, g.block, 0, stream, p); };
  const bool draws = p.kind == CrossoverKind::kUniform || p.kind == CrossoverKind::kRows;
  switch (draws && p.rate_threshold == 0 ? CrossoverKind::kNone : p.kind) {
    case CrossoverKind::kUniform:
      return with(crossover_mutate_kernel<CrossoverKind::kUniform>);
    case CrossoverKind::kArithmetic:
      return with(crossover_mutate_kernel<CrossoverKind::kArithmetic>);
    case CrossoverKind::kRows:
      return with(crossover_mutate_kernel<CrossoverKind::kRows>);
    default:
      return with(crossover_mutate_kernel<CrossoverKind::kNone>);
  }
}

int mutate_sigma(const MutateSigmaParams& p, void* stream) {
  if (p.individuals == 0) return 0;
  const unsigned blocks = static_cast<unsigned>(ceil_div(p.individuals, 128));
  return launch(mutate_sigma_kernel, blocks, 128, 0, stream, p);
}

EVK_NAMESPACE_END
