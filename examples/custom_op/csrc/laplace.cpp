// laplace_mutate on the CPU: the module custom_op._cpu.
#include "laplace.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <string.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "rule.h"

namespace py = pybind11;

// One source, a loop for each instruction set, the widest chosen when the module is loaded.
#if defined(__x86_64__) && defined(__linux__)
#define EACH_INSTRUCTION_SET \
  __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define EACH_INSTRUCTION_SET
#endif

namespace custom_op {
namespace {

constexpr int kGroup = 64;  // genes at a time, a multiple of four

// The subnormals that bits are promised of: a library may have told this thread to flush them.
class KeepSubnormals {
 public:
#if defined(__SSE2__)
  KeepSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~KeepSubnormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#else
  KeepSubnormals() {}
#endif
  KeepSubnormals(const KeepSubnormals&) = delete;
};

EACH_INSTRUCTION_SET
void mutate_genome(const float* genome, float* out, i64 genes, float sigma, Key key, u32 individual,
                   u32 generation) {
  for (i64 first = 0; first < genes; first += kGroup) {
    const i64 left = genes - first;
    const size_t bytes = sizeof(float) * static_cast<size_t>(left < kGroup ? left : kGroup);
    u32 words[kGroup];
    for (int i = 0; i < kGroup / 4; ++i) {
      draw_words(key, static_cast<u32>(first / 4 + i), individual, generation, words + 4 * i);
    }
    float group[kGroup] = {};
    memcpy(group, genome + first, bytes);
    for (int i = 0; i < kGroup; ++i) {
      group[i] = laplace_mutated<float>(group[i], sigma, words[i]);
    }
    memcpy(out + first, group, bytes);
  }
}

void mutate(const LaplaceParams& p, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const KeepSubnormals environment;
#pragma omp for schedule(dynamic)
    for (i64 slot = 0; slot < p.slots; ++slot) {
      const float* genome = p.genomes + slot * p.genomes_stride;
      float* out = p.out + slot * p.out_stride;
      if (p.sigma[slot] == 0.0f) {
        memmove(out, genome, sizeof(float) * static_cast<size_t>(p.genes));
      } else {
        const u32 individual = p.first + static_cast<u32>(slot);
        mutate_genome(genome, out, p.genes, p.sigma[slot], key_of(p.seed), individual,
                      p.generation);
      }
    }
  }
}

void laplace_mutate(const py::array& genomes, const py::array& sigma, const py::array& out,
                    uint64_t seed, uint32_t generation, uint32_t first, int threads) {
  const LaplaceParams p{static_cast<const float*>(genomes.data()),
                        genomes.strides(0) / genomes.itemsize(),
                        static_cast<const float*>(sigma.data()),
                        static_cast<float*>(const_cast<void*>(out.data())),
                        out.strides(0) / out.itemsize(),
                        genomes.shape(0),
                        genomes.shape(1),
                        seed,
                        generation,
                        first};
  const py::gil_scoped_release others_run;
  mutate(p, threads);
}

}  // namespace
}  // namespace custom_op

PYBIND11_MODULE(_cpu, m) { m.def("laplace_mutate", &custom_op::laplace_mutate); }
