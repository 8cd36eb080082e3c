#pragma once

// Private to io/: threads that read and decode.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lockstep::io {

/// A few threads, started by the first work that needs them.
class Pool {
 public:
  /// As many threads as the process may use processors, at most 16.
  Pool();
  explicit Pool(int threads) : size_(threads) {}
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }
  /// Calls work(0) to work(count - 1) on this and other threads and waits for all. Rethrows the first exception; the rest is then
  /// not begun. Calls may nest.
  void each(std::int64_t count, const std::function<void(std::int64_t)>& work);
  /// Runs `work`, which must not throw, when there is nothing more urgent.
  void later(std::function<void()> work);
  /// Drops what later() was given and has not begun, and waits for what has.
  void forget();

 private:
  struct Job;
  void start();
  void run();
  const int size_;
  std::mutex mutex_;
  std::condition_variable work_, idle_;
  std::deque<std::shared_ptr<Job>> urgent_;
  std::deque<std::function<void()>> later_;
  int busy_later_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace lockstep::io
