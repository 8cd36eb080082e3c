#include "launch/step_capture.h"

#include <fmt/format.h>

#include "kernels/memory.h"

namespace lockstep::launch {

Capturing capturing(const std::string& setting, DeviceKind kind) {
  if (setting == "yes") return Capturing::always;
  return setting == "auto" && kind == DeviceKind::cuda ? Capturing::where_possible : Capturing::never;
}

StepCapture::StepCapture(Session& session, parallel::DataParallel& strategy, Capturing wish)
    : session_(session), strategy_(strategy), must_(wish == Capturing::always) {
  if (wish == Capturing::never) return;
  why_not_ = strategy.why_not_captured();
  require(Exit::usage, !must_ || why_not_.empty(), "train.captured = \"yes\", but a step cannot be captured: {}; use \"auto\"",
          why_not_);
  wanted_ = why_not_.empty();
}

std::vector<Tensor> StepCapture::run(bool may_capture, bool full, const NextBatch& next, const Work& work) {
  if (!wanted_ || !may_capture) return work(next);
  if (!full) {
    if (!said_partial_) session_.log("a step that lacks rows is not the captured one: it runs call by call (said once)");
    said_partial_ = true;
    return work(next);
  }
  fill(next);
  if (!step_) return capture(work);
  step_->replay();
  strategy_.replayed();
  return losses_;
}

/// Copies this step's batches to where the captured step reads them.
void StepCapture::fill(const NextBatch& next) {
  const Queue& queue = session_.device().queue();
  const int lanes = strategy_.lanes().count;
  const bool first = inputs_.empty();
  auto put = [&](Tensor& to, const Tensor& from) {
    if (!from) return;
    if (first) to = Tensor(session_.device(), from.shape(), from.dtype());
    require(to.shape() == from.shape() && to.dtype() == from.dtype(),
            "a captured step was made for batches of shape {}, and a full step brought {}", lockstep::to_text(to.shape()),
            lockstep::to_text(from.shape()));
    kernels::copy(queue, to.view(), from.view());
  };
  inputs_.resize(std::size_t(lanes));
  for (int lane = 0; lane < lanes; ++lane) {
    io::Batch& to = inputs_[std::size_t(lane)];
    io::Batch from = next(lane);
    put(to.inputs, from.inputs);
    put(to.targets, from.targets);
    to.weight = from.weight;
  }
}

/// Captures the step and runs it: by a replay, or where a rank failed call by call on all of them, which then go on so.
std::vector<Tensor> StepCapture::capture(const Work& work) {
  NextBatch fixed = [this](int lane) { return inputs_[std::size_t(lane)]; };
  std::string problem;
  auto step = std::make_unique<CapturedStep>(session_.device());
  try {
    step->capture([&] { losses_ = work(fixed); });
  } catch (const Error& error) {  // running call by call is the alternative
    if (error.exit() == Exit::peer_lost) throw;
    problem = error.what();
  }
  for (const std::string& of_rank : session_.group().gather(problem))
    if (problem.empty()) problem = of_rank;
  if (problem.empty()) {
    step_ = std::move(step);
    session_.note("steps are captured and replayed from here on");
    step_->replay();
    strategy_.replayed();
    return losses_;
  }
  require(Exit::usage, !must_, "train.captured = \"yes\", but the step cannot be captured: {}", problem);
  wanted_ = false;
  losses_.clear();
  session_.log("steps are not captured, because it failed: " + problem);
  auto losses = work(fixed);
  inputs_.clear();
  return losses;
}

}  // namespace lockstep::launch
