// Networks that are a centre's but for some units of the first dense layer: these units, what they
// change in the next layer's sums, and the layers from there on, tile by tile in this thread's
// caches. What the centre says is computed once per tile, for all mutants.
#include "cpu/network.h"

EVK_NAMESPACE_BEGIN

namespace {

// Layer 0 is the mutated one.
struct Plan {
  bool in_part;        // some units: their change is added to the centre's sums of layer 1
  i64 hidden, behind;  // outputs of layer 0 and, in part, of layer 1; 0 if not needed
  i64 tile_features;   // widest row count between layers
  i64 tiles;           // per slot
  Cut cut;
  int threads;

  // Per tile: the inputs and, in part, the centre's values of layer 0 and sums of layer 1.
  i64 shared_floats(const NetworkParams& p) const { return (p.inputs + hidden + behind) * kTile; }
  i64 thread_floats() const { return 2 * tile_features * kTile; }
};

Plan make_plan(const MutantParams& m) {
  const NetworkParams& p = m.network;
  Plan plan{};
  plan.in_part = m.units < p.steps[0].outputs;
  if (plan.in_part) {
    plan.hidden = p.steps[0].outputs;
    plan.behind = p.steps[1].outputs;
  }
  plan.tile_features = m.units;
  for (i64 i = plan.in_part ? 1 : 0; i < p.step_count; ++i) {
    plan.tile_features = larger_of(plan.tile_features, p.steps[i].outputs);
  }
  plan.threads = omp_get_max_threads();
  plan.tiles = ceil_div(p.samples, kTile);
  plan.cut = cut_slots(p.slots, plan.tiles, plan.threads);
  return plan;
}

struct Workspace {
  float* shared;   // [tiles, shared_floats]
  float* threads;  // [threads, thread_floats]
  SampleResults results;
};

Workspace workspace_of(const NetworkParams& p, const Plan& plan) {
  float* shared = static_cast<float*>(p.workspace);
  float* threads = shared + plan.tiles * plan.shared_floats(p);
  float* results = threads + plan.threads * plan.thread_floats();
  return Workspace{shared, threads, SampleResults::at(results, p)};
}

// y [outputs, kTile] = activation(x W + b), without the activation if the sums are asked for.
void run_layer(const DenseOperands& d, const Step& s, i64 outputs, i64 samples, bool sums = false) {
  Lookahead nothing({}, {});
  const bool relu = !sums && s.activation == activation_code::relu;
  dense_tile<Fp32>(d, s.inputs, outputs, samples, relu, nothing);
  if (!relu && !sums) activate_tile(d.y, outputs, samples, s.activation, s.slope);
}

DenseOperands of_centre(const Step& s, const float* x, Tile y) {
  return DenseOperands{x, s.weights.of<float>(0), s.outputs, s.bias.of<float>(0), y};
}

void run_centre(const MutantParams& m, const Plan& plan, i64 tile, Tile shared) {
  const NetworkParams& p = m.network;
  const i64 samples = samples_in_tile(p, tile);
  load_rows(p.x + tile * kTile * p.x_sample_stride, p.x_sample_stride, samples, p.inputs, shared,
            [](float x) { return x; });
  if (!plan.in_part) return;
  const Tile values = shared + p.inputs * kTile, sums = values + plan.hidden * kTile;
  run_layer(of_centre(p.steps[0], shared, values), p.steps[0], plan.hidden, samples);
  run_layer(of_centre(p.steps[1], values, sums), p.steps[1], plan.behind, samples, true);
}

void subtract_rows(Tile y, const float* x, i64 features) {
  for (i64 i = 0; i < features * kTile; i += kLanes) store(y + i, load(y + i) - load(x + i));
}

// y = activation(y + x)
void add_rows(Tile y, const float* x, const Step& s, i64 samples) {
  const Float zero = Element<Float>::all(0.0f);
  const bool relu = s.activation == activation_code::relu;
  for (i64 i = 0; i < s.outputs * kTile; i += kLanes) {
    const Float v = load(y + i) + load(x + i);
    store(y + i, relu ? Element<Float>::select(v < zero, zero, v) : v);
  }
  if (!relu) activate_tile(y, s.outputs, samples, s.activation, s.slope);
}

// The outputs [outputs, kTile] of one mutant on one tile. `y` and `free` take turns.
const float* run_mutant(const MutantParams& m, const Plan& plan, i64 slot, i64 samples,
                        const float* shared, Tile y, Tile free) {
  const NetworkParams& p = m.network;
  const Step& own = p.steps[0];
  const float* genes = m.genes + slot * m.genes_stride;
  const float* bias = m.bias ? genes + own.inputs * m.units : m.zeros;
  run_layer(DenseOperands{shared, genes, m.units, bias, y}, own, m.units, samples);
  i64 i = 1;
  if (plan.in_part) {
    const Step& next = p.steps[i++];
    const i64 first = m.index[slot] * m.units;
    const float* values = shared + p.inputs * kTile;
    subtract_rows(y, values + first * kTile, m.units);
    Lookahead nothing({}, {});
    const float* weights = next.weights.of<float>(0) + first * next.outputs;
    dense_tile<Fp32>(DenseOperands{y, weights, next.outputs, m.zeros, free}, m.units, next.outputs,
                     samples, false, nothing);
    add_rows(free, values + plan.hidden * kTile, next, samples);
    const Tile done = y;
    y = free;
    free = done;
  }
  for (; i < p.step_count; ++i) {
    run_layer(of_centre(p.steps[i], y, free), p.steps[i], p.steps[i].outputs, samples);
    const Tile done = y;
    y = free;
    free = done;
  }
  return y;
}

}  // namespace

int64_t mutants_workspace_bytes(const MutantParams& m) {
  const Plan plan = make_plan(m);
  const i64 floats =
      plan.tiles * plan.shared_floats(m.network) + plan.threads * plan.thread_floats();
  return floats * i64{sizeof(float)} + SampleResults::bytes(m.network);
}

void mutants(const MutantParams& m) {
  const NetworkParams& p = m.network;
  const Plan plan = make_plan(m);
  const Workspace ws = workspace_of(p, plan);
#pragma omp parallel num_threads(plan.threads)
  {
    const FloatEnvironment environment;
    const Tile mine = ws.threads + omp_get_thread_num() * plan.thread_floats();
#pragma omp for schedule(dynamic)
    for (i64 tile = 0; tile < plan.tiles; ++tile) {
      run_centre(m, plan, tile, ws.shared + tile * plan.shared_floats(p));
    }
#pragma omp for schedule(dynamic)
    for (i64 task = 0; task < p.slots * plan.cut.tasks_per_slot; ++task) {
      const i64 slot = task / plan.cut.tasks_per_slot;
      const i64 first = task % plan.cut.tasks_per_slot * plan.cut.units_per_task;
      const i64 end = smaller_of(first + plan.cut.units_per_task, plan.tiles);
      for (i64 tile = first; tile < end; ++tile) {
        const i64 samples = samples_in_tile(p, tile);
        const float* shared = ws.shared + tile * plan.shared_floats(p);
        const float* z =
            run_mutant(m, plan, slot, samples, shared, mine, mine + plan.tile_features * kTile);
        store_losses(p, ws.results, slot, tile * kTile, samples, z);
      }
    }
#pragma omp for schedule(static)
    for (i64 slot = 0; slot < p.slots; ++slot) finish_slot(p, ws.results, slot);
  }
}

EVK_NAMESPACE_END
