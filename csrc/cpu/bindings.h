// What the parts of evokern._cpu share: the kernels in use, arrays as pointers, scratch memory.
// Shapes, types and values are checked by evokern.ops; the module trusts its caller.
#pragma once

#include <omp.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

// Parameters and one set of declarations.
#define EVK_ISA baseline
#include "cpu/kernels.h"
#undef EVK_ISA

namespace py = pybind11;

struct Kernels {
  const char* isa;
  int lanes;
  bool native_bf16;
  bool (*supported)();
#define EVK_POINTER(name, Params) void (*name)(const evk::Params&);
  EVK_FOR_EACH_KERNEL(EVK_POINTER)
  int64_t (*network_workspace_bytes)(const evk::NetworkParams&);
  int64_t (*mutants_workspace_bytes)(const evk::MutantParams&);
};

// Of the instruction set in use (bindings.cpp).
extern const Kernels* active;

int thread_count();

// While a kernel runs: no GIL, and the wanted number of threads, whichever Python thread calls
// (OpenMP keeps its own number per calling thread, which comes back afterwards). Whoever has
// scratch for so many threads passes the number it has: another Python thread may set another.
class Running {
 public:
  explicit Running(int threads = thread_count()) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~Running() { omp_set_num_threads(before_); }
  Running(const Running&) = delete;

 private:
  py::gil_scoped_release release_;
  int before_;
};

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
inline int64_t stride(const Array& a, int axis) { return a.strides(axis) / a.itemsize(); }

struct AlignedDelete {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using Memory = std::unique_ptr<void, AlignedDelete>;

inline Memory allocate(size_t bytes) { return Memory(::operator new(bytes, std::align_val_t{64})); }

// Scratch memory of the calling thread. Small ones are kept: new pages cost more than a small call.
// Raises MemoryLimitError where the machine has not so much.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    thread_local Memory kept;
    thread_local size_t kept_bytes = 0;
    if (bytes > kMostKept) {
      const py::gil_scoped_acquire python;
      py::module_::import("evokern.memory").attr("check_fits")(bytes, "scratch memory");
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

// Each part of the module.
void bind_variation(py::module_& m);
void bind_network(py::module_& m);
void bind_categorical(py::module_& m);
