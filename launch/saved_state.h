#pragma once

#include <optional>
#include <vector>

#include "core/optim/optimizer.h"
#include "io/checkpoint.h"
#include "launch/config.h"
#include "launch/data.h"
#include "launch/session.h"
#include "parallel/bucket.h"

namespace lockstep::launch {

/// Weights and buffers by name; with `optimizer` its moments too.
std::vector<io::NamedView> named_views(const ParameterSet&, const optim::Optimizer* optimizer = nullptr);

/// Where a run stands, and the choices that its arithmetic depends on: the JSON beside the tensors of a checkpoint.
/// `seconds`: time spent on the run so far.
std::string state_json(const Config&, const Session&, std::int64_t step, double seconds, const RunData&, const optim::Optimizer&,
                       const parallel::BucketOptions&);
/// The bucket sizes in that JSON, where the run had `ranks` ranks: no result depends on them, but a resumed run need not measure
/// again.
std::optional<parallel::BucketOptions> stored_buckets(const io::FoundCheckpoint&, int ranks);

/// What of that JSON a resumed run needs.
struct SavedState {
  std::int64_t step = 0, optimizer_steps = 0;
  double seconds = 0;
  std::string products;           ///< algorithms of products (kernels/product_choices.h), where they hold here
  std::vector<float> loss_scale;  ///< empty for a run without one
  /// A sentence for each choice that is not what it was in the checkpoint.
  std::vector<std::string> changes;
};
/// Throws (Exit::usage), naming the setting, when a choice changed and the run is exact; (Exit::bad_data) for a foreign
/// checkpoint.
SavedState read_state(const io::FoundCheckpoint&, const Config&, const Session&, const RunData&);

}  // namespace lockstep::launch
