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

/// Updates all parameters in one pass over the flat arenas, or this rank's parts of them (Flat::update). Norms, biases and frozen
/// parameters see no weight decay.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// One update at `rate` from the summed gradients, in the device's queue: gradients are first scaled so that their global norm
  /// is at most `clip` (0: no limit). A gradient norm that is not finite changes no weight.
  void step(float rate, float clip = 0) {
    prepare(rate);
    update(clip);
  }
  /// Its two halves. The first counts the step and puts its numbers into the device's memory; the second reads them there, so
  /// that it can be captured once and replayed behind the first.
  void prepare(float rate);
  void update(float clip = 0);
  /// The global norm of the gradients in the last step, before clipping; waits for the queue.
  float gradient_norm() const;

  /// Lets gradients be those of a loss times a factor that finds its own size (kernels::LossScale), beginning with `first`, a
  /// power of two. Multiply what backward begins with by it: scale_upstream. Call it before the first step.
  void scale_loss(float first, kernels::LossScaleSettings = {});
  bool scales_loss() const { return bool(loss_scale_); }
  /// upstream (one f32) *= the factor, in the device's queue.
  void scale_upstream(View upstream) const;
  /// The numbers of kernels::LossScale, to be saved; waits for the queue. Set when a checkpoint is loaded.
  std::vector<float> loss_scale() const;
  void set_loss_scale(const std::vector<float>&);

  /// Moments by parameter, to be saved: "adamw.m/<parameter>". Of a shared update, those that this rank keeps: elements
  /// [begin, begin + view.size) of the tensor.
  struct State {
    std::string name;
    Shape shape;
    View view;
    std::int64_t begin = 0;
  };
  const std::vector<State>& state() const { return state_; }
  /// Updates made so far; set when a checkpoint is loaded.
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }

 protected:
  Optimizer(ParameterSet&, const Flat&, View gradients, const std::vector<Group>&, float decay);
  virtual void correct(float*) {}  ///< adds its corrections to the host's scalars
  virtual void launch(const kernels::SegmentTable&) = 0;
  /// A zeroed arena of what this rank updates, whose slices become named state.
  View add_moment(const std::string& name);

  Device& device_;
  kernels::FlatState flat_;
  View scalars_;
  std::int64_t steps_ = 0;

 private:
  /// Part of a slot that this rank updates.
  struct Piece {
    std::size_t slot;
    std::int64_t begin, size;  ///< in the arenas
    std::int64_t moments;      ///< where its moments begin
    std::int64_t partial = 0;  ///< the number of its first partial sum
  };
  void find_pieces();
  void saw(Range gradients);
  View floats(std::int64_t count);
  View table(std::size_t pieces);

  const ParameterSet& set_;
  const Flat strategy_;
  std::vector<Piece> pieces_;
  std::int64_t moments_ = 0;  // elements of a moment
  std::vector<int> ends_;     // of each part's pieces; one part unless the update is shared
  std::vector<Piece> by_place_;  // pieces_ in the order of the arenas
  std::int64_t seen_ = 0;        // elements whose squares are summed already
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::vector<Memory> memory_;
  std::vector<kernels::SegmentTable> parts_;
  kernels::SpanTable spans_;
  View partials_, loss_scale_;
  kernels::LossScaleSettings loss_scale_settings_;
  std::vector<State> state_;
};

}  // namespace lockstep::optim
