#include "tests/emulated/runtime/shared_memory.h"

#include <link.h>

#include <algorithm>
#include <cstring>
#include <vector>

// In a sanitized program these are there; elsewhere their addresses are null.
extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void*, std::size_t);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void*, std::size_t);
}

namespace emulated {
namespace {

struct DynamicMemory {
  std::byte* (*of_this_thread)();
  std::size_t bytes;
};
std::vector<DynamicMemory>& dynamic_memories() {
  static std::vector<DynamicMemory> all;
  return all;
}

/// This thread's variables in the library or program that holds the kernel.
struct Variables {
  std::uintptr_t kernel;
  std::byte* begin = nullptr;
  std::size_t bytes = 0;
};
int find_variables(dl_phdr_info* info, std::size_t, void* data) {
  auto& wanted = *static_cast<Variables*>(data);
  bool here = false;
  std::size_t bytes = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& part = info->dlpi_phdr[i];
    const std::uintptr_t begin = info->dlpi_addr + part.p_vaddr;
    here = here || (part.p_type == PT_LOAD && wanted.kernel >= begin && wanted.kernel < begin + part.p_memsz);
    if (part.p_type == PT_TLS) bytes = part.p_memsz;
  }
  if (!here) return 0;
  wanted.begin = static_cast<std::byte*>(info->dlpi_tls_data);
  wanted.bytes = wanted.begin ? bytes : 0;
  return 1;
}

}  // namespace

void give_dynamic_memory(std::byte* (*of_this_thread)(), std::size_t bytes) {
  dynamic_memories().push_back({of_this_thread, bytes});
}

SharedMemory::SharedMemory(const Launch& launch) : asked_(launch.bytes) {
  Variables found{reinterpret_cast<std::uintptr_t>(launch.kernel)};
  dl_iterate_phdr(find_variables, &found);
  begin_ = found.begin;
  bytes_ = found.bytes;
  for (const DynamicMemory& one : dynamic_memories())
    if (std::byte* at = one.of_this_thread(); at >= begin_ && at < begin_ + bytes_) {
      dynamic_ = at;
      dynamic_bytes_ = one.bytes;
    }
  if (dynamic_ && __asan_poison_memory_region)
    __asan_poison_memory_region(dynamic_ + asked_ + watched, dynamic_bytes_ - asked_ - watched);
}

SharedMemory::~SharedMemory() {
  if (dynamic_ && __asan_unpoison_memory_region) __asan_unpoison_memory_region(dynamic_, dynamic_bytes_);
}

void SharedMemory::poison() const {
  std::byte *begin = begin_, *end = begin + bytes_;
  if (dynamic_) {
    std::memset(begin, 0xff, std::size_t(dynamic_ - begin) + asked_ + watched);
    begin = dynamic_ + dynamic_bytes_;
  }
  std::memset(begin, 0xff, std::size_t(end - begin));
}

bool SharedMemory::overstepped() const {
  if (!dynamic_) return false;
  const std::byte* at = dynamic_ + asked_;
  return std::any_of(at, at + watched, [](std::byte b) { return b != std::byte(0xff); });
}

}  // namespace emulated
