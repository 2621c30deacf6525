// Networks with convolutions, residual blocks or recurrent layers, and any network on few samples:
// one pass per (individual, group of samples). Images lie channels last, so that vectors run along
// channels; nothing of size [slots, samples, *] is written but the outputs or losses.
//
// A group is at most kTile samples. Where a slot's convolutions fit the second cache as panels,
// these are made once and its samples go through all images one by one, so that an image never
// leaves the cache either; else layer after layer takes the whole group.
#include "cpu/sample_steps.h"

EVK_NAMESPACE_BEGIN

namespace {

constexpr i64 kPanelBytes = 384 << 10;  // of the second cache that panels may take

// --- how a call is cut --------------------------------------------------------------------------

struct Plan {
  int threads;
  bool shared_head;  // the head runs once per sample, for all slots
  bool one_by_one;   // panels are made once per task, samples go alone through the images
  bool loads_alone;  // and are loaded alone: nothing behind the images reads the input
  i64 head_features;
  i64 group;          // samples
  i64 panel_floats;   // of all convolutions, or the largest panel
  i64 copy_floats;    // padded or rounded inputs of one step, of a group
  i64 vector_floats;  // a layer's bias, scale and shift as fp32
  i64 buffer_floats;
  i64 z_floats;  // outputs as a tile, for the losses
  Cut cut;

  i64 thread_floats() const {
    return buffer_floats + panel_floats + copy_floats + vector_floats + z_floats;
  }
};

// A buffer that only images use holds one sample where samples go alone.
bool used_by_group(const NetworkParams& p, i64 buffer) {
  for (i64 i = p.flat_step; i < p.step_count; ++i) {
    const Step& s = p.steps[i];
    if (s.source == buffer || s.target == buffer) return true;
    if (s.kind == StepKind::kAdd && s.other == buffer) return true;
  }
  return buffer == p.output_buffer || (buffer == 0 && p.flat_step == 0);
}

i64 samples_held(const NetworkParams& p, const Plan& plan, i64 buffer) {
  return plan.one_by_one && !used_by_group(p, buffer) ? 1 : plan.group;
}

i64 buffer_floats(const NetworkParams& p, const Plan& plan, i64 buffer) {
  return samples_held(p, plan, buffer) * aligned(p.buffer_features[buffer]);
}

Plan make_plan(const NetworkParams& p) {
  Plan plan{};
  plan.threads = omp_get_max_threads();
  plan.shared_head = p.x_slot_stride == 0 && (p.head_steps > 0 || p.x_u8);
  plan.head_features = aligned(p.buffer_features[p.head_buffer]);
  plan.cut = cut_slots(p.slots, p.samples, plan.threads);
  plan.group = smaller_of(kTile, plan.cut.units_per_task);
  i64 all_panels = 0, largest_panel = 0;
  for (i64 i = 0; i < p.step_count; ++i) {
    const Step& s = p.steps[i];
    i64 copied = 0;
    if (s.kind == StepKind::kConv) {
      const i64 floats = aligned(panel_floats(conv_depth(p, s), s.out_channels));
      all_panels += floats;
      largest_panel = larger_of(
          largest_panel, aligned((kPanelHead + conv_depth(p, s)) * panel_width(s.out_channels)));
      if (s.pad_height || s.pad_width || p.bf16) copied = padded_image(p, s);
    } else if (p.bf16 && s.kind == StepKind::kDense) {
      copied = s.inputs;
    } else if (s.kind == StepKind::kElman) {
      copied = elman_copy(s);
    }
    plan.copy_floats = larger_of(plan.copy_floats, plan.group * aligned(copied));
    plan.vector_floats = larger_of(plan.vector_floats, 2 * aligned(s.out_channels));
  }
  plan.one_by_one = all_panels * i64{sizeof(float)} <= kPanelBytes;
  plan.loads_alone =
      plan.one_by_one && !plan.shared_head && p.flat_step > 0 && !used_by_group(p, 0);
  plan.panel_floats = plan.one_by_one ? all_panels : largest_panel;
  for (i64 b = 0; b < p.buffer_count; ++b) plan.buffer_floats += buffer_floats(p, plan, b);
  plan.z_floats = p.out ? 0 : aligned(p.outputs * kTile);
  return plan;
}

struct Workspace {
  float* head;     // [samples, head_features]
  float* threads;  // [threads, thread_floats]
  SampleResults results;
};

i64 head_floats(const NetworkParams& p, const Plan& plan) {
  return plan.shared_head ? p.samples * plan.head_features : 0;
}

Workspace workspace_of(const NetworkParams& p, const Plan& plan) {
  float* head = static_cast<float*>(p.workspace);
  float* threads = head + head_floats(p, plan);
  float* results = threads + plan.threads * plan.thread_floats();
  return Workspace{head, threads, SampleResults::at(results, p)};
}

Thread thread_of(const NetworkParams& p, const Plan& plan, float* memory) {
  Thread t{};
  for (i64 b = 0; b < p.buffer_count; ++b) {
    const bool alone = samples_held(p, plan, b) == 1;
    t.buffers[b] = Buffer{memory, alone ? 0 : aligned(p.buffer_features[b])};
    memory += buffer_floats(p, plan, b);
  }
  t.panels = memory;
  t.copies = t.panels + plan.panel_floats;
  t.vectors = t.copies + plan.copy_floats;
  t.z = t.vectors + plan.vector_floats;
  return t;
}

// Steps [begin, end); with panels made before, those of its first convolution come first.
void run_steps(const NetworkParams& p, const Plan& plan, i64 begin, i64 end, i64 slot, i64 first,
               i64 count, Thread& t) {
  float* panels = t.panels;
  for (i64 i = begin; i < end; ++i) {
    const Step& s = p.steps[i];
    run_step(p, s, slot, first, count, t, panels, plan.one_by_one);
    if (s.kind == StepKind::kConv && plan.one_by_one) {
      panels += aligned(panel_floats(conv_depth(p, s), s.out_channels));
    }
  }
}

// --- samples in, results out --------------------------------------------------------------------

// Buffer 0 of samples [first, first + count) of a slot. `copies`: what convolutions read in jumps
// is first read in order; else fp32 is read where it lies (no step writes to buffer 0).
void load_samples(const NetworkParams& p, i64 slot, i64 first, i64 count, bool copies, Thread& t) {
  const i64 start = slot * p.x_slot_stride + first * p.x_sample_stride;
  Buffer& input = t.buffers[0];
  if (!p.x_u8 && !copies) {
    input = Buffer{const_cast<float*>(p.x) + start, p.x_sample_stride};
    return;
  }
  for (i64 sample = 0; sample < count; ++sample) {
    const i64 at = start + sample * p.x_sample_stride;
    float* out = input.data + sample * input.stride;
    if (p.x_u8) {
      for (i64 i = 0; i < p.inputs; ++i) out[i] = static_cast<float>(p.x_u8[at + i]) * p.x_scale;
    } else {
      memcpy(out, p.x + at, static_cast<size_t>(p.inputs) * sizeof(float));
    }
  }
}

void prepare_panels(const NetworkParams& p, i64 slot, Thread& t) {
  float* panels = t.panels;
  for (i64 i = 0; i < p.step_count; ++i) {
    const Step& s = p.steps[i];
    if (s.kind != StepKind::kConv) continue;
    for_panels(p, s, panels, [&](float* panel, i64, i64 first) { pack(p, s, slot, first, panel); });
    panels += aligned(panel_floats(conv_depth(p, s), s.out_channels));
  }
}

void store_output(const NetworkParams& p, const float* z, float* out) {
  if (p.output_channels > 1) {
    transpose(z, p.outputs / p.output_channels, p.output_channels, out);
  } else {
    memcpy(out, z, static_cast<size_t>(p.outputs) * sizeof(float));
  }
}

void finish_group(const NetworkParams& p, const Workspace& ws, i64 slot, i64 first, i64 count,
                  Thread& t) {
  const Buffer& z = t.buffers[p.output_buffer];
  for (i64 sample = 0; sample < count; ++sample) {
    const float* from = z.data + sample * z.stride;
    if (p.out) {
      store_output(p, from,
                   p.out + slot * p.out_slot_stride + (first + sample) * p.out_sample_stride);
    } else {
      for (i64 o = 0; o < p.outputs; ++o) t.z[o * kTile + sample] = from[o];
    }
  }
  if (p.out) return;
  for (i64 sample = count; sample < kTile; ++sample) {
    for (i64 o = 0; o < p.outputs; ++o) t.z[o * kTile + sample] = 0.0f;
  }
  store_losses(p, ws.results, slot, first, count, t.z);
}

void run_group(const NetworkParams& p, const Plan& plan, const Workspace& ws, i64 slot, i64 first,
               i64 count, const Thread& own) {
  Thread t = own;
  i64 begin = 0;
  if (plan.shared_head) {
    t.buffers[p.head_buffer] = Buffer{ws.head + first * plan.head_features, plan.head_features};
    begin = p.head_steps;
  } else if (!plan.loads_alone) {
    load_samples(p, slot, first, count, false, t);
  }
  if (plan.one_by_one) {
    for (i64 sample = 0; sample < count; ++sample) {
      if (plan.loads_alone) load_samples(p, slot, first + sample, 1, true, t);
      run_steps(p, plan, begin, p.flat_step, slot, sample, 1, t);
    }
  } else {
    run_steps(p, plan, begin, p.flat_step, slot, 0, count, t);
  }
  run_steps(p, plan, larger_of(begin, p.flat_step), p.step_count, slot, 0, count, t);
  finish_group(p, ws, slot, first, count, t);
}

void run_task(const NetworkParams& p, const Plan& plan, const Workspace& ws, i64 task, Thread& t) {
  const i64 slot = task / plan.cut.tasks_per_slot;
  const i64 begin = task % plan.cut.tasks_per_slot * plan.cut.units_per_task;
  const i64 end = smaller_of(begin + plan.cut.units_per_task, p.samples);
  if (plan.one_by_one) prepare_panels(p, slot, t);
  for (i64 first = begin; first < end; first += plan.group) {
    run_group(p, plan, ws, slot, first, smaller_of(plan.group, end - first), t);
  }
}

// The head of one sample of the shared batch.
void run_head(const NetworkParams& p, const Plan& plan, const Workspace& ws, i64 sample,
              const Thread& own) {
  Thread t = own;
  load_samples(p, 0, sample, 1, false, t);
  run_steps(p, plan, 0, p.head_steps, 0, 0, 1, t);
  memcpy(ws.head + sample * plan.head_features, t.buffers[p.head_buffer].data,
         static_cast<size_t>(p.buffer_features[p.head_buffer]) * sizeof(float));
}

}  // namespace

i64 samples_workspace_bytes(const NetworkParams& p) {
  const Plan plan = make_plan(p);
  const i64 floats = head_floats(p, plan) + plan.threads * plan.thread_floats();
  return floats * i64{sizeof(float)} + SampleResults::bytes(p);
}

void run_samples(const NetworkParams& p) {
  const Plan plan = make_plan(p);
  const Workspace ws = workspace_of(p, plan);
#pragma omp parallel num_threads(plan.threads)
  {
    const FloatEnvironment environment;
    Thread t = thread_of(p, plan, ws.threads + omp_get_thread_num() * plan.thread_floats());
    if (plan.shared_head) {
#pragma omp for schedule(dynamic)
      for (i64 sample = 0; sample < p.samples; ++sample) run_head(p, plan, ws, sample, t);
    }
#pragma omp for schedule(dynamic)
    for (i64 task = 0; task < p.slots * plan.cut.tasks_per_slot; ++task) {
      run_task(p, plan, ws, task, t);
    }
    if (!p.out) {
#pragma omp for schedule(static)
      for (i64 slot = 0; slot < p.slots; ++slot) finish_slot(p, ws.results, slot);
    }
  }
}

EVK_NAMESPACE_END
