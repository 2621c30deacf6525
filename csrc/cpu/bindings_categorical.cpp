// nes_sample, nes_update.
#include "cpu/bindings.h"

namespace {

// Threads and the release of the GIL cost more than they give where there is less to do.
constexpr int64_t kParallelDraws = 1 << 20;
constexpr int64_t kBriefDraws = 1 << 14;

// What a call of the kernels has beside its parameters: the rows, scratch memory for as many
// threads as it runs, the first fault.
class RowsCall {
 public:
  // `scratch_size` floats of every thread, then `shared` ones for all.
  RowsCall(evk::CategoricalRows& rows, const Array& probabilities, const OptionalArray& mask,
           int64_t samples, int64_t scratch_size, int64_t shared)
      : threads_(thread_count()) {
    rows.probabilities = data<float>(probabilities);
    rows.stride = stride(probabilities, 0);
    rows.mask = data<bool>(mask);
    rows.mask_stride = mask ? stride(*mask, 0) : 0;
    rows.count = probabilities.shape(0);
    rows.choices = probabilities.shape(1);
    draws_ = rows.count * rows.choices * samples;
    rows.parallel = draws_ >= kParallelDraws;
    rows.scratch_size = scratch_size;
    const int64_t own = (rows.parallel ? threads_ : 1) * scratch_size;
    memory_ = allocate(static_cast<size_t>(own + shared) * sizeof(float));
    rows.scratch = static_cast<float*>(memory_.get());
    shared_ = rows.scratch + own;
    rows.fault = &fault_;
  }

  float* shared() const { return shared_; }

  // The first fault, or -1. `more` steps come beside the draws.
  template <class Params>
  int64_t run(void (*kernel)(const Params&), const Params& p, int64_t more = 0) {
    std::optional<Running> running;
    if (draws_ + more >= kBriefDraws) running.emplace(threads_);
    kernel(p);
    return fault_;
  }

 private:
  int threads_;
  int64_t draws_, fault_ = -1;
  Memory memory_;
  float* shared_;
};

// -1, or the first row of probabilities that is no distribution.
int64_t nes_sample(const Array& probabilities, const OptionalArray& mask, const Array& out,
                   uint64_t seed, uint32_t step) {
  evk::NesSampleParams p{};
  p.samples = out.shape(0);
  p.seed = seed;
  p.step = step;
  p.out = mutable_data<int32_t>(out);
  p.out_stride = stride(out, 0);
  const int64_t scratch = evk::kMostCategoricalRows * probabilities.shape(1);
  RowsCall call(p.rows, probabilities, mask, p.samples, scratch, 0);
  return call.run(active->nes_sample, p);
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
  RowsCall call(p.rows, probabilities, mask, p.samples, scratch, p.samples);
  p.utilities = call.shared();
  return call.run(active->nes_update, p, p.samples * p.samples);  // each loss against each
}

}  // namespace

void bind_categorical(py::module_& m) {
  m.def("nes_sample", &nes_sample);
  m.def("nes_update", &nes_update);
}
