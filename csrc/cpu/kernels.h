// What every kernel takes: plain pointers, sizes and strides (in elements), checked by the caller.
// The same structs serve all instruction sets; a kernel is `void op(const OpParams&)`, defined
// once per instruction set in the .cpp file of its family.
#pragma once

#include <stdint.h>

namespace evk {

enum class InitScheme : int {
  kGlorotUniform = 0,  // limit per block
  kHeUniform = 1,
  kLecunNormal = 2,
  kUnitRows = 3,
  kTorch = 4,
};

// Parameters of consecutive genes: weights [fan_in, outputs], then bias [outputs].
struct DenseBlock {
  int64_t fan_in, outputs;
  float scale;  // what the deviates are multiplied with; the scheme's choice, made on the host
};

struct InitGenomesParams {
  float* out;  // [individuals, genes]
  int64_t out_stride;
  int64_t individuals;
  const DenseBlock* blocks;
  int64_t block_count;
  InitScheme scheme;
  uint64_t seed;
  uint32_t first;
};

enum class CrossoverKind : int { kUniform = 0, kArithmetic = 1, kRows = 2, kNone = 3 };

struct CrossoverMutateParams {
  const float* genomes;  // [P, genes]
  int64_t genomes_stride;
  const int32_t* parents;  // [parent_count, slots]
  int64_t parents_stride;
  const float* sigma;    // [slots]
  const float* weights;  // [parent_count, slots], arithmetic only
  int64_t weights_stride;
  const int32_t* out_rows;  // [slots] or null: row of `out` per slot
  float* out;               // [*, genes]
  int64_t out_stride;
  int64_t parent_count, slots, genes;
  CrossoverKind kind;
  int distribution;
  uint64_t rate_threshold, mutation_threshold;  // Bernoulli thresholds, 2^32 = always
  const DenseBlock* blocks;                     // rows only
  int64_t block_count;
  uint64_t seed;
  uint32_t generation, first;
};

// How a run begins: with a founder, a row, or a crossover of rows.
enum class ReplayStart : int { kInit = 0, kCopy = 1, kCrossover = 2 };

// A program of evokern/_program.py: per run `start`, `source`, `target`, `final` and the nodes
// first_step[run] to first_step[run + 1].
struct ReplayParams {
  float* out;  // [outputs, genes]
  int64_t out_stride;
  int64_t outputs, genes;
  const DenseBlock* blocks;
  int64_t block_count;
  InitScheme scheme;
  CrossoverKind kind;
  int distribution;
  uint64_t rate_threshold, mutation_threshold;  // Bernoulli thresholds, 2^32 = always
  const float* weights;                         // [parent_count], arithmetic only
  uint64_t seed;
  int64_t runs;
  const int32_t* start;
  const int32_t* source;
  const int32_t* target;
  const bool* final;
  const int64_t* first_step;
  const int32_t* crossed;  // [*, parent_count]
  int64_t parent_count;
  const uint32_t* generation;  // per node
  const uint32_t* number;
  const float* sigma;
  bool independent;      // no run reads what another one writes
  int64_t segment;       // genes per task, a multiple of kReplayUnit
  int64_t scratch_rows;  // beside one more
  float* scratch;        // [threads, scratch_rows + 1, segment]
  float* lengths;        // unit_rows: [founders, units], else null
  int64_t units;
};

constexpr int64_t kReplayUnit = 64;  // genes: the largest group of any instruction set

struct MutateSigmaParams {
  const float* sigma;  // [individuals]
  float* out;
  int64_t individuals;
  float tau;
  uint64_t seed;
  uint32_t generation, first;
};

// One step of a network on a sample: [channels, height, width] in, flat sizes for the others.
enum class StepKind : int { kDense = 0, kActivation = 1, kMaxPool = 2, kAvgPool = 3 };

struct Step {
  StepKind kind;
  int activation;  // code of core/activation.h
  float slope;
  int64_t inputs, outputs;
  // dense: the weights [inputs, outputs] and bias [outputs] of individual p start at
  // weights + p * weights_stride and bias + p * bias_stride
  const float* weights;
  int64_t weights_stride;
  const float* bias;
  int64_t bias_stride;
  // pools
  int64_t channels, height, width;
  int64_t kernel_height, kernel_width, stride_height, stride_width, pad_height, pad_width;
  int64_t out_height, out_width;
  bool count_include_pad;
};

enum class Loss : int { kCrossEntropy = 0, kMeanSquaredError = 1 };

struct NetworkParams {
  const Step* steps;
  int64_t step_count;
  const float* x;         // [slots, samples, inputs], or [samples, inputs] with x_slot_stride 0
  int64_t x_slot_stride;  // 0: one batch shared by all slots
  int64_t x_sample_stride;
  int64_t inputs, outputs;
  const int32_t* index;  // [slots]: the individual each slot runs
  int64_t slots, samples;
  bool bf16;
  // network_forward
  float* out;  // [slots, samples, outputs], or null
  int64_t out_slot_stride, out_sample_stride;
  // network_loss
  Loss loss;
  const int64_t* labels;  // [slots, samples] or [samples] with label_slot_stride 0
  const float* targets;   // mse: [slots, samples, outputs] or [samples, outputs]
  int64_t label_slot_stride, target_sample_stride;
  const int32_t* classes;  // [slots] or null
  float* out_loss;         // [slots]
  int32_t* out_correct;    // [slots]
  void* workspace;         // network_workspace_bytes(), aligned to 64
};

struct PoolParams {
  const float* x;  // [images, height, width]
  float* out;      // [images, out_height, out_width]
  int64_t images, image_stride, row_stride;
  int64_t out_image_stride, out_row_stride;
  Step step;
};

struct AffineParams {
  const float* x;  // [slots, samples, channels, length]
  int64_t x_strides[3];
  const float* scale;  // [P, channels]
  const float* shift;
  int64_t scale_stride, shift_stride;
  const int32_t* index;  // [slots]
  float* out;
  int64_t out_strides[3];
  int64_t slots, samples, channels, length;
};

enum class MachineLimit : int {
  kMultiplyAdd = 0,
  kBf16Dot = 1,
  kCopy = 2,
  kCopyStreaming = 3,  // past the cache
  kRead = 4,
};

struct MachineLimitParams {
  MachineLimit limit;
  int64_t steps;    // of the multiply-add loops, in every thread
  const float* in;  // [count], a multiple of 1024 and aligned to 64 bytes
  float* out;       // [count], copies only
  int64_t count;
  int64_t* work;  // operations or bytes of all threads; 0 where the instruction set lacks it
};

#define EVK_FOR_EACH_KERNEL(F)               \
  F(init_genomes, InitGenomesParams)         \
  F(crossover_mutate, CrossoverMutateParams) \
  F(mutate_sigma, MutateSigmaParams)         \
  F(replay, ReplayParams)                    \
  F(network, NetworkParams)                  \
  F(max_pool2d, PoolParams)                  \
  F(avg_pool2d, PoolParams)                  \
  F(affine, AffineParams)                    \
  F(machine_limit, MachineLimitParams)

#define EVK_DECLARE_KERNEL(name, Params) void name(const Params&);

}  // namespace evk

namespace evk {
namespace EVK_ISA {
EVK_FOR_EACH_KERNEL(EVK_DECLARE_KERNEL)
int64_t network_workspace_bytes(const NetworkParams&);
}  // namespace EVK_ISA
}  // namespace evk
