#pragma once

#include <barrier>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "core/group.h"

namespace lockstep::test {

/// Ranks that are threads of this process: what several ranks write, without MPI.
class ThreadGroup final : public Group {
 public:
  struct Shared {
    explicit Shared(int ranks) : together(ranks), slots(std::size_t(ranks)) {}
    std::barrier<> together;
    std::vector<std::string> slots;
    std::mutex mutex;
    std::condition_variable arrived;
    std::map<std::size_t, std::string> sent;  // broadcasts, by number
  };
  ThreadGroup(Shared& shared, int rank) : shared_(shared), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return int(shared_.slots.size()); }
  int node() const override { return 0; }
  int node_rank() const override { return rank_; }
  int node_size() const override { return size(); }

  void barrier() override { shared_.together.arrive_and_wait(); }
  /// The root does not wait for the others, as in MPI: a rank that relies on it is found out.
  std::string broadcast(const std::string& bytes, int root) override {
    std::unique_lock lock(shared_.mutex);
    const std::size_t number = broadcasts_++;
    if (rank_ == root) {
      shared_.sent[number] = bytes;
      shared_.arrived.notify_all();
    }
    shared_.arrived.wait(lock, [&] { return shared_.sent.contains(number); });
    return shared_.sent[number];
  }
  std::vector<std::string> gather(const std::string& bytes) override {
    shared_.slots[std::size_t(rank_)] = bytes;
    barrier();
    auto all = shared_.slots;
    barrier();
    return all;
  }
  double sum(double value) override {
    double total = 0;
    for (const auto& one : gather(std::to_string(value))) total += std::stod(one);
    return total;
  }
  bool all(bool value) override {
    for (const auto& one : gather(value ? "1" : "0"))
      if (one != "1") return false;
    return true;
  }

 private:
  Shared& shared_;
  int rank_;
  std::size_t broadcasts_ = 0;
};

/// Runs `body` on every rank; rethrows the error of the lowest rank that threw (all must, or none: errors are agreed on).
inline void on_ranks(int ranks, const std::function<void(Group&)>& body) {
  ThreadGroup::Shared shared(ranks);
  std::vector<std::exception_ptr> errors(std::size_t(ranks), nullptr);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      ThreadGroup group(shared, rank);
      try {
        body(group);
      } catch (...) {
        errors[std::size_t(rank)] = std::current_exception();
      }
    });
  for (auto& thread : threads) thread.join();
  for (auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace lockstep::test
