#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/flat.h"
#include "kernels/update.h"

namespace lockstep::optim {

/// Settings of the parameters whose names start with `prefix`; the first group that fits counts.
struct Group {
  std::string prefix;
  float rate_scale = 1;
  float decay = -1;  ///< negative: the optimizer's own
};

/// Updates all parameters in one pass over the flat arenas. Norms, biases and frozen parameters see no weight decay.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// One update at `rate` from the summed gradients, in the device's queue: gradients are first scaled so that their global norm
  /// is at most `clip` (0: no limit). A gradient norm that is not finite changes no weight.
  void step(float rate, float clip = 0);
  /// The global norm of the gradients in the last step, before clipping; waits for the queue.
  float gradient_norm() const;

  /// Moments by parameter, to be saved: "adamw.m/<parameter>".
  struct State {
    std::string name;
    Shape shape;
    View view;
  };
  const std::vector<State>& state() const { return state_; }
  /// Updates made so far; set when a checkpoint is loaded.
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }

 protected:
  Optimizer(ParameterSet&, const Flat&, View gradients, const std::vector<Group>&, float decay);
  virtual void update(float* scalars) = 0;  ///< adds its corrections to the host's scalars
  virtual void launch() = 0;
  /// A zeroed arena of the layout, whose slices become named state.
  View add_moment(const std::string& name);

  Device& device_;
  kernels::FlatState flat_;
  std::vector<kernels::Segment> segments_;
  View scalars_;
  std::int64_t steps_ = 0;

 private:
  const Layout layout_;
  std::vector<Memory> memory_;
  Memory weight_memory_, master_memory_;
  std::vector<kernels::Span> spans_;
  View partials_;
  std::vector<State> state_;
};

}  // namespace lockstep::optim
