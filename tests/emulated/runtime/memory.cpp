#include "tests/emulated/runtime/memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void*, std::size_t);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void*, std::size_t);
}

namespace emulated::memory {
namespace {

/// Between two allocations, never given away: AddressSanitizer sees who goes there.
constexpr std::size_t between = 512;
/// What becomes reachable and unreachable as one: large pages, since it happens at every call that waits.
constexpr std::size_t page = std::size_t(2) << 20;

struct State {
  std::byte* begin = nullptr;
  std::map<std::size_t, std::size_t> allocations;  // offset, bytes
  std::size_t used = 0;
  int open = 0;
  struct sigaction before = {};

  std::size_t end() const { return allocations.empty() ? 0 : padded(allocations.rbegin()->first + allocations.rbegin()->second); }
  static std::size_t padded(std::size_t bytes) { return (bytes + 511) / 512 * 512; }
  void protect(int how) {
    if (const std::size_t bytes = (end() + page - 1) / page * page; bytes > 0 && mprotect(begin, bytes, how) != 0) std::abort();
  }
};
State& state();

/// A sentence before the program ends.
void touched(int signal, siginfo_t* info, void* context) {
  if (holds(info->si_addr)) {
    constexpr char text[] = "emulated GPU: the processor touched the GPU's memory by its address\n";
    (void)!write(2, text, sizeof text - 1);
  }
  const struct sigaction& before = state().before;
  if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
  sigaction(signal, &before, nullptr);  // comes again at once
}

State& state() {
  static State& one = *[] {
    auto* made = new State;  // outlives whatever gives memory back at the end of the program
    void* at = mmap(nullptr, size + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) std::abort();
    made->begin = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(at) + page - 1) / page * page);
    (void)madvise(made->begin, size, MADV_HUGEPAGE);  // where there are none, small ones do
    struct sigaction action = {};
    action.sa_sigaction = touched;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &made->before);
    return made;
  }();
  return one;
}

}  // namespace

void* allocate(std::size_t bytes) {
  State& s = state();
  if (bytes > size) return nullptr;
  std::size_t at = 0;
  for (auto& [offset, taken] : s.allocations) {
    if (at + State::padded(bytes) + between <= offset) break;
    at = State::padded(offset + taken) + between;
  }
  if (at + State::padded(bytes) + between > size) return nullptr;
  s.allocations[at] = bytes;
  s.used += bytes;
  Open now;
  if (__asan_unpoison_memory_region) {
    __asan_unpoison_memory_region(s.begin + at, bytes);
    __asan_poison_memory_region(s.begin + at + bytes, State::padded(bytes) + between - bytes);
  }
  std::memset(s.begin + at, 0xff, bytes);
  return s.begin + at;
}

bool release(void* data) {
  State& s = state();
  auto found = s.allocations.find(std::size_t(static_cast<std::byte*>(data) - s.begin));
  if (!holds(data) || found == s.allocations.end()) return false;
  if (__asan_poison_memory_region) __asan_poison_memory_region(data, found->second);
  s.used -= found->second;
  s.allocations.erase(found);
  return true;
}

bool holds(const void* at) {
  auto* byte = static_cast<const std::byte*>(at);
  return byte >= state().begin && byte < state().begin + size;
}

bool holds(const void* at, std::size_t bytes) {
  State& s = state();
  const std::size_t offset = std::size_t(static_cast<const std::byte*>(at) - s.begin);
  auto after = s.allocations.upper_bound(offset);
  if (!holds(at) || after == s.allocations.begin()) return false;
  auto& [begin, taken] = *std::prev(after);
  return offset + bytes <= begin + taken;
}

std::size_t used() {
  return state().used;
}

Open::Open() {
  if (state().open++ == 0) state().protect(PROT_READ | PROT_WRITE);
}
Open::~Open() {
  if (--state().open == 0) state().protect(PROT_NONE);
}

}  // namespace emulated::memory
