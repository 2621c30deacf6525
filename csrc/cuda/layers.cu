// Networks layer by layer, and layers as ops of their own.
#include "cuda/conv.cuh"
#include "cuda/dense.cuh"
#include "cuda/elementwise.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/loss.h"
#include "cuda/network.h"
#include "cuda/pool.cuh"

EVK_NAMESPACE_BEGIN

namespace {

bool on_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Whether every row of a bank, and every row of the weights in it, can be read 4 at a time.
bool reads_fours(const Parameter& p, i64 outputs, bool bf16_bank) {
  const uintptr_t bytes = bf16_bank ? 8 : 16;
  return reinterpret_cast<uintptr_t>(p.base) % bytes == 0 && p.stride % 4 == 0 && outputs % 4 == 0;
}

template <class T>
bool starts_on_16(const Values<T>& v) {
  return on_16(v.data) && v.slot_stride % 4 == 0 && v.sample_stride % 4 == 0;
}

Values<const float> read_only(const Values<float>& v) {
  return Values<const float>{v.data, v.slot_stride, v.sample_stride};
}

// --- one launch each ----------------------------------------------------------------------------

template <Rule R>
int launch_elements(ElementsParams p, void* stream) {
  p.wide = starts_on_16(p.y) && (R == Rule::kBytes || starts_on_16(p.x)) &&
           (R != Rule::kAdd || starts_on_16(p.other));
  // Samples of few features share a block.
  unsigned across = kElementThreads;
  while (across > 1 && 4 * static_cast<i64>(across / 2) >= p.features) across /= 2;
  const unsigned down = kElementThreads / across;
  const i64 blocks = ceil_div(p.slots * p.samples, down) * ceil_div(p.features, 4 * across);
  return launch(elements_kernel<R>, grid_of(blocks), dim3(across, down), 0, stream, p);
}

int launch_pool(const PoolKernelParams& p, bool max, void* stream) {
  const i64 windows = p.slots * p.samples * p.channels * p.out_height * p.out_width;
  const dim3 grid = grid_of(ceil_div(windows, kPoolThreads));
  return max ? launch(pool_kernel<true>, grid, kPoolThreads, 0, stream, p)
             : launch(pool_kernel<false>, grid, kPoolThreads, 0, stream, p);
}

// A tile's height, for so many rows: the larger one re-reads fewer weights and has less to read
// per product, where a quarter of its work at most is for nothing.
bool fills_tiles_of_128(i64 rows) {
  const i64 taken = ceil_div(rows, 128) * 128;
  return 4 * (taken - rows) <= taken;
}

template <class T>
int launch_dense_tiles(const DenseParams& p, void* stream) {
  const i64 tiles = ceil_div(p.samples, T::rows) * ceil_div(p.outputs, T::columns);
  return launch(dense_kernel<T>, grid_of(p.slots * tiles), kTileThreads, 0, stream, p);
}

template <class W, int Samples, int Vector>
int launch_dense_few(const DenseParams& p, void* stream) {
  const i64 wanted = ceil_div(ceil_div(p.outputs, Vector), kWarp) * kWarp;
  const unsigned threads = static_cast<unsigned>(wanted < kFewThreads ? wanted : kFewThreads);
  const i64 parts = ceil_div(p.outputs, static_cast<i64>(threads) * Vector);
  return launch(dense_few_kernel<W, Samples, Vector>, grid_of(p.slots * parts), threads, 0, stream,
                p);
}

template <class W, int Vector>
int launch_dense_few(const DenseParams& p, void* stream) {
  if (p.samples == 1) return launch_dense_few<W, 1, Vector>(p, stream);
  if (p.samples <= 4) return launch_dense_few<W, 4, Vector>(p, stream);
  return launch_dense_few<W, kMostFew, Vector>(p, stream);
}

int launch_dense(const DenseParams& p, void* stream) {
  if (p.samples <= kMostFew) {
    if (p.bf16_bank) {
      return p.wide ? launch_dense_few<u16, 4>(p, stream) : launch_dense_few<u16, 1>(p, stream);
    }
    return p.wide ? launch_dense_few<float, 4>(p, stream) : launch_dense_few<float, 1>(p, stream);
  }
  if (p.outputs <= 16) return launch_dense_tiles<Tile<128, 16, 4, 4>>(p, stream);
  if (!fills_tiles_of_128(p.samples)) return launch_dense_tiles<Tile<32, 64, 4, 4>>(p, stream);
  if (p.outputs <= 32) return launch_dense_tiles<Tile<128, 32, 8, 4>>(p, stream);
  return launch_dense_tiles<Tile<128, 64, 8, 8>>(p, stream);
}

template <class T>
int launch_conv_tiles(const ConvParams& p, i64 rows, void* stream) {
  const i64 tiles = ceil_div(rows, T::rows) * ceil_div(p.out_channels, T::columns);
  return launch(conv_kernel<T>, grid_of(p.slots * tiles), kTileThreads, 0, stream, p);
}

int launch_conv(const ConvParams& p, void* stream) {
  const i64 rows = p.samples * p.out_height * p.out_width;
  if (p.out_channels <= 16) return launch_conv_tiles<Tile<128, 16, 4, 4>>(p, rows, stream);
  if (!fills_tiles_of_128(rows)) return launch_conv_tiles<Tile<32, 64, 4, 4>>(p, rows, stream);
  if (p.out_channels <= 32) return launch_conv_tiles<Tile<128, 32, 8, 4>>(p, rows, stream);
  return launch_conv_tiles<Tile<128, 64, 8, 8>>(p, rows, stream);
}

// --- a network ----------------------------------------------------------------------------------

// Some slots of a network; with `slots` 1 and the shared batch, its head.
struct Run {
  const NetworkParams& p;
  const LayersPlan& plan;
  void* stream;
  i64 first, slots;

  // A layer's parameters, counted from the first slot on.
  Parameter here(Parameter parameter) const {
    if (parameter.base) parameter.row += first;
    return parameter;
  }

  bool reads_bytes(i64 place) const { return place == kInputPlace && p.x_u8; }

  Values<const u8> bytes() const {
    return Values<const u8>{p.x_u8 + first * p.x_slot_stride, p.x_slot_stride, p.x_sample_stride};
  }

  Values<float> at(i64 place) const {
    if (place == kInputPlace) {
      float* x = p.x ? const_cast<float*>(p.x) + first * p.x_slot_stride : nullptr;
      return Values<float>{x, p.x_slot_stride, p.x_sample_stride};
    }
    if (place == kOutPlace) {
      return Values<float>{p.out + first * p.out_slot_stride, p.out_slot_stride,
                           p.out_sample_stride};
    }
    const Buffer& b = plan.buffers[place];
    float* data = reinterpret_cast<float*>(static_cast<char*>(plan.memory) + b.offset);
    return Values<float>{data, b.per_slot ? p.samples * b.sample_stride : 0, b.sample_stride};
  }

  ElementsParams elements(i64 source, i64 target, i64 features) const {
    ElementsParams e{};
    e.x = read_only(at(source));
    e.y = at(target);
    e.slots = slots;
    e.samples = p.samples;
    e.features = features;
    return e;
  }

  int widen_bytes(i64 target) const {
    ElementsParams e = elements(kInputPlace, target, p.inputs);
    e.bytes = bytes();
    e.bytes_scale = p.x_scale;
    return launch_elements<Rule::kBytes>(e, stream);
  }

  int elementwise(const Step& s, const Route& route) const {
    ElementsParams e = elements(route.source, route.target, s.outputs);
    e.activation = s.activation;
    e.slope = s.slope;
    if (s.kind == StepKind::kAdd) {
      e.other = read_only(at(route.other));
      return launch_elements<Rule::kAdd>(e, stream);
    }
    if (s.kind == StepKind::kActivation) return launch_elements<Rule::kCopy>(e, stream);
    e.scale = here(s.scale);
    e.shift = here(s.shift);
    e.bf16_bank = p.bf16_bank;
    e.length = s.height * s.width;
    e.x_channel_stride = e.y_channel_stride = e.length;
    return launch_elements<Rule::kAffine>(e, stream);
  }

  DenseParams dense(const Step& s, i64 outputs) const {
    DenseParams d{};
    d.bias = here(s.bias);
    d.bf16_bank = p.bf16_bank;
    d.wide = reads_fours(s.weights, outputs, p.bf16_bank);
    d.slots = slots;
    d.samples = p.samples;
    d.outputs = outputs;
    d.activation = s.activation;
    d.slope = s.slope;
    return d;
  }

  int dense(const Step& s, const Route& route) const {
    DenseParams d = dense(s, s.outputs);
    d.first = DenseOperand{read_only(at(route.source)), here(s.weights), s.inputs};
    d.y = at(route.target);
    return launch_dense(d, stream);
  }

  // One launch per step of the sequence. States lie in the output, or where it is only the last of
  // them, there and in plan.state by turns.
  int elman(const Step& s, const Route& route) const {
    const i64 features = s.inputs / s.length, outputs = s.out_channels;
    const Values<float> x = at(route.source), y = at(route.target);
    DenseParams d = dense(s, outputs);
    d.wide = d.wide && reads_fours(s.recurrent, outputs, p.bf16_bank);
    Values<float> before{nullptr, 0, 0};
    for (i64 step = 0; step < s.length; ++step) {
      Values<float> now = y;
      if (s.whole_sequence) {
        now.data += step * outputs;
      } else if ((s.length - 1 - step) % 2 == 1) {
        now = at(plan.state);
      }
      d.first = DenseOperand{read_only(x), here(s.weights), features};
      d.first.x.data += step * features;
      d.second = DenseOperand{read_only(before), here(s.recurrent), outputs};
      d.y = now;
      if (const int error = launch_dense(d, stream)) return error;
      before = now;
    }
    return 0;
  }

  int conv(const Step& s, const Route& route) const {
    ConvParams c{};
    if (reads_bytes(route.source)) {
      c.bytes = bytes();
      c.bytes_scale = p.x_scale;
    } else {
      c.x = read_only(at(route.source));
    }
    c.weights = here(s.weights);
    c.bias = here(s.bias);
    c.scale = here(s.scale);
    c.shift = here(s.shift);
    c.bf16_bank = p.bf16_bank;
    c.wide = reads_fours(s.weights, s.out_channels, p.bf16_bank);
    c.y = at(route.target);
    c.slots = slots;
    c.samples = p.samples;
    c.channels = static_cast<i32>(s.channels);
    c.height = static_cast<i32>(s.height);
    c.width = static_cast<i32>(s.width);
    c.kernel_height = static_cast<i32>(s.kernel_height);
    c.kernel_width = static_cast<i32>(s.kernel_width);
    c.stride_height = static_cast<i32>(s.stride_height);
    c.stride_width = static_cast<i32>(s.stride_width);
    c.pad_height = static_cast<i32>(s.pad_height);
    c.pad_width = static_cast<i32>(s.pad_width);
    c.out_channels = static_cast<i32>(s.out_channels);
    c.out_height = static_cast<i32>(s.out_height);
    c.out_width = static_cast<i32>(s.out_width);
    c.activation = s.activation;
    c.slope = s.slope;
    return launch_conv(c, stream);
  }

  int pool(const Step& s, const Route& route) const {
    PoolKernelParams k{};
    k.x = read_only(at(route.source));
    k.y = at(route.target);
    k.slots = slots;
    k.samples = p.samples;
    k.channels = s.channels;
    k.x_channel_stride = s.height * s.width;
    k.x_row_stride = s.width;
    // A global pool gives one number per channel, out_image [C, 1, 1].
    k.y_channel_stride = s.out_height * s.out_width;
    k.y_row_stride = s.out_width;
    return launch_pool(windows_of(k, s), s.kind == StepKind::kMaxPool, stream);
  }

  static PoolKernelParams windows_of(PoolKernelParams k, const Step& s) {
    k.height = s.height;
    k.width = s.width;
    k.out_height = s.out_height;
    k.out_width = s.out_width;
    k.kernel_height = s.kernel_height;
    k.kernel_width = s.kernel_width;
    k.stride_height = s.stride_height;
    k.stride_width = s.stride_width;
    k.pad_height = s.pad_height;
    k.pad_width = s.pad_width;
    k.count_include_pad = s.count_include_pad;
    return k;
  }

  int step(const Route& route) const {
    const Step& s = p.steps[route.step];
    switch (s.kind) {
      case StepKind::kDense:
        return dense(s, route);
      case StepKind::kElman:
        return elman(s, route);
      case StepKind::kConv:
        return conv(s, route);
      case StepKind::kMaxPool:
      case StepKind::kAvgPool:
      case StepKind::kGlobalAvgPool:
        return pool(s, route);
      default:
        return elementwise(s, route);
    }
  }

  int steps(i64 begin, i64 end) const {
    for (i64 i = begin; i < end; ++i) {
      if (const int error = step(plan.routes[i])) return error;
    }
    return 0;
  }

  float* losses() const {
    return reinterpret_cast<float*>(static_cast<char*>(plan.memory) + plan.losses);
  }

  // All layers that are left, in one kernel.
  int fused() const {
    FusedRun f{plan.fused_step, first, slots, {}, {}, p.out ? nullptr : losses()};
    if (reads_bytes(plan.output)) {
      f.bytes = bytes();
    } else {
      f.x = read_only(at(plan.output));
    }
    return run_fused(p, f, stream);
  }

  int finish() const {
    if (p.out) {
      if (plan.output == kOutPlace) return 0;
      return launch_elements<Rule::kCopy>(elements(plan.output, kOutPlace, p.outputs), stream);
    }
    i32* right = reinterpret_cast<i32*>(losses() + slots * p.samples);
    const Values<const float> z = read_only(at(plan.output));
    if (const int error = sample_losses(p, first, slots, z, losses(), right, stream)) return error;
    return finish_losses(p, first, slots, losses(), right, stream);
  }
};

}  // namespace

int run_steps(const NetworkParams& p, const LayersPlan& plan, void* stream) {
  Run run{p, plan, stream, 0, 1};
  if (plan.shared && plan.copy >= 0) {
    if (const int error = run.widen_bytes(plan.copy)) return error;
  }
  if (const int error = run.steps(0, plan.head_routes)) return error;
  for (; run.first < p.slots; run.first += plan.slots) {
    run.slots = p.slots - run.first < plan.slots ? p.slots - run.first : plan.slots;
    if (!plan.shared && plan.copy >= 0) {
      if (const int error = run.widen_bytes(plan.copy)) return error;
    }
    if (const int error = run.steps(plan.head_routes, plan.route_count)) return error;
    if (const int error = plan.fused_step >= 0 ? run.fused() : run.finish()) return error;
  }
  return 0;
}

int pool2d(const PoolParams& p, bool max, void* stream) {
  PoolKernelParams k{};
  k.x = Values<const float>{p.x, 0, p.image_stride};
  k.y = Values<float>{p.out, 0, p.out_image_stride};
  k.slots = 1;
  k.samples = p.images;
  k.channels = p.step.channels;
  k.x_channel_stride = p.channel_stride;
  k.x_row_stride = p.row_stride;
  k.y_channel_stride = p.out_channel_stride;
  k.y_row_stride = p.out_row_stride;
  return launch_pool(Run::windows_of(k, p.step), max, stream);
}

int affine(const AffineParams& p, void* stream) {
  ElementsParams e{};
  e.x = Values<const float>{p.x, p.x_strides[0], p.x_strides[1]};
  e.y = Values<float>{p.out, p.out_strides[0], p.out_strides[1]};
  e.scale = Parameter{p.scale, p.scale_stride, p.index};
  e.shift = Parameter{p.shift, p.shift_stride, p.index};
  e.length = p.length;
  e.x_channel_stride = p.x_strides[2];
  e.y_channel_stride = p.out_strides[2];
  e.slots = p.slots;
  e.samples = p.samples;
  e.features = p.channels * p.length;
  return launch_elements<Rule::kAffine>(e, stream);
}

int residual(const ResidualParams& p, void* stream) {
  ElementsParams e{};
  e.x = Values<const float>{p.x, 0, 0};
  e.other = Values<const float>{p.y, 0, 0};
  e.y = Values<float>{p.out, 0, 0};
  e.slots = e.samples = 1;
  e.features = p.count;
  e.activation = p.activation;
  e.slope = p.slope;
  return launch_elements<Rule::kAdd>(e, stream);
}

EVK_NAMESPACE_END
