// The threads of a block: their turns, and what they wait for.
#include "simt.h"

#include <string.h>

#include <algorithm>
#include <random>
#include <utility>

#include "fiber.h"
#include "text.h"

namespace simt {

Builtins builtins;
Thread* current = nullptr;

namespace {

struct Warp {
  uint32_t alive, waiting;  // lanes
};

// The block that runs.
Launch launched;
Thread threads[kMostThreads];
Warp warps[kMostWarps];
unsigned thread_count, alive, at_barrier;
int votes, vote_count;
std::vector<Thread*> ready;  // the last one is next
std::string failure;

Order order = Order::kForward;
std::mt19937_64 random_order;

void make_ready(Thread& thread) {
  thread.state = State::kReady;
  ready.push_back(&thread);
}

// In the order of the launch: the last one goes on first.
template <class Wanted>
void make_ready(unsigned first, unsigned count, Wanted wanted) {
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = threads[first + (order == Order::kReverse ? i : count - 1 - i)];
    if (wanted(thread)) make_ready(thread);
  }
}

// There must be one.
const Thread& first_in(State state) {
  return *std::find_if(threads, threads + thread_count,
                       [&](const Thread& thread) { return thread.state == state; });
}

void release_barrier() {
  if (alive != thread_count) {
    const Thread& waiting = first_in(State::kAtBarrier);
    fail(waiting, text_of_wait(waiting) + ": " + std::to_string(thread_count - alive) + " of " +
                      std::to_string(thread_count) + " threads have exited");
  }
  vote_count = votes;
  votes = 0;
  at_barrier = 0;
  observe::barrier();
  make_ready(0, thread_count, [](const Thread&) { return true; });
}

[[noreturn]] void fail_deadlock() {
  const Thread& stuck = first_in(State::kInCollective);
  std::string text = text_of_wait(stuck) + " waits for lanes " + text_of_mask(stuck.mask);
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    const Thread& other = threads[stuck.warp() * kWarpSize + lane];
    const bool missing = stuck.mask & warps[stuck.warp()].alive & 1u << lane;
    if (missing && (other.state != State::kInCollective || other.mask != stuck.mask)) {
      text += ", but lane " + std::to_string(lane) + " waits in " + text_of_wait(other);
      break;
    }
  }
  fail(stuck, "deadlock: " + text);
}

// Whose turn it is; null once all are done.
Thread* next_thread() {
  if (ready.empty()) {
    if (alive == 0) return nullptr;
    if (at_barrier != alive) fail_deadlock();
    release_barrier();
  }
  if (order == Order::kRandom) {
    std::swap(ready[random_order() % ready.size()], ready.back());
  }
  Thread* thread = ready.back();
  ready.pop_back();
  return thread;
}

void begin_turn(Thread& thread) {
  current = &thread;
  builtins.thread = thread.index;
}

void run_fiber();

// The thread that runs has to wait.
void yield_turn() {
  Thread& self = *current;
  Thread& next = *next_thread();
  if (&next == &self) return;
  if (!next.fiber) next.fiber = &take_fiber(run_fiber);
  begin_turn(next);
  change_fiber(*self.fiber, *next.fiber, false);
}

void leave_warp(Thread& thread);

// A fiber takes up one new thread after the other as long as none has to wait.
void run_fiber() {
  arrive_in_fiber();
  for (;;) {
    launched.kernel(launched.arguments);
    Thread& self = *current;
    if (!self.copies.empty()) {
      fail(self, "exits with asynchronous copies that it has not waited for");
    }
    self.state = State::kDone;
    --alive;
    leave_warp(self);
    Thread* next = next_thread();
    Fiber& fiber = *self.fiber;
    self.fiber = nullptr;
    if (next && !next->fiber) {
      next->fiber = &fiber;
      begin_turn(*next);
      continue;
    }
    give_fiber_back(fiber);
    if (next) begin_turn(*next);
    change_fiber(fiber, next ? *next->fiber : host, true);
  }
}

// The lane that a shuffle reads.
unsigned source_lane(const Thread& thread) {
  const int lane = static_cast<int>(thread.lane());
  const int begin = lane & ~(thread.width - 1), end = begin + thread.width;
  int source = lane;
  switch (thread.what) {
    case Collective::kShuffle:
      source = begin + (thread.argument & (thread.width - 1));
      break;
    case Collective::kShuffleUp:
      source = lane - thread.argument;
      if (source < begin) source = lane;
      break;
    case Collective::kShuffleDown:
      source = lane + thread.argument;
      if (source >= end) source = lane;
      break;
    default:
      source = lane ^ thread.argument;
      if (source >= end) source = lane;
      break;
  }
  return static_cast<unsigned>(source);
}

uint64_t result_for(const Thread& thread, const Thread* lanes, uint32_t there) {
  const auto reduce = [&](uint64_t value, auto combine) {
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      if (there >> lane & 1) value = combine(value, lanes[lane].value, lane);
    }
    return value & 0xffffffffu;
  };
  using U = uint64_t;
  switch (thread.what) {
    case Collective::kSync:
      return 0;
    case Collective::kShuffle:
    case Collective::kShuffleUp:
    case Collective::kShuffleDown:
    case Collective::kShuffleXor: {
      const unsigned source = source_lane(thread);
      // Undefined where the lane takes no part: a NaN.
      return there >> source & 1 ? lanes[source].value : 0x7fc0dead7fc0deadull;
    }
    case Collective::kBallot:
      return reduce(0, [](U all, U value, unsigned lane) { return all | value << lane; });
    case Collective::kMatchAny:
      return reduce(0, [&](U all, U value, unsigned lane) {
        return all | static_cast<U>(value == thread.value) << lane;
      });
    case Collective::kReduceAdd:
      return reduce(0, [](U all, U value, unsigned) { return all + value; });
    case Collective::kReduceMin:
      return reduce(0xffffffffu, [](U all, U value, unsigned) { return std::min(all, value); });
    case Collective::kReduceMax:
      return reduce(0, [](U all, U value, unsigned) { return std::max(all, value); });
    case Collective::kReduceAnd:
      return reduce(0xffffffffu, [](U all, U value, unsigned) { return all & value; });
    case Collective::kReduceOr:
      return reduce(0, [](U all, U value, unsigned) { return all | value; });
    case Collective::kReduceXor:
      return reduce(0, [](U all, U value, unsigned) { return all ^ value; });
  }
  return 0;
}

// Lets the lanes of the collective go if all that live are there. Lanes that have exited do not
// count, as in CUDA.
void complete_collective(unsigned warp_number, uint32_t mask) {
  Warp& warp = warps[warp_number];
  Thread* lanes = threads + warp_number * kWarpSize;
  const uint32_t expected = mask & warp.alive;
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if (!(expected >> lane & 1)) continue;
    if (!(warp.waiting >> lane & 1) || lanes[lane].mask != mask) return;
  }
  warp.waiting &= ~expected;
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if (expected >> lane & 1) lanes[lane].result = result_for(lanes[lane], lanes, expected);
  }
  if (expected && lanes[__builtin_ctz(expected)].what == Collective::kSync) {
    observe::sync_lanes(warp_number, expected);
  }
  const unsigned first = warp_number * kWarpSize;
  make_ready(first, std::min(kWarpSize, thread_count - first),
             [&](const Thread& thread) { return (expected >> thread.lane() & 1) != 0; });
}

void leave_warp(Thread& thread) {
  Warp& warp = warps[thread.warp()];
  warp.alive &= ~(1u << thread.lane());
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if (warp.waiting >> lane & 1) {
      complete_collective(thread.warp(), threads[thread.warp() * kWarpSize + lane].mask);
    }
  }
}

}  // namespace

void run_block(const Launch& launch) {
  launched = launch;
  const dim3 size = builtins.threads;
  alive = thread_count = size.x * size.y * size.z;
  at_barrier = 0;
  votes = vote_count = 0;
  for (unsigned i = 0; i < thread_count; ++i) {
    Thread& thread = threads[i];
    thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread.number = i;
    thread.fiber = nullptr;
    thread.copies.clear();
    thread.groups = 0;
  }
  for (unsigned first = 0; first < thread_count; first += kWarpSize) {
    const unsigned lanes = std::min(kWarpSize, thread_count - first);
    warps[first / kWarpSize] = {static_cast<uint32_t>((1ull << lanes) - 1), 0};
  }
  ready.clear();
  make_ready(0, thread_count, [](const Thread&) { return true; });
  observe::block();
  Thread& first = *next_thread();
  first.fiber = &take_fiber(run_fiber);
  begin_turn(first);
  change_fiber(host, *first.fiber, false);
  current = nullptr;
  if (!failure.empty()) {
    for (unsigned i = 0; i < thread_count; ++i) {
      if (threads[i].fiber) give_fiber_back(*threads[i].fiber);
      threads[i].copies.clear();
    }
    throw Failure(std::exchange(failure, {}));
  }
  observe::block_ends();
}

void fail(const Thread& thread, const std::string& text) {
  failure = "simt: " + kernel_name(launched.key) + ", block " + text_of(builtins.block) +
            ", thread " + text_of(thread.index) + ": " + text;
  change_fiber(*current->fiber, host, true);
  __builtin_unreachable();
}

void set_order(Order chosen, uint64_t seed) {
  order = chosen;
  random_order.seed(seed);
}

std::vector<uint64_t> in_order(uint64_t count) {
  std::vector<uint64_t> numbers(count);
  for (uint64_t i = 0; i < count; ++i) {
    numbers[i] = order == Order::kReverse ? count - 1 - i : i;
  }
  if (order == Order::kRandom) std::shuffle(numbers.begin(), numbers.end(), random_order);
  return numbers;
}

int barrier(Site site, bool vote) {
  Thread& self = *current;
  if (at_barrier) {
    const Thread& other = first_in(State::kAtBarrier);
    if (other.site.line != site.line || strcmp(other.site.file, site.file) != 0) {
      fail(self, "__syncthreads at " + text_of(site) + ", but thread " + text_of(other.index) +
                     " waits in " + text_of_wait(other));
    }
  }
  self.state = State::kAtBarrier;
  self.site = site;
  votes += vote;
  ++at_barrier;
  yield_turn();
  return vote_count;
}

uint64_t collective(Collective what, uint32_t mask, uint64_t value, int argument, int width,
                    Site site) {
  Thread& self = *current;
  Warp& warp = warps[self.warp()];
  if (!(mask >> self.lane() & 1)) {
    fail(self, text_of(what) + " at " + text_of(site) + ": lane " + std::to_string(self.lane()) +
                   " is not in its own mask " + text_of_mask(mask));
  }
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fail(self, text_of(what) + " at " + text_of(site) + ": width " + std::to_string(width) +
                   " is no power of two up to 32");
  }
  self.state = State::kInCollective;
  self.site = site;
  self.what = what;
  self.mask = mask;
  self.value = value;
  self.argument = argument;
  self.width = width;
  for (uint32_t others = mask & warp.waiting; others; others &= others - 1) {
    const Thread& other = threads[self.number - self.lane() + __builtin_ctz(others)];
    const bool expected = other.mask >> self.lane() & 1;
    if (expected && (other.what != what || other.mask != mask)) {
      fail(self, text_of(what) + " at " + text_of(site) + " with lanes " + text_of_mask(mask) +
                     ", but lane " + std::to_string(other.lane()) + " waits in " +
                     text_of_wait(other) + " with lanes " + text_of_mask(other.mask));
    }
  }
  warp.waiting |= 1u << self.lane();
  complete_collective(self.warp(), mask);
  yield_turn();
  return self.result;
}

void copy_async(void* shared, const void* global, size_t bytes) {
  const uintptr_t to = reinterpret_cast<uintptr_t>(shared);
  const uintptr_t from = reinterpret_cast<uintptr_t>(global);
  const Range fixed{reinterpret_cast<uintptr_t>(simt_shared_begin),
                    reinterpret_cast<uintptr_t>(simt_shared_end)};
  if (bytes != 4 && bytes != 8 && bytes != 16) {
    fail(*current, "an asynchronous copy of " + std::to_string(bytes) + " bytes, not 4, 8 or 16");
  }
  if (to % bytes != 0 || from % bytes != 0) {
    fail(*current, "an asynchronous copy of " + std::to_string(bytes) +
                       " bytes between addresses that are not multiples of it");
  }
  if (!dynamic_range.contains(to) && !fixed.contains(to)) {
    fail(*current, "an asynchronous copy to what is not shared memory");
  }
  if (dynamic_range.contains(from) || fixed.contains(from)) {
    fail(*current, "an asynchronous copy from shared memory");
  }
#if defined(__SANITIZE_ADDRESS__)
  // Here AddressSanitizer can still name the kernel's line.
  for (size_t i = 0; i < bytes; i += bytes - 1) {
    static_cast<void>(static_cast<const volatile char*>(global)[i]);
    static_cast<void>(static_cast<const volatile char*>(shared)[i]);
  }
#endif
  Copy copy{shared, global, bytes, current->groups, false};
  observe::copy_begins(copy, __builtin_return_address(0));
  // The hardware copies at any time between here and the wait.
  copy.arrived = order == Order::kRandom && (random_order() & 1) != 0;
  if (copy.arrived) memcpy(shared, global, bytes);
  current->copies.push_back(copy);
}

void copy_async_commit() { ++current->groups; }

void copy_async_wait(int groups_left) {
  const int newest = current->groups - groups_left;
  size_t kept = 0;
  for (const Copy& copy : current->copies) {
    if (copy.group >= newest) {
      current->copies[kept++] = copy;
      continue;
    }
    if (!copy.arrived) memcpy(copy.to, copy.from, copy.bytes);
    observe::copy_ends(copy);
  }
  current->copies.resize(kept);
}

void note_atomic(const void* address, size_t bytes) {
  observe::atomic(address, bytes, __builtin_return_address(0));
}

}  // namespace simt
