#pragma once

#include <functional>
#include <vector>

#include "core/tensor.h"
#include "kernels/base/random.h"

namespace lockstep {

/// Told the moment a parameter's gradient is final. The strategies implement it.
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  /// No more contributions to this parameter will come from the running backward pass.
  virtual void ready(const Queue&, Parameter&) = 0;
  /// Called between the ops of a backward pass: the place where MPI collectives make progress.
  virtual void progress(const Queue&) {}
  /// A backward pass ended.
  virtual void backward_ended(const Queue&) {}
};

enum class Mode : std::uint8_t { train, evaluate };

/// The record of one forward pass, in order; played backwards it computes gradients. Execution order is already a topological
/// order, so there is no sort, no recursion and no engine thread, and ranks that run the same step see gradients become final in
/// the same order.
class Tape {
 public:
  struct Options {
    Mode mode = Mode::train;
    bool recording = true;  ///< false: inference, nothing is kept for backward
    RandomKey random = {};  ///< seed, step and lane; layers add their site
    GradientSink* sink = nullptr;
    Tensor upstream = {};  ///< one f32: the gradient that backward(loss) begins with, known ahead of it (core/README.md)
    bool nested = false;   ///< plays inside another tape's backward: its end is not the end of a pass
  };
  Tape(Device& device, Options options) : device_(device), options_(options) {}
  explicit Tape(Device& device) : Tape(device, Options{}) {}
  /// Uses that were recorded and never played back count no more.
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Device& device() const { return device_; }
  const Queue& queue() const { return device_.queue(); }
  bool training() const { return options_.mode == Mode::train; }
  bool recording() const { return options_.recording; }
  const Tensor& upstream() const { return options_.upstream; }
  /// The key of a random site: hash_name of the module's path.
  RandomKey random(std::uint32_t site) const;

  /// A new tensor for an op's result.
  Tensor make(Shape shape, DType dtype) { return Tensor(device_, std::move(shape), dtype); }

  /// Remembers how `outputs` came from `inputs`. `backward` runs only if a gradient reached an output; it asks gradient(y) for
  /// what arrived and into(x) for where to write. Nothing is kept when no input wants a gradient or the tape does not record.
  using Backward = std::function<void(Tape&)>;
  void record(std::vector<Tensor> outputs, std::vector<Tensor> inputs, Backward backward);
  Tensor record(Tensor output, std::vector<Tensor> inputs, Backward backward);

  /// The gradient that has reached y; absent if none has.
  View gradient(const Tensor& y) const { return y->has_gradient ? y->gradient : View{}; }
  struct Target {
    View view;
    Write write;
    explicit operator bool() const { return bool(view); }
  };
  /// Where an op's backward writes x's gradient, and whether it must add. An absent view: x wants none.
  Target into(const Tensor& x);
  /// Hands y's gradient on to x unchanged: shared without a copy when x has none yet and the types agree, else added. A shared
  /// gradient is copied only if somebody adds to it while another still reads it.
  void pass(const Tensor& x, const Tensor& y);
  /// y's gradient as memory that the caller may overwrite.
  View exclusive_gradient(const Tensor& y);

  /// Whether an op to which x was given away may write x's gradient over its value, because nobody else reads that. `uses`: of x
  /// that the op has recorded, 0 while it computes and 1 in its backward.
  bool may_overwrite(const Tensor& x, int uses) const;
  /// x's memory becomes that of its gradient, and x can be read no more. The op sets has_gradient when its backward runs.
  View overwrite(const Tensor& x);

  /// A tape for a piece of this one's work: same mode, random numbers and sink (ops::recompute).
  Tape nested(bool recording) const;
  /// Runs `action` when backward passes this point of the recording.
  void mark(std::function<void()> action);

  /// Computes gradients of `loss` (one f32), seeded with `seed`: 1 / the step's global weight, so that sums over lanes and ranks
  /// are means. The tape is empty afterwards; what it saved is freed on the way.
  void backward(const Tensor& loss, float seed);
  /// The same, seeded with Options::upstream, or with 1 where that is absent.
  void backward(const Tensor& loss);
  /// As backward, from several outputs whose gradients have been written through into().
  void backward();

 private:
  struct Node {
    std::vector<Tensor> outputs, inputs;
    Backward backward;
  };
  void finish_input(const Tensor& x);

  Device& device_;
  Options options_;
  std::vector<Node> nodes_;
};

}  // namespace lockstep
