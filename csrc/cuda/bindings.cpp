// evokern._cuda: the kernels as functions of Python.
#include "cuda/bindings.h"

namespace {

void upload(Address to, const py::buffer& from, Address stream) {
  const py::buffer_info info = from.request();
  const size_t bytes = static_cast<size_t>(info.size * info.itemsize);
  check("upload", evk::cuda::upload(at<void>(to), info.ptr, bytes, stream_of(stream)));
}

py::bytes download(Address from, size_t bytes, Address stream) {
  std::string result(bytes, '\0');
  int error;
  {
    const py::gil_scoped_release waiting;
    error = evk::cuda::download(result.data(), at<void>(from), bytes, stream_of(stream));
  }
  check("download", error);
  return py::bytes(result);
}

void synchronize(const char* op, Address stream) {
  int error;
  {
    const py::gil_scoped_release waiting;
    error = evk::cuda::synchronize(stream_of(stream));
  }
  check(op, error);
}

// (devices, why there are none)
py::tuple device_count() {
  int error = 0;
  const int count = evk::cuda::device_count(&error);
  return py::make_tuple(count, error ? evk::cuda::error_text(error) : "");
}

int capability(int device) {
  int result = 0;
  check("capability", evk::cuda::capability(device, &result));
  return result;
}

int select_device(int device) {
  int before = 0;
  check("select_device", evk::cuda::select_device(device, &before));
  return before;
}

// (free, all) bytes
py::tuple memory_info() {
  size_t free_bytes = 0, all_bytes = 0;
  check("memory_info", evk::cuda::memory_info(&free_bytes, &all_bytes));
  return py::make_tuple(free_bytes, all_bytes);
}

}  // namespace

PYBIND11_MODULE(EVK_MODULE, m) {
  m.def("upload", &upload);
  m.def("download", &download);
  m.def("synchronize", &synchronize);
  m.def("device_count", &device_count);
  m.def("capability", &capability);
  m.def("select_device", &select_device);
  m.def("memory_info", &memory_info);
  bind_variation(m);
  bind_categorical(m);
  bind_network(m);
}
