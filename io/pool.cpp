#include "io/pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>

namespace lockstep::io {
namespace {

int processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int(std::thread::hardware_concurrency());
  return std::clamp(n, 1, 16);
}

}  // namespace

/// Work in numbered pieces: whoever is free takes the next.
struct Pool::Job {
  const std::function<void(std::int64_t)>& work;
  const std::int64_t count;
  std::atomic<std::int64_t> next = 0, done = 0;
  std::mutex mutex;
  std::condition_variable finished;
  std::exception_ptr problem;

  Job(const std::function<void(std::int64_t)>& work, std::int64_t count) : work(work), count(count) {}

  void help() {
    for (std::int64_t i; (i = next.fetch_add(1)) < count;) {
      try {
        work(i);
      } catch (...) {  // rethrown by wait()
        std::lock_guard lock(mutex);
        if (!problem) problem = std::current_exception();
        const std::int64_t begun = std::min(next.exchange(count), count);
        done += count - begun;  // nobody will begin the rest
      }
      if (++done >= count) {
        std::lock_guard lock(mutex);
        finished.notify_all();
      }
    }
  }
  void wait() {
    std::unique_lock lock(mutex);
    finished.wait(lock, [&] { return done >= count; });
    if (problem) std::rethrow_exception(problem);
  }
};

Pool::Pool() : Pool(processors()) {}

Pool::~Pool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Pool::start() {
  if (threads_.empty())
    for (int i = 0; i < size_; ++i) threads_.emplace_back([this] { run(); });
}

void Pool::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return stop_ || !urgent_.empty() || !later_.empty(); });
    if (stop_) return;
    if (!urgent_.empty()) {
      auto job = urgent_.front();
      if (job->next >= job->count) {  // all of it is begun
        urgent_.pop_front();
        continue;
      }
      lock.unlock();
      job->help();
      lock.lock();
      continue;
    }
    auto work = std::move(later_.front());
    later_.pop_front();
    ++busy_later_;
    lock.unlock();
    work();
    work = {};
    lock.lock();
    if (--busy_later_ == 0) idle_.notify_all();
  }
}

void Pool::each(std::int64_t count, const std::function<void(std::int64_t)>& work) {
  if (count <= 1 || size_ <= 1) {
    for (std::int64_t i = 0; i < count; ++i) work(i);
    return;
  }
  auto job = std::make_shared<Job>(work, count);
  {
    std::lock_guard lock(mutex_);
    start();
    urgent_.push_back(job);
  }
  for (std::int64_t i = 1; i < std::min<std::int64_t>(count, size_); ++i) work_.notify_one();
  job->help();
  {
    std::lock_guard lock(mutex_);
    std::erase(urgent_, job);
  }
  job->wait();
}

void Pool::later(std::function<void()> work) {
  {
    std::lock_guard lock(mutex_);
    start();
    later_.push_back(std::move(work));
  }
  work_.notify_one();
}

void Pool::forget() {
  std::unique_lock lock(mutex_);
  later_.clear();
  idle_.wait(lock, [&] { return busy_later_ == 0; });
}

}  // namespace lockstep::io
