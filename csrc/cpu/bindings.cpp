// evokern._cpu: chooses the instruction set and hands checked NumPy arrays to the kernels as
// pointers and strides.
#include "cpu/bindings.h"

#include <atomic>
#include <cstdlib>

// The declarations of the other instruction sets' kernels.
namespace evk {
#define EVK_DECLARE_ISA(isa)                             \
  namespace isa {                                        \
  EVK_FOR_EACH_KERNEL(EVK_DECLARE_KERNEL)                \
  int64_t network_workspace_bytes(const NetworkParams&); \
  int64_t mutants_workspace_bytes(const MutantParams&);  \
  }
#if defined(EVK_X86)
EVK_DECLARE_ISA(avx2)
EVK_DECLARE_ISA(avx512)
EVK_DECLARE_ISA(avx512_bf16)
#endif
}  // namespace evk

const Kernels* active = nullptr;

namespace {

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

#define EVK_ISA_ENTRY(isa, lanes, bf16, supported)                                        \
  Kernels {                                                                               \
    #isa, lanes, bf16, supported, evk::isa::init_genomes, evk::isa::crossover_mutate,     \
        evk::isa::mutate_sigma, evk::isa::replay, evk::isa::network, evk::isa::mutants,   \
        evk::isa::max_pool2d, evk::isa::avg_pool2d, evk::isa::affine, evk::isa::residual, \
        evk::isa::nes_sample, evk::isa::nes_update, evk::isa::machine_limit,              \
        evk::isa::network_workspace_bytes, evk::isa::mutants_workspace_bytes              \
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
std::atomic<int> wanted_threads = 0;

}  // namespace

int thread_count() {
  const int wanted = wanted_threads;
  return wanted > 0 ? wanted : omp_get_max_threads();
}

namespace {

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
  bind_variation(m);
  bind_network(m);
  bind_categorical(m);
  m.def("machine_limit", &machine_limit);
  m.attr("emulates_avx512") =
#if defined(EVK_EMULATE_AVX512)
      true;
#else
      false;
#endif
}
