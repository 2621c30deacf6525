// nes_sample, nes_update.
#include "cpu/bindings.h"

namespace {

// Threads and the release of the GIL cost more than they give where there is less to do.
constexpr int64_t kParallelDraws = 1 << 20;
constexpr int64_t kBriefDraws = 1 << 14;

int64_t draws(const evk::CategoricalRows& rows, int64_t samples) {
  return rows.count * rows.choices * samples;
}

// `scratch_size` floats of every thread, then `shared` ones for all.
std::unique_ptr<void, AlignedDelete> prepare(evk::CategoricalRows& rows, const Array& probabilities,
                                             const OptionalArray& mask, int64_t samples,
                                             int64_t scratch_size, int64_t shared) {
  rows.probabilities = data<float>(probabilities);
  rows.stride = stride(probabilities, 0);
  rows.mask = data<bool>(mask);
  rows.mask_stride = mask ? stride(*mask, 0) : 0;
  rows.count = probabilities.shape(0);
  rows.choices = probabilities.shape(1);
  rows.parallel = draws(rows, samples) >= kParallelDraws;
  rows.scratch_size = scratch_size;
  const int64_t size = (rows.parallel ? thread_count() : 1) * scratch_size + shared;
  std::unique_ptr<void, AlignedDelete> memory(
      ::operator new(static_cast<size_t>(size) * sizeof(float), std::align_val_t{64}));
  rows.scratch = static_cast<float*>(memory.get());
  return memory;
}

// -1, or the first row of probabilities that is no distribution.
int64_t nes_sample(const Array& probabilities, const OptionalArray& mask, const Array& out,
                   uint64_t seed, uint32_t step) {
  evk::NesSampleParams p{};
  p.samples = out.shape(0);
  p.seed = seed;
  p.step = step;
  p.out = mutable_data<int32_t>(out);
  p.out_stride = stride(out, 0);
  const auto memory = prepare(p.rows, probabilities, mask, p.samples,
                              evk::kMostCategoricalRows * probabilities.shape(1), 0);
  int64_t fault = -1;
  p.rows.fault = &fault;
  std::optional<Running> running;
  if (draws(p.rows, p.samples) >= kBriefDraws) running.emplace();
  active->nes_sample(p);
  return fault;
}

// As nes_sample; the number of rows stands for a wrong assignment.
int64_t nes_update(const Array& probabilities, const OptionalArray& mask, const Array& assignments,
                   const Array& losses, float learning_rate, float min_probability,
                   bool keep_minimum, const Array& out) {
  evk::NesUpdateParams p{};
  p.assignments = data<int32_t>(assignments);
  p.assignments_stride = stride(assignments, 0);
  p.losses = data<float>(losses);
  p.samples = losses.shape(0);
  p.learning_rate = learning_rate;
  p.min_probability = min_probability;
  p.keep_minimum = keep_minimum;
  p.out = mutable_data<float>(out);
  p.out_stride = stride(out, 0);
  const int64_t scratch = evk::kMostCategoricalRows * (2 * probabilities.shape(1) + p.samples);
  const auto memory = prepare(p.rows, probabilities, mask, p.samples, scratch, p.samples);
  p.utilities = p.rows.scratch + (p.rows.parallel ? thread_count() : 1) * scratch;
  int64_t fault = -1;
  p.rows.fault = &fault;
  std::optional<Running> running;
  if (draws(p.rows, p.samples) >= kBriefDraws) running.emplace();
  active->nes_update(p);
  return fault;
}

}  // namespace

void bind_categorical(py::module_& m) {
  m.def("nes_sample", &nes_sample);
  m.def("nes_update", &nes_update);
}
