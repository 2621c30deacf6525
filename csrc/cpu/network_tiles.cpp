// Networks on many samples: one pass per (individual, chunk of the batch) through
// all layers, tile by tile, with the activations in this thread's caches. Nothing of size
// [slots, samples, *] is written but the outputs or losses.
#include <string.h>

#include "cpu/conv_tile.h"
#include "cpu/network.h"
#include "cpu/pool_window.h"

EVK_NAMESPACE_BEGIN

namespace {

// What may be fetched ahead without driving out of the second cache what is in use.
constexpr i64 kLookaheadBytes = 256 << 10;

// --- steps on a tile ----------------------------------------------------------------------------

template <bool Max>
void pool_planes(const float* x, const Step& s, Tile y) {
  const i64 row_stride = s.width * kTile;
  for (i64 channel = 0; channel < s.channels; ++channel) {
    const float* plane = x + channel * s.height * row_stride;
    for (i64 i = 0; i < s.out_height; ++i) {
      const Window rows = rows_of(s, i);
      for (i64 j = 0; j < s.out_width; ++j, y += kTile) {
        const Window columns = columns_of(s, j);
        const float elements = window_elements(s, rows, columns);
        for (int v = 0; v < kTile; v += kLanes) {
          store(y + v,
                pool_window<Max, Float>(plane + v, row_stride, kTile, rows, columns, elements));
        }
      }
    }
  }
}

void pool_tile(const float* x, const Step& s, Tile y) {
  s.kind == StepKind::kMaxPool ? pool_planes<true>(x, s, y) : pool_planes<false>(x, s, y);
}

// The image with its border of +0, as operands of bf16 if asked for.
void pad_tile(const float* x, const Step& s, bool bf16, Tile out) {
  const i64 row = s.width * kTile, border = s.pad_width * kTile;
  const i64 edge = s.pad_height * (row + 2 * border);
  const i64 plane = s.height * row, together = bf16 ? kBf16Inputs : 1;
  const auto zeros = [&](i64 count) {
    memset(out, 0, static_cast<size_t>(count) * sizeof(float));
    out += count;
  };
  for (i64 channel = 0; channel < s.channels; channel += together) {
    const float* first = x + channel * plane;
    const float* second = together == 2 && channel + 1 < s.channels ? first + plane : nullptr;
    zeros(edge);
    for (i64 i = 0; i < s.height; ++i) {
      zeros(border);
      if (bf16) {
        pair_bf16(first + i * row, second ? second + i * row : nullptr, row, out);
      } else {
        memcpy(out, first + i * row, static_cast<size_t>(row) * sizeof(float));
      }
      out += row;
      zeros(border);
    }
    zeros(edge);
  }
}

void affine_tile(Tile y, const Step& s, const float* scale, const float* shift) {
  const i64 length = s.height * s.width * kTile;
  for (i64 channel = 0; channel < s.channels; ++channel, y += length) {
    const Float gain = Element<Float>::all(scale[channel]);
    const Float offset = Element<Float>::all(shift[channel]);
    for (i64 i = 0; i < length; i += kLanes) store(y + i, load(y + i) * gain + offset);
  }
}

// --- one call -----------------------------------------------------------------------------------

// How a call is cut: the head (steps before the first with parameters) runs once per tile when
// slots share the batch; the rest runs once per slot and tile.
struct Plan {
  i64 head_steps, head_features, last_dense;
  i64 tile_features;  // widest row count between steps
  i64 weight_floats;  // of all dense layers, where they are prepared
  i64 tiles;          // per slot
  Cut cut;
  int threads;
  bool shared_batch, prepares, only_dense;

  i64 head_floats() const { return shared_batch ? tiles * head_features * kTile : 0; }
  i64 tile_floats() const { return tile_features * kTile; }
  i64 thread_floats() const { return 3 * tile_floats() + weight_floats; }
};

bool has_parameters(const Step& s) {
  return s.kind == StepKind::kDense || s.kind == StepKind::kConv || s.kind == StepKind::kAffine;
}

// Weights of a layer as operands: dense [inputs, outputs], conv [depth, channels], none of affine.
i64 weight_operands(const NetworkParams& p, const Step& s) {
  if (s.kind == StepKind::kAffine) return 0;
  const i64 inputs = p.bf16 ? bf16_operands(s.inputs) : s.inputs;
  return (s.kind == StepKind::kConv ? conv_depth(p, s) : inputs) * s.out_channels;
}

// With bias, or with scale and shift.
i64 prepared_floats(const NetworkParams& p, const Step& s) {
  return ceil_div(weight_operands(p, s) + 2 * s.out_channels, 16) * 16;
}

Plan make_plan(const NetworkParams& p) {
  Plan plan{};
  plan.threads = omp_get_max_threads();
  plan.shared_batch = p.x_slot_stride == 0 && p.slots > 1;
  plan.prepares = p.bf16 || p.bf16_bank;
  plan.only_dense = true;
  plan.tile_features = plan.head_features = p.inputs;
  for (i64 i = 0; i < p.step_count; ++i) {
    const Step& step = p.steps[i];
    if (step.kind == StepKind::kDense) plan.last_dense = i;
    if (step.kind == StepKind::kConv) {
      plan.tile_features = larger_of(plan.tile_features, padded_image(p, step));
    }
    if (has_parameters(step) && step.kind != StepKind::kDense) plan.only_dense = false;
    if (has_parameters(step) && plan.prepares) plan.weight_floats += prepared_floats(p, step);
    if (!has_parameters(step) && plan.head_steps == i) {
      ++plan.head_steps;
      plan.head_features = step.outputs;
    }
    plan.tile_features = larger_of(plan.tile_features, step.outputs);
  }
  plan.tiles = ceil_div(p.samples, kTile);
  plan.cut = cut_slots(p.slots, plan.tiles, plan.threads);
  return plan;
}

struct Workspace {
  float* head;     // [tiles, head_features, kTile]
  float* threads;  // [threads, thread_floats]
  SampleResults results;
};

Workspace workspace_of(const NetworkParams& p, const Plan& plan) {
  float* head = static_cast<float*>(p.workspace);
  float* threads = head + plan.head_floats();
  float* results = threads + plan.threads * plan.thread_floats();
  return Workspace{head, threads, SampleResults::at(results, p)};
}

void load_tile(const NetworkParams& p, i64 slot, i64 tile, Tile out) {
  const i64 count = samples_in_tile(p, tile);
  const i64 start = slot * p.x_slot_stride + tile * kTile * p.x_sample_stride;
  if (p.x_u8) {
    load_rows(p.x_u8 + start, p.x_sample_stride, count, p.inputs, out,
              [&](u8 x) { return static_cast<float>(x) * p.x_scale; });
  } else {
    load_rows(p.x + start, p.x_sample_stride, count, p.inputs, out, [](float x) { return x; });
  }
}

struct Buffers {
  Tile current, next;
  Tile operands;   // the current rows with a border, or as operands of bf16
  float* weights;  // where they are prepared: this slot's weights, layer after layer
};

void advance(Buffers& b) {
  Tile free = b.current;
  b.current = b.next;
  b.next = free;
}

// Loads a tile and runs the head. The result is b.current.
void run_head(const NetworkParams& p, const Plan& plan, i64 slot, i64 tile, Buffers& b) {
  const i64 samples = samples_in_tile(p, tile);
  load_tile(p, slot, tile, b.current);
  for (i64 i = 0; i < plan.head_steps; ++i) {
    const Step& step = p.steps[i];
    if (step.kind == StepKind::kActivation) {
      activate_tile(b.current, step.outputs, samples, step.activation, step.slope);
    } else {
      pool_tile(b.current, step, b.next);
      advance(b);
    }
  }
}

template <class T>
float* widen_row(const Parameter& parameter, i64 slot, i64 count, float* out) {
  const T* row = parameter.of<T>(slot);
  for (i64 i = 0; i < count; ++i) out[i] = widen(row[i]);
  return out + count;
}

template <class T>
void prepare_layer(const NetworkParams& p, const Step& s, i64 slot, float* out) {
  if (s.kind == StepKind::kAffine) {
    widen_row<T>(s.shift, slot, s.channels, widen_row<T>(s.scale, slot, s.channels, out));
    return;
  }
  const T* weights = s.weights.of<T>(slot);
  const i64 count = weight_operands(p, s);
  if (p.bf16) {
    const bool conv = s.kind == StepKind::kConv;
    pair_bf16_rows(weights, conv ? s.channels : s.inputs,
                   conv ? s.kernel_height * s.kernel_width : 1, s.out_channels, s.out_channels,
                   out);
  } else {
    for (i64 i = 0; i < count; ++i) out[i] = widen(weights[i]);
  }
  widen_row<T>(s.bias, slot, s.out_channels, out + count);
}

// This slot's weights and biases where dense_step looks for them.
void prepare_weights(const NetworkParams& p, i64 slot, float* out) {
  for (i64 i = 0; i < p.step_count; ++i) {
    const Step& s = p.steps[i];
    if (!has_parameters(s)) continue;
    p.bf16_bank ? prepare_layer<u16>(p, s, slot, out) : prepare_layer<float>(p, s, slot, out);
    out += prepared_floats(p, s);
  }
}

// y = x W + b from `x`, which is b.current or a shared head; the result is b.current. `prepared`
// is null where the bank's own weights serve.
void dense_step(const NetworkParams& p, const Step& s, i64 slot, i64 samples, const float* x,
                const float* prepared, Buffers& b, Lookahead& lookahead) {
  const bool relu = s.activation == activation_code::relu;
  DenseOperands d{x, s.weights.of<float>(slot), s.outputs, s.bias.of<float>(slot), b.next};
  if (prepared) {
    d.weights = prepared;
    d.bias = prepared + weight_operands(p, s);
  }
  if (p.bf16) {
    pair_bf16_rows(x, s.inputs, 1, kTile, kTile, b.operands);
    d.x = b.operands;
    dense_tile<Bf16>(d, bf16_operands(s.inputs), s.outputs, samples, relu, lookahead);
  } else {
    dense_tile<Fp32>(d, s.inputs, s.outputs, samples, relu, lookahead);
  }
  if (!relu) activate_tile(b.next, s.outputs, samples, s.activation, s.slope);
  advance(b);
}

void conv_step(const NetworkParams& p, const Step& s, i64 slot, i64 samples, const float* x,
               const float* prepared, Buffers& b) {
  const bool relu = s.activation == activation_code::relu;
  if (s.pad_height || s.pad_width || p.bf16) {
    pad_tile(x, s, p.bf16, b.operands);
    x = b.operands;
  }
  ConvTile conv{};
  conv.x = x;
  conv.weights = prepared ? prepared : s.weights.of<float>(slot);
  conv.bias = prepared ? prepared + weight_operands(p, s) : s.bias.of<float>(slot);
  conv.y = b.next;
  conv.offsets = s.offsets;
  conv.places = s.places;
  conv.depth = conv_depth(p, s);
  conv.channels = s.out_channels;
  conv.positions = s.out_height * s.out_width;
  conv.relu = relu;
  p.bf16 ? conv_tile<Bf16>(conv, samples) : conv_tile<Fp32>(conv, samples);
  if (!relu) activate_tile(b.next, s.outputs, samples, s.activation, s.slope);
  advance(b);
}

void affine_step(const Step& s, i64 slot, i64 samples, const float* x, const float* prepared,
                 Buffers& b) {
  const float* scale = prepared ? prepared : s.scale.of<float>(slot);
  const float* shift = prepared ? prepared + s.channels : s.shift.of<float>(slot);
  // A shared head is not ours to change.
  if (x != b.current) memcpy(b.current, x, static_cast<size_t>(s.inputs * kTile) * sizeof(float));
  affine_tile(b.current, s, scale, shift);
  activate_tile(b.current, s.outputs, samples, s.activation, s.slope);
}

// The weights of dense step i for one slot.
Lookahead::Range weights_range(const NetworkParams& p, i64 i, i64 slot) {
  const Step& s = p.steps[i];
  const float* begin = s.weights.of<float>(slot);
  return {reinterpret_cast<const char*>(begin),
          reinterpret_cast<const char*>(begin + s.inputs * s.outputs)};
}

// On a task's first tile the layers behind the first one, on its last tile the next slot's first.
Lookahead lookahead_of(const NetworkParams& p, const Plan& plan, i64 slot, i64 tile) {
  Lookahead::Range here{}, next{};
  if (plan.head_steps < p.step_count && !plan.prepares && plan.only_dense) {
    const bool last = tile + 1 == plan.tiles || (tile + 1) % plan.cut.units_per_task == 0;
    if (tile % plan.cut.units_per_task == 0) {
      here.begin = weights_range(p, plan.head_steps, slot).end;
      here.end = weights_range(p, plan.last_dense, slot).end;
      if (here.end < here.begin) here.end = here.begin;  // layers of other banks lie anywhere
      if (here.end - here.begin > kLookaheadBytes) here.end = here.begin + kLookaheadBytes;
    }
    if (last && slot + 1 < p.slots) {
      next = weights_range(p, plan.head_steps, slot + 1);
      if (next.end - next.begin > kLookaheadBytes) next.end = next.begin + kLookaheadBytes;
    }
  }
  return Lookahead(here, next);
}

// The network's outputs [outputs, kTile] for one tile of one slot.
const float* run_tile(const NetworkParams& p, const Plan& plan, const Workspace& ws, i64 slot,
                      i64 tile, Buffers& b) {
  const float* x = ws.head + tile * plan.head_features * kTile;
  if (!plan.shared_batch) {
    run_head(p, plan, slot, tile, b);
    x = b.current;
  }
  const i64 samples = samples_in_tile(p, tile);
  const float* prepared = plan.prepares ? b.weights : nullptr;
  Lookahead lookahead = lookahead_of(p, plan, slot, tile);
  for (i64 i = plan.head_steps; i < p.step_count; ++i) {
    const Step& step = p.steps[i];
    switch (step.kind) {
      case StepKind::kDense:
        dense_step(p, step, slot, samples, x, prepared, b, lookahead);
        break;
      case StepKind::kConv:
        conv_step(p, step, slot, samples, x, prepared, b);
        break;
      case StepKind::kAffine:
        affine_step(step, slot, samples, x, prepared, b);
        break;
      case StepKind::kActivation:
        activate_tile(b.current, step.outputs, samples, step.activation, step.slope);
        break;
      default:
        pool_tile(b.current, step, b.next);
        advance(b);
    }
    if (prepared && has_parameters(step)) prepared += prepared_floats(p, step);
    x = b.current;
  }
  return x;
}

// --- what is done with the outputs --------------------------------------------------------------

void store_outputs(const NetworkParams& p, i64 slot, i64 tile, const float* z) {
  const i64 count = samples_in_tile(p, tile);
  for (i64 sample = 0; sample < count; ++sample) {
    float* out = p.out + slot * p.out_slot_stride + (tile * kTile + sample) * p.out_sample_stride;
    for (i64 o = 0; o < p.outputs; ++o) out[o] = z[o * kTile + sample];
  }
}

void run_task(const NetworkParams& p, const Plan& plan, const Workspace& ws, i64 task,
              const Buffers& thread_buffers) {
  const i64 slot = task / plan.cut.tasks_per_slot;
  const i64 first = task % plan.cut.tasks_per_slot * plan.cut.units_per_task;
  const i64 end =
      first + plan.cut.units_per_task < plan.tiles ? first + plan.cut.units_per_task : plan.tiles;
  if (plan.prepares) prepare_weights(p, slot, thread_buffers.weights);
  for (i64 tile = first; tile < end; ++tile) {
    Buffers b = thread_buffers;
    const float* z = run_tile(p, plan, ws, slot, tile, b);
    if (p.out) {
      store_outputs(p, slot, tile, z);
    } else {
      store_losses(p, ws.results, slot, tile * kTile, samples_in_tile(p, tile), z);
    }
  }
}

}  // namespace

i64 tiles_workspace_bytes(const NetworkParams& p) {
  const Plan plan = make_plan(p);
  const i64 floats = plan.head_floats() + plan.threads * plan.thread_floats();
  return floats * i64{sizeof(float)} + SampleResults::bytes(p);
}

void run_tiles(const NetworkParams& p) {
  const Plan plan = make_plan(p);
  const Workspace ws = workspace_of(p, plan);
#pragma omp parallel num_threads(plan.threads)
  {
    const FloatEnvironment environment;
    float* mine = ws.threads + omp_get_thread_num() * plan.thread_floats();
    const Buffers buffers{mine, mine + plan.tile_floats(), mine + 2 * plan.tile_floats(),
                          mine + 3 * plan.tile_floats()};
    if (plan.shared_batch) {
#pragma omp for schedule(dynamic)
      for (i64 tile = 0; tile < plan.tiles; ++tile) {
        Buffers b = buffers;
        run_head(p, plan, 0, tile, b);
        memcpy(ws.head + tile * plan.head_features * kTile, b.current,
               static_cast<size_t>(plan.head_features * kTile) * sizeof(float));
      }
    }
#pragma omp for schedule(dynamic)
    for (i64 task = 0; task < p.slots * plan.cut.tasks_per_slot; ++task) {
      run_task(p, plan, ws, task, buffers);
    }
    if (!p.out) {
#pragma omp for schedule(static)
      for (i64 slot = 0; slot < p.slots; ++slot) finish_slot(p, ws.results, slot);
    }
  }
}

EVK_NAMESPACE_END
