#pragma once

#include <cstdint>
#include <span>

namespace lockstep::io {

/// A permutation of [0, size) decided by (seed, epoch). Any position is computed by itself, without a table: a Feistel network
/// over Z_a x Z_b with a * b >= size, Philox as its round function, and cycle walking for the few values beyond (Black & Rogaway,
/// "Ciphers with arbitrary finite domains", 2002).
class Permutation {
 public:
  Permutation(std::int64_t size, std::uint64_t seed, std::uint64_t epoch);
  std::int64_t operator()(std::int64_t position) const;

 private:
  std::uint64_t size_, a_, b_, seed_, epoch_;
};

struct StreamOptions {
  std::int64_t rows = 0;  ///< of the dataset; at least one a lane
  int lanes = 1;
  std::int64_t rows_per_lane = 1;  ///< rows of one lane in one step
  std::uint64_t seed = 0;
  bool shuffle = true;  ///< false: every epoch is in the order of the file
};

/// Which rows a lane reads in a step: a pure function of (seed, step, lane), whatever the number of ranks.
///
/// An epoch is a permutation of the rows by (seed, epoch). Lane l owns a contiguous piece of it: rows / lanes positions, one more
/// for the first rows % lanes lanes. A lane's own stream is its piece of epoch 0, then of epoch 1, and so on; step s takes
/// positions [s * rows_per_lane, (s + 1) * rows_per_lane) of it. What is left at the end of an epoch is carried into the step
/// that begins the next: every row comes exactly once per epoch of its lane's stream, and no step is short.
class Stream {
 public:
  explicit Stream(StreamOptions);
  /// Rows of `lane` in `step`; out.size() is rows_per_lane.
  void rows(std::int64_t step, int lane, std::span<std::int64_t> out) const;
  /// The lane's piece of every epoch: positions [begin, begin + size).
  struct Piece {
    std::int64_t begin, size;
  };
  Piece piece(int lane) const;
  /// Steps after which every lane has read `epochs` epochs.
  std::int64_t steps(double epochs) const;
  /// Epochs that are read after `step` steps.
  double epochs(std::int64_t step) const;
  const StreamOptions& options() const { return options_; }

 private:
  StreamOptions options_;
};

}  // namespace lockstep::io
