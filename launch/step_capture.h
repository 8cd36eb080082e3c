#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/captured_step.h"
#include "io/batch.h"
#include "launch/session.h"
#include "parallel/data_parallel.h"

namespace lockstep::launch {

/// Whether steps are to be captured; where it is possible, else call by call with a line that says why; or else not at all.
enum class Capturing : std::uint8_t { never, where_possible, always };
/// What a value of train.captured means on a kind of device: "auto" is where_possible on GPUs.
Capturing capturing(const std::string& setting, DeviceKind);

/// Runs the work of a step: at first call by call, then captured once and replayed (core/captured_step.h). All ranks do the same
/// in every step. Where steps are run call by call although they were to be captured, a line of the log says why.
class StepCapture {
 public:
  using NextBatch = std::function<io::Batch(int lane)>;
  using Work = std::function<std::vector<Tensor>(const NextBatch&)>;

  /// Throws (Exit::usage) where `always` cannot be followed.
  StepCapture(Session&, parallel::DataParallel&, Capturing);

  /// Whether steps are to be captured, and can be as far as is known.
  bool wanted() const { return wanted_; }
  /// Why steps that were to be captured will not be; "" otherwise.
  const std::string& why_not() const { return why_not_; }

  /// `may_capture`: this step and those after it are alike, and settled; `full`: all lanes of all ranks have all their rows.
  /// `work` runs the lanes, for each of which it asks for its batch, and gives their losses, which are returned; it keeps the
  /// rules of a captured step. `next` reads a batch.
  std::vector<Tensor> run(bool may_capture, bool full, const NextBatch& next, const Work& work);

 private:
  std::vector<Tensor> capture(const Work&);
  void fill(const NextBatch&);

  Session& session_;
  parallel::DataParallel& strategy_;
  bool wanted_ = false, must_ = false, said_partial_ = false;
  std::string why_not_;
  std::vector<io::Batch> inputs_;  // by lane: what the captured step reads
  std::vector<Tensor> losses_;     // and what it writes
  std::unique_ptr<CapturedStep> step_;
};

}  // namespace lockstep::launch
