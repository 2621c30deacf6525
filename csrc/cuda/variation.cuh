// init_genomes, crossover_mutate, mutate_sigma.
#pragma once

#include "cuda/genes.cuh"

EVK_NAMESPACE_BEGIN

EVK_GENES_KERNEL init_genomes_kernel(const InitGenomesParams p) {
  const Span span = span_of_thread(p.genes);
  const i64 individual = genome_of_thread();
  if (span.count <= 0 || individual >= p.individuals) return;
  const Source source{key_of(p.seed), p.first + static_cast<u32>(individual), 0};
  const Genes genes = init_genes(source, p.parts, p.part_count, p.scheme, nullptr, span);
  store_genes(p.out + individual * p.out_stride, span, genes);
}

// Every unit's incoming weights to length 1. A block has a part of a genome, a thread one unit at a
// time.
EVK_GENES_KERNEL unit_rows_kernel(const InitGenomesParams p) {
  const GenePart& part = p.parts[blockIdx.x];
  const i64 individual = genome_of_thread();
  if (part.content != GeneContent::kWeights || individual >= p.individuals) return;
  const i64 rows = part.rows, outputs = part.outputs;
  float* const first = p.out + individual * p.out_stride + part.first_gene;
  for (i64 unit = threadIdx.x; unit < outputs; unit += blockDim.x) {
    float* const weights = first + unit;
    float sum = 0.0f;
    for (i64 row = 0; row < rows; ++row) {
      const float weight = weights[row * outputs];
      sum = sum + weight * weight;
    }
    const float length = unit_length(sum);
    for (i64 row = 0; row < rows; ++row) {
      weights[row * outputs] = weights[row * outputs] / length;
    }
  }
}

// One offspring's parents.
struct SlotParents {
  const CrossoverMutateParams& params;
  const i64 slot, parent_count;
  const u64 rate_threshold;

  EVK_INLINE_MEMBER i64 row(i64 r) const {
    return params.parents[r * params.parents_stride + slot];
  }
  EVK_INLINE_MEMBER const float* parent(i64 r) const {
    return params.genomes + row(r) * params.genomes_stride;
  }
  EVK_INLINE_MEMBER float weight(i64 r) const {
    return params.weights[r * params.weights_stride + slot];
  }

  EVK_INLINE_MEMBER bool all_the_same() const {
    const i64 first = row(0);
    for (i64 r = 1; r < parent_count; ++r) {
      if (row(r) != first) return false;
    }
    return true;
  }
};

template <CrossoverKind KIND>
EVK_GENES_KERNEL crossover_mutate_kernel(const CrossoverMutateParams p) {
  const Span span = span_of_thread(p.genes);
  const i64 slot = genome_of_thread();
  if (span.count <= 0 || slot >= p.slots) return;
  const Source source{key_of(p.seed), p.first + static_cast<u32>(slot), p.generation};
  const SlotParents parents{p, slot, p.parent_count, p.rate_threshold};
  Genes child;
  if (KIND == CrossoverKind::kNone || parents.all_the_same()) {
    child = load_genes(parents.parent(0), span);
  } else {
    child = recombine<KIND>(parents, source, p.parts, p.part_count, span);
  }
  const float sigma = p.sigma[slot];
  if (sigma != 0.0f && p.mutation_threshold != 0) {
    const Mutation mutation{p.distribution, p.mutation_threshold};
    child = mutate(source, mutation, sigma, span, child);
  }
  const i64 row = p.out_rows ? p.out_rows[slot] : slot;
  store_genes(p.out + row * p.out_stride, span, child);
}

EVK_KERNEL(128) mutate_sigma_kernel(const MutateSigmaParams p) {
  const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.individuals) return;
  Words<u64> c[1] = {{0, p.first + static_cast<u32>(i), p.generation, kSigma}};
  philox(c, key_of(p.seed));
  const float n = normal_pair<float>(static_cast<u32>(c[0].x), static_cast<u32>(c[0].y)).first;
  p.out[i] = adapted_sigma(p.sigma[i], p.tau, n);
}

EVK_NAMESPACE_END
