// Networks, whole and layer by layer.
#include "core/step_table.h"
#include "cpu/bindings.h"

namespace {

const float kNoBias[65536] = {};  // zeros for as many outputs as evokern/layers.py allows

// The banks of a call, and which row of each bank every slot runs: index [banks, slots].
struct Banks {
  const std::vector<Array>& arrays;
  const Array& index;

  evk::Parameter parameter(const int64_t* bank_and_offset) const {
    if (bank_and_offset[0] < 0) return evk::Parameter{nullptr, 0, nullptr};
    const auto number = static_cast<size_t>(bank_and_offset[0]);
    const Array& bank = arrays[number];
    const char* base = data<char>(bank) + bank_and_offset[1] * bank.itemsize();
    const auto row = static_cast<int64_t>(number) * (index.shape(0) > 1 ? stride(index, 0) : 0);
    return evk::Parameter{base, stride(bank, 0), data<int32_t>(index) + row};
  }
};

std::vector<evk::Step> steps_of(const py::object& program, const Banks& banks) {
  const auto table = program.attr("table").cast<Array>();
  const auto slopes = program.attr("slopes").cast<Array>();
  const auto places = program.attr("places").cast<Array>();
  std::vector<evk::Step> steps(static_cast<size_t>(table.shape(0)));
  for (size_t i = 0; i < steps.size(); ++i) {
    const int64_t* f = data<int64_t>(table) + i * evk::kStepFields;
    steps[i] = evk::step_of(f, data<float>(slopes)[i],
                            [&](const int64_t* from) { return banks.parameter(from); });
    steps[i].offsets = data<int32_t>(places) + f[evk::kOffsets];
    steps[i].places = data<int32_t>(places) + f[evk::kPlaces];
  }
  return steps;
}

// One call's network: a program of evokern/backends/steps.py on x [slots, samples, inputs], or
// [samples, inputs] for a batch that all slots share.
class NetworkCall {
 public:
  NetworkCall(const std::vector<Array>& banks, const py::object& program, const Array& x,
              float x_scale, const Array& index, bool bf16)
      : steps_(steps_of(program, Banks{banks, index})),
        buffers_(program.attr("buffer_features").cast<Array>()) {
    const auto number = [&](const char* name) { return program.attr(name).cast<int64_t>(); };
    const int sample_axis = static_cast<int>(x.ndim()) - 2;
    p.tiles = program.attr("tiles").cast<bool>();
    p.bf16 = bf16;
    p.bf16_bank = !banks.empty() && banks[0].itemsize() == 2;
    if (p.tiles) without_bias();
    p.steps = steps_.data();
    p.step_count = static_cast<int64_t>(steps_.size());
    if (x.itemsize() == 1) {
      p.x_u8 = data<uint8_t>(x);
      p.x_scale = x_scale;
    } else {
      p.x = data<float>(x);
    }
    p.x_slot_stride = x.ndim() == 3 ? stride(x, 0) : 0;
    p.x_sample_stride = stride(x, sample_axis);
    p.samples = x.shape(sample_axis);
    p.inputs = x.shape(sample_axis + 1);
    p.outputs = number("outputs");
    p.slots = index.shape(1);
    p.buffer_features = data<int64_t>(buffers_);
    p.buffer_count = buffers_.shape(0);
    p.head_steps = number("head_steps");
    p.head_buffer = static_cast<int>(number("head_buffer"));
    p.flat_step = number("flat_step");
    p.output_buffer = static_cast<int>(number("output_buffer"));
    p.output_channels = number("output_channels");
  }

  void run() {
    const Kernels& kernels = *active;  // one choice for both calls
    const Running running;
    const Scratch scratch(static_cast<size_t>(kernels.network_workspace_bytes(p)));
    p.workspace = scratch.get();
    kernels.network(p);
  }

  evk::NetworkParams p{};

 private:
  // Tiles always add a bias.
  void without_bias() {
    for (evk::Step& s : steps_) {
      if (s.bias.base || !s.weights.base) continue;
      s.bias = evk::Parameter{kNoBias, 0, s.weights.row};
    }
  }

  std::vector<evk::Step> steps_;
  Array buffers_;
};

void network_forward(const std::vector<Array>& banks, const py::object& program, const Array& x,
                     float x_scale, const Array& index, bool bf16, const Array& out) {
  NetworkCall call(banks, program, x, x_scale, index, bf16);
  call.p.out = mutable_data<float>(out);
  call.p.out_slot_stride = stride(out, 0);
  call.p.out_sample_stride = stride(out, 1);
  call.run();
}

// What is made of outputs: labels or targets, weights, where losses go.
void evaluate(evk::NetworkParams& p, const Array& y, bool mse, const OptionalArray& classes,
              const OptionalArray& sample_weights, const Array& out_loss,
              const Array& out_correct) {
  const int sample_axis = static_cast<int>(y.ndim()) - (mse ? 2 : 1);
  p.label_slot_stride = sample_axis == 1 ? stride(y, 0) : 0;
  if (mse) {
    p.loss = evk::Loss::kMeanSquaredError;
    p.targets = data<float>(y);
    p.target_sample_stride = stride(y, sample_axis);
  } else {
    p.loss = evk::Loss::kCrossEntropy;
    p.labels = data<int64_t>(y);
  }
  p.classes = data<int32_t>(classes);
  p.sample_weights = data<float>(sample_weights);
  if (sample_weights && sample_weights->ndim() == 2) {
    p.weight_slot_stride = stride(*sample_weights, 0);
  }
  p.out_loss = mutable_data<float>(out_loss);
  p.out_correct = mutable_data<int32_t>(out_correct);
}

void network_loss(const std::vector<Array>& banks, const py::object& program, const Array& x,
                  float x_scale, const Array& index, bool bf16, const Array& y, bool mse,
                  const OptionalArray& classes, const OptionalArray& sample_weights,
                  const Array& out_loss, const Array& out_correct) {
  NetworkCall call(banks, program, x, x_scale, index, bf16);
  evaluate(call.p, y, mse, classes, sample_weights, out_loss, out_correct);
  call.run();
}

// `program` and `banks` are the centre's, all its layers dense.
void mutant_loss(const Array& genes, const Array& index, bool bias, const std::vector<Array>& banks,
                 const py::object& program, const Array& x, const Array& slots, const Array& y,
                 bool mse, const OptionalArray& sample_weights, const Array& out_loss,
                 const Array& out_correct) {
  NetworkCall call(banks, program, x, 1.0f, slots, false);
  evaluate(call.p, y, mse, std::nullopt, sample_weights, out_loss, out_correct);
  evk::MutantParams p{call.p,
                      data<float>(genes),
                      stride(genes, 0),
                      data<int32_t>(index),
                      genes.shape(1) / (call.p.inputs + (bias ? 1 : 0)),
                      bias,
                      kNoBias};
  const Kernels& kernels = *active;  // one choice for both calls
  const Running running;
  const Scratch scratch(static_cast<size_t>(kernels.mutants_workspace_bytes(p)));
  p.network.workspace = scratch.get();
  kernels.mutants(p);
}

// x [images, height, width]; geometry: kernel, stride and padding, each (height, width).
void pool2d(const Array& x, const Array& out, const std::vector<int64_t>& geometry, bool max,
            bool count_include_pad) {
  evk::PoolParams p{};
  p.x = data<float>(x);
  p.out = mutable_data<float>(out);
  p.images = x.shape(0);
  p.image_stride = stride(x, 0);
  p.row_stride = stride(x, 1);
  p.out_image_stride = stride(out, 0);
  p.out_row_stride = stride(out, 1);
  evk::Step& s = p.step;
  s.height = x.shape(1);
  s.width = x.shape(2);
  evk::set_window(s, geometry.data());
  s.out_height = out.shape(1);
  s.out_width = out.shape(2);
  s.count_include_pad = count_include_pad;
  const Running running;
  (max ? active->max_pool2d : active->avg_pool2d)(p);
}

void affine(const Array& x, const Array& scale, const Array& shift, const Array& index,
            const Array& out) {
  evk::AffineParams p{};
  p.x = data<float>(x);
  p.scale = data<float>(scale);
  p.shift = data<float>(shift);
  p.scale_stride = stride(scale, 0);
  p.shift_stride = stride(shift, 0);
  p.index = data<int32_t>(index);
  p.out = mutable_data<float>(out);
  for (int axis = 0; axis < 3; ++axis) {
    p.x_strides[axis] = stride(x, axis);
    p.out_strides[axis] = stride(out, axis);
  }
  p.slots = x.shape(0);
  p.samples = x.shape(1);
  p.channels = x.shape(2);
  p.length = x.shape(3);
  const Running running;
  active->affine(p);
}

void residual(const Array& x, const Array& y, int activation, float slope, const Array& out) {
  const evk::ResidualParams p{data<float>(x), data<float>(y), mutable_data<float>(out),
                              x.size(),       activation,     slope};
  const Running running;
  active->residual(p);
}

}  // namespace

void bind_network(py::module_& m) {
  m.def("network_forward", &network_forward);
  m.def("network_loss", &network_loss);
  m.def("mutant_loss", &mutant_loss);
  m.def("pool2d", &pool2d);
  m.def("affine", &affine);
  m.def("residual", &residual);
}
