#pragma once

#include <functional>
#include <vector>

#include "core/parameter.h"

namespace lockstep {

/// Where every parameter lies in the flat arenas, and which pieces travel together. One layout serves weights, masters, moments
/// and gradients. Offsets and sizes count elements; every bucket begins and ends at a multiple of 128 and of the ranks' slices.
struct Layout {
  struct Slot {
    Parameter* parameter;
    std::int64_t begin, size;
    int bucket;  ///< -1: frozen or a buffer, placed behind the buckets, never travels as a gradient
  };
  struct Bucket {
    std::int64_t begin, end;  ///< padding included
  };
  std::vector<Slot> slots;      ///< in the order of ParameterSet::all()
  std::vector<Bucket> buckets;  ///< in the order in which they leave
  std::int64_t trained = 0;     ///< elements in buckets
  std::int64_t total = 0;       ///< elements with frozen parameters and buffers
};

/// A run of elements of the flat arenas.
struct Range {
  std::int64_t begin = 0, size = 0;
};

/// For updates that the ranks share: each updates its own parts of the trained parameters, whose gradients it has, keeps the
/// moments of no others, and gives the result to all. `parallel` implements it, optimizers follow it.
class SharedUpdate {
 public:
  virtual ~SharedUpdate() = default;
  /// This rank's parts, in order; they are cut where norm blocks of parameters begin (kernels/update.h).
  virtual const std::vector<Range>& mine() const = 0;
  /// From now on `seen` is called with pieces of this rank's parts, each once a step, as soon as their gradients are summed and while
  /// they are near in the cache; or never, where they are not summed by this thread. One watches at a time.
  virtual void watch(std::function<void(Range)> seen) { (void)seen; }
  /// values = the sum of every rank's, in `queue`.
  virtual void sum(const Queue&, View values) = 0;
  /// The masters of mine()[part] are updated in `queue`: they go to the other ranks. All parts, in order.
  virtual void publish(const Queue&, std::size_t part) = 0;
  /// Work put into `queue` later sees all ranks' parts.
  virtual void join(const Queue&) = 0;
};

/// The values of all parameters in flat arenas of one layout: weights in the compute type, masters in f32 (the same memory when
/// the compute type is f32; buffers are f32 and live in masters only). A set without masters has weights only: `masters` are
/// they, and its buffers have memory of their own.
struct Flat {
  Layout layout;
  Memory weight_memory, master_memory, buffer_memory;
  View weights, masters;
  SharedUpdate* update = nullptr;  ///< the strategy's; null: every rank updates everything
};

/// Allocates weights and masters, makes every parameter's tensor point into them and returns the flat arenas. Masters, or weights
/// that have none, come from `masters` where it is given.
using Allocate = std::function<Memory(std::size_t bytes)>;
Flat place(ParameterSet&, Layout, const Allocate&, const Allocate& masters = {});

/// One bucket, no padding for ranks: for inference, where nothing travels.
Layout simple_layout(const ParameterSet&);

/// weights = masters rounded to the compute type (after loading a checkpoint or initial values).
void refresh_weights(const Queue&, const Flat&);

/// XXH3-128 in hex of the masters of all weights in name order, then of the buffers in name order: `weights_xxh3` of a run.
std::string hash_parameters(const ParameterSet&);
/// A hash of all masters and buffers, or of the buffers alone, in hex: made on the device in one pass at the speed of its memory,
/// and equal on ranks that hold the same, with devices of one kind and one layout. Waits for the queue.
std::string fingerprint(Device&, const Flat&, bool weights);

}  // namespace lockstep
