#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

namespace lockstep {

/// Numbers that end where a page begins that nobody may touch: who reads or writes behind them crashes.
class GuardedFloats {
 public:
  GuardedFloats() = default;
  explicit GuardedFloats(std::size_t size) : size_(size) {
    const auto page = std::size_t(sysconf(_SC_PAGESIZE)), used = (size * sizeof(float) + page - 1) / page * page;
    bytes_ = used + page;
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED || mprotect(static_cast<char*>(memory_) + used, page, PROT_NONE) != 0) throw std::bad_alloc();
    data_ = reinterpret_cast<float*>(static_cast<char*>(memory_) + used) - size;
  }
  GuardedFloats(const GuardedFloats&) = delete;
  GuardedFloats& operator=(const GuardedFloats&) = delete;
  ~GuardedFloats() {
    if (memory_) munmap(memory_, bytes_);
  }

  std::size_t size() const { return size_; }
  float* data() { return data_; }
  const float* data() const { return data_; }
  float* begin() { return data_; }
  float* end() { return data_ + size_; }
  const float* begin() const { return data_; }
  const float* end() const { return data_ + size_; }
  float& operator[](std::size_t i) { return data_[i]; }
  float operator[](std::size_t i) const { return data_[i]; }

 private:
  void* memory_ = nullptr;
  float* data_ = nullptr;
  std::size_t size_ = 0, bytes_ = 0;
};

}  // namespace lockstep
