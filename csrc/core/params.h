// What every kernel takes: plain pointers, sizes and strides (in elements), checked by the caller.
// The same structs serve all instruction sets and CUDA, where pointers are the device's.
#pragma once

#if defined(__CUDACC_RTC__)  // has no standard headers
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
#else
#include <stdint.h>
#endif

namespace evk {

enum class InitScheme : int {
  kGlorotUniform = 0,
  kHeUniform = 1,
  kLecunNormal = 2,
  kUnitRows = 3,
  kTorch = 4,
};

enum class GeneContent : int { kWeights = 0, kBias = 1, kOnes = 2, kZeros = 3 };

// Consecutive genes: `rows` rows with one gene for each of `outputs` units. A part that continues
// belongs to the same units as the part before it.
struct GenePart {
  int64_t rows, outputs;
  GeneContent content;
  bool continues;
  float scale;  // what the deviates are multiplied with; the scheme's choice, made on the host
  // What comes before the part, for CUDA's bisection; columns are the outputs of weights.
  int64_t first_gene = 0, first_unit = 0, first_column = 0;
};

struct InitGenomesParams {
  float* out;  // [individuals, genes]
  int64_t out_stride;
  int64_t individuals, genes;
  const GenePart* parts;
  int64_t part_count;
  InitScheme scheme;
  uint64_t seed;
  uint32_t first;
};

enum class CrossoverKind : int { kUniform = 0, kArithmetic = 1, kRows = 2, kNone = 3 };

// Of what mutation adds, times sigma.
enum class Distribution : int { kNormal = 0, kUniform = 1, kCauchy = 2 };

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
  Distribution distribution;
  uint64_t rate_threshold, mutation_threshold;  // Bernoulli thresholds, 2^32 = always
  const GenePart* parts;                        // rows only
  int64_t part_count;
  uint64_t seed;
  uint32_t generation, first;
};

// How a run begins: with a founder, a row, or a crossover of rows.
enum class ReplayStart : int { kInit = 0, kCopy = 1, kCrossover = 2 };

// A program of evokern/_replay_program.py: per run `start`, `source`, `target`, `final` and the
// nodes first_step[run] to first_step[run + 1].
struct ReplayParams {
  float* out;  // [outputs, genes]
  int64_t out_stride;
  int64_t outputs, genes;
  const GenePart* parts;
  int64_t part_count;
  InitScheme scheme;
  CrossoverKind kind;
  Distribution distribution;
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
  float* lengths;        // unit_rows: [founders, weight_columns], else null
  int64_t weight_columns;
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

// Rows of one layer's parameters in their bank, and the row that each slot uses. Elements are fp32,
// or bf16 where NetworkParams::bf16_bank says so.
struct Parameter {
  const void* base;  // null: the layer has none
  int64_t stride;    // in elements
  const int32_t* row;

#if !defined(__CUDACC_RTC__)  // of the host
  template <class T>
  const T* of(int64_t slot) const {
    return static_cast<const T*>(base) + row[slot] * stride;
  }
#endif
};

// One step of a network. Tiles of samples know all but kAdd, kChannelsFirst, kChannelsLast, kElman.
enum class StepKind : int {
  kDense = 0,
  kActivation = 1,
  kMaxPool = 2,
  kAvgPool = 3,
  kConv = 4,
  kAffine = 5,
  kAdd = 6,
  kGlobalAvgPool = 7,
  kChannelsFirst = 8,  // [H, W, C] to [C, H, W]
  kChannelsLast = 9,
  kElman = 10,
};

struct Step {
  StepKind kind;
  int activation;  // code of core/activation.h
  float slope;
  int64_t inputs, outputs;    // features of a sample
  int source, other, target;  // buffers: read, added, written
  Parameter weights, bias;    // dense [inputs, outputs], conv [depth, channels], Elman W_in
  Parameter recurrent;        // Elman [outputs, outputs]
  Parameter scale, shift;     // affine [channels]; of a conv: what follows it
  int64_t length;             // Elman: steps of the sequence
  bool whole_sequence;        // Elman: all states are the output, not the last
  int64_t channels, height, width;
  bool channels_first;  // the image is [C, H, W], as a network's input is
  int64_t kernel_height, kernel_width, stride_height, stride_width, pad_height, pad_width;
  int64_t out_channels, out_height, out_width;
  bool count_include_pad;
  // conv, in the padded image: where each weight row reads, [C * KH * KW], relative to where each
  // position of the output begins, [H' * W']
  const int32_t* offsets;
  const int32_t* places;
};

constexpr int64_t kMostFusedSteps = 16;  // of CUDA's one kernel for all layers

enum class Loss : int { kCrossEntropy = 0, kMeanSquaredError = 1 };

struct NetworkParams {
  const Step* steps;
  int64_t step_count;
  bool tiles;           // steps of tiles of samples (network_tiles.cpp), else of single samples
  const float* x;       // [slots, samples, inputs], or [samples, inputs] with x_slot_stride 0
  const uint8_t* x_u8;  // instead of x; times x_scale
  float x_scale;
  int64_t x_slot_stride;  // 0: one batch shared by all slots
  int64_t x_sample_stride;
  int64_t inputs, outputs;
  int64_t slots, samples;
  bool bf16;       // inputs and weights of products are rounded to bf16
  bool bf16_bank;  // parameters are stored as bf16
  // single samples: buffer 0 is the input
  const int64_t* buffer_features;
  int64_t buffer_count;
  int64_t head_steps;  // without parameters, from buffer 0 to head_buffer
  int head_buffer;
  int64_t flat_step;  // the first dense or recurrent one; images come before it
  int output_buffer;
  int64_t output_channels;  // of an output image [H, W, C], else 1
  // network_forward
  float* out;  // [slots, samples, outputs], or null
  int64_t out_slot_stride, out_sample_stride;
  // network_loss
  Loss loss;
  const int64_t* labels;  // [slots, samples] or [samples] with label_slot_stride 0
  const float* targets;   // mse: [slots, samples, outputs] or [samples, outputs]
  int64_t label_slot_stride, target_sample_stride;
  const int32_t* classes;       // [slots] or null
  const float* sample_weights;  // [slots, samples], [samples] with weight_slot_stride 0, or null
  int64_t weight_slot_stride;
  float* out_loss;       // [slots]
  int32_t* out_correct;  // [slots]
  void* workspace;       // network_workspace_bytes(), aligned to 64
};

// Networks that are a centre's but for some units of the first dense layer. `network` is the
// centre's: steps of tiles, dense layers only, one batch for all; slots, losses and results are the
// mutants'.
struct MutantParams {
  NetworkParams network;
  const float* genes;  // [slots, *]: weights [inputs, units], then the bias if there is one
  int64_t genes_stride;
  const int32_t* index;  // [slots]: which slice of `units` outputs they stand for
  int64_t units;
  bool bias;           // of the first layer
  const float* zeros;  // as many as the widest layer has outputs
};

struct PoolParams {
  const float* x;  // [images, height, width]; CUDA: [images, channels, height, width]
  float* out;      // [images, out_height, out_width]
  int64_t images, image_stride, row_stride;
  int64_t out_image_stride, out_row_stride;
  int64_t channel_stride, out_channel_stride;  // CUDA
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

struct ResidualParams {
  const float* x;  // [count], as y and out
  const float* y;
  float* out;
  int64_t count;
  int activation;  // code of core/activation.h
  float slope;
};

constexpr double kRowSumTolerance = 1e-3;     // that a row of probabilities may be off from 1
constexpr int64_t kMostCategoricalRows = 64;  // side by side in any instruction set

// Probabilities [count, choices], one categorical distribution per row. The kernels look for
// values that are none: `fault` becomes the first row that is no distribution, or `count` for a
// wrong assignment, or -1; the output is worth nothing unless it is -1.
struct CategoricalRows {
  const float* probabilities;
  int64_t stride;
  const bool* mask;  // [count, choices], true where there is no entry, or null
  int64_t mask_stride;
  int64_t count, choices;
  bool parallel;
  float* scratch;  // [threads, scratch_size], aligned to 64 bytes
  int64_t scratch_size;
  int64_t* fault;
};

struct NesSampleParams {
  CategoricalRows rows;  // scratch: kMostCategoricalRows * choices
  int64_t samples;
  uint64_t seed;
  uint32_t step;
  int32_t* out;  // [samples, count]
  int64_t out_stride;
};

struct NesUpdateParams {
  CategoricalRows rows;        // scratch: kMostCategoricalRows * (2 * choices + samples)
  const int32_t* assignments;  // [samples, count]
  int64_t assignments_stride;
  const float* losses;  // [samples]
  int64_t samples;
  float learning_rate, min_probability;
  bool keep_minimum;
  float* utilities;  // [samples], scratch too
  float* out;        // [count, choices]
  int64_t out_stride;
};

}  // namespace evk
