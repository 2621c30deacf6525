// nes_sample, nes_update. `fault` is the address of an int64 that holds the number of rows + 1.
#include "cuda/bindings.h"

namespace {

evk::CategoricalRows rows_of(const py::object& probabilities, const py::object& mask,
                             Address fault) {
  const Array from(probabilities);
  evk::CategoricalRows rows{};
  rows.probabilities = from.data<const float>();
  rows.stride = from.stride(0);
  rows.count = from.shape(0);
  rows.choices = from.shape(1);
  if (!mask.is_none()) {
    const Array absent(mask);
    rows.mask = absent.data<const bool>();
    rows.mask_stride = absent.stride(0);
  }
  rows.fault = at<int64_t>(fault);
  return rows;
}

void nes_sample(const py::object& probabilities, const py::object& mask, const py::object& out,
                Address fault, uint64_t seed, uint32_t step, Address stream) {
  const Array to(out);
  evk::NesSampleParams p{};
  p.rows = rows_of(probabilities, mask, fault);
  p.samples = to.shape(0);
  p.seed = seed;
  p.step = step;
  p.out = to.data<int32_t>();
  p.out_stride = to.stride(0);
  check("nes_sample", evk::cuda::nes_sample(p, stream_of(stream)));
}

void nes_update(const py::object& probabilities, const py::object& mask,
                const py::object& assignments, const py::object& losses, const py::object& out,
                Address fault, Address utilities, float learning_rate, float min_probability,
                bool keep_minimum, Address stream) {
  const Array chosen(assignments), loss(losses), to(out);
  evk::NesUpdateParams p{};
  p.rows = rows_of(probabilities, mask, fault);
  p.assignments = chosen.data<const int32_t>();
  p.assignments_stride = chosen.stride(0);
  p.losses = loss.data<const float>();
  p.samples = loss.shape(0);
  p.learning_rate = learning_rate;
  p.min_probability = min_probability;
  p.keep_minimum = keep_minimum;
  p.utilities = at<float>(utilities);
  p.out = to.data<float>();
  p.out_stride = to.stride(0);
  check("nes_update", evk::cuda::nes_update(p, stream_of(stream)));
}

}  // namespace

void bind_categorical(py::module_& m) {
  m.def("nes_sample", &nes_sample);
  m.def("nes_update", &nes_update);
}
