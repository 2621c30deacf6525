// What init_genomes, crossover_mutate and replay have in common: a thread has the four genes that
// one Philox block draws for, so that nothing depends on how genes meet threads.
#pragma once

#include "core/philox.h"
#include "core/variation.h"
#include "cuda/device.h"

EVK_NAMESPACE_BEGIN

constexpr int kThreads = 128;  // of a block that makes genes

// Room for 64 registers: left alone, the compiler spills some to have only 32 or 40.
#define EVK_GENES_KERNEL __global__ void __launch_bounds__(kThreads, 8)

struct Genes {
  float at[4];
};

struct GeneWords {
  u32 at[4];
};

// The genes [first, first + count) of a thread; `first` is a multiple of 4, 1 <= count <= 4.
struct Span {
  i64 first;
  int count;

  EVK_INLINE_MEMBER u32 philox_block() const { return static_cast<u32>(first >> 2); }
};

// Of the thread's place along x; the count is not positive past the end of the genome.
EVK_DEVICE Span span_of_thread(i64 genes) {
  const i64 first = 4 * (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x);
  const i64 left = genes - first;
  return Span{first, static_cast<int>(left < 4 ? left : 4)};
}

// Genomes lie along y and z, as many as the threads of a block have along y at a time.
EVK_DEVICE i64 genome_of_thread() {
  const i64 block = static_cast<i64>(blockIdx.z) * gridDim.y + blockIdx.y;
  return block * blockDim.y + threadIdx.y;
}

EVK_DEVICE Genes load_genes(const float* genome, const Span& span) {
  const float* p = genome + span.first;
  if (span.count == 4 && aligned16(p)) {
    const Float4 v = load4(p);
    return Genes{{v.x, v.y, v.z, v.w}};
  }
  Genes genes = {};
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    if (i < span.count) genes.at[i] = p[i];
  }
  return genes;
}

EVK_DEVICE void store_genes(float* genome, const Span& span, const Genes& genes) {
  float* p = genome + span.first;
  if (span.count == 4 && aligned16(p)) {
    store4(p, Float4{genes.at[0], genes.at[1], genes.at[2], genes.at[3]});
    return;
  }
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    if (i < span.count) p[i] = genes.at[i];
  }
}

// Those of one individual in one generation.
struct Source {
  Key key;
  u32 individual, generation;
};

EVK_DEVICE GeneWords draw_words(const Source& source, u32 block, Stream stream) {
  Words<u64> c[1] = {{block, source.individual, source.generation, stream}};
  philox(c, source.key);
  return GeneWords{{static_cast<u32>(c[0].x), static_cast<u32>(c[0].y), static_cast<u32>(c[0].z),
                    static_cast<u32>(c[0].w)}};
}

EVK_DEVICE Genes draw_deviates(const Source& source, u32 block, Stream stream,
                               Distribution distribution) {
  const GeneWords words = draw_words(source, block, stream);
  Genes deviates;
  EVK_UNROLL(2)
  for (int i = 0; i < 4; i += 2) {
    const u32 first = words.at[i], second = words.at[i + 1];
    Pair<float> pair;
    if (distribution == Distribution::kNormal) {
      pair = normal_pair<float>(first, second);
    } else if (distribution == Distribution::kUniform) {
      pair = Pair<float>{symmetric_uniform<float>(first), symmetric_uniform<float>(second)};
    } else {
      pair = Pair<float>{cauchy<float>(first), cauchy<float>(second)};
    }
    deviates.at[i] = pair.first;
    deviates.at[i + 1] = pair.second;
  }
  return deviates;
}

EVK_INLINE i64 remainder(i64 a, i64 b) {
  const u64 both = static_cast<u64>(a) | static_cast<u64>(b);
  // The wide division takes several times as long.
  return both >> 32 ? a % b : static_cast<i64>(static_cast<u32>(a) % static_cast<u32>(b));
}

// The part of a gene, and its unit in it; goes on gene by gene.
class GeneCursor {
 public:
  EVK_INLINE_MEMBER GeneCursor(const GenePart* parts, i64 count, i64 gene) {
    i64 low = 0, high = count;
    while (high - low > 1) {
      const i64 middle = (low + high) / 2;
      (parts[middle].first_gene <= gene ? low : high) = middle;
    }
    part_ = parts + low;
    gene_ = gene;
    unit_ = remainder(gene - part_->first_gene, part_->outputs);
    end_ = part_->first_gene + part_->rows * part_->outputs;
  }

  // Only towards a gene that is there.
  EVK_INLINE_MEMBER void next() {
    ++gene_;
    ++unit_;
    if (gene_ == end_) {
      ++part_;
      end_ += part_->rows * part_->outputs;
      unit_ = 0;
    } else if (unit_ == part_->outputs) {
      unit_ = 0;
    }
  }

  EVK_INLINE_MEMBER const GenePart& part() const { return *part_; }
  EVK_INLINE_MEMBER u32 unit() const { return static_cast<u32>(part_->first_unit + unit_); }
  EVK_INLINE_MEMBER i64 column() const { return part_->first_column + unit_; }

 private:
  const GenePart* part_;
  i64 gene_, unit_, end_;
};

// Fresh genes. `lengths` [columns] are those of unit_rows' units, by which weights are divided;
// null leaves that to the caller.
EVK_DEVICE Genes init_genes(const Source& source, const GenePart* parts, i64 part_count,
                            InitScheme scheme, const float* lengths, const Span& span) {
  Genes genes = draw_deviates(source, span.philox_block(), kInit, init_distribution(scheme));
  GeneCursor cursor(parts, part_count, span.first);
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    if (i > 0 && i < span.count) cursor.next();
    const GenePart& part = cursor.part();
    float gene = value_of(part.content);
    if (is_drawn(part.content, scheme)) {
      gene = genes.at[i] * part.scale;
      if (lengths) gene = gene / lengths[cursor.column()];
    }
    genes.at[i] = gene;
  }
  return genes;
}

// Of a crossover. O is one offspring: `parent_count`, `rate_threshold` (not 0), the genomes
// `parent(r)` and `weight(r)`.

// Numbers of the parents that genes come from, or output units.
struct Choice {
  u32 at[4];
};

// With two parents there is nothing that a second word could decide.
template <class O>
EVK_DEVICE Choice draw_choice(const O& o, const Source& source, u32 block) {
  const GeneWords words = draw_words(source, block, kCrossover);
  const u32 last = bernoulli_last<float>(o.rate_threshold);
  GeneWords which = {};
  if (o.parent_count > 2) which = draw_words(source, block, kCrossoverParent);
  const u32 others = static_cast<u32>(o.parent_count - 1);
  Choice choice;
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    choice.at[i] = words.at[i] <= last ? 1 + multiply_high(which.at[i], others) : 0;
  }
  return choice;
}

// Of the output units that the genes belong to: a draw for every Philox block of units.
template <class O>
EVK_DEVICE Choice draw_choice_of_units(const O& o, const Source& source, const GenePart* parts,
                                       i64 part_count, const Span& span) {
  u32 unit[4];
  GeneCursor cursor(parts, part_count, span.first);
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    if (i > 0 && i < span.count) cursor.next();
    unit[i] = cursor.unit();
  }
  Choice choice = {};
  for (u32 missing = 15; missing != 0;) {
    u32 block = unit[3];
    EVK_UNROLL(3)
    for (int i = 2; i >= 0; --i) block = missing >> i & 1 ? unit[i] : block;
    block >>= 2;
    const Choice drawn = draw_choice(o, source, block);
    EVK_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      const u32 low = unit[i] & 1 ? drawn.at[1] : drawn.at[0];
      const u32 high = unit[i] & 1 ? drawn.at[3] : drawn.at[2];
      const bool here = unit[i] >> 2 == block;
      choice.at[i] = here ? (unit[i] & 2 ? high : low) : choice.at[i];
      missing = here ? missing & ~(1u << i) : missing;
    }
  }
  return choice;
}

// Of two parents, what nobody takes is not read.
template <class O>
EVK_DEVICE Genes choose_genes(const O& o, const Choice& choice, const Span& span) {
  Genes child = {};
  if (o.parent_count == 2) {
    const u32 others = choice.at[0] + choice.at[1] + choice.at[2] + choice.at[3];
    Genes other = {};
    if (others != 4) child = load_genes(o.parent(0), span);
    if (others != 0) other = load_genes(o.parent(1), span);
    EVK_UNROLL(4)
    for (int i = 0; i < 4; ++i) child.at[i] = choice.at[i] != 0 ? other.at[i] : child.at[i];
    return child;
  }
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    if (i < span.count) child.at[i] = o.parent(choice.at[i])[span.first + i];
  }
  return child;
}

template <class O>
EVK_DEVICE Genes recombine_arithmetic(const O& o, const Span& span) {
  Genes child = load_genes(o.parent(0), span);
  const float weight = o.weight(0);
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) child.at[i] = weight * child.at[i];
  for (i64 r = 1; r < o.parent_count; ++r) {
    const Genes other = load_genes(o.parent(r), span);
    const float other_weight = o.weight(r);
    EVK_UNROLL(4)
    for (int i = 0; i < 4; ++i) child.at[i] = child.at[i] + other_weight * other.at[i];
  }
  return child;
}

template <CrossoverKind KIND, class O>
EVK_DEVICE Genes recombine(const O& o, const Source& source, const GenePart* parts, i64 part_count,
                           const Span& span) {
  if constexpr (KIND == CrossoverKind::kUniform) {
    return choose_genes(o, draw_choice(o, source, span.philox_block()), span);
  } else if constexpr (KIND == CrossoverKind::kRows) {
    return choose_genes(o, draw_choice_of_units(o, source, parts, part_count, span), span);
  } else if constexpr (KIND == CrossoverKind::kArithmetic) {
    return recombine_arithmetic(o, span);
  } else {
    return load_genes(o.parent(0), span);
  }
}

struct Mutation {
  Distribution distribution;
  u64 threshold;  // of the rate per gene; 0 is the caller's to skip
};

EVK_DEVICE Genes mutate(const Source& source, const Mutation& mutation, float sigma,
                        const Span& span, const Genes& genes) {
  constexpr u64 always = 1ull << 32;
  const u32 block = span.philox_block();
  const Genes noise = draw_deviates(source, block, kMutation, mutation.distribution);
  Genes result;
  EVK_UNROLL(4)
  for (int i = 0; i < 4; ++i) result.at[i] = mutated<float>(genes.at[i], sigma, noise.at[i]);
  if (mutation.threshold < always) {
    const GeneWords words = draw_words(source, block, kMutationMask);
    const u32 last = bernoulli_last<float>(mutation.threshold);
    EVK_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      result.at[i] = words.at[i] <= last ? result.at[i] : genes.at[i];
    }
  }
  return result;
}

EVK_NAMESPACE_END
