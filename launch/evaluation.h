#pragma once

#include "core/nn/model.h"
#include "core/uploads.h"
#include "io/dataset.h"
#include "launch/session.h"

namespace lockstep::launch {

/// How good a model is on held-out rows.
struct Evaluation {
  double loss = 0;       ///< mean over counted targets: nats, or squared error
  double accuracy = -1;  ///< share of counted targets whose class is right; negative where there are no classes
  std::int64_t rows = 0;
};

struct EvaluationOptions {
  std::int64_t rows_per_batch = 64, batches = 0;  ///< batches 0: all of the dataset
  DType dtype = DType::f32;
  std::shared_ptr<Uploads> uploads = nullptr;  ///< io::PassOptions
};

/// Forward over the dataset in evaluate mode, batches dealt out to the ranks. Batches are summed in the order of the file, so the
/// result does not depend on the number of ranks. Collective.
Evaluation evaluate(const Session&, const nn::Model&, const io::Dataset&, EvaluationOptions);

/// "loss 0.2345  accuracy 91.20 %"
std::string to_text(const Evaluation&);

}  // namespace lockstep::launch
