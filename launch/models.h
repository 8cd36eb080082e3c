#pragma once

#include <memory>

#include "core/nn/model.h"
#include "core/optim/optimizer.h"
#include "core/optim/schedule.h"
#include "io/batch.h"
#include "io/dataset.h"
#include "launch/config.h"

namespace lockstep::launch {

/// Where the program remembers what it found out: files it has looked through, algorithms it has timed. "" when there is no
/// place.
std::string notes_folder();

DType to_dtype(const std::string& precision);

/// The [data] section as io takes it. Resolve the size of a gpt first: its length is that of a row.
io::DatasetOptions dataset_options(const Config&);

/// Fills in the dimensions that model.size names.
void resolve_size(Config&);
/// Fills in the dimensions that are left to the data, so that the configuration says all about the model. Throws (Exit::usage)
/// when the model cannot read such data.
void resolve_model(Config&, const io::DatasetInfo&);

/// What a user of a GPU should know about the size of a resolved model, in one sentence, or "": tensor cores read 16-bit rows only
/// where those begin at multiples of 16 bytes, and a row of logits has one number a token.
std::string advice_for_gpu(const Config&);

/// The model of a resolved configuration, its parameters added to the set.
std::unique_ptr<nn::Model> build_model(const Config&, ParameterSet&);
std::unique_ptr<optim::Optimizer> build_optimizer(const Config&, ParameterSet&, const Flat&, View gradients);
optim::Schedule build_schedule(const Config&, std::int64_t steps);

/// Sum of losses over the rows of a batch: cross-entropy for classes and tokens, squared error for values. Ignored targets add
/// nothing. `predicted` is given away, as ops::cross_entropy says.
Tensor batch_loss(Tape&, Tensor&& predicted, const io::Batch&, float label_smoothing);

}  // namespace lockstep::launch
