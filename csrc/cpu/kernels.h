// The CPU's kernels: `void op(const OpParams&)`, defined once per instruction set in the .cpp file
// of its family.
#pragma once

#include "core/params.h"

namespace evk {

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
  F(mutants, MutantParams)                   \
  F(max_pool2d, PoolParams)                  \
  F(avg_pool2d, PoolParams)                  \
  F(affine, AffineParams)                    \
  F(residual, ResidualParams)                \
  F(nes_sample, NesSampleParams)             \
  F(nes_update, NesUpdateParams)             \
  F(machine_limit, MachineLimitParams)

#define EVK_DECLARE_KERNEL(name, Params) void name(const Params&);

}  // namespace evk

namespace evk {
namespace EVK_ISA {
EVK_FOR_EACH_KERNEL(EVK_DECLARE_KERNEL)
int64_t network_workspace_bytes(const NetworkParams&);
int64_t mutants_workspace_bytes(const MutantParams&);
}  // namespace EVK_ISA
}  // namespace evk
