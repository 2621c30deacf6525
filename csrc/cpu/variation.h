// What crossover_mutate and replay have in common: genes come in groups of kGroup, the ones that a
// vector of Philox counters draws for, and nothing depends on how groups meet threads.
#pragma once

#include <string.h>

#include "core/activation.h"
#include "core/variation.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"

EVK_NAMESPACE_BEGIN

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

EVK_INLINE bool vectors_fit(const float* rows, i64 stride) {
  return reinterpret_cast<u64>(rows) % sizeof(Float) == 0 &&
         stride * sizeof(float) % sizeof(Float) == 0;
}

// --- crossover ----------------------------------------------------------------------------------
//
// O is one offspring: `source`, `parent_count`, `rate_threshold`, the genomes `parent0` and
// `parent(r)`, which begin with gene `origin`, and `weight(r)`.

// Genes from place `at` on: those of parents 1 .. R-1 where the CROSSOVER word says so. `which`,
// the words of CROSSOVER_PARENT, is not read with two parents.
template <class O>
EVK_INLINE FloatGroup choose_genes(const O& o, i64 at, i64 count, const WordGroup& words,
                                   const WordGroup& which) {
  const Word last = bernoulli_last<Float>(o.rate_threshold);
  FloatGroup child = load_group(o.parent0 + at, count);
  if (o.parent_count == 2) {
    const FloatGroup other = load_group(o.parent(1) + at, count);
    for (int i = 0; i < kParts; ++i) {
      child.part[i] = words.part[i] <= last ? other.part[i] : child.part[i];
    }
    return child;
  }
  const u32 others = static_cast<u32>(o.parent_count - 1);
  for (i64 r = 1; r <= others; ++r) {
    const FloatGroup other = load_group(o.parent(r) + at, count);
    const Word number = Element<Float>::all_uint(static_cast<u32>(r - 1));
    for (int i = 0; i < kParts; ++i) {
      const auto chosen = multiply_high(which.part[i], others) == number;
      const Float candidate = chosen ? other.part[i] : child.part[i];
      child.part[i] = words.part[i] <= last ? candidate : child.part[i];
    }
  }
  return child;
}

template <class O>
EVK_INLINE FloatGroup recombine_uniform(const O& o, i64 gene, i64 count) {
  const WordGroup words = draw_words(o.source, gene, kCrossover);
  if (o.parent_count == 2) return choose_genes(o, gene - o.origin, count, words, words);
  const WordGroup which = draw_words(o.source, gene, kCrossoverParent);
  return choose_genes(o, gene - o.origin, count, words, which);
}

template <class O>
EVK_INLINE FloatGroup recombine_arithmetic(const O& o, i64 gene, i64 count) {
  const i64 at = gene - o.origin;
  FloatGroup child = load_group(o.parent0 + at, count);
  const Float weight = Element<Float>::all(o.weight(0));
  for (int i = 0; i < kParts; ++i) child.part[i] = weight * child.part[i];
  for (i64 r = 1; r < o.parent_count; ++r) {
    const FloatGroup other = load_group(o.parent(r) + at, count);
    const Float other_weight = Element<Float>::all(o.weight(r));
    for (int i = 0; i < kParts; ++i) {
      child.part[i] = child.part[i] + other_weight * other.part[i];
    }
  }
  return child;
}

// Row-wise crossover is recombine_rows', kNone copies parent 0.
template <class O>
EVK_INLINE FloatGroup recombine(const O& o, i64 gene, i64 count, CrossoverKind kind) {
  switch (kind) {
    case CrossoverKind::kUniform:
      return recombine_uniform(o, gene, count);
    case CrossoverKind::kArithmetic:
      return recombine_arithmetic(o, gene, count);
    default:
      return load_group(o.parent0 + (gene - o.origin), count);
  }
}

// Output units whose words are drawn at once: the rows of most layers are then written in order.
constexpr i64 kUnits = 1024;

EVK_INLINE WordGroup load_words(const u32* p) {
  WordGroup words;
  memcpy(words.part, p, sizeof words.part);
  return words;
}

// Row-wise crossover of `count` <= kUnits output units that start at `unit` (numbered over all
// blocks) and own the genes gene + row * outputs for each row; of these, [begin, end).
template <class O>
EVK_INLINE void recombine_units(const O& o, float* out, i64 unit, i64 gene, i64 outputs, i64 rows,
                                i64 count, i64 begin, i64 end) {
  // Counters come in blocks of four, units start anywhere.
  const i64 aligned = unit & ~i64{3}, shift = unit - aligned;
  u32 words[kUnits + 2 * kGroup] = {}, which[kUnits + 2 * kGroup] = {};
  for (i64 i = 0; i < shift + count; i += kGroup) {
    const WordGroup drawn = draw_words(o.source, aligned + i, kCrossover);
    memcpy(words + i, drawn.part, sizeof drawn.part);
    if (o.parent_count > 2) {
      const WordGroup parents = draw_words(o.source, aligned + i, kCrossoverParent);
      memcpy(which + i, parents.part, sizeof parents.part);
    }
  }
  for (i64 row = begin > gene ? (begin - gene) / outputs : 0; row < rows; ++row) {
    const i64 first = gene + row * outputs;
    const i64 last = first + count < end ? first + count : end;
    for (i64 g = first < begin ? begin : first; g < last; g += kGroup) {
      const i64 left = last - g < kGroup ? last - g : kGroup;
      const i64 at = g - o.origin, word = shift + g - first;
      const FloatGroup child =
          choose_genes(o, at, left, load_words(words + word), load_words(which + word));
      store_group(out + at, child, left, false);
    }
    if (last == end) return;
  }
}

// Row-wise crossover of the genes [begin, end); `out` begins with gene `origin`, too.
template <class O>
EVK_INLINE void recombine_rows(const O& o, const GenePart* parts, i64 part_count, float* out,
                               i64 begin, i64 end) {
  i64 gene = 0, unit = 0;
  for (i64 i = 0; i < part_count;) {
    const i64 outputs = parts[i].outputs;
    i64 rows = parts[i].rows;
    for (++i; i < part_count && parts[i].continues; ++i) rows += parts[i].rows;
    const i64 next = gene + rows * outputs;
    for (i64 at = 0; at < outputs && gene < end && next > begin; at += kUnits) {
      const i64 left = outputs - at;
      recombine_units(o, out, unit + at, gene + at, outputs, rows, left < kUnits ? left : kUnits,
                      begin, end);
    }
    gene = next;
    unit += outputs;
  }
}

// --- mutation -----------------------------------------------------------------------------------

struct Mutation {
  Distribution distribution;
  u64 threshold;  // of the rate per gene; 0 is the caller's to skip
};

EVK_INLINE FloatGroup mutate(const Source& source, const Mutation& mutation, float strength,
                             i64 gene, const FloatGroup& child) {
  constexpr u64 always = 1ull << 32;
  const FloatGroup noise = draw_deviates(source, gene, kMutation, mutation.distribution);
  const Float sigma = Element<Float>::all(strength);
  FloatGroup result;
  for (int i = 0; i < kParts; ++i) {
    result.part[i] = mutated<Float>(child.part[i], sigma, noise.part[i]);
  }
  if (mutation.threshold < always) {
    const WordGroup words = draw_words(source, gene, kMutationMask);
    const Word last = bernoulli_last<Float>(mutation.threshold);
    for (int i = 0; i < kParts; ++i) {
      result.part[i] = words.part[i] <= last ? result.part[i] : child.part[i];
    }
  }
  return result;
}

// --- init ---------------------------------------------------------------------------------------

// The genes [begin, end), all of one part; `out` begins with gene `origin`.
EVK_INLINE void init_segment(const Source& source, float* out, i64 origin, i64 begin, i64 end,
                             float scale, Distribution distribution) {
  for (i64 gene = begin & ~i64{3}; gene < end; gene += kGroup) {
    const FloatGroup deviates = draw_deviates(source, gene, kInit, distribution);
    float values[kGroup];
    for (int i = 0; i < kParts; ++i) {
      store(values + i * kLanes, deviates.part[i] * Element<Float>::all(scale));
    }
    const i64 from = gene < begin ? begin : gene;
    const i64 to = gene + kGroup < end ? gene + kGroup : end;
    memcpy(out + (from - origin), values + (from - gene),
           static_cast<size_t>(to - from) * sizeof(float));
  }
}

// The genes [begin, end) of a fresh genome, which `out` begins with; the weights of unit_rows are
// still to be divided by their units' lengths.
EVK_INLINE void init_genes(const GenePart* parts, i64 part_count, InitScheme scheme,
                           const Source& source, float* out, i64 begin, i64 end) {
  const Distribution distribution = init_distribution(scheme);
  i64 first = 0;
  for (i64 i = 0; i < part_count && first < end; ++i) {
    const GenePart& part = parts[i];
    const i64 next = first + part.rows * part.outputs;
    const i64 from = first < begin ? begin : first;
    const i64 to = next < end ? next : end;
    if (is_drawn(part.content, scheme) && from < to) {
      init_segment(source, out, begin, from, to, part.scale, distribution);
    } else {
      const float value = value_of(part.content);
      for (i64 gene = from; gene < to; ++gene) out[gene - begin] = value;
    }
    first = next;
  }
}

// unit_rows, for `count` units next to each other: sums of squares row by row, then their roots.
EVK_INLINE void add_squares(const float* weights, i64 count, float* sums) {
  for (i64 i = 0; i < count; ++i) sums[i] = sums[i] + weights[i] * weights[i];
}

EVK_INLINE void lengths_of_sums(float* sums, i64 count) {
  for (i64 i = 0; i < count; ++i) sums[i] = unit_length(sums[i]);
}

EVK_INLINE void divide(float* weights, const float* lengths, i64 count) {
  for (i64 i = 0; i < count; ++i) weights[i] = weights[i] / lengths[i];
}

EVK_NAMESPACE_END
