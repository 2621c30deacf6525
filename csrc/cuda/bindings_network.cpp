// Networks layer by layer, pools, affine, residual.
#include "core/step_table.h"
#include "cuda/bindings.h"

namespace {

// A NumPy array in one piece.
template <class T>
class HostArray {
 public:
  explicit HostArray(const py::object& array) : info_(py::buffer(array).request()) {}
  const T* data() const { return static_cast<const T*>(info_.ptr); }
  int64_t rows() const { return info_.shape[0]; }

 private:
  py::buffer_info info_;
};

// The banks of a call, and which row of each bank every slot runs: int32 [rows, slots] on the
// device, one row for each bank or one for all.
struct Banks {
  std::vector<Array> arrays;
  const int32_t* index;
  int64_t rows, slots;

  Banks(const std::vector<py::object>& banks, Address address, int64_t index_rows,
        int64_t index_slots)
      : arrays(banks.begin(), banks.end()),
        index(at<int32_t>(address)),
        rows(index_rows),
        slots(index_slots) {}

  bool bf16() const { return !arrays.empty() && arrays[0].itemsize() == 2; }

  evk::Parameter parameter(const int64_t* bank_and_offset) const {
    if (bank_and_offset[0] < 0) return evk::Parameter{nullptr, 0, nullptr};
    const int64_t number = bank_and_offset[0];
    const Array& bank = arrays[static_cast<size_t>(number)];
    const char* base = bank.data<const char>() + bank_and_offset[1] * bank.itemsize();
    return evk::Parameter{base, bank.stride(0), index + (rows > 1 ? number * slots : 0)};
  }
};

std::vector<evk::Step> steps_of(const py::object& program, const Banks& banks) {
  const HostArray<int64_t> table(program.attr("table"));
  const HostArray<float> slopes(program.attr("slopes"));
  std::vector<evk::Step> steps(static_cast<size_t>(table.rows()));
  for (size_t i = 0; i < steps.size(); ++i) {
    steps[i] = evk::step_of(table.data() + i * evk::kStepFields, slopes.data()[i],
                            [&](const int64_t* from) { return banks.parameter(from); });
  }
  return steps;
}

// One call: a plan of evokern/backends/plan.py on x [slots, samples, ...], or [samples, ...] for a
// batch that all slots share. `memory` is the workspace.
class LayersCall {
 public:
  LayersCall(const std::vector<py::object>& banks, const py::object& plan, const py::object& x,
             float x_scale, Address index, int64_t index_rows, int64_t slots, Address memory)
      : banks_(banks, index, index_rows, slots),
        steps_(steps_of(plan.attr("program"), banks_)),
        routes_(plan.attr("routes")),
        buffers_(plan.attr("places")) {
    const auto number = [&](const char* name) { return plan.attr(name).cast<int64_t>(); };
    const Array from(x);
    plan_.slots = number("slots");
    plan_.shared = plan.attr("shared").cast<bool>();
    plan_.routes = routes_.data();
    plan_.route_count = routes_.rows();
    plan_.head_routes = number("head_routes");
    plan_.buffers = buffers_.data();
    plan_.output = number("output");
    plan_.copy = number("copy");
    plan_.state = number("state");
    plan_.losses = number("losses");
    plan_.memory = at<void>(memory);
    plan_.fused_step = number("fused_step");
    p.steps = steps_.data();
    p.step_count = static_cast<int64_t>(steps_.size());
    p.bf16_bank = banks_.bf16();
    if (from.itemsize() == 1) {
      p.x_u8 = from.data<const uint8_t>();
      p.x_scale = x_scale;
    } else {
      p.x = from.data<const float>();
    }
    const size_t sample_axis = plan_.shared ? 0 : 1;
    p.x_slot_stride = plan_.shared ? 0 : from.stride(0);
    p.x_sample_stride = from.stride(sample_axis);
    p.samples = from.shape(sample_axis);
    p.inputs = number("inputs");
    p.outputs = plan.attr("program").attr("outputs").cast<int64_t>();
    p.slots = slots;
  }

  void run(const char* op, Address stream) {
    check(op, evk::cuda::run_steps(p, plan_, stream_of(stream)));
  }

  evk::NetworkParams p{};

 private:
  Banks banks_;
  std::vector<evk::Step> steps_;
  HostArray<evk::cuda::Route> routes_;
  HostArray<evk::cuda::Buffer> buffers_;
  evk::cuda::LayersPlan plan_{};
};

void network_forward(const std::vector<py::object>& banks, const py::object& plan,
                     const py::object& x, float x_scale, Address index, int64_t index_rows,
                     int64_t slots, Address memory, const py::object& out, Address stream) {
  LayersCall call(banks, plan, x, x_scale, index, index_rows, slots, memory);
  const Array to(out);
  call.p.out = to.data<float>();
  call.p.out_slot_stride = to.stride(0);
  call.p.out_sample_stride = to.stride(1);
  call.run("network_forward", stream);
}

// `classes`: address of int32 [slots], or 0; `sample_weights`: an array or None.
void network_loss(const std::vector<py::object>& banks, const py::object& plan, const py::object& x,
                  float x_scale, Address index, int64_t index_rows, int64_t slots, Address memory,
                  const py::object& y, bool mse, Address classes, const py::object& sample_weights,
                  const py::object& out_loss, const py::object& out_correct, Address stream) {
  LayersCall call(banks, plan, x, x_scale, index, index_rows, slots, memory);
  const Array wanted(y);
  evk::NetworkParams& p = call.p;
  const int64_t sample_axis = wanted.ndim() - (mse ? 2 : 1);
  p.label_slot_stride = sample_axis == 1 ? wanted.stride(0) : 0;
  if (mse) {
    p.loss = evk::Loss::kMeanSquaredError;
    p.targets = wanted.data<const float>();
    p.target_sample_stride = wanted.stride(static_cast<size_t>(sample_axis));
  } else {
    p.loss = evk::Loss::kCrossEntropy;
    p.labels = wanted.data<const int64_t>();
  }
  p.classes = at<int32_t>(classes);
  if (!sample_weights.is_none()) {
    const Array weights(sample_weights);
    p.sample_weights = weights.data<const float>();
    p.weight_slot_stride = weights.ndim() == 2 ? weights.stride(0) : 0;
  }
  p.out_loss = Array(out_loss).data<float>();
  p.out_correct = Array(out_correct).data<int32_t>();
  call.run("network_loss", stream);
}

int64_t fused_tile(int64_t widest, int64_t samples) {
  int64_t tile = 0;
  check("fused_tile", evk::cuda::fused_tile(widest, samples, &tile));
  return tile;
}

// x [images, channels, height, width], out the same or, of one window, [images, channels];
// geometry: kernel, stride and padding, each (height, width).
void pool2d(const py::object& x, const py::object& out, const std::vector<int64_t>& geometry,
            bool max, bool count_include_pad, Address stream) {
  const Array from(x), to(out);
  const bool whole = to.ndim() == 2;
  evk::PoolParams p{};
  p.x = from.data<const float>();
  p.out = to.data<float>();
  p.images = from.shape(0);
  p.image_stride = from.stride(0);
  p.channel_stride = from.stride(1);
  p.row_stride = from.stride(2);
  p.out_image_stride = to.stride(0);
  p.out_channel_stride = to.stride(1);
  p.out_row_stride = whole ? 0 : to.stride(2);
  evk::Step& s = p.step;
  s.channels = from.shape(1);
  s.height = from.shape(2);
  s.width = from.shape(3);
  evk::set_window(s, geometry.data());
  s.out_height = whole ? 1 : to.shape(2);
  s.out_width = whole ? 1 : to.shape(3);
  s.count_include_pad = count_include_pad;
  check("pool2d", evk::cuda::pool2d(p, max, stream_of(stream)));
}

// x, out [slots, samples, channels, length]; index: address of int32 [slots].
void affine(const py::object& x, const py::object& scale, const py::object& shift, Address index,
            const py::object& out, Address stream) {
  const Array from(x), gain(scale), offset(shift), to(out);
  evk::AffineParams p{};
  p.x = from.data<const float>();
  p.scale = gain.data<const float>();
  p.shift = offset.data<const float>();
  p.scale_stride = gain.stride(0);
  p.shift_stride = offset.stride(0);
  p.index = at<int32_t>(index);
  p.out = to.data<float>();
  for (size_t axis = 0; axis < 3; ++axis) {
    p.x_strides[axis] = from.stride(axis);
    p.out_strides[axis] = to.stride(axis);
  }
  p.slots = from.shape(0);
  p.samples = from.shape(1);
  p.channels = from.shape(2);
  p.length = from.shape(3);
  check("affine", evk::cuda::affine(p, stream_of(stream)));
}

void residual(const py::object& x, const py::object& y, int activation, float slope,
              const py::object& out, Address stream) {
  const Array from(x);
  int64_t count = 1;
  for (size_t axis = 0; axis < static_cast<size_t>(from.ndim()); ++axis) count *= from.shape(axis);
  const evk::ResidualParams p{from.data<const float>(),
                              Array(y).data<const float>(),
                              Array(out).data<float>(),
                              count,
                              activation,
                              slope};
  check("residual", evk::cuda::residual(p, stream_of(stream)));
}

}  // namespace

void bind_network(py::module_& m) {
  m.attr("most_fused_steps") = evk::kMostFusedSteps;
  m.def("fused_tile", &fused_tile);
  m.def("network_forward", &network_forward);
  m.def("network_loss", &network_loss);
  m.def("pool2d", &pool2d);
  m.def("affine", &affine);
  m.def("residual", &residual);
}
