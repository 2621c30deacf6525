// The instrumented build: -fsanitize=thread makes g++ announce every access of the kernels; this
// file takes ThreadSanitizer's place and looks for races and for reads of unwritten shared memory,
// and counts bytes and bank conflicts.
#if defined(SIMT_OBSERVE)

#include "observe.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "fiber.h"

// The module's own image, in which constants lie.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start[], _end[];

namespace simt {
namespace observe {
namespace {

enum class Kind : uint8_t { kRead, kAtomic, kWrite };
enum class Memory { kShared, kGlobal, kOther };

struct Access {
  uint32_t block;   // its serial number
  uint32_t epoch;   // barriers of the block before it
  uint32_t clock;   // of the lane in its warp
  uint32_t caller;  // address in the module
  uint16_t thread;
  uint8_t bytes;  // of the word, as a mask
  Kind kind;
};

constexpr int kAccesses = 4;

// What is known of a word of four bytes.
struct Cell {
  Access accesses[kAccesses];
  uint32_t block;  // shared memory: the block that the rest is about
  uint8_t count;
  uint8_t written;  // shared memory: bytes
  bool in_flight;   // an asynchronous copy to it has not been waited for
};

constexpr uintptr_t kPageWords = 1024;

struct Page {
  Cell cells[kPageWords];
};

// Lanes that execute the same instruction for the same time since the last barrier.
struct Request {
  uint32_t lanes;
  uint32_t size;
  std::array<uint32_t, kWarpSize> word;
};

struct Instruction {
  uint32_t caller;
  std::array<uint32_t, kWarpSize> executed;
  std::vector<Request> requests;
  size_t used;
};

bool races_wanted = true, counts_wanted = true;
uint32_t block_serial = 0, first_block = 0, epoch = 0;
std::string kernel;
std::vector<Count> launches;
std::vector<Finding> found;
std::unordered_map<uint64_t, size_t> finding_at;

// clocks[thread][lane]: how far the thread knows the lanes of its warp to be.
std::array<std::array<uint32_t, kWarpSize>, kMostThreads> clocks;

std::unordered_map<uintptr_t, Page*> pages;
constexpr size_t kPagesKept = 512;
struct Recent {
  uintptr_t number;
  Page* page;
};
std::array<Recent, 256> recent;

std::array<std::unordered_map<uint32_t, Instruction>, kMostWarps> instructions;

uint32_t in_module(const void* caller) {
  return static_cast<uint32_t>(static_cast<const char*>(caller) - __ehdr_start);
}

Memory memory_of(uintptr_t address) {
  if (current_stack.contains(address) || host.stack.contains(address)) return Memory::kOther;
  if (dynamic_range.contains(address)) return Memory::kShared;
  if (address - reinterpret_cast<uintptr_t>(__ehdr_start) <
      static_cast<uintptr_t>(_end - __ehdr_start)) {
    const bool shared = address >= reinterpret_cast<uintptr_t>(simt_shared_begin) &&
                        address < reinterpret_cast<uintptr_t>(simt_shared_end);
    return shared ? Memory::kShared : Memory::kOther;
  }
  return Memory::kGlobal;
}

Cell& cell_of(uintptr_t word) {
  const uintptr_t number = word / kPageWords;
  Recent& last = recent[number % recent.size()];
  if (last.number != number || !last.page) {
    Page*& page = pages[number];
    if (!page) page = static_cast<Page*>(calloc(1, sizeof(Page)));
    if (!page) throw std::bad_alloc();
    last = {number, page};
  }
  return last.page->cells[word % kPageWords];
}

void report(What what, Memory memory, const Access& now, const Access& before) {
  const uint64_t key =
      (static_cast<uint64_t>(now.caller) << 32 | before.caller) * 8 + static_cast<uint64_t>(what);
  const auto [at, is_new] = finding_at.try_emplace(key, found.size());
  if (is_new) {
    found.push_back({what, memory == Memory::kShared, kernel, 0, builtins.block, current->index,
                     before.thread, before.block != block_serial, now.caller, before.caller});
  }
  ++found[at->second].times;
}

// Whether `before` happened before what the running thread does now.
bool is_ordered(const Access& before) {
  if (before.block != block_serial) return before.block < first_block;
  if (before.thread == current->number || before.epoch != epoch) return true;
  return before.thread / kWarpSize == current->warp() &&
         clocks[current->number][before.thread % kWarpSize] >= before.clock;
}

// A later access that collides with `before` collides with `now` too.
bool supersedes(const Access& now, const Access& before) {
  return (before.bytes & ~now.bytes) == 0 && before.kind <= now.kind && is_ordered(before);
}

void look_at_word(uintptr_t word, uint8_t bytes, Kind kind, Memory memory, uint32_t caller) {
  Cell& cell = cell_of(word);
  const Access now{block_serial,
                   epoch,
                   clocks[current->number][current->lane()],
                   caller,
                   static_cast<uint16_t>(current->number),
                   bytes,
                   kind};
  if (memory == Memory::kShared) {
    if (cell.block != block_serial) {
      cell.block = block_serial;
      cell.count = 0;
      cell.written = 0;
      cell.in_flight = false;
    }
    if (cell.in_flight) {
      report(What::kInFlight, memory, now, cell.accesses[0]);
    } else if (kind != Kind::kWrite && (bytes & ~cell.written) != 0) {
      report(What::kUnwritten, memory, now, now);
    }
    if (kind != Kind::kRead) cell.written |= bytes;
  } else if (cell.count && cell.accesses[0].block < first_block) {
    cell.count = 0;
  }
  int place = -1;
  for (int i = 0; i < cell.count; ++i) {
    const Access& before = cell.accesses[i];
    const bool both_read = before.kind == Kind::kRead && kind == Kind::kRead;
    const bool both_atomic = before.kind == Kind::kAtomic && kind == Kind::kAtomic;
    if (!both_read && !both_atomic && (before.bytes & bytes) != 0 && !is_ordered(before)) {
      const bool both_write = before.kind != Kind::kRead && kind != Kind::kRead;
      report(both_write ? What::kWriteWrite : What::kReadWrite, memory, now, before);
    }
    if (place < 0 && supersedes(now, before)) place = i;
  }
  // With more unordered accesses than there is room for, some are forgotten.
  if (place < 0) place = cell.count < kAccesses ? cell.count++ : static_cast<int>(word % kAccesses);
  cell.accesses[place] = now;
}

void look(uintptr_t address, size_t size, Kind kind, Memory memory, uint32_t caller) {
  for (uintptr_t word = address / 4; word * 4 < address + size; ++word) {
    const uintptr_t begin = std::max(address, word * 4),
                    end = std::min(address + size, word * 4 + 4);
    const unsigned bytes = ((1u << (end - begin)) - 1) << (begin - word * 4);
    look_at_word(word, static_cast<uint8_t>(bytes), kind, memory, caller);
  }
}

void add_to_request(uintptr_t address, size_t size, uint32_t caller) {
  Instruction& instruction = instructions[current->warp()][caller];
  instruction.caller = caller;
  const unsigned lane = current->lane();
  const uint32_t time = instruction.executed[lane]++;
  if (time >= instruction.used) {
    if (time >= instruction.requests.size()) instruction.requests.resize(2 * time + 1);
    for (; instruction.used <= time; ++instruction.used) {
      instruction.requests[instruction.used].lanes = 0;
    }
  }
  Request& request = instruction.requests[time];
  request.lanes |= 1u << lane;
  request.size = static_cast<uint32_t>(size);
  request.word[lane] = static_cast<uint32_t>(address / 4);
}

// How many more passes through the 32 banks of 4 bytes the lanes need than accesses of this size
// need at least. Lanes that want the same word share it.
uint64_t conflicts(const Request& request) {
  const unsigned words = std::max(1u, request.size / 4);
  const unsigned group = kWarpSize / words;  // half a warp for 8 bytes, a quarter for 16
  uint64_t extra = 0;
  for (unsigned first = 0; first < kWarpSize; first += group) {
    std::array<std::array<uint32_t, kWarpSize>, 32> wanted;
    std::array<unsigned, 32> count{};
    unsigned passes = 1;
    for (unsigned lane = first; lane < first + group; ++lane) {
      if (!(request.lanes >> lane & 1)) continue;
      for (uint32_t word = request.word[lane]; word < request.word[lane] + words; ++word) {
        auto& bank = wanted[word % 32];
        unsigned& used = count[word % 32];
        if (std::find(bank.begin(), bank.begin() + used, word) != bank.begin() + used) continue;
        bank[used++] = word;
        passes = std::max(passes, used);
      }
    }
    extra += passes - 1;
  }
  return extra;
}

void count_requests() {
  if (launches.empty()) return;
  Count& launch = launches.back();
  for (auto& warp : instructions) {
    for (auto& [caller, instruction] : warp) {
      uint64_t extra = 0;
      for (size_t i = 0; i < instruction.used; ++i) {
        launch.shared_requests += instruction.requests[i].lanes != 0;
        extra += conflicts(instruction.requests[i]);
      }
      if (extra) launch.conflicts_at[caller] += extra;
      launch.bank_conflicts += extra;
      instruction.used = 0;
      instruction.executed.fill(0);
    }
  }
}

void access(const void* pointer, size_t size, Kind kind, const void* caller) {
  if (!current) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  const Memory memory = memory_of(address);
  if (memory == Memory::kOther) return;
  if (counts_wanted) {
    Count& launch = launches.back();
    if (memory == Memory::kGlobal) {
      if (kind != Kind::kWrite) launch.global_read_bytes += size;
      if (kind != Kind::kRead) launch.global_written_bytes += size;
    } else if (kind != Kind::kAtomic && size <= 16) {
      add_to_request(address, size, in_module(caller));
    }
  }
  if (races_wanted) look(address, size, kind, memory, in_module(caller));
}

}  // namespace

void watch(bool races, bool counts) {
  races_wanted = races;
  counts_wanted = counts;
}

const std::vector<Count>& counts() { return launches; }
const std::vector<Finding>& findings() { return found; }

void reset() {
  launches.clear();
  found.clear();
  finding_at.clear();
}

void launch(const void* key, dim3 grid, dim3 block) {
  kernel = kernel_name(key);
  launches.push_back({kernel, grid, block, 0, 0, 0, 0, {}});
  first_block = block_serial + 1;
  for (auto& warp : instructions) warp.clear();
  if (pages.size() > kPagesKept) {
    for (const auto& [number, page] : pages) free(page);
    pages.clear();
    recent.fill({0, nullptr});
  }
}

void block() {
  ++block_serial;
  epoch = 0;
  for (auto& lanes : clocks) lanes.fill(0);
  for (unsigned thread = 0; thread < kMostThreads; ++thread) clocks[thread][thread % kWarpSize] = 1;
}

void block_ends() { count_requests(); }

void barrier() {
  ++epoch;
  count_requests();
}

// Each of the lanes knows what any of them knew; what they do from here on is news.
void sync_lanes(unsigned warp, uint32_t lanes) {
  std::array<uint32_t, kWarpSize> known{};
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    const auto& own = clocks[warp * kWarpSize + lane];
    for (unsigned i = 0; i < kWarpSize; ++i) known[i] = std::max(known[i], own[i]);
  }
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    clocks[warp * kWarpSize + lane] = known;
    ++clocks[warp * kWarpSize + lane][lane];
  }
}

void atomic(const void* address, size_t bytes, const void* caller) {
  access(address, bytes, Kind::kAtomic, caller);
}

void copy_begins(const Copy& copy, const void* caller) {
  access(copy.from, copy.bytes, Kind::kRead, caller);
  access(copy.to, copy.bytes, Kind::kWrite, caller);
  if (!races_wanted) return;
  const uintptr_t first = reinterpret_cast<uintptr_t>(copy.to) / 4;
  for (uintptr_t word = first; word < first + copy.bytes / 4; ++word) {
    Cell& cell = cell_of(word);
    cell.in_flight = true;
    cell.written = 0;
    // What is read while it is in flight is compared with this one.
    std::swap(cell.accesses[0],
              *std::find_if(cell.accesses, cell.accesses + cell.count, [&](const Access& a) {
                return a.caller == in_module(caller) && a.thread == current->number;
              }));
  }
}

void copy_ends(const Copy& copy) {
  if (!races_wanted) return;
  const uintptr_t first = reinterpret_cast<uintptr_t>(copy.to) / 4;
  for (uintptr_t word = first; word < first + copy.bytes / 4; ++word) {
    Cell& cell = cell_of(word);
    cell.in_flight = false;
    look_at_word(word, 15, Kind::kWrite, Memory::kShared, cell.accesses[0].caller);
  }
}

}  // namespace observe
}  // namespace simt

using simt::observe::access;
using simt::observe::Kind;

// What g++ calls. Accesses that are not aligned come by names of their own.
#define SIMT_HOOKS(size)                                                                           \
  void __tsan_read##size(void* p) { access(p, size, Kind::kRead, __builtin_return_address(0)); }   \
  void __tsan_write##size(void* p) { access(p, size, Kind::kWrite, __builtin_return_address(0)); } \
  void __tsan_unaligned_read##size(void* p) {                                                      \
    access(p, size, Kind::kRead, __builtin_return_address(0));                                     \
  }                                                                                                \
  void __tsan_unaligned_write##size(void* p) {                                                     \
    access(p, size, Kind::kWrite, __builtin_return_address(0));                                    \
  }

#pragma GCC visibility push(hidden)
extern "C" {
SIMT_HOOKS(1)
SIMT_HOOKS(2)
SIMT_HOOKS(4)
SIMT_HOOKS(8)
SIMT_HOOKS(16)
void __tsan_init() {}
void __tsan_read_range(void* p, unsigned long size) {
  access(p, size, Kind::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* p, unsigned long size) {
  access(p, size, Kind::kWrite, __builtin_return_address(0));
}
}
#pragma GCC visibility pop

#endif
