#pragma once

#include <memory>
#include <optional>

#include "core/uploads.h"
#include "io/batch.h"
#include "io/dataset.h"
#include "io/stream.h"

namespace lockstep::io {

struct LoaderOptions {
  int lanes = 1;                       ///< of the whole run
  int first_lane = 0, lane_count = 1;  ///< this rank's share
  std::int64_t rows_per_lane = 1;
  std::uint64_t seed = 0;
  Shuffle shuffle = Shuffle::full;
  Tail tail = Tail::carry;
  std::int64_t window = 0;                  ///< rows of a window of Shuffle::window; 0: all
  std::vector<MixtureSource> mixture = {};  ///< the dataset is these, one after the other; empty: one source
  DType dtype = DType::f32;                 ///< of images and tables: the compute type
  std::int64_t start_step = 0;              ///< resume: the first step to deliver
  int steps_ahead = 2;                      ///< steps that the reading thread may be ahead
};

/// Batches of this rank's lanes, step after step without end, in the order of Stream. One thread reads ahead into a bounded ring.
/// Where Stream gives a lane no rows the batch has none: absent tensors, weight 0.
/// The dataset outlives the loader.
class Loader {
 public:
  Loader(const Dataset&, Device&, LoaderOptions);
  /// Stops the reading thread, wherever it is, and waits for it.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next lane of the current step; after the last lane the next step begins. Waits until it is read. On a CPU the batch is
  /// the buffer itself; to a GPU it is on its way since it was read, by a stream of its own, and the queue waits for it. Rethrows
  /// what the reading thread met.
  Batch next_lane();
  /// Targets that count in this rank's lanes of the step that begins with the next lane: the sum over ranks is the step's global
  /// weight. Called before a step's first lane; waits until all of them are read. Only datasets with info().ignores need it: for
  /// others Stream::total() tells the weight.
  double step_weight();
  /// The step that the next call of next_lane() belongs to.
  std::int64_t step() const;
  /// Seconds that next_lane() has waited for data since the loader was made.
  double exposed_seconds() const;
  const Stream& stream() const;

 private:
  struct Work;
  std::unique_ptr<Work> work_;
};

struct PassOptions {
  int rank = 0, ranks = 1;
  std::int64_t rows_per_batch = 256;
  std::int64_t rows = 0;  ///< stop after this many rows of the dataset; 0: all
  DType dtype = DType::f32;
  std::shared_ptr<Uploads> uploads = nullptr;  ///< whose memory one pass after another uses: getting a GPU's takes long
};

/// One pass over a dataset in the order of the file, for evaluation. Batch b is rows [b * rows_per_batch, …), the last one
/// shorter; ranks take contiguous shares of the batches, so what a batch holds does not depend on the number of ranks. A rank may
/// have none. Read ahead by a thread as in Loader.
class Pass {
 public:
  Pass(const Dataset&, Device&, PassOptions);
  ~Pass();
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  /// The next batch of this rank, none at the end.
  std::optional<Batch> next();
  std::int64_t first_batch() const;  ///< this rank's first
  std::int64_t batch_count() const;  ///< this rank's number
  std::int64_t batches() const;      ///< of all ranks

 private:
  struct Work;
  std::unique_ptr<Work> work_;
};

}  // namespace lockstep::io
