// replay: a segment of genes goes through the whole program (evokern/_replay_program.py), with a
// row per stored ancestor that is no longer than the segment. What lies between two stored genomes
// stays in registers: a chain of mutations reads nothing and writes each gene once.
#include <omp.h>

#include "cpu/variation.h"

EVK_NAMESPACE_BEGIN

namespace {

// The genes [begin, end) of all genomes.
struct Segment {
  const ReplayParams& params;
  i64 begin, end;
  bool streaming;
  float* buffer;   // of this thread: a row for the start of a run
  float* scratch;  // and one per scratch row

  float* row(i64 number) const {
    return number < params.outputs ? params.out + number * params.out_stride + begin
                                   : scratch + (number - params.outputs) * params.segment;
  }
};

// What recombine takes: the parents of a run, and the numbers of its first node.
struct Parents {
  const Segment& segment;
  const i32* rows;
  const i64 parent_count, origin;
  const u64 rate_threshold;
  const Source source;
  const float* parent0;

  const float* parent(i64 r) const { return segment.row(rows[r]); }
  float weight(i64 r) const { return segment.params.weights[r]; }
};

struct Steps {
  const u32* generation;
  const u32* number;
  const float* sigma;
  i64 count;
};

EVK_INLINE void make_group(const Parents& parents, const Steps& steps, const Mutation& mutation,
                           i64 gene, i64 count, CrossoverKind kind, float* target, bool streaming) {
  FloatGroup child = recombine(parents, gene, count, kind);
  Source source = parents.source;
  for (i64 step = 0; step < steps.count; ++step) {
    if (steps.sigma[step] == 0.0f) continue;
    source.generation = steps.generation[step];
    source.individual = steps.number[step];
    child = mutate(source, mutation, steps.sigma[step], gene, child);
  }
  store_group(target + (gene - parents.origin), child, count, streaming);
}

void make_genes(const Parents& given, const Steps& taken, const Mutation& chosen, i64 end,
                CrossoverKind kind, float* target, bool streaming) {
  const Parents parents = given;
  const Steps steps = taken;
  const Mutation mutation = chosen;
  i64 gene = parents.origin;
  for (; gene + kGroup <= end; gene += kGroup)
    make_group(parents, steps, mutation, gene, kGroup, kind, target, streaming);
  if (gene < end) make_group(parents, steps, mutation, gene, end - gene, kind, target, streaming);
}

// f(gene, unit, count) for every piece of [begin, end) that lies in one row of a part, whose first
// gene is `first`.
template <class F>
EVK_INLINE void for_rows(i64 first, i64 outputs, i64 begin, i64 end, const F& f) {
  for (i64 gene = begin; gene < end;) {
    const i64 unit = (gene - first) % outputs;
    const i64 count = outputs - unit < end - gene ? outputs - unit : end - gene;
    f(gene, unit, count);
    gene += count;
  }
}

// The weights of each unit over their length, in the genes [begin, end) that `out` begins with.
void divide_units(const ReplayParams& p, const float* lengths, float* out, i64 begin, i64 end) {
  i64 first = 0;
  for (i64 i = 0; i < p.part_count; ++i) {
    const i64 outputs = p.parts[i].outputs, next = first + p.parts[i].rows * outputs;
    if (p.parts[i].content == GeneContent::kWeights) {
      for_rows(
          first, outputs, first < begin ? begin : first, next < end ? next : end,
          [&](i64 at, i64 unit, i64 count) { divide(out + (at - begin), lengths + unit, count); });
      lengths += outputs;
    }
    first = next;
  }
}

// The lengths of a founder's units, part by part: [weight_columns]; it is drawn for them once more.
void make_lengths(const ReplayParams& p, const Source& source, float* buffer, float* lengths) {
  i64 first = 0, next = 0;
  for (i64 i = 0; i < p.part_count; ++i, first = next) {
    const i64 outputs = p.parts[i].outputs;
    next = first + p.parts[i].rows * outputs;
    if (p.parts[i].content != GeneContent::kWeights) continue;
    memset(lengths, 0, static_cast<size_t>(outputs) * sizeof(float));
    for (i64 begin = first; begin < next; begin += p.segment) {
      const i64 end = begin + p.segment < next ? begin + p.segment : next;
      init_segment(source, buffer, begin, begin, end, p.parts[i].scale, Distribution::kNormal);
      for_rows(first, outputs, begin, end, [&](i64 at, i64 unit, i64 count) {
        add_squares(buffer + (at - begin), count, lengths + unit);
      });
    }
    lengths_of_sums(lengths, outputs);
    lengths += outputs;
  }
}

void make_run(const Segment& s, const Source& keys, i64 run) {
  const ReplayParams& p = s.params;
  const i64 step = p.first_step[run];
  const i64 count = p.first_step[run + 1] - step;
  const ReplayStart start = static_cast<ReplayStart>(p.start[run]);
  Source source = keys;
  if (start != ReplayStart::kCopy) {
    source.individual = p.number[step];
    source.generation = p.generation[step];
  }
  Steps steps{p.generation + step, p.number + step, p.sigma + step, count};
  CrossoverKind kind = CrossoverKind::kNone;
  const i32* rows = p.source + run;  // of a copy: the row itself
  const float* parent0 = s.buffer;
  if (start == ReplayStart::kInit) {
    source.generation = 0;
    init_genes(p.parts, p.part_count, p.scheme, source, s.buffer, s.begin, s.end);
    if (p.scheme == InitScheme::kUnitRows) {
      divide_units(p, p.lengths + *rows * p.weight_columns, s.buffer, s.begin, s.end);
    }
    steps = Steps{steps.generation + 1, steps.number + 1, steps.sigma + 1, count - 1};
  } else {
    if (start == ReplayStart::kCrossover) {
      rows = p.crossed + *rows * p.parent_count;
      kind = p.kind;
    }
    parent0 = s.row(rows[0]);
  }
  Parents parents{s, rows, p.parent_count, s.begin, p.rate_threshold, source, parent0};
  if (kind == CrossoverKind::kRows) {
    recombine_rows(parents, p.parts, p.part_count, s.buffer, s.begin, s.end);
    parents.parent0 = s.buffer;
    kind = CrossoverKind::kNone;
  }
  const Mutation mutation{p.distribution, p.mutation_threshold};
  make_genes(parents, steps, mutation, s.end, kind, s.row(p.target[run]),
             s.streaming && p.final[run]);
}

}  // namespace

void replay(const ReplayParams& p) {
  const bool streaming =
      vectors_fit(p.out, p.out_stride) && p.outputs * p.genes * i64{4} > kStreamingBytes;
  const i64 segments = ceil_div(p.genes, p.segment);
  const i64 runs = p.runs;
  // Runs that read no other run's genes may go side by side.
  const i64 runs_per_task = p.independent ? 1 : runs;
  const i64 tasks = runs / runs_per_task * segments;
#pragma omp parallel
  {
    const FloatEnvironment environment;
    const Source keys{RoundKeys(key_of(p.seed)), 0, 0};
    float* const buffer = p.scratch + omp_get_thread_num() * (p.scratch_rows + 1) * p.segment;
    if (p.lengths) {
#pragma omp for schedule(dynamic)
      for (i64 run = 0; run < runs; ++run) {
        if (static_cast<ReplayStart>(p.start[run]) != ReplayStart::kInit) continue;
        Source source = keys;
        source.individual = p.number[p.first_step[run]];
        make_lengths(p, source, buffer, p.lengths + p.source[run] * p.weight_columns);
      }
    }
#pragma omp for schedule(dynamic)
    for (i64 task = 0; task < tasks; ++task) {
      const i64 begin = task % segments * p.segment;
      const i64 end = begin + p.segment < p.genes ? begin + p.segment : p.genes;
      const Segment segment{p, begin, end, streaming, buffer, buffer + p.segment};
      const i64 first = task / segments * runs_per_task;
      for (i64 run = first; run < first + runs_per_task; ++run) make_run(segment, keys, run);
    }
    if (streaming) finish_streaming();
  }
}

EVK_NAMESPACE_END
