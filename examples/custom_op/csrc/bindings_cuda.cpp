// The module custom_op._cuda, in a file of its own: nvcc then needs no header of Python.
#include <pybind11/pybind11.h>

#include "laplace.h"

namespace py = pybind11;

namespace {

// Arrays are addresses of the device. Returns what CUDA says is wrong, or None.
py::object laplace_mutate(uintptr_t genomes, int64_t genomes_stride, uintptr_t sigma, uintptr_t out,
                          int64_t out_stride, int64_t slots, int64_t genes, uint64_t seed,
                          uint32_t generation, uint32_t first, uintptr_t stream) {
  const LaplaceParams p{reinterpret_cast<const float*>(genomes),
                        genomes_stride,
                        reinterpret_cast<const float*>(sigma),
                        reinterpret_cast<float*>(out),
                        out_stride,
                        slots,
                        genes,
                        seed,
                        generation,
                        first};
  const char* failure = laplace_mutate_cuda(p, reinterpret_cast<void*>(stream));
  return failure ? py::object(py::str(failure)) : py::none();
}

}  // namespace

// Tests build it under another name.
#if !defined(EVK_MODULE)
#define EVK_MODULE _cuda
#endif

PYBIND11_MODULE(EVK_MODULE, m) { m.def("laplace_mutate", &laplace_mutate); }
