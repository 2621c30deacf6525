// _planted: the kernels of planted.cu as one function of Python.
#include <pybind11/pybind11.h>

#include <string>

#include "planted.h"

namespace py = pybind11;

namespace {

int run(const std::string& name, bool right, uintptr_t in, uintptr_t out, int n, unsigned blocks,
        unsigned threads, size_t shared_bytes) {
  const Arguments a{reinterpret_cast<const float*>(in), reinterpret_cast<float*>(out), n};
  const int error = run_planted(name.c_str(), right, a, blocks, threads, shared_bytes);
  if (error < 0) throw py::value_error("no kernel " + name);
  return error;
}

}  // namespace

PYBIND11_MODULE(EVK_MODULE, m) { m.def("run", &run); }
