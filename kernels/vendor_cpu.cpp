#include "kernels/vendor_cpu.h"

#include <omp.h>

namespace lockstep {

std::shared_ptr<CpuLibraries> make_cpu_libraries() {
  return std::make_shared<CpuLibraries>();
}

int CpuLibraries::threads() {
  return omp_get_max_threads();
}

std::size_t CpuLibraries::Hash::operator()(const Slot& slot) const {
  std::uint64_t h = 1469598103934665603u + std::uint64_t(slot.threads);
  for (std::int64_t v : slot.key) {
    h = (h ^ std::uint64_t(v)) * 0x9E3779B97F4A7C15u;
    h ^= h >> 29;
  }
  return h;
}

}  // namespace lockstep
