#pragma once

#include <functional>

#include "core/device.h"

namespace lockstep {

/// A piece of work, such as a whole step of training, that is given to a device's queue once and then replayed as it was: as a
/// CUDA graph on a GPU, as a list of kernels on a CPU. A replay costs the host one call, whatever the number of kernels.
///
/// The rules that the work must keep (a program that breaks one gets an error here, or wrong numbers):
/// * It ran before as it is now, twice: plans are made, workspaces have grown.
/// * All that changes from one replay to the next lies in the device's memory: inputs are copied into the tensors that the work
/// was
///   captured with; the step's number (RandomKey::step_at), the upstream gradient (Tape::Options::upstream) and the optimizer's
///   numbers (Optimizer::prepare) are stored there before each replay.
/// * The host neither waits for the queue nor reads from it, and copies nothing from its own memory. The work may wait for copies
///   that others make beside it (Downloads::hold): for those started before a replay.
/// * Memory comes from the device's arena, on this thread. What the work was handed stays with it as long as this lives.
class CapturedStep {
 public:
  explicit CapturedStep(Device& device) : device_(device) {}
  CapturedStep(const CapturedStep&) = delete;
  CapturedStep& operator=(const CapturedStep&) = delete;

  /// Calls `work`, whose kernels are recorded and not run. Rethrows what it throws; nothing is then captured, and the queue is as
  /// it was.
  void capture(const std::function<void()>& work);
  explicit operator bool() const { return bool(memory_); }
  /// Puts the work into the queue.
  void replay() const;
  /// Kernels of the work; 0 on a GPU, where the graph knows.
  std::size_t kernels() const { return recording_.size(); }

 private:
  Device& device_;
  Recording recording_;
  std::shared_ptr<void> graph_;
  Memory memory_;  // that the work was handed
};

}  // namespace lockstep
