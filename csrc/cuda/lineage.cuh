// replay: a thread takes its four genes through the whole program (evokern/_replay_program.py), or
// through one run of it where no run reads another one's genes. Stored genomes, those of scratch
// too, lie in global memory, but no thread reads what another one wrote.
#pragma once

#include "cuda/genes.cuh"

EVK_NAMESPACE_BEGIN

// The lengths of a founder's units, for which it is drawn once more: [weight_columns]. A block has
// a part of a founder, a thread one unit at a time.
EVK_GENES_KERNEL unit_lengths_kernel(const ReplayParams p) {
  const GenePart& part = p.parts[blockIdx.x];
  const i64 run = genome_of_thread();
  if (run >= p.runs || part.content != GeneContent::kWeights) return;
  if (static_cast<ReplayStart>(p.start[run]) != ReplayStart::kInit) return;
  const Source source{key_of(p.seed), p.number[p.first_step[run]], 0};
  const i64 rows = part.rows, outputs = part.outputs;
  float* const lengths = p.lengths + p.source[run] * p.weight_columns + part.first_column;
  for (i64 unit = threadIdx.x; unit < outputs; unit += blockDim.x) {
    float sum = 0.0f;
    i64 gene = part.first_gene + unit;
    for (i64 row = 0; row < rows; ++row, gene += outputs) {
      const GeneWords words = draw_words(source, static_cast<u32>(gene >> 2), kInit);
      const Pair<float> pair = gene & 2 ? normal_pair<float>(words.at[2], words.at[3])
                                        : normal_pair<float>(words.at[0], words.at[1]);
      const float weight = (gene & 1 ? pair.second : pair.first) * part.scale;
      sum = sum + weight * weight;
    }
    lengths[unit] = unit_length(sum);
  }
}

EVK_INLINE float* stored_genome(const ReplayParams& p, i64 row) {
  return row < p.outputs ? p.out + row * p.out_stride : p.scratch + (row - p.outputs) * p.segment;
}

// The parents of a run that begins with a crossover.
struct StoredParents {
  const ReplayParams& params;
  const i32* const rows;  // [parent_count]
  const i64 parent_count;
  const u64 rate_threshold;

  EVK_INLINE_MEMBER const float* parent(i64 r) const { return stored_genome(params, rows[r]); }
  EVK_INLINE_MEMBER float weight(i64 r) const { return params.weights[r]; }
};

template <CrossoverKind KIND>
EVK_DEVICE void make_run(const ReplayParams& p, i64 run, const Span& span) {
  i64 step = p.first_step[run];
  const i64 end = p.first_step[run + 1];
  const i64 from = p.source[run];
  Source source{key_of(p.seed), 0, 0};
  Genes genes;
  switch (static_cast<ReplayStart>(p.start[run])) {
    case ReplayStart::kInit: {
      source.individual = p.number[step++];
      const float* lengths = p.lengths ? p.lengths + from * p.weight_columns : nullptr;
      genes = init_genes(source, p.parts, p.part_count, p.scheme, lengths, span);
      break;
    }
    case ReplayStart::kCrossover: {
      source.individual = p.number[step];
      source.generation = p.generation[step];
      const StoredParents parents{p, p.crossed + from * p.parent_count, p.parent_count,
                                  p.rate_threshold};
      genes = recombine<KIND>(parents, source, p.parts, p.part_count, span);
      break;
    }
    default:
      genes = load_genes(stored_genome(p, from), span);
  }
  const Mutation mutation{p.distribution, p.mutation_threshold};
  for (; step < end; ++step) {
    const float sigma = p.sigma[step];
    if (sigma == 0.0f) continue;
    source.individual = p.number[step];
    source.generation = p.generation[step];
    genes = mutate(source, mutation, sigma, span, genes);
  }
  store_genes(stored_genome(p, p.target[run]), span, genes);
}

// Runs one after the other, or `p.independent` ones as genomes side by side.
template <CrossoverKind KIND>
EVK_GENES_KERNEL replay_kernel(const ReplayParams p) {
  const Span span = span_of_thread(p.genes);
  if (span.count <= 0) return;
  const i64 first = p.independent ? genome_of_thread() : 0;
  const i64 end = p.independent && first < p.runs ? first + 1 : p.runs;
  for (i64 run = first; run < end; ++run) make_run<KIND>(p, run, span);
}

EVK_NAMESPACE_END
