#pragma once

#include <memory>
#include <string>

#include "core/flat.h"
#include "launch/models.h"
#include "launch/run_folder.h"
#include "launch/session.h"

namespace lockstep::launch {

/// The model of a run with the weights of its newest good checkpoint, for inference. Collective. Throws (Exit::bad_data) when
/// there is none.
class Trained {
 public:
  /// `config`: the run's own, from read_run_config().
  Trained(const Session&, const std::string& run, const Config& config);
  const nn::Model& model() const { return *model_; }
  /// "runs/x/checkpoints/step_100"
  const std::string& checkpoint() const { return checkpoint_; }

 private:
  ParameterSet parameters_;
  std::unique_ptr<nn::Model> model_;
  Flat flat_;
  std::string checkpoint_;
};

}  // namespace lockstep::launch
