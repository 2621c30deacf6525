// init_genomes, crossover_mutate, mutate_sigma.
#include "cpu/variation.h"

EVK_NAMESPACE_BEGIN

namespace {

// Genes per task: few enough to share one genome between threads, enough to amortise a task.
constexpr i64 kTaskGenes = 32768;
// Where there are fewer offspring than this, tasks are smaller, so that all threads have some.
constexpr i64 kFewSlots = 32;
constexpr i64 kTaskGenesOfFewSlots = 2048;

// With more parents than kFewParents a weighted mean goes parent by parent over kStretch genes: the
// sums stay in the first cache, and few rows are read at a time.
constexpr i64 kFewParents = 4;
constexpr i64 kStretch = 2048;

// One offspring: how its genes come about. The loops over genes keep a copy of their own, so that
// the compiler knows that no store changes it.
struct Offspring {
  static constexpr i64 origin = 0;
  const CrossoverMutateParams& params;
  const i64 slot, parent_count;
  const u64 rate_threshold;
  const Mutation mutation;
  const Source source;
  const float sigma;
  const float* parent0;
  float* const out;

  Offspring(const CrossoverMutateParams& p, i64 number)
      : params(p),
        slot(number),
        parent_count(p.parent_count),
        rate_threshold(p.rate_threshold),
        mutation{p.distribution, p.mutation_threshold},
        source{RoundKeys(key_of(p.seed)), p.first + static_cast<u32>(number), p.generation},
        sigma(p.sigma[number]),
        parent0(parent(0)),
        out(p.out + (p.out_rows ? p.out_rows[number] : number) * p.out_stride) {}

  i64 row(i64 r) const { return params.parents[r * params.parents_stride + slot]; }
  const float* parent(i64 r) const { return params.genomes + row(r) * params.genomes_stride; }
  float weight(i64 r) const { return params.weights[r * params.weights_stride + slot]; }
  bool mutates() const { return sigma != 0.0f && mutation.threshold != 0; }

  // What is left of the crossover: nothing where it cannot change a gene.
  CrossoverKind kind() const {
    const bool draws =
        params.kind == CrossoverKind::kUniform || params.kind == CrossoverKind::kRows;
    if (draws && rate_threshold == 0) return CrossoverKind::kNone;
    for (i64 r = 1; r < parent_count; ++r) {
      if (row(r) != row(0)) return params.kind;
    }
    return CrossoverKind::kNone;
  }
};

EVK_INLINE void make_group(const Offspring& o, i64 gene, i64 count, CrossoverKind kind,
                           bool mutates, bool streaming) {
  FloatGroup child = recombine(o, gene, count, kind);
  if (mutates) child = mutate(o.source, o.mutation, o.sigma, gene, child);
  store_group(o.out + gene, child, count, streaming);
}

// The branches on kind and the like go the same way for all groups of an offspring.
void make_genes(const Offspring& offspring, i64 begin, i64 end, CrossoverKind kind,
                bool streaming) {
  const Offspring o = offspring;
  const bool mutates = o.mutates();
  i64 gene = begin;
  for (; gene + kGroup <= end; gene += kGroup)
    make_group(o, gene, kGroup, kind, mutates, streaming);
  if (gene < end) make_group(o, gene, end - gene, kind, mutates, streaming);
}

// Adds the parents from `r` on, at most kFewParents of them, to the genes of one group.
EVK_INLINE void add_parents(const Offspring& o, i64 r, i64 gene, i64 count) {
  const i64 last = r + kFewParents < o.parent_count ? r + kFewParents : o.parent_count;
  FloatGroup sum = load_group(o.out + gene, count);
  for (; r < last; ++r) {
    const FloatGroup other = load_group(o.parent(r) + gene, count);
    const Float weight = Element<Float>::all(o.weight(r));
    for (int i = 0; i < kParts; ++i) sum.part[i] = sum.part[i] + weight * other.part[i];
  }
  store_group(o.out + gene, sum, count, false);
}

// As recombine_arithmetic, in another order of the loops.
void recombine_many(const Offspring& offspring, i64 begin, i64 end) {
  const Offspring o = offspring;
  const Float weight = Element<Float>::all(o.weight(0));
  for (i64 start = begin; start < end; start += kStretch) {
    const i64 stop = start + kStretch < end ? start + kStretch : end;
    const auto count = [&](i64 gene) { return gene + kGroup < stop ? kGroup : stop - gene; };
    for (i64 gene = start; gene < stop; gene += kGroup) {
      FloatGroup child = load_group(o.parent0 + gene, count(gene));
      for (int i = 0; i < kParts; ++i) child.part[i] = weight * child.part[i];
      store_group(o.out + gene, child, count(gene), false);
    }
    for (i64 r = 1; r < o.parent_count; r += kFewParents) {
      for (i64 gene = start; gene < stop; gene += kGroup) add_parents(o, r, gene, count(gene));
    }
  }
}

void make_offspring(const Offspring& o, i64 begin, i64 end, bool streaming) {
  const CrossoverKind kind = o.kind();
  const bool many = kind == CrossoverKind::kArithmetic && o.parent_count > kFewParents;
  if (!many && kind != CrossoverKind::kRows) return make_genes(o, begin, end, kind, streaming);
  if (many) {
    recombine_many(o, begin, end);
  } else {
    recombine_rows(o, o.params.parts, o.params.part_count, o.out, begin, end);
  }
  if (!o.mutates()) return;
  Offspring recombined = o;
  recombined.parent0 = o.out;
  make_genes(recombined, begin, end, CrossoverKind::kNone, false);
}

// Every unit's incoming weights to length 1.
void normalise_units(float* weights, i64 fan_in, i64 outputs) {
  for (i64 unit = 0; unit < outputs; unit += kGroup) {
    const i64 left = outputs - unit, count = left < kGroup ? left : kGroup;
    float lengths[kGroup] = {};
    for (i64 i = 0; i < fan_in; ++i) add_squares(weights + i * outputs + unit, count, lengths);
    lengths_of_sums(lengths, count);
    for (i64 i = 0; i < fan_in; ++i) divide(weights + i * outputs + unit, lengths, count);
  }
}

void init_genome(const InitGenomesParams& p, i64 individual) {
  const Source source{RoundKeys(key_of(p.seed)), p.first + static_cast<u32>(individual), 0};
  float* genome = p.out + individual * p.out_stride;
  init_genes(p.parts, p.part_count, p.scheme, source, genome, 0, p.genes);
  if (p.scheme != InitScheme::kUnitRows) return;
  for (i64 i = 0; i < p.part_count; ++i) {
    const GenePart& part = p.parts[i];
    if (part.content == GeneContent::kWeights) normalise_units(genome, part.rows, part.outputs);
    genome += part.rows * part.outputs;
  }
}

}  // namespace

void init_genomes(const InitGenomesParams& p) {
#pragma omp parallel
  {
    const FloatEnvironment environment;
#pragma omp for schedule(dynamic)
    for (i64 i = 0; i < p.individuals; ++i) init_genome(p, i);
  }
}

void crossover_mutate(const CrossoverMutateParams& p) {
  const bool streaming =
      vectors_fit(p.out, p.out_stride) && p.slots * p.genes * i64{4} > kStreamingBytes;
  // Row-wise crossover runs over the whole genome at once: one task per offspring.
  const bool whole = p.kind == CrossoverKind::kRows || p.genes == 0;
  const i64 part = p.slots < kFewSlots ? kTaskGenesOfFewSlots : kTaskGenes;
  const i64 task_genes = whole ? (p.genes > 0 ? p.genes : 1) : part;
  const i64 tasks_per_slot = ceil_div(p.genes, task_genes);
#pragma omp parallel
  {
    const FloatEnvironment environment;
#pragma omp for schedule(dynamic)
    for (i64 task = 0; task < p.slots * tasks_per_slot; ++task) {
      const Offspring o(p, task / tasks_per_slot);
      const i64 begin = task % tasks_per_slot * task_genes;
      const i64 end = begin + task_genes < p.genes ? begin + task_genes : p.genes;
      make_offspring(o, begin, end, streaming);
    }
    if (streaming) finish_streaming();
  }
}

void mutate_sigma(const MutateSigmaParams& p) {
  const FloatEnvironment environment;
  for (i64 i = 0; i < p.individuals; ++i) {
    Words<u64> c[1] = {{0, p.first + static_cast<u32>(i), p.generation, kSigma}};
    philox(c, key_of(p.seed));
    const float n = normal_pair<float>(static_cast<u32>(c[0].x), static_cast<u32>(c[0].y)).first;
    p.out[i] = adapted_sigma(p.sigma[i], p.tau, n);
  }
}

EVK_NAMESPACE_END
