// What the parts of the harness share; kernels do not see it.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "simt.h"

#pragma GCC visibility push(hidden)

// Between these lies what kernels declare __shared__ (shared.ld).
extern "C" char simt_shared_begin[], simt_shared_end[];

namespace simt {

constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostWarps = kMostThreads / kWarpSize;

// A kernel that does what CUDA does not allow. The launch is over; its outputs are worth nothing.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Range {
  uintptr_t begin, end;
  bool contains(uintptr_t address) const { return address - begin < end - begin; }
};

// An asynchronous copy that a thread has not waited for.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  int group;
  bool arrived;
};

enum class State { kReady, kAtBarrier, kInCollective, kDone };

struct Fiber;

struct Thread {
  uint3 index;
  unsigned number;  // in the block
  Fiber* fiber;     // null before it begins and after it ends
  State state;
  Site site;  // where it waits
  // the collective that it waits in
  Collective what;
  uint32_t mask;
  uint64_t value, result;
  int argument, width;
  std::vector<Copy> copies;
  int groups;  // committed so far

  unsigned lane() const { return number % kWarpSize; }
  unsigned warp() const { return number / kWarpSize; }
};

extern Thread* current;      // null between launches
extern Range current_stack;  // of the fiber that runs
extern Range dynamic_range;  // dynamic shared memory

// Ends the launch with a Failure that names the kernel, the block and the thread.
[[noreturn]] void fail(const Thread& thread, const std::string& text);

struct Launch {
  const void* key;
  Kernel kernel;
  const void* arguments;
};

// The block of `builtins`; throws Failure.
void run_block(const Launch& launch);

// Of threads and blocks.
enum class Order { kForward, kReverse, kRandom };
void set_order(Order order, uint64_t seed);
std::vector<uint64_t> in_order(uint64_t count);  // 0 to count - 1

void set_shared_limit(int bytes);

// Name of a kernel, as far as the module has its symbol.
std::string kernel_name(const void* key);

// What the instrumented build looks at (observe.cpp); nothing in the others.
namespace observe {
#if defined(SIMT_OBSERVE)
void launch(const void* key, dim3 grid, dim3 block);
void block();
void block_ends();
void barrier();
void sync_lanes(unsigned warp, uint32_t lanes);
void atomic(const void* address, size_t bytes, const void* caller);
void copy_begins(const Copy& copy, const void* caller);
void copy_ends(const Copy& copy);
#else
inline void launch(const void*, dim3, dim3) {}
inline void block() {}
inline void block_ends() {}
inline void barrier() {}
inline void sync_lanes(unsigned, uint32_t) {}
inline void atomic(const void*, size_t, const void*) {}
inline void copy_begins(const Copy&, const void*) {}
inline void copy_ends(const Copy&) {}
#endif
}  // namespace observe

}  // namespace simt

#pragma GCC visibility pop
