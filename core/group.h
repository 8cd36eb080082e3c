#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lockstep {

/// Some ranks that agree on things: small host-side messages, outside the training step's collectives. `parallel` implements it,
/// `launch` hands it to `io`. All calls are collective, made by every rank in the same order, and wait.
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Ranks on the same machine: which machine (0, 1, …), and this rank's place and their number on it.
  virtual int node() const = 0;
  virtual int node_rank() const = 0;
  virtual int node_size() const = 0;

  virtual void barrier() = 0;
  /// Rank `root`'s bytes, on every rank.
  virtual std::string broadcast(const std::string& bytes, int root = 0) = 0;
  /// Every rank's bytes in rank order, on every rank.
  virtual std::vector<std::string> gather(const std::string& bytes) = 0;
  /// Sum over ranks, in rank order (the same to the bit on every rank).
  virtual double sum(double value) = 0;
  /// True on every rank when all ranks say true.
  virtual bool all(bool value) = 0;
  /// `bytes` zeroed bytes that all ranks of this machine see, given back with the last of them; absent on every rank when some
  /// machine has none to share. Pages cost nothing until they are touched: ask only for what is free.
  virtual std::shared_ptr<std::byte> node_memory(std::size_t bytes) {
    (void)bytes;
    return {};
  }
};

/// A group of one rank.
std::unique_ptr<Group> solo_group();

}  // namespace lockstep
