// init_genomes, crossover_mutate, mutate_sigma. A genome is handled in groups of kGroup genes, the
// ones that a vector of Philox counters draws for; nothing depends on how groups meet threads.
#include "core/variation.h"

#include <string.h>

#include "core/activation.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"

EVK_NAMESPACE_BEGIN

namespace {

// Genes per task: few enough to share one genome between threads, enough to amortise a task.
constexpr i64 kTaskGenes = 32768;

// Outputs larger than this leave the caches before they are read, so they are written past them.
constexpr i64 kStreamingBytes = 16 << 20;

// Deviates, words or genes of one group, in gene order.
struct FloatGroup {
  Float part[kParts];
};

struct WordGroup {
  Word part[kParts];
};

// The random words of one individual in one generation.
struct Source {
  RoundKeys keys;
  u32 individual, generation;
};

struct Draw {
  Words<Counter> words[kDraws];
};

EVK_INLINE Draw draw(const Source& source, i64 first_gene, Stream stream) {
  using W = Wide<Counter>;
  Draw d;
  for (int n = 0; n < kDraws; ++n) {
    const u32 block = static_cast<u32>(first_gene >> 2) + static_cast<u32>(n * W::lanes);
    d.words[n] = Words<Counter>{block_order() + W::all(block), W::all(source.individual),
                                W::all(source.generation), W::all(stream)};
  }
  philox(d.words, source.keys);
  return d;
}

EVK_INLINE WordGroup draw_words(const Source& source, i64 first_gene, Stream stream) {
  const Draw d = draw(source, first_gene, stream);
  WordGroup result;
  for (int n = 0; n < kDraws; ++n) {
    words_in_gene_order(d.words[n], result.part + n * kParts / kDraws);
  }
  return result;
}

EVK_INLINE FloatGroup draw_normals(const Source& source, i64 first_gene, Stream stream) {
  const Draw d = draw(source, first_gene, stream);
  constexpr int pairs = 2 / kDraws;
  Word first[2], second[2];
  for (int n = 0; n < kDraws; ++n) word_pairs(d.words[n], first + n * pairs, second + n * pairs);
  const Pair<Two<Float>> normals =
      normal_pair<Two<Float>>({first[0], first[1]}, {second[0], second[1]});
  const Float even[2] = {normals.first.a, normals.first.b};
  const Float odd[2] = {normals.second.a, normals.second.b};
  FloatGroup result;
  for (int n = 0; n < kDraws; ++n) {
    pairs_in_gene_order(even + n * pairs, odd + n * pairs, result.part + n * kParts / kDraws);
  }
  return result;
}

EVK_INLINE FloatGroup draw_deviates(const Source& source, i64 first_gene, Stream stream,
                                    Distribution distribution) {
  if (distribution == Distribution::kNormal) return draw_normals(source, first_gene, stream);
  const WordGroup words = draw_words(source, first_gene, stream);
  FloatGroup result;
  for (int i = 0; i < kParts; ++i) {
    result.part[i] = distribution == Distribution::kUniform
                         ? symmetric_uniform<Float>(words.part[i])
                         : cauchy<Float>(words.part[i]);
  }
  return result;
}

// The first `count` genes at p; the rest of the group is +0. A whole group needs no copy.
EVK_INLINE FloatGroup load_group(const float* p, i64 count) {
  float padded[kGroup] = {};
  const float* source = p;
  if (count < kGroup) {
    memcpy(padded, p, static_cast<size_t>(count) * sizeof(float));
    source = padded;
  }
  FloatGroup genes;
  for (int i = 0; i < kParts; ++i) genes.part[i] = load(source + i * kLanes);
  return genes;
}

EVK_INLINE void store_group(float* p, const FloatGroup& genes, i64 count, bool streaming) {
  if (count < kGroup) {
    float padded[kGroup];
    for (int i = 0; i < kParts; ++i) store(padded + i * kLanes, genes.part[i]);
    memcpy(p, padded, static_cast<size_t>(count) * sizeof(float));
  } else if (streaming) {
    for (int i = 0; i < kParts; ++i) store_streaming(p + i * kLanes, genes.part[i]);
  } else {
    for (int i = 0; i < kParts; ++i) store(p + i * kLanes, genes.part[i]);
  }
}

// One offspring: how its genes come about. The loops over genes keep a copy of their own, so that
// the compiler knows that no store changes it.
struct Offspring {
  const CrossoverMutateParams& params;
  const i64 slot, parent_count;
  const u64 rate_threshold, mutation_threshold;
  const Distribution distribution;
  const Source source;
  const float sigma;
  const float* first;  // parent 0
  float* const out;

  Offspring(const CrossoverMutateParams& p, i64 number)
      : params(p),
        slot(number),
        parent_count(p.parent_count),
        rate_threshold(p.rate_threshold),
        mutation_threshold(p.mutation_threshold),
        distribution(static_cast<Distribution>(p.distribution)),
        source{RoundKeys(key_of(p.seed)), p.first + static_cast<u32>(number), p.generation},
        sigma(p.sigma[number]),
        first(parent(0)),
        out(p.out + (p.out_rows ? p.out_rows[number] : number) * p.out_stride) {}

  const float* parent(i64 r) const {
    return params.genomes +
           params.parents[r * params.parents_stride + slot] * params.genomes_stride;
  }
  float weight(i64 r) const { return params.weights[r * params.weights_stride + slot]; }
  bool mutates() const { return sigma != 0.0f && mutation_threshold != 0; }

  // What is left of the crossover: nothing where it cannot change a gene.
  CrossoverKind kind() const {
    const bool draws =
        params.kind == CrossoverKind::kUniform || params.kind == CrossoverKind::kRows;
    if (draws && rate_threshold == 0) return CrossoverKind::kNone;
    for (i64 r = 1; r < parent_count; ++r) {
      if (parent(r) != first) return params.kind;
    }
    return CrossoverKind::kNone;
  }
};

// Genes of parents 1 .. R-1 where the CROSSOVER word says so.
EVK_INLINE FloatGroup recombine_uniform(const Offspring& o, i64 gene, i64 count) {
  const WordGroup words = draw_words(o.source, gene, kCrossover);
  const Word last = bernoulli_last<Float>(o.rate_threshold);
  FloatGroup child = load_group(o.first + gene, count);
  if (o.parent_count == 2) {
    const FloatGroup other = load_group(o.parent(1) + gene, count);
    for (int i = 0; i < kParts; ++i) {
      child.part[i] = words.part[i] <= last ? other.part[i] : child.part[i];
    }
    return child;
  }
  const WordGroup which = draw_words(o.source, gene, kCrossoverParent);
  const u32 others = static_cast<u32>(o.parent_count - 1);
  for (i64 r = 1; r <= others; ++r) {
    const FloatGroup other = load_group(o.parent(r) + gene, count);
    const Word number = Element<Float>::all_uint(static_cast<u32>(r - 1));
    for (int i = 0; i < kParts; ++i) {
      const auto chosen = multiply_high(which.part[i], others) == number;
      const Float candidate = chosen ? other.part[i] : child.part[i];
      child.part[i] = words.part[i] <= last ? candidate : child.part[i];
    }
  }
  return child;
}

EVK_INLINE FloatGroup recombine_arithmetic(const Offspring& o, i64 gene, i64 count) {
  FloatGroup child = load_group(o.first + gene, count);
  const Float weight = Element<Float>::all(o.weight(0));
  for (int i = 0; i < kParts; ++i) child.part[i] = weight * child.part[i];
  for (i64 r = 1; r < o.parent_count; ++r) {
    const FloatGroup other = load_group(o.parent(r) + gene, count);
    const Float other_weight = Element<Float>::all(o.weight(r));
    for (int i = 0; i < kParts; ++i) {
      child.part[i] = child.part[i] + other_weight * other.part[i];
    }
  }
  return child;
}

EVK_INLINE FloatGroup mutate(const Offspring& o, i64 gene, const FloatGroup& child) {
  constexpr u64 always = 1ull << 32;
  const FloatGroup noise = draw_deviates(o.source, gene, kMutation, o.distribution);
  const Float sigma = Element<Float>::all(o.sigma);
  FloatGroup result;
  for (int i = 0; i < kParts; ++i) {
    result.part[i] = mutated<Float>(child.part[i], sigma, noise.part[i]);
  }
  if (o.mutation_threshold < always) {
    const WordGroup words = draw_words(o.source, gene, kMutationMask);
    const Word last = bernoulli_last<Float>(o.mutation_threshold);
    for (int i = 0; i < kParts; ++i) {
      result.part[i] = words.part[i] <= last ? result.part[i] : child.part[i];
    }
  }
  return result;
}

EVK_INLINE void make_group(const Offspring& o, i64 gene, i64 count, CrossoverKind kind,
                           bool mutates, bool streaming) {
  FloatGroup child;
  switch (kind) {
    case CrossoverKind::kUniform:
      child = recombine_uniform(o, gene, count);
      break;
    case CrossoverKind::kArithmetic:
      child = recombine_arithmetic(o, gene, count);
      break;
    default:
      child = load_group(o.first + gene, count);
      break;
  }
  if (mutates) child = mutate(o, gene, child);
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

// Row-wise crossover of `count` <= kGroup output units that start at `unit` (numbered over all
// blocks) and own the genes gene + row * outputs for each row below `rows`.
void recombine_units(const Offspring& o, i64 unit, i64 gene, i64 outputs, i64 rows, i64 count) {
  const i64 others = o.parent_count - 1;
  const u64 threshold = o.rate_threshold;
  const float* chosen[kGroup];
  // Counters come in blocks of four, units start anywhere.
  u32 words[2 * kGroup] = {}, which[2 * kGroup] = {};
  const i64 aligned = unit & ~i64{3};
  for (int half = 0; half < 2; ++half) {
    const i64 start = aligned + half * kGroup;
    const WordGroup w = draw_words(o.source, start, kCrossover);
    memcpy(words + half * kGroup, w.part, sizeof w.part);
    if (others > 1) {
      const WordGroup p = draw_words(o.source, start, kCrossoverParent);
      memcpy(which + half * kGroup, p.part, sizeof p.part);
    }
  }
  for (i64 i = 0; i < count; ++i) {
    const i64 at = unit - aligned + i;
    const i64 other = 1 + static_cast<i64>((static_cast<u64>(which[at]) * others) >> 32);
    chosen[i] = (words[at] < threshold ? o.parent(other) : o.first) + gene + i;
  }
  for (i64 row = 0; row < rows; ++row) {
    float* out = o.out + gene + row * outputs;
    for (i64 i = 0; i < count; ++i) out[i] = chosen[i][row * outputs];
  }
}

void recombine_rows(const Offspring& o) {
  i64 gene = 0, unit = 0;
  for (i64 b = 0; b < o.params.block_count; ++b) {
    const DenseBlock& block = o.params.blocks[b];
    for (i64 at = 0; at < block.outputs; at += kGroup) {
      const i64 left = block.outputs - at;
      recombine_units(o, unit + at, gene + at, block.outputs, block.fan_in + 1,
                      left < kGroup ? left : kGroup);
    }
    gene += (block.fan_in + 1) * block.outputs;
    unit += block.outputs;
  }
}

void make_offspring(const Offspring& o, i64 begin, i64 end, bool streaming) {
  const CrossoverKind kind = o.kind();
  if (kind != CrossoverKind::kRows) return make_genes(o, begin, end, kind, streaming);
  recombine_rows(o);
  if (!o.mutates()) return;
  Offspring recombined = o;
  recombined.first = o.out;
  make_genes(recombined, begin, end, CrossoverKind::kNone, false);
}

void init_segment(const Source& source, float* out, i64 begin, i64 end, float scale,
                  Distribution distribution) {
  for (i64 gene = begin & ~i64{3}; gene < end; gene += kGroup) {
    const FloatGroup deviates = draw_deviates(source, gene, kInit, distribution);
    float values[kGroup];
    for (int i = 0; i < kParts; ++i) {
      store(values + i * kLanes, deviates.part[i] * Element<Float>::all(scale));
    }
    const i64 from = gene < begin ? begin : gene;
    const i64 to = gene + kGroup < end ? gene + kGroup : end;
    memcpy(out + from, values + (from - gene), static_cast<size_t>(to - from) * sizeof(float));
  }
}

// Every unit's incoming weights to length 1; a unit that drew only zeros keeps them.
void normalise_units(float* weights, i64 fan_in, i64 outputs) {
  for (i64 unit = 0; unit < outputs; ++unit) {
    float sum = 0.0f;
    for (i64 i = 0; i < fan_in; ++i) {
      const float w = weights[i * outputs + unit];
      sum = sum + w * w;
    }
    const float length = sum == 0.0f ? 1.0f : Element<float>::sqrt(sum);
    for (i64 i = 0; i < fan_in; ++i) {
      weights[i * outputs + unit] = weights[i * outputs + unit] / length;
    }
  }
}

void init_genome(const InitGenomesParams& p, i64 individual) {
  const Source source{RoundKeys(key_of(p.seed)), p.first + static_cast<u32>(individual), 0};
  float* genome = p.out + individual * p.out_stride;
  i64 gene = 0;
  for (i64 b = 0; b < p.block_count; ++b) {
    const DenseBlock& block = p.blocks[b];
    const i64 bias = gene + block.fan_in * block.outputs;
    const i64 end = bias + block.outputs;
    const bool normal = p.scheme == InitScheme::kLecunNormal || p.scheme == InitScheme::kUnitRows;
    init_segment(source, genome, gene, p.scheme == InitScheme::kTorch ? end : bias, block.scale,
                 normal ? Distribution::kNormal : Distribution::kUniform);
    if (p.scheme == InitScheme::kUnitRows) {
      normalise_units(genome + gene, block.fan_in, block.outputs);
    }
    if (p.scheme != InitScheme::kTorch) {
      memset(genome + bias, 0, static_cast<size_t>(block.outputs) * sizeof(float));
    }
    gene = end;
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
  const bool aligned = reinterpret_cast<u64>(p.out) % sizeof(Float) == 0 &&
                       p.out_stride * sizeof(float) % sizeof(Float) == 0;
  const bool streaming = aligned && p.slots * p.genes * i64{4} > kStreamingBytes;
  // Row-wise crossover runs over the whole genome at once: one task per offspring.
  const bool whole = p.kind == CrossoverKind::kRows || p.genes == 0;
  const i64 task_genes = whole ? (p.genes > 0 ? p.genes : 1) : kTaskGenes;
  const i64 tasks_per_slot = (p.genes + task_genes - 1) / task_genes;
#pragma omp parallel
  {
    const FloatEnvironment environment;
#pragma omp for schedule(dynamic, 4)
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
    const float sigma = p.sigma[i] * exp<float>(p.tau * n);
    constexpr float least = 9.094947017729282e-13f;  // 2^-40
    constexpr float most = 1024.0f;
    const float at_least = sigma > least ? sigma : least;  // NaN too
    p.out[i] = at_least < most ? at_least : most;
  }
}

EVK_NAMESPACE_END
