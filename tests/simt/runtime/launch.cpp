// Launches: what CUDA refuses, the memory that a block has, block after block.
#include <pthread.h>
#include <stdlib.h>
#include <xmmintrin.h>

#include <mutex>
#include <new>
#include <unordered_map>

#include "fiber.h"
#include "text.h"

namespace simt {

Range dynamic_range;

namespace {

constexpr int kSharedWithoutAsking = 48 << 10;
constexpr int kInvalidValue = 1, kInvalidConfiguration = 9;  // of cudaError_t

std::unordered_map<const void*, int> dynamic_shared_limits;
int device_shared_limit = 163 << 10;  // compute capability 8.0
int error;
std::string refusal;  // why the last launch was refused

int refuse(int code, const std::string& why) {
  error = code;
  refusal = why;
  return code;
}

// Why CUDA would not launch it.
std::string unfit(dim3 grid, dim3 block) {
  const uint64_t count = uint64_t{block.x} * block.y * block.z;
  if (count == 0 || count > kMostThreads || block.z > 64) {
    return "a block of " + text_of(uint3{block.x, block.y, block.z}) + " threads";
  }
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return "a grid of " + text_of(uint3{grid.x, grid.y, grid.z}) + " blocks";
  }
  return "";
}

Range stack_of_this_thread() {
  // Slow for the main thread: glibc reads /proc/self/maps.
  static thread_local Range range = [] {
    pthread_attr_t attributes;
    void* begin = nullptr;
    size_t bytes = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
      pthread_attr_getstack(&attributes, &begin, &bytes);
      pthread_attr_destroy(&attributes);
    }
    const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
    return Range{address, address + bytes};
  }();
  return range;
}

// The arithmetic of docs/bits.md: subnormals kept, round to nearest; the caller's afterwards.
class FloatEnvironment {
 public:
  FloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~FloatEnvironment() { _mm_setcsr(saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  unsigned saved_;
};

// Aligned as CUDA does it; under AddressSanitizer no byte more than asked for, so that it sees the
// first one beyond.
class DynamicShared {
 public:
  explicit DynamicShared(size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    if (posix_memalign(&memory_, 128, bytes ? bytes : 1) != 0) throw std::bad_alloc();
#else
    memory_ = aligned_alloc(128, (bytes + 255) / 128 * 128);
    if (!memory_) throw std::bad_alloc();
#endif
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory_);
    dynamic_range = {address, address + bytes};
  }
  ~DynamicShared() {
    free(memory_);
    dynamic_range = {0, 0};
  }
  DynamicShared(const DynamicShared&) = delete;
  DynamicShared& operator=(const DynamicShared&) = delete;

 private:
  void* memory_ = nullptr;
};

// Not memset and memcpy, which AddressSanitizer would not let write between variables.
void fill_bytes(void* memory, int value, size_t bytes) {
  asm volatile("rep stosb" : "+D"(memory), "+c"(bytes) : "a"(value) : "memory");
}

void copy_bytes(void* to, const void* from, size_t bytes) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

// The static variables of launchers lie among what kernels declare __shared__, and survive here.
class StaticVariables {
 public:
  StaticVariables() : bytes_(static_cast<size_t>(simt_shared_end - simt_shared_begin)) {
    copy_bytes(bytes_.data(), simt_shared_begin, bytes_.size());
  }
  ~StaticVariables() { copy_bytes(simt_shared_begin, bytes_.data(), bytes_.size()); }
  StaticVariables(const StaticVariables&) = delete;
  StaticVariables& operator=(const StaticVariables&) = delete;

 private:
  std::vector<char> bytes_;
};

}  // namespace

void set_shared_limit(int bytes) { device_shared_limit = bytes; }

void* dynamic_shared() { return reinterpret_cast<void*>(dynamic_range.begin); }

int launch_kernel(const void* key, dim3 grid, dim3 block, size_t shared_bytes, Kernel code,
                  const void* arguments) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  refusal.clear();
  const std::string why = unfit(grid, block);
  if (!why.empty()) return refuse(kInvalidConfiguration, why);
  const auto asked = dynamic_shared_limits.find(key);
  const int limit = asked == dynamic_shared_limits.end() ? kSharedWithoutAsking : asked->second;
  if (shared_bytes > static_cast<size_t>(limit)) {
    return refuse(kInvalidValue, std::to_string(shared_bytes) +
                                     " bytes of dynamic shared memory where the kernel may have " +
                                     std::to_string(limit));
  }
  const FloatEnvironment environment;
  const DynamicShared dynamic(shared_bytes);
  const StaticVariables kept;
  host.stack = stack_of_this_thread();
  builtins.threads = block;
  builtins.blocks = grid;
  observe::launch(key, grid, block);
  for (uint64_t i : in_order(uint64_t{grid.x} * grid.y * grid.z)) {
    // Contents of shared memory are anything at first: here NaN.
    fill_bytes(simt_shared_begin, 0xff, static_cast<size_t>(simt_shared_end - simt_shared_begin));
    fill_bytes(dynamic_shared(), 0xff, shared_bytes);
    builtins.block = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                      static_cast<unsigned>(i / grid.x / grid.y)};
    run_block({key, code, arguments});
  }
  return 0;
}

int set_dynamic_shared_limit(const void* key, int bytes) {
  if (bytes < 0 || bytes > device_shared_limit) {
    return refuse(kInvalidValue, std::to_string(bytes) +
                                     " bytes of dynamic shared memory where a block may have " +
                                     std::to_string(device_shared_limit));
  }
  dynamic_shared_limits[key] = bytes;
  return 0;
}

int shared_limit() { return device_shared_limit; }

int last_error(bool clear) {
  const int result = error;
  if (clear) error = 0;
  return result;
}

const char* error_text(int code) {
  static std::string text;
  switch (code) {
    case 0:
      return "no error";
    case kInvalidValue:
      text = "invalid argument";
      break;
    case kInvalidConfiguration:
      text = "invalid configuration argument";
      break;
    default:
      text = "error " + std::to_string(code);
  }
  if (!refusal.empty()) text += " (simt: " + refusal + ")";
  return text.c_str();
}

}  // namespace simt
