// evokern._cpu: chooses the instruction set and hands checked NumPy arrays to the kernels as
// pointers and strides. The checks of shapes, types and values are in evokern/ops.py; this module
// is private and trusts its caller.
#include <omp.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

// The declarations of every instruction set's kernels.
#define EVK_ISA baseline
#include "cpu/kernels.h"
#undef EVK_ISA

namespace evk {
#define EVK_DECLARE_ISA(isa)                             \
  namespace isa {                                        \
  EVK_FOR_EACH_KERNEL(EVK_DECLARE_KERNEL)                \
  int64_t network_workspace_bytes(const NetworkParams&); \
  }
#if defined(EVK_X86)
EVK_DECLARE_ISA(avx2)
EVK_DECLARE_ISA(avx512)
EVK_DECLARE_ISA(avx512_bf16)
#endif
}  // namespace evk

namespace py = pybind11;

namespace {

struct Kernels {
  const char* isa;
  int lanes;
  bool native_bf16;
  bool (*supported)();
#define EVK_POINTER(name, Params) void (*name)(const evk::Params&);
  EVK_FOR_EACH_KERNEL(EVK_POINTER)
  int64_t (*network_workspace_bytes)(const evk::NetworkParams&);
};

bool always() { return true; }
#if defined(EVK_X86)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#if defined(EVK_EMULATE_AVX512)
bool has_avx512() { return has_avx2(); }
bool has_avx512_bf16() { return has_avx2(); }
#else
bool has_avx512() { return __builtin_cpu_supports("x86-64-v4"); }
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif
#endif

#define EVK_ISA_ENTRY(isa, lanes, bf16, supported)                                         \
  Kernels {                                                                                \
    #isa, lanes, bf16, supported, evk::isa::init_genomes, evk::isa::crossover_mutate,      \
        evk::isa::mutate_sigma, evk::isa::replay, evk::isa::network, evk::isa::max_pool2d, \
        evk::isa::avg_pool2d, evk::isa::affine, evk::isa::residual, evk::isa::nes_sample,  \
        evk::isa::nes_update, evk::isa::machine_limit, evk::isa::network_workspace_bytes   \
  }

// From the plainest to the widest.
const Kernels kInstructionSets[] = {
    EVK_ISA_ENTRY(baseline, 1, false, always),
#if defined(EVK_X86)
    EVK_ISA_ENTRY(avx2, 8, false, has_avx2),
    EVK_ISA_ENTRY(avx512, 16, false, has_avx512),
    EVK_ISA_ENTRY(avx512_bf16, 16, true, has_avx512_bf16),
#endif
};

const Kernels* active = nullptr;

std::vector<std::string> supported_instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels& k : kInstructionSets) {
    if (k.supported()) names.push_back(k.isa);
  }
  return names;
}

std::vector<std::string> built_instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels& k : kInstructionSets) names.push_back(k.isa);
  return names;
}

// False when the name is unknown or the processor lacks it.
bool use_instruction_set(const std::string& name) {
  for (const Kernels& k : kInstructionSets) {
    if (name == k.isa && k.supported()) {
      active = &k;
      return true;
    }
  }
  return false;
}

// Threads that evokern.set_threads asked for; 0 leaves it to OpenMP (and so to torch).
int wanted_threads = 0;

int thread_count() { return wanted_threads > 0 ? wanted_threads : omp_get_max_threads(); }

// While a kernel runs: no GIL, and the wanted number of threads, whichever Python thread calls
// (OpenMP keeps its own number per calling thread, which comes back afterwards).
class Running {
 public:
  Running() : before_(omp_get_max_threads()) { omp_set_num_threads(thread_count()); }
  ~Running() { omp_set_num_threads(before_); }
  Running(const Running&) = delete;

 private:
  py::gil_scoped_release release_;
  int before_;
};

// --- arrays --------------------------------------------------------------------------------------

using Array = py::array;
using OptionalArray = std::optional<py::array>;

template <class T>
const T* data(const Array& a) {
  return static_cast<const T*>(a.data());
}

template <class T>
const T* data(const OptionalArray& a) {
  return a ? data<T>(*a) : nullptr;
}

template <class T>
T* mutable_data(const Array& a) {
  return static_cast<T*>(const_cast<void*>(a.data()));
}

// In elements. An axis of length 0 or 1 may carry any stride, which nobody then uses.
int64_t stride(const Array& a, int axis) { return a.strides(axis) / a.itemsize(); }

struct AlignedDelete {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using Memory = std::unique_ptr<void, AlignedDelete>;

Memory allocate(size_t bytes) { return Memory(::operator new(bytes, std::align_val_t{64})); }

// Scratch memory of the calling thread. Small ones are kept: new pages cost more than a small call.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    thread_local Memory kept;
    thread_local size_t kept_bytes = 0;
    if (bytes > kMostKept) {
      own_ = allocate(bytes);
      memory_ = own_.get();
      return;
    }
    if (bytes > kept_bytes) {
      kept.reset();
      kept_bytes = 0;
      kept = allocate(bytes);
      kept_bytes = bytes;
    }
    memory_ = kept.get();
  }
  void* get() const { return memory_; }

 private:
  static constexpr size_t kMostKept = 16 << 20;
  Memory own_;
  void* memory_;
};

// --- ops -----------------------------------------------------------------------------------------

// Parts [n, 4] as (rows, outputs, content, continues), scales [n] or none.
std::vector<evk::GenePart> parts_of(const Array& parts, const OptionalArray& scales) {
  std::vector<evk::GenePart> result(static_cast<size_t>(parts.shape(0)));
  const int64_t* values = data<int64_t>(parts);
  for (size_t i = 0; i < result.size(); ++i, values += 4) {
    const auto content = static_cast<evk::GeneContent>(values[2]);
    const float scale = scales ? data<float>(*scales)[i] : 0.0f;
    result[i] = {values[0], values[1], content, values[3] != 0, scale};
  }
  return result;
}

void init_genomes(const Array& out, const Array& parts, const Array& scales, int scheme,
                  uint64_t seed, uint32_t first) {
  const std::vector<evk::GenePart> list = parts_of(parts, scales);
  const evk::InitGenomesParams p{mutable_data<float>(out),
                                 stride(out, 0),
                                 out.shape(0),
                                 list.data(),
                                 static_cast<int64_t>(list.size()),
                                 static_cast<evk::InitScheme>(scheme),
                                 seed,
                                 first};
  const Running running;
  active->init_genomes(p);
}

void crossover_mutate(const Array& genomes, const Array& parents, const Array& sigma,
                      const OptionalArray& weights, const OptionalArray& parts, const Array& out,
                      const OptionalArray& out_rows, int kind, int distribution,
                      uint64_t rate_threshold, uint64_t mutation_threshold, uint64_t seed,
                      uint32_t generation, uint32_t first) {
  const std::vector<evk::GenePart> list =
      parts ? parts_of(*parts, std::nullopt) : std::vector<evk::GenePart>{};
  evk::CrossoverMutateParams p{};
  p.genomes = data<float>(genomes);
  p.genomes_stride = stride(genomes, 0);
  p.parents = data<int32_t>(parents);
  p.parents_stride = stride(parents, 0);
  p.sigma = data<float>(sigma);
  p.weights = data<float>(weights);
  p.weights_stride = weights ? stride(*weights, 0) : 0;
  p.out_rows = data<int32_t>(out_rows);
  p.out = mutable_data<float>(out);
  p.out_stride = stride(out, 0);
  p.parent_count = parents.shape(0);
  p.slots = parents.shape(1);
  p.genes = genomes.shape(1);
  p.kind = static_cast<evk::CrossoverKind>(kind);
  p.distribution = distribution;
  p.rate_threshold = rate_threshold;
  p.mutation_threshold = mutation_threshold;
  p.parts = list.data();
  p.part_count = static_cast<int64_t>(list.size());
  p.seed = seed;
  p.generation = generation;
  p.first = first;
  const Running running;
  active->crossover_mutate(p);
}

void mutate_sigma(const Array& sigma, const Array& out, float tau, uint64_t seed,
                  uint32_t generation, uint32_t first) {
  const evk::MutateSigmaParams p{
      data<float>(sigma), mutable_data<float>(out), sigma.shape(0), tau, seed, generation, first};
  const Running running;
  active->mutate_sigma(p);
}

// What a thread's scratch rows may take together: they stay in its second cache.
constexpr int64_t kReplayCacheBytes = 512 << 10;
constexpr int64_t kReplayGenes = 4096;

// Genes that go through a program at once.
int64_t replay_segment(int64_t rows, int64_t genes) {
  const int64_t units = (genes + evk::kReplayUnit - 1) / evk::kReplayUnit;
  const int64_t most = kReplayGenes / evk::kReplayUnit;
  const int64_t fitting = kReplayCacheBytes / (rows * evk::kReplayUnit * int64_t{4});
  return evk::kReplayUnit * std::max<int64_t>(1, std::min({units, most, fitting}));
}

// The arrays of an evokern._program.Program; weights [R] for arithmetic crossover.
void replay(const py::object& program, const Array& out, const Array& parts, const Array& scales,
            const OptionalArray& weights, int scheme, int kind, int distribution,
            uint64_t rate_threshold, uint64_t mutation_threshold, uint64_t seed) {
  const std::vector<evk::GenePart> list = parts_of(parts, scales);
  const auto array = [&program](const char* name) { return program.attr(name).cast<Array>(); };
  const auto number = [&program](const char* name) { return program.attr(name).cast<int64_t>(); };
  evk::ReplayParams p{};
  p.out = mutable_data<float>(out);
  p.out_stride = stride(out, 0);
  p.outputs = out.shape(0);
  p.genes = out.shape(1);
  p.parts = list.data();
  p.part_count = static_cast<int64_t>(list.size());
  p.scheme = static_cast<evk::InitScheme>(scheme);
  p.kind = static_cast<evk::CrossoverKind>(kind);
  p.distribution = distribution;
  p.rate_threshold = rate_threshold;
  p.mutation_threshold = mutation_threshold;
  p.weights = data<float>(weights);
  p.seed = seed;
  p.runs = array("target").shape(0);
  p.start = data<int32_t>(array("start"));
  p.source = data<int32_t>(array("source"));
  p.target = data<int32_t>(array("target"));
  p.final = data<bool>(array("final"));
  p.first_step = data<int64_t>(array("first_step"));
  p.crossed = data<int32_t>(array("crossed"));
  p.parent_count = array("crossed").shape(1);
  p.generation = data<uint32_t>(array("generation"));
  p.number = data<uint32_t>(array("number"));
  p.sigma = data<float>(array("sigma"));
  p.independent = program.attr("independent").cast<bool>();
  p.scratch_rows = number("scratch_rows");
  p.segment = replay_segment(p.scratch_rows + 1, p.genes);
  for (const evk::GenePart& part : list) {
    if (part.content == evk::GeneContent::kWeights) p.weight_columns += part.outputs;
  }

  const int64_t founders = p.scheme == evk::InitScheme::kUnitRows ? number("founders") : 0;
  const int64_t scratch = thread_count() * (p.scratch_rows + 1) * p.segment;
  const auto bytes = static_cast<size_t>(scratch + founders * p.weight_columns) * sizeof(float);
  const Memory memory = allocate(bytes);
  p.scratch = static_cast<float*>(memory.get());
  p.lengths = founders > 0 ? p.scratch + scratch : nullptr;
  const Running running;
  active->replay(p);
}

// A row of the step table that evokern/backends/steps.py makes of a network. Parameters are a bank
// (-1: none) and an offset into its rows.
enum StepField {
  kKind,
  kActivation,
  kInputs,
  kOutputs,
  kSource,
  kOther,
  kTarget,
  kWeights,
  kBias = kWeights + 2,
  kRecurrent = kBias + 2,
  kScale = kRecurrent + 2,
  kShift = kScale + 2,
  kLength = kShift + 2,
  kWholeSequence,
  kChannels,
  kHeight,
  kWidth,
  kChannelsFirst,
  kKernelHeight,
  kKernelWidth,
  kStrideHeight,
  kStrideWidth,
  kPadHeight,
  kPadWidth,
  kOutChannels,
  kOutHeight,
  kOutWidth,
  kCountIncludePad,
  kOffsets,
  kPlaces,
  kStepFields
};

constexpr float kNoBias[4096] = {};  // outputs have a limit (evokern/layers.py)

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
    const int64_t* f = data<int64_t>(table) + i * kStepFields;
    evk::Step& s = steps[i];
    s = evk::Step{};
    s.kind = static_cast<evk::StepKind>(f[kKind]);
    s.activation = static_cast<int>(f[kActivation]);
    s.slope = data<float>(slopes)[i];
    s.inputs = f[kInputs];
    s.outputs = f[kOutputs];
    s.source = static_cast<int>(f[kSource]);
    s.other = static_cast<int>(f[kOther]);
    s.target = static_cast<int>(f[kTarget]);
    s.weights = banks.parameter(f + kWeights);
    s.bias = banks.parameter(f + kBias);
    s.recurrent = banks.parameter(f + kRecurrent);
    s.scale = banks.parameter(f + kScale);
    s.shift = banks.parameter(f + kShift);
    s.length = f[kLength];
    s.whole_sequence = f[kWholeSequence] != 0;
    s.channels = f[kChannels];
    s.height = f[kHeight];
    s.width = f[kWidth];
    s.channels_first = f[kChannelsFirst] != 0;
    s.kernel_height = f[kKernelHeight];
    s.kernel_width = f[kKernelWidth];
    s.stride_height = f[kStrideHeight];
    s.stride_width = f[kStrideWidth];
    s.pad_height = f[kPadHeight];
    s.pad_width = f[kPadWidth];
    s.out_channels = f[kOutChannels];
    s.out_height = f[kOutHeight];
    s.out_width = f[kOutWidth];
    s.count_include_pad = f[kCountIncludePad] != 0;
    s.offsets = data<int32_t>(places) + f[kOffsets];
    s.places = data<int32_t>(places) + f[kPlaces];
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
    const Running running;
    const auto bytes = static_cast<size_t>(active->network_workspace_bytes(p));
    const Scratch scratch(bytes);
    p.workspace = scratch.get();
    active->network(p);
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

void network_loss(const std::vector<Array>& banks, const py::object& program, const Array& x,
                  float x_scale, const Array& index, bool bf16, const Array& y, bool mse,
                  const OptionalArray& classes, const Array& out_loss, const Array& out_correct) {
  NetworkCall call(banks, program, x, x_scale, index, bf16);
  evk::NetworkParams& p = call.p;
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
  p.out_loss = mutable_data<float>(out_loss);
  p.out_correct = mutable_data<int32_t>(out_correct);
  call.run();
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
  s.kernel_height = geometry[0];
  s.kernel_width = geometry[1];
  s.stride_height = geometry[2];
  s.stride_width = geometry[3];
  s.pad_height = geometry[4];
  s.pad_width = geometry[5];
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

// Floating-point operations or bytes of all threads; 0 where the instruction set lacks them.
int64_t machine_limit(int limit, const Array& in, const Array& out, int64_t steps) {
  int64_t work = 0;
  const evk::MachineLimitParams p{static_cast<evk::MachineLimit>(limit),
                                  steps,
                                  data<float>(in),
                                  mutable_data<float>(out),
                                  in.shape(0),
                                  &work};
  const Running running;
  active->machine_limit(p);
  return work;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  use_instruction_set(supported_instruction_sets().back());
  m.def("built_instruction_sets", &built_instruction_sets);
  m.def("supported_instruction_sets", &supported_instruction_sets);
  m.def("use_instruction_set", &use_instruction_set);
  m.def("instruction_set", [] { return std::string(active->isa); });
  m.def("lanes", [] { return active->lanes; });
  m.def("native_bf16", [] { return active->native_bf16; });
  m.def("threads", &thread_count);
  m.def("set_threads", [](int n) { wanted_threads = n; });
  m.def("init_genomes", &init_genomes);
  m.def("crossover_mutate", &crossover_mutate);
  m.def("mutate_sigma", &mutate_sigma);
  m.def("replay", &replay);
  m.def("network_forward", &network_forward);
  m.def("network_loss", &network_loss);
  m.def("pool2d", &pool2d);
  m.def("affine", &affine);
  m.def("residual", &residual);
  m.def("nes_sample", &nes_sample);
  m.def("nes_update", &nes_update);
  m.def("machine_limit", &machine_limit);
  m.attr("emulates_avx512") =
#if defined(EVK_EMULATE_AVX512)
      true;
#else
      false;
#endif
}
