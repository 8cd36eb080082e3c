#include "tests/emulated/runtime/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

// In a sanitized program these are there; elsewhere their addresses are null.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, std::size_t bytes);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, std::size_t* bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void*, std::size_t);
/// Keeps what a function must keep on the stack, whose pointer goes to *from, and goes on where `to` was left.
void emulated_switch_stack(void** from, void* to);
void emulated_fiber_begins();
}

// System V's calling convention of x86-64.
asm(R"(
.text
.globl emulated_switch_stack
.hidden emulated_switch_stack
.type emulated_switch_stack, @function
emulated_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulated_switch_stack, . - emulated_switch_stack
.globl emulated_fiber_begins
.hidden emulated_fiber_begins
.type emulated_fiber_begins, @function
emulated_fiber_begins:
  mov %r12, %rdi
  call *%r13
  ud2
.size emulated_fiber_begins, . - emulated_fiber_begins
)");

namespace emulated {

Fiber::Fiber() {
  // Stacks that begin at the same place of a page would share few lines of the processor's caches.
  thread_local std::size_t made = 0;
  indent_ = made++ * 37 * 64 % (64 << 10);
  void* at = mmap(nullptr, guard + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED || mprotect(at, guard, PROT_NONE) != 0) std::abort();  // no stacks, no emulation
  memory_ = static_cast<std::byte*>(at);
}

Fiber::~Fiber() {
  munmap(memory_, guard + bytes);
}

void Fiber::begin(std::function<void()>* work) {
  work_ = work;
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(memory_ + guard, bytes);
  fake_stack_ = nullptr;
  auto* top = reinterpret_cast<std::uintptr_t*>(memory_ + guard + bytes - indent_);
  top -= 2;                                                          // a function begins 8 bytes off a multiple of 16
  *--top = reinterpret_cast<std::uintptr_t>(emulated_fiber_begins);  // where the first switch returns to
  *--top = 0;                                                        // rbp
  *--top = 0;                                                        // rbx
  *--top = reinterpret_cast<std::uintptr_t>(this);                   // r12
  *--top = reinterpret_cast<std::uintptr_t>(&Fiber::start);          // r13
  *--top = 0;                                                        // r14
  *--top = 0;                                                        // r15
  inside_ = top;
}

void Fiber::enter() {
  void* fake = nullptr;
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&fake, memory_ + guard, bytes);
  emulated_switch_stack(&outside_, inside_);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

void Fiber::leave() {
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&fake_stack_, outer_stack_, outer_bytes_);
  emulated_switch_stack(&inside_, outside_);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake_stack_, &outer_stack_, &outer_bytes_);
}

void Fiber::start(Fiber* fiber) {
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, &fiber->outer_stack_, &fiber->outer_bytes_);
  (*fiber->work_)();
  for (;;) {
    fiber->fake_stack_ = nullptr;
    // A null place says that this stack's frames are not needed any more.
    if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(nullptr, fiber->outer_stack_, fiber->outer_bytes_);
    emulated_switch_stack(&fiber->inside_, fiber->outside_);
  }
}

}  // namespace emulated
