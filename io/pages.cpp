#include "io/pages.h"

#include <sys/mman.h>

#include <algorithm>

#include "kernels/base/check.h"

namespace lockstep::io {

Memory untouched_memory(std::size_t bytes) {
  constexpr std::size_t large_page = 2 << 20;
  bytes = std::max<std::size_t>(bytes, 1);
  if (bytes >= large_page) bytes = (bytes + large_page - 1) / large_page * large_page;  // the end lies in one, too
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(Exit::io, at != MAP_FAILED, "out of host memory: {} MiB more were asked for", bytes >> 20);
  madvise(at, bytes, MADV_HUGEPAGE);
  return Memory(static_cast<std::byte*>(at), [bytes](std::byte* data) { munmap(data, bytes); });
}

}  // namespace lockstep::io
