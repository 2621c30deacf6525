// nes_sample and nes_update. Rows go in groups of kGroup, as many as one draw of Philox words
// serves, with the same entry of all rows of a group side by side: entry k of the group's row r is
// number k * kGroup + r. A vector so holds one entry of several rows, and every sum over entries
// or samples is ascending whatever the instruction set.
#include "core/categorical.h"

#include <omp.h>

#include "cpu/kernels.h"
#include "cpu/variation.h"

EVK_NAMESPACE_BEGIN

namespace {

using Int = Element<Float>::Int;

constexpr i64 kParallelSamples = 1024;  // from so many losses on they are ranked in parallel

EVK_INLINE Int load_ints(const float* p) {
  return Element<Float>::as_int(Element<Float>::bits(load(p)));
}
EVK_INLINE void store_ints(float* p, Int v) {
  store(p, Element<Float>::from_bits(Element<Float>::as_uint(v)));
}

// Rows [first, first + count), and what a thread has for them.
struct Group {
  i64 first, count;
  float* entries;   // [choices, kGroup]
  float* absent;    // [choices, kGroup] of integers, 1 where an entry is masked
  float* assigned;  // [samples, kGroup] of integers
};

// Masked entries, and those of rows past the last one, are +0.
void load_rows(const CategoricalRows& rows, const Group& g) {
  memset(g.entries, 0, static_cast<size_t>(rows.choices * kGroup) * sizeof(float));
  for (i64 r = 0; r < g.count; ++r) {
    const float* row = rows.probabilities + (g.first + r) * rows.stride;
    for (i64 k = 0; k < rows.choices; ++k) g.entries[k * kGroup + r] = row[k];
    if (!rows.mask) continue;
    const bool* mask = rows.mask + (g.first + r) * rows.mask_stride;
    for (i64 k = 0; k < rows.choices; ++k) {
      if (mask[k]) g.entries[k * kGroup + r] = 0.0f;
    }
  }
}

// The first row of the group that is no distribution, or no_fault.
i64 first_wrong_row(const CategoricalRows& rows, const Group& g, i64 no_fault) {
  double sum[kGroup] = {};
  float least[kGroup] = {};
  for (i64 k = 0; k < rows.choices; ++k) {
    const float* entries = g.entries + k * kGroup;
    for (int r = 0; r < kGroup; ++r) {
      sum[r] += static_cast<double>(entries[r]);
      least[r] = entries[r] < least[r] ? entries[r] : least[r];
    }
  }
  for (i64 r = 0; r < g.count; ++r) {
    if (!is_distribution(sum[r], least[r])) return g.first + r;
  }
  return no_fault;
}

void sample_rows(const NesSampleParams& p, const RoundKeys& keys, const Group& g) {
  Source source{keys, 0, p.step};
  const i64 choices = p.rows.choices;
  Int total[kParts] = {};
  for (i64 k = 0; k < choices; ++k) {
    for (int i = 0; i < kParts; ++i) {
      float* entry = g.entries + k * kGroup + i * kLanes;
      total[i] = total[i] + sampling_weight<Float>(load(entry));
      store_ints(entry, total[i]);
    }
  }
  for (i64 s = 0; s < p.samples; ++s) {
    source.individual = static_cast<u32>(s);
    const WordGroup words = draw_words(source, g.first, kNes);
    Int target[kParts], chosen[kParts] = {};
    for (int i = 0; i < kParts; ++i) {
      const Word high = multiply_high(words.part[i], Element<Float>::as_uint(total[i]));
      target[i] = Element<Float>::as_int(high);
    }
    for (i64 k = 0; k < choices - 1; ++k) {  // the last sum is above every target
      for (int i = 0; i < kParts; ++i) {
        const Int sum = load_ints(g.entries + k * kGroup + i * kLanes);
        chosen[i] = sum <= target[i] ? chosen[i] + 1 : chosen[i];
      }
    }
    memcpy(p.out + s * p.out_stride + g.first, chosen,
           static_cast<size_t>(g.count) * sizeof(int32_t));
  }
}

// Whether all assignments of the group name entries that are there.
bool load_assignments(const NesUpdateParams& p, const Group& g) {
  bool wrong = false;
  memset(g.assigned, 0, static_cast<size_t>(p.samples * kGroup) * sizeof(float));
  for (i64 s = 0; s < p.samples; ++s) {
    const int32_t* chosen = p.assignments + s * p.assignments_stride + g.first;
    memcpy(g.assigned + s * kGroup, chosen, static_cast<size_t>(g.count) * sizeof(int32_t));
    for (i64 r = 0; r < g.count; ++r) wrong |= chosen[r] < 0 || chosen[r] >= p.rows.choices;
    if (!p.rows.mask || wrong) continue;
    for (i64 r = 0; r < g.count; ++r) {
      wrong |= p.rows.mask[(g.first + r) * p.rows.mask_stride + chosen[r]];
    }
  }
  return !wrong;
}

void load_mask(const CategoricalRows& rows, const Group& g) {
  memset(g.absent, 0, static_cast<size_t>(rows.choices * kGroup) * sizeof(float));
  const float one = Element<float>::from_bits(1);
  for (i64 r = 0; r < g.count; ++r) {
    const bool* mask = rows.mask + (g.first + r) * rows.mask_stride;
    for (i64 k = 0; k < rows.choices; ++k) {
      if (mask[k]) g.absent[k * kGroup + r] = one;
    }
  }
}

// The probabilities after the step, in place of the group's entries.
void update_rows(const NesUpdateParams& p, const float* utilities, const Group& g) {
  using E = Element<Float>;
  const float samples = static_cast<float>(p.samples);
  const Float zero = E::all(0.0f), one = E::all(1.0f);
  const Float base = E::all(p.keep_minimum ? p.min_probability : 0.0f);
  Float total[kParts], present[kParts];
  for (int i = 0; i < kParts; ++i) total[i] = present[i] = zero;
  for (i64 k = 0; k < p.rows.choices; ++k) {
    float* entries = g.entries + k * kGroup;
    const Int number = E::as_int(E::all_uint(static_cast<u32>(k)));
    Float if_chosen[kParts], if_not[kParts], sum[kParts];
    for (int i = 0; i < kParts; ++i) {
      if_chosen[i] = one - load(entries + i * kLanes);
      if_not[i] = zero - load(entries + i * kLanes);
      sum[i] = zero;
    }
    for (i64 s = 0; s < p.samples; ++s) {
      const Float u = broadcast(utilities + s);
      for (int i = 0; i < kParts; ++i) {
        const Int chosen = load_ints(g.assigned + s * kGroup + i * kLanes);
        sum[i] = sum[i] + u * E::select(chosen == number, if_chosen[i], if_not[i]);
      }
    }
    for (int i = 0; i < kParts; ++i) {
      float* entry = entries + i * kLanes;
      Float amount =
          stepped<Float>(load(entry), sum[i], samples, p.learning_rate, p.min_probability) - base;
      Float here = one;
      if (p.rows.mask) {
        const Int absent = load_ints(g.absent + k * kGroup + i * kLanes);
        amount = E::select(absent == 0, amount, zero);
        here = E::select(absent == 0, one, zero);
      }
      store(entry, amount);
      total[i] = total[i] + amount;
      present[i] = present[i] + here;
    }
  }
  Float equal[kParts], left[kParts];
  for (int i = 0; i < kParts; ++i) {
    equal[i] = one / present[i];
    left[i] = left_over<Float>(present[i], base);
  }
  for (i64 k = 0; k < p.rows.choices; ++k) {
    for (int i = 0; i < kParts; ++i) {
      float* entry = g.entries + k * kGroup + i * kLanes;
      Float q = normalised<Float>(load(entry), total[i], equal[i], base, left[i]);
      if (p.rows.mask) {
        q = E::select(load_ints(g.absent + k * kGroup + i * kLanes) == 0, q, zero);
      }
      store(entry, q);
    }
  }
}

void store_rows(const NesUpdateParams& p, const Group& g) {
  for (i64 r = 0; r < g.count; ++r) {
    float* row = p.out + (g.first + r) * p.out_stride;
    for (i64 k = 0; k < p.rows.choices; ++k) row[k] = g.entries[k * kGroup + r];
  }
}

// Calls work(group) for all rows, which gives the first fault of the group. No parallel region for
// little work: one costs half a microsecond.
template <class Work>
EVK_INLINE void for_all_rows(const CategoricalRows& rows, const Work& work) {
  const i64 no_fault = rows.count + 1, groups = ceil_div(rows.count, kGroup);
  const auto run = [&rows, &work](i64 begin, i64 end, float* scratch) {
    const FloatEnvironment environment;
    const i64 size = rows.choices * kGroup;
    i64 fault = rows.count + 1;
    for (i64 first = begin * kGroup; first < rows.count && first < end * kGroup; first += kGroup) {
      const i64 left = rows.count - first;
      const Group g{first, left < kGroup ? left : kGroup, scratch, scratch + size,
                    scratch + 2 * size};
      const i64 wrong = work(g);
      fault = wrong < fault ? wrong : fault;
    }
    return fault;
  };
  i64 fault = no_fault;
  if (rows.parallel) {
#pragma omp parallel reduction(min : fault)
    {
      const i64 thread = omp_get_thread_num(), threads = omp_get_num_threads();
      fault = run(groups * thread / threads, groups * (thread + 1) / threads,
                  rows.scratch + thread * rows.scratch_size);
    }
  } else {
    fault = run(0, groups, rows.scratch);
  }
  *rows.fault = fault == no_fault ? -1 : fault;
}

}  // namespace

void nes_sample(const NesSampleParams& p) {
  const RoundKeys keys(key_of(p.seed));
  const i64 no_fault = p.rows.count + 1;
  for_all_rows(p.rows, [&p, &keys, no_fault](const Group& g) {
    load_rows(p.rows, g);
    const i64 wrong = first_wrong_row(p.rows, g, no_fault);
    if (wrong == no_fault) sample_rows(p, keys, g);
    return wrong;
  });
}

void nes_update(const NesUpdateParams& p) {
#pragma omp parallel if (p.samples >= kParallelSamples)
  {
    const FloatEnvironment environment;
#pragma omp for schedule(static)
    for (i64 s = 0; s < p.samples; ++s) p.utilities[s] = utility(p.losses, p.samples, s);
  }
  const i64 no_fault = p.rows.count + 1;
  for_all_rows(p.rows, [&p, no_fault](const Group& g) {
    load_rows(p.rows, g);
    const i64 wrong = first_wrong_row(p.rows, g, load_assignments(p, g) ? no_fault : p.rows.count);
    if (wrong != no_fault) return wrong;
    if (p.rows.mask) load_mask(p.rows, g);
    update_rows(p, p.utilities, g);
    store_rows(p, g);
    return wrong;
  });
}

EVK_NAMESPACE_END
