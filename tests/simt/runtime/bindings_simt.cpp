// The harness's own functions, a second module in the file of the kernels'.
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <cstring>

#include "harness.h"
#if defined(SIMT_OBSERVE)
#include "observe.h"
#endif

namespace py = pybind11;

namespace {

// `name` is forward, reverse or random.
void set_order(const std::string& name, uint64_t seed) {
  if (name == "forward") return simt::set_order(simt::Order::kForward, seed);
  if (name == "reverse") return simt::set_order(simt::Order::kReverse, seed);
  if (name == "random") return simt::set_order(simt::Order::kRandom, seed);
  throw py::value_error("order: expected forward, reverse or random, got " + name);
}

// Memory of the device, aligned as by cudaMalloc, exact in size, and 0xff, which is NaN in fp32.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes) {
    if (posix_memalign(&memory_, 256, bytes ? bytes : 1) != 0) throw std::bad_alloc();
    std::memset(memory_, 0xff, bytes);
  }
  ~Memory() { std::free(memory_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  py::buffer_info buffer() const {
    return {static_cast<uint8_t*>(memory_), static_cast<py::ssize_t>(bytes_)};
  }

 private:
  void* memory_ = nullptr;
  size_t bytes_;
};

#if defined(SIMT_OBSERVE)

py::tuple tuple_of(uint3 v) { return py::make_tuple(v.x, v.y, v.z); }
py::tuple tuple_of(dim3 v) { return py::make_tuple(v.x, v.y, v.z); }

py::list counts() {
  py::list result;
  for (const auto& launch : simt::observe::counts()) {
    py::dict d;
    d["kernel"] = launch.kernel;
    d["grid"] = tuple_of(launch.grid);
    d["block"] = tuple_of(launch.block);
    d["global_read_bytes"] = launch.global_read_bytes;
    d["global_written_bytes"] = launch.global_written_bytes;
    d["shared_requests"] = launch.shared_requests;
    d["bank_conflicts"] = launch.bank_conflicts;
    py::dict conflicts_at;
    for (const auto& [place, extra] : launch.conflicts_at) conflicts_at[py::int_(place)] = extra;
    d["conflicts_at"] = conflicts_at;
    result.append(d);
  }
  return result;
}

py::list findings() {
  static const char* const names[] = {"read-write race", "write-write race",
                                      "asynchronous copy in flight",
                                      "read of unwritten shared memory"};
  py::list result;
  for (const auto& finding : simt::observe::findings()) {
    py::dict d;
    d["what"] = names[static_cast<int>(finding.what)];
    d["memory"] = finding.shared ? "shared" : "global";
    d["kernel"] = finding.kernel;
    d["times"] = finding.times;
    d["block"] = tuple_of(finding.block);
    d["thread"] = tuple_of(finding.thread);
    d["other_thread"] = finding.other_thread;
    d["other_block"] = finding.other_block;
    d["place"] = finding.place;
    d["other_place"] = finding.other_place;
    result.append(d);
  }
  return result;
}

#endif

}  // namespace

PYBIND11_MODULE(_simt_harness, m) {
  py::register_local_exception<simt::Failure>(m, "KernelError", PyExc_RuntimeError);
  m.def("set_order", &set_order, py::arg("name"), py::arg("seed") = 0);
  m.def("set_shared_limit", &simt::set_shared_limit);
  m.def("shared_limit", &simt::shared_limit);
  py::class_<Memory>(m, "Memory", py::buffer_protocol(), py::module_local())
      .def(py::init<size_t>())
      .def_buffer([](const Memory& memory) { return memory.buffer(); });
#if defined(SIMT_OBSERVE)
  m.def("watch", &simt::observe::watch, py::arg("races") = true, py::arg("counts") = true);
  m.def("raw_counts", &counts);
  m.def("raw_findings", &findings);
  m.def("reset", &simt::observe::reset);
#endif
}
