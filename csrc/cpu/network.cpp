// network_forward and network_loss: one pass per (individual, chunk of the batch) through all
// layers, tile by tile, with the activations in this thread's caches. Nothing of size
// [slots, samples, *] is ever written but the output that was asked for.
#include <string.h>

#include "core/activation.h"
#include "core/pool.h"
#include "cpu/dense.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

EVK_NAMESPACE_BEGIN

namespace {

using Scalar = Element<float>;

// Rows of features, kTile samples each.
using Tile = float*;

// What may be fetched ahead without driving out of the second cache what is in use.
constexpr i64 kLookaheadBytes = 256 << 10;

i64 larger_of(i64 a, i64 b) { return a > b ? a : b; }
i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

int thread_count() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

int thread_number() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// --- steps on a tile -----------------------------------------------------------------------------

template <int Code>
void activate_rows(Tile y, i64 rows, float slope) {
  for (i64 i = 0; i < rows * kTile; i += kLanes) {
    store(y + i, activate<Code, Float>(load(y + i), slope));
  }
}

void activate_tile(Tile y, i64 rows, int activation, float slope) {
  namespace code = activation_code;
  switch (activation) {
    case code::relu:
      return activate_rows<code::relu>(y, rows, slope);
    case code::leaky_relu:
      return activate_rows<code::leaky_relu>(y, rows, slope);
    case code::tanh:
      return activate_rows<code::tanh>(y, rows, slope);
    case code::sigmoid:
      return activate_rows<code::sigmoid>(y, rows, slope);
    case code::gelu:
      return activate_rows<code::gelu>(y, rows, slope);
    case code::gelu_tanh:
      return activate_rows<code::gelu_tanh>(y, rows, slope);
    case code::silu:
      return activate_rows<code::silu>(y, rows, slope);
    default:
      return;
  }
}

template <bool Max>
void pool_window(const float* plane, const Step& s, Window rows, Window columns, float divisor,
                 Tile out) {
  for (int v = 0; v < kTile; v += kLanes) {
    Float acc = Max ? load(plane + (rows.begin * s.width + columns.begin) * kTile + v)
                    : Element<Float>::all(0.0f);
    for (i64 row = rows.begin; row < rows.end; ++row) {
      for (i64 column = columns.begin; column < columns.end; ++column) {
        const Float x = load(plane + (row * s.width + column) * kTile + v);
        acc = Max ? larger(acc, x) : acc + x;
      }
    }
    store(out + v, Max ? acc : acc / Element<Float>::all(divisor));
  }
}

void pool_tile(const float* x, const Step& s, Tile y) {
  const bool max = s.kind == StepKind::kMaxPool;
  for (i64 channel = 0; channel < s.channels; ++channel) {
    const float* plane = x + channel * s.height * s.width * kTile;
    for (i64 i = 0; i < s.out_height; ++i) {
      const Window rows = inside(i * s.stride_height - s.pad_height, s.kernel_height, s.height);
      for (i64 j = 0; j < s.out_width; ++j) {
        const Window columns = inside(j * s.stride_width - s.pad_width, s.kernel_width, s.width);
        const i64 present = (rows.end - rows.begin) * (columns.end - columns.begin);
        const i64 elements = s.count_include_pad ? s.kernel_height * s.kernel_width : present;
        if (max) {
          pool_window<true>(plane, s, rows, columns, 1.0f, y);
        } else {
          pool_window<false>(plane, s, rows, columns, static_cast<float>(elements), y);
        }
        y += kTile;
      }
    }
  }
}

#if EVK_HAS_BF16
// Rows 2k and 2k + 1 of a matrix as bf16 in one row of pairs; a missing last row is +0.
void pair_rows(const float* x, i64 stride, i64 rows, i64 width, u32* pairs) {
  for (i64 row = 0; row < rows; row += 2) {
    const float* low = x + row * stride;
    const float* high = low + stride;
    const bool both = row + 1 < rows;
    for (i64 i = 0; i < width; ++i) {
      const u32 first = Scalar::bits(round_to_bf16(low[i])) >> 16;
      const u32 second = both ? Scalar::bits(round_to_bf16(high[i])) : 0;
      *pairs++ = first | second;
    }
  }
}
#else
void round_to(const float* x, i64 count, float* out) {
  for (i64 i = 0; i < count; ++i) out[i] = round_to_bf16(x[i]);
}
#endif

// --- one call ------------------------------------------------------------------------------------

// How a call is cut: the head (steps before the first dense layer) runs once per tile when the
// batch is shared; the rest runs once per slot and tile.
struct Plan {
  i64 head_steps, head_features, last_dense;
  i64 tile_features;   // widest row count between steps
  i64 weight_scalars;  // of all dense layers, for their bf16 copies
  i64 tiles, blocks;   // per slot
  i64 tasks_per_slot, tiles_per_task;
  int threads;
  bool shared_batch;

  i64 head_floats() const { return shared_batch ? tiles * head_features * kTile : 0; }
  i64 tile_floats() const { return tile_features * kTile; }
  i64 thread_floats() const { return 3 * tile_floats() + weight_scalars; }
};

Plan make_plan(const NetworkParams& p) {
  Plan plan{};
  plan.threads = thread_count();
  plan.shared_batch = p.x_slot_stride == 0;
  plan.tile_features = plan.head_features = p.inputs;
  for (i64 i = 0; i < p.step_count; ++i) {
    const Step& step = p.steps[i];
    if (step.kind == StepKind::kDense) plan.last_dense = i;
    if (step.kind == StepKind::kDense && p.bf16) {
      plan.weight_scalars += ceil_div(step.inputs * step.outputs + step.outputs, 16) * 16;
    }
    if (step.kind != StepKind::kDense && plan.head_steps == i) {
      ++plan.head_steps;
      plan.head_features = step.outputs;
    }
    plan.tile_features = larger_of(plan.tile_features, step.outputs);
  }
  plan.tiles = ceil_div(p.samples, kTile);
  plan.blocks = ceil_div(p.samples, kBlockSamples);
  // Few slots: their batches are cut, so that all threads have work.
  const i64 wanted = ceil_div(4 * plan.threads, larger_of(p.slots, 1));
  const i64 cuts = wanted < plan.tiles ? wanted : plan.tiles;
  plan.tiles_per_task = ceil_div(plan.tiles, larger_of(cuts, 1));
  plan.tasks_per_slot = ceil_div(plan.tiles, plan.tiles_per_task);
  return plan;
}

struct Workspace {
  float* head;        // [tiles, head_features, kTile]
  float* threads;     // [threads, thread_floats]
  float* block_loss;  // [slots, blocks]
  i32* block_correct;
};

Workspace workspace_of(const NetworkParams& p, const Plan& plan) {
  float* head = static_cast<float*>(p.workspace);
  float* threads = head + plan.head_floats();
  float* block_loss = threads + plan.threads * plan.thread_floats();
  return Workspace{head, threads, block_loss,
                   reinterpret_cast<i32*>(block_loss + p.slots * plan.blocks)};
}

i64 samples_in_tile(const NetworkParams& p, i64 tile) {
  const i64 left = p.samples - tile * kTile;
  return left < kTile ? left : kTile;
}

// Samples [tile] of a slot's batch, feature by feature; what is missing is +0.
void load_tile(const NetworkParams& p, i64 slot, i64 tile, Tile out) {
  constexpr i64 strip = 16;  // features at a time: their rows stay in the first cache
  const i64 count = samples_in_tile(p, tile);
  const float* x = p.x + slot * p.x_slot_stride + tile * kTile * p.x_sample_stride;
  for (i64 first = 0; first < p.inputs; first += strip) {
    const i64 end = first + strip < p.inputs ? first + strip : p.inputs;
    for (i64 sample = 0; sample < count; ++sample) {
      const float* row = x + sample * p.x_sample_stride;
      for (i64 f = first; f < end; ++f) out[f * kTile + sample] = row[f];
    }
    for (i64 f = first; f < end; ++f) {
      for (i64 sample = count; sample < kTile; ++sample) out[f * kTile + sample] = 0.0f;
    }
  }
}

struct Buffers {
  Tile current, next;
  Tile pairs;      // bf16: the current rows as pairs
  float* weights;  // bf16: this slot's weights, layer after layer
};

void advance(Buffers& b) {
  Tile free = b.current;
  b.current = b.next;
  b.next = free;
}

// Loads a tile and runs the head. The result is b.current.
void run_head(const NetworkParams& p, const Plan& plan, i64 slot, i64 tile, Buffers& b) {
  load_tile(p, slot, tile, b.current);
  for (i64 i = 0; i < plan.head_steps; ++i) {
    const Step& step = p.steps[i];
    if (step.kind == StepKind::kActivation) {
      activate_tile(b.current, step.outputs, step.activation, step.slope);
    } else {
      pool_tile(b.current, step, b.next);
      advance(b);
    }
  }
}

// This individual's weights for precision bf16, where dense_step looks for them.
void prepare_weights(const NetworkParams& p, i64 individual, float* out) {
  for (i64 i = 0; i < p.step_count; ++i) {
    const Step& s = p.steps[i];
    if (s.kind != StepKind::kDense) continue;
    const float* weights = s.weights + individual * s.weights_stride;
#if EVK_HAS_BF16
    pair_rows(weights, s.outputs, s.inputs, s.outputs, reinterpret_cast<u32*>(out));
#else
    round_to(weights, s.inputs * s.outputs, out);
#endif
    out += ceil_div(s.inputs * s.outputs + s.outputs, 16) * 16;
  }
}

// y = x W + b from `x`, which is b.current or a shared head; the result is b.current.
void dense_step(const NetworkParams& p, const Step& s, i64 individual, i64 samples, const float* x,
                const float* prepared, Buffers& b, Lookahead& lookahead) {
  const float* bias = s.bias + individual * s.bias_stride;
  const bool relu = s.activation == activation_code::relu;
#if EVK_HAS_BF16
  if (p.bf16) {
    pair_rows(x, kTile, s.inputs, kTile, reinterpret_cast<u32*>(b.pairs));
    dense_tile<Bf16Pairs>({reinterpret_cast<const u32*>(b.pairs),
                           reinterpret_cast<const u32*>(prepared), s.outputs, bias, b.next},
                          ceil_div(s.inputs, 2), s.outputs, samples, relu, lookahead);
  }
#else
  if (p.bf16) {
    round_to(x, s.inputs * kTile, b.pairs);
    dense_tile<Fp32>({b.pairs, prepared, s.outputs, bias, b.next}, s.inputs, s.outputs, samples,
                     relu, lookahead);
  }
#endif
  else {
    const float* weights = s.weights + individual * s.weights_stride;
    dense_tile<Fp32>({x, weights, s.outputs, bias, b.next}, s.inputs, s.outputs, samples, relu,
                     lookahead);
  }
  if (!relu) activate_tile(b.next, s.outputs, s.activation, s.slope);
  advance(b);
}

// The weights of dense step i for one individual.
Lookahead::Range weights_range(const NetworkParams& p, i64 i, i64 individual) {
  const Step& s = p.steps[i];
  const float* begin = s.weights + individual * s.weights_stride;
  return {reinterpret_cast<const char*>(begin),
          reinterpret_cast<const char*>(begin + s.inputs * s.outputs)};
}

// On a task's first tile the layers behind the first one, on its last tile the next slot's first.
Lookahead lookahead_of(const NetworkParams& p, const Plan& plan, i64 slot, i64 tile) {
  Lookahead::Range here{}, next{};
  if (plan.head_steps < p.step_count && !p.bf16) {
    const bool last = tile + 1 == plan.tiles || (tile + 1) % plan.tiles_per_task == 0;
    if (tile % plan.tiles_per_task == 0) {
      here.begin = weights_range(p, plan.head_steps, p.index[slot]).end;
      here.end = weights_range(p, plan.last_dense, p.index[slot]).end;
      if (here.end - here.begin > kLookaheadBytes) here.end = here.begin + kLookaheadBytes;
    }
    if (last && slot + 1 < p.slots) {
      next = weights_range(p, plan.head_steps, p.index[slot + 1]);
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
  const float* prepared = b.weights;
  Lookahead lookahead = lookahead_of(p, plan, slot, tile);
  for (i64 i = plan.head_steps; i < p.step_count; ++i) {
    const Step& step = p.steps[i];
    if (step.kind == StepKind::kDense) {
      dense_step(p, step, p.index[slot], samples, x, prepared, b, lookahead);
      prepared += ceil_div(step.inputs * step.outputs + step.outputs, 16) * 16;
    } else {
      activate_tile(b.current, step.outputs, step.activation, step.slope);
    }
    x = b.current;
  }
  return x;
}

// --- what is done with the outputs ---------------------------------------------------------------

void store_outputs(const NetworkParams& p, i64 slot, i64 tile, const float* z) {
  const i64 count = samples_in_tile(p, tile);
  for (i64 sample = 0; sample < count; ++sample) {
    float* out = p.out + slot * p.out_slot_stride + (tile * kTile + sample) * p.out_sample_stride;
    for (i64 o = 0; o < p.outputs; ++o) out[o] = z[o * kTile + sample];
  }
}

// For every sample: log(sum(exp(z))), from which the caller takes the label's logit, and the first
// of the largest classes, or -1 where a logit is NaN.
void log_sum_exp(const float* z, i64 classes, float* out, float* prediction) {
  const Float nobody = Element<Float>::all(-1.0f);
  for (int v = 0; v < kTile; v += kLanes) {
    Float most = load(z + v);
    Float first = Element<Float>::all(0.0f);
    for (i64 c = 1; c < classes; ++c) {
      const Float logit = load(z + c * kTile + v);
      const Float number = Element<Float>::all(static_cast<float>(c));
      first = Element<Float>::select(logit > most, number, first);
      most = larger(most, logit);
    }
    Float sum = Element<Float>::all(0.0f);
    for (i64 c = 0; c < classes; ++c) sum = sum + exp<Float>(load(z + c * kTile + v) - most);
    store(out + v, log<Float>(sum) + most);
    store(prediction + v, Element<Float>::select(most == most, first, nobody));
  }
}

float squared_error(const float* z, const float* target, i64 outputs) {
  float sum = 0.0f;
  for (i64 o = 0; o < outputs; ++o) {
    const float error = z[o * kTile] - target[o];
    sum = sum + error * error;
  }
  return sum / static_cast<float>(outputs);
}

// v[0] = the sum of 32 losses by halves.
float block_sum(float* v) {
  for (int half = kBlockSamples / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] = v[i] + v[i + half];
  }
  return v[0];
}

void reduce_loss(const NetworkParams& p, const Plan& plan, const Workspace& ws, i64 slot, i64 tile,
                 const float* z) {
  const i64 count = samples_in_tile(p, tile);
  const i64 classes = p.classes ? p.classes[slot] : p.outputs;
  float losses[kTile], prediction[kTile];
  i32 correct[kTile / kBlockSamples] = {};
  if (p.loss == Loss::kCrossEntropy) {
    log_sum_exp(z, classes, losses, prediction);
    const int64_t* labels = p.labels + slot * p.label_slot_stride + tile * kTile;
    for (i64 i = 0; i < count; ++i) {
      losses[i] = losses[i] - z[labels[i] * kTile + i];
      correct[i / kBlockSamples] += static_cast<i64>(prediction[i]) == labels[i];
    }
  } else {
    const float* target =
        p.targets + slot * p.label_slot_stride + tile * kTile * p.target_sample_stride;
    for (i64 i = 0; i < count; ++i) {
      losses[i] = squared_error(z + i, target + i * p.target_sample_stride, classes);
    }
  }
  for (i64 i = count; i < kTile; ++i) losses[i] = 0.0f;
  const i64 first_block = tile * (kTile / kBlockSamples);
  for (i64 b = 0; b < kTile / kBlockSamples && first_block + b < plan.blocks; ++b) {
    ws.block_loss[slot * plan.blocks + first_block + b] = block_sum(losses + b * kBlockSamples);
    ws.block_correct[slot * plan.blocks + first_block + b] = correct[b];
  }
}

void finish_slot(const NetworkParams& p, const Plan& plan, const Workspace& ws, i64 slot) {
  float sum = 0.0f;
  i32 correct = 0;
  for (i64 b = 0; b < plan.blocks; ++b) {
    sum = sum + ws.block_loss[slot * plan.blocks + b];
    correct += ws.block_correct[slot * plan.blocks + b];
  }
  p.out_loss[slot] = sum / static_cast<float>(p.samples);
  p.out_correct[slot] = correct;
}

void run_task(const NetworkParams& p, const Plan& plan, const Workspace& ws, i64 task,
              const Buffers& thread_buffers) {
  const i64 slot = task / plan.tasks_per_slot;
  const i64 first = task % plan.tasks_per_slot * plan.tiles_per_task;
  const i64 end =
      first + plan.tiles_per_task < plan.tiles ? first + plan.tiles_per_task : plan.tiles;
  if (p.bf16) prepare_weights(p, p.index[slot], thread_buffers.weights);
  for (i64 tile = first; tile < end; ++tile) {
    Buffers b = thread_buffers;
    const float* z = run_tile(p, plan, ws, slot, tile, b);
    if (p.out) {
      store_outputs(p, slot, tile, z);
    } else {
      reduce_loss(p, plan, ws, slot, tile, z);
    }
  }
}

}  // namespace

int64_t network_workspace_bytes(const NetworkParams& p) {
  const Plan plan = make_plan(p);
  const i64 results = p.out ? 0 : 2 * p.slots * plan.blocks;
  return (plan.head_floats() + plan.threads * plan.thread_floats() + results) *
         static_cast<i64>(sizeof(float));
}

void network(const NetworkParams& p) {
  const Plan plan = make_plan(p);
  const Workspace ws = workspace_of(p, plan);
#pragma omp parallel num_threads(plan.threads)
  {
    const FloatEnvironment environment;
    float* mine = ws.threads + thread_number() * plan.thread_floats();
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
    for (i64 task = 0; task < p.slots * plan.tasks_per_slot; ++task) {
      run_task(p, plan, ws, task, buffers);
    }
    if (!p.out) {
#pragma omp for schedule(static)
      for (i64 slot = 0; slot < p.slots; ++slot) finish_slot(p, plan, ws, slot);
    }
  }
}

EVK_NAMESPACE_END
