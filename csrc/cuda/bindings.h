// What the parts of evokern._cuda share. Shapes, types and values are checked by evokern.ops; the
// module trusts its caller. The harness of tests/simt builds the same files as a module of its own,
// whose device memory is the host's.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "cuda/kernels.h"

namespace py = pybind11;

// The harness takes arrays of the host, too.
inline py::dict interface_of(const py::object& array) {
#if defined(EVK_SIMT)
  if (!py::hasattr(array, "__cuda_array_interface__")) return array.attr("__array_interface__");
#endif
  return array.attr("__cuda_array_interface__");
}

// Memory of the device that Python's code placed itself.
using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// An array on the device, of any library; strides in elements.
class Array {
 public:
  explicit Array(const py::object& array) {
    const py::dict d = interface_of(array);
    address_ = py::cast<py::tuple>(d["data"])[0].cast<Address>();
    shape_ = d["shape"].cast<std::vector<int64_t>>();
    const std::string type = d["typestr"].cast<std::string>();
    itemsize_ = std::stoll(type.substr(2));
    strides_.resize(shape_.size());
    if (d.contains("strides") && !d["strides"].is_none()) {
      const auto bytes = d["strides"].cast<std::vector<int64_t>>();
      for (size_t i = 0; i < bytes.size(); ++i) strides_[i] = bytes[i] / itemsize_;
    } else {
      int64_t stride = 1;
      for (size_t i = shape_.size(); i-- > 0; stride *= shape_[i]) strides_[i] = stride;
    }
  }

  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(address_);
  }
  int64_t itemsize() const { return itemsize_; }
  int64_t ndim() const { return static_cast<int64_t>(shape_.size()); }
  int64_t shape(size_t axis) const { return shape_[axis]; }
  int64_t stride(size_t axis) const { return strides_[axis]; }

 private:
  Address address_;
  int64_t itemsize_;
  std::vector<int64_t> shape_, strides_;
};

inline void* stream_of(Address stream) { return reinterpret_cast<void*>(stream); }

// Raises evokern's BackendError where a launch failed.
inline void check(const char* op, int error) {
  if (error == 0) return;
  const std::string text = std::string(op) + ": CUDA says: " + evk::cuda::error_text(error);
  const py::object type = py::module_::import("evokern.errors").attr("BackendError");
  PyErr_SetString(type.ptr(), text.c_str());
  throw py::error_already_set();
}

// Each part of the module.
void bind_variation(py::module_& m);
void bind_categorical(py::module_& m);
void bind_network(py::module_& m);
