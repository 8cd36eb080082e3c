#pragma once

#include <cstdint>
#include <vector>

#include "io/mixture.h"
#include "io/order.h"

namespace lockstep::io {

/// What happens where the rows of an epoch do not fill its last step.
enum class Tail : std::uint8_t {
  carry,    ///< that step goes on with the next epoch: no step is short, no row is left out
  partial,  ///< that step is short: some lanes have fewer rows, or none
  drop,     ///< those rows are left out of this epoch
};
const char* name_of(Tail);

struct StreamOptions {
  std::int64_t rows = 0;  ///< of the dataset
  int lanes = 1;
  std::int64_t rows_per_lane = 1;  ///< rows of one lane in one step
  std::uint64_t seed = 0;
  Shuffle shuffle = Shuffle::full;
  Tail tail = Tail::carry;
  std::int64_t window = 0;                  ///< rows of a window; 0: all
  std::vector<ChunkRun> chunks = {};        ///< Dataset::chunks()
  std::vector<MixtureSource> mixture = {};  ///< the dataset is these, one after the other; empty: one source
};

/// Which rows a lane reads in a step: a pure function of (seed, step, lane), whatever the number of ranks.
///
/// One source. An epoch is an order of its rows by (seed, epoch), of which every lane owns a contiguous piece of floor or ceil
/// size. carry: a lane reads its piece of epoch 0, then of epoch 1, and so on, rows_per_lane a step. The lanes that get the
/// longer pieces take turns: epoch e begins with row e * rows of all lanes' rows dealt out in turn, so that no lane is ever more
/// than one row ahead of another, and every row comes once in each epoch. partial, drop: every epoch begins with a step.
///
/// A mixture. Mixture says how many rows of a step come from each source; a source's rows, in the order of all its epochs, are
/// dealt to the lanes in turn, as if it were alone, from pieces of its own. Those of a step are then sorted by lane and cut
/// into rows_per_lane each: a lane takes over at most a row per source from its neighbour's piece.
class Stream {
 public:
  explicit Stream(StreamOptions);
  /// The rows of `lane` in `step`, count(step, lane) of them.
  void rows(std::int64_t step, int lane, std::vector<std::int64_t>& out) const;
  /// rows_per_lane; in the last step of an epoch with tail = partial fewer, down to 0.
  std::int64_t count(std::int64_t step, int lane) const;
  /// Rows of all lanes in a step: the step's global weight, in rows.
  std::int64_t total(std::int64_t step) const;
  /// Steps that read `epochs` epochs (of a mixture: as many rows as its sources have together).
  std::int64_t steps(double epochs) const;
  /// Epochs that are read after `step` steps; of one source of a mixture.
  double epochs(std::int64_t step) const;
  double epochs(std::int64_t step, std::size_t source) const;
  const StreamOptions& options() const { return options_; }

 private:
  /// One dataset's rows, epoch after epoch, dealt to the lanes in turn: row t of lane l is row t * lanes + l of all.
  struct Source {
    Order order;
    std::int64_t rows, first;  // among all rows of the dataset
    int lanes;
    Piece piece(std::int64_t epoch, int lane) const;
    void append(int lane, std::int64_t t, std::int64_t count, std::vector<std::int64_t>& out) const;
  };
  std::int64_t batch() const { return options_.lanes * options_.rows_per_lane; }
  std::int64_t steps_per_epoch() const;
  void mixed_rows(std::int64_t step, int lane, std::vector<std::int64_t>& out) const;

  StreamOptions options_;
  std::vector<Source> sources_;
  Mixture mixture_;
};

}  // namespace lockstep::io
