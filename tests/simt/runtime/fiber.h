// Stacks that take turns on one thread of the system.
#pragma once

#include "harness.h"

#pragma GCC visibility push(hidden)

namespace simt {

struct Fiber {
  void* stack_pointer;
  Range stack;
  void* sanitizer;  // AddressSanitizer's state of it
};

extern Fiber host;  // what launches

// A fiber whose first turn calls `begin`, which must not return.
Fiber& take_fiber(void (*begin)());
// It may be the one that runs, until it changes to another.
void give_fiber_back(Fiber& fiber);

// Returns when `from` is changed to again, never where it ends.
void change_fiber(Fiber& from, Fiber& to, bool from_ends);
// The first call in a new fiber.
void arrive_in_fiber();

}  // namespace simt

#pragma GCC visibility pop
