#include "launch/trained.h"

#include "launch/saved_state.h"

namespace lockstep::launch {

Trained::Trained(const Session& session, const std::string& run, const Config& config)
    : parameters_(session.device(), to_dtype(config.train.precision)), model_(build_model(config, parameters_)) {
  Device& device = session.device();
  flat_ = place(parameters_, simple_layout(parameters_), [&](std::size_t bytes) { return device.arena().allocate(bytes); });
  io::FoundCheckpoint found = io::open_checkpoint(run, session.group());
  for (const std::string& warning : found.warnings) session.log(warning);
  io::load_checkpoint(found, named_views(parameters_), io::Match::subset, device.queue(), session.group());
  refresh_weights(device.queue(), flat_);
  checkpoint_ = found.path;
}

}  // namespace lockstep::launch
