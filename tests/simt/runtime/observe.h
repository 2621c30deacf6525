// What the instrumented build has seen.
#pragma once

#include <map>

#include "harness.h"

#pragma GCC visibility push(hidden)

namespace simt {
namespace observe {

// One launch. Every access counts, caches or not.
struct Count {
  std::string kernel;
  dim3 grid, block;
  uint64_t global_read_bytes, global_written_bytes;
  uint64_t shared_requests;                   // accesses of a warp
  uint64_t bank_conflicts;                    // passes beyond the fewest
  std::map<uint32_t, uint64_t> conflicts_at;  // addresses in the module
};

enum class What { kReadWrite, kWriteWrite, kInFlight, kUnwritten };

// The first of its kind between two places of the source.
struct Finding {
  What what;
  bool shared;  // memory
  std::string kernel;
  uint64_t times;
  uint3 block, thread;
  uint16_t other_thread;  // its number in its block
  bool other_block;
  uint32_t place, other_place;  // addresses in the module
};

// Which of the two is done; without races a launch takes a third of the time.
void watch(bool races, bool counts);

const std::vector<Count>& counts();
const std::vector<Finding>& findings();
void reset();

}  // namespace observe
}  // namespace simt

#pragma GCC visibility pop
