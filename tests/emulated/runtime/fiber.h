#pragma once

#include <cstddef>
#include <functional>

namespace emulated {

/// Work with a stack of its own, which the thread that made it leaves and enters at will.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Begins `work` at the next enter(). What was under way is forgotten.
  void begin(std::function<void()>* work);
  /// Goes on with the work until it leaves or ends.
  void enter();
  /// Called by the work: goes back to where enter() was called.
  void leave();

 private:
  [[noreturn]] static void start(Fiber*);
  static constexpr std::size_t bytes = 320 << 10, guard = 4096;
  std::byte* memory_;
  std::size_t indent_;
  void *inside_ = nullptr, *outside_ = nullptr;  // stack pointers of the side that waits
  std::function<void()>* work_ = nullptr;
  // What AddressSanitizer wants to know.
  void* fake_stack_ = nullptr;
  const void* outer_stack_ = nullptr;
  std::size_t outer_bytes_ = 0;
};

}  // namespace emulated
