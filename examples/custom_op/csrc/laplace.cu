// laplace_mutate on a CUDA device.
#include "cuda/launch.h"
#include "laplace.h"
#include "rule.h"

namespace custom_op {

constexpr int kThreads = 128;

// A thread has the four genes that one Philox block draws for. Genes lie along x, genomes along y,
// where a block takes every gridDim.y-th.
EVK_KERNEL(kThreads)
laplace_kernel(const LaplaceParams p) {
  const i64 block = static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x, gene = 4 * block;
  if (gene >= p.genes) return;
  const int count = p.genes - gene < 4 ? static_cast<int>(p.genes - gene) : 4;
  for (i64 slot = blockIdx.y; slot < p.slots; slot += gridDim.y) {
    const float* from = p.genomes + slot * p.genomes_stride + gene;
    float* to = p.out + slot * p.out_stride + gene;
    const float sigma = p.sigma[slot];
    const bool wide = count == 4 && aligned16(from) && aligned16(to);
    float genes[4];
    if (wide) {
      const Float4 four = load4(from);
      genes[0] = four.x, genes[1] = four.y, genes[2] = four.z, genes[3] = four.w;
    } else {
      EVK_UNROLL(4)
      for (int i = 0; i < 4; ++i) genes[i] = i < count ? from[i] : 0.0f;
    }
    if (sigma != 0.0f) {
      u32 words[4];
      draw_words(key_of(p.seed), static_cast<u32>(block), p.first + static_cast<u32>(slot),
                 p.generation, words);
      EVK_UNROLL(4)
      for (int i = 0; i < 4; ++i) genes[i] = laplace_mutated<float>(genes[i], sigma, words[i]);
    }
    if (wide) {
      store4(to, Float4{genes[0], genes[1], genes[2], genes[3]});
    } else {
      EVK_UNROLL(4)
      for (int i = 0; i < 4; ++i) {
        if (i < count) to[i] = genes[i];
      }
    }
  }
}

}  // namespace custom_op

const char* laplace_mutate_cuda(const LaplaceParams& p, void* stream) {
  constexpr int64_t genes = 4 * custom_op::kThreads, most_y = 65535;
  const dim3 grid(static_cast<unsigned>((p.genes + genes - 1) / genes),
                  static_cast<unsigned>(p.slots < most_y ? p.slots : most_y));
  const int error =
      evk::cuda::launch(custom_op::laplace_kernel, grid, custom_op::kThreads, 0, stream, p);
  return error == 0 ? nullptr : cudaGetErrorString(static_cast<cudaError_t>(error));
}
