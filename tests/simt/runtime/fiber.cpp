#include "fiber.h"

#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

Fiber host;
Range current_stack;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr size_t kPageBytes = 4096;

std::vector<Fiber*> idle_fibers;

// Saves what the ABI says a callee keeps, changes stacks, takes up what the other one saved.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, . - simt_switch
)");

}  // namespace

void change_fiber(Fiber& from, Fiber& to, bool from_ends) {
  current_stack = to.stack;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.sanitizer,
                                 reinterpret_cast<void*>(to.stack.begin),
                                 to.stack.end - to.stack.begin);
#else
  static_cast<void>(from_ends);
#endif
  simt_switch(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
}

void arrive_in_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

Fiber& take_fiber(void (*begin)()) {
  static unsigned made = 0;
  if (idle_fibers.empty()) {
    void* memory = mmap(nullptr, kPageBytes + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, kPageBytes, PROT_NONE);
    const uintptr_t low = reinterpret_cast<uintptr_t>(memory) + kPageBytes;
    // Tops at the same offset of their pages would all want the same lines of the cache.
    const uintptr_t high = low + kStackBytes - made++ % 31 * 128;
    idle_fibers.push_back(new Fiber{nullptr, {low, high}, nullptr});
  }
  Fiber& fiber = *idle_fibers.back();
  idle_fibers.pop_back();
#if defined(__SANITIZE_ADDRESS__)
  // Frames that a failure left behind.
  __asan_unpoison_memory_region(reinterpret_cast<void*>(fiber.stack.begin),
                                fiber.stack.end - fiber.stack.begin);
  fiber.sanitizer = nullptr;
#endif
  void** top = reinterpret_cast<void**>(fiber.stack.end);
  *--top = nullptr;  // where begin would return to
  *--top = reinterpret_cast<void*>(begin);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
  return fiber;
}

void give_fiber_back(Fiber& fiber) { idle_fibers.push_back(&fiber); }

}  // namespace simt
