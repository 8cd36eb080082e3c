#pragma once

#include <optional>
#include <string>

#include "core/parameter.h"
#include "launch/config.h"
#include "launch/session.h"
#include "parallel/bucket.h"

namespace lockstep::launch {

/// Bucket sizes and, in a sentence, where they are from; no sentence for a lone rank.
struct Buckets {
  parallel::BucketOptions sizes;
  std::string text;
};

/// Sizes that the configuration sets, and for the others those of the checkpoint that the run goes on from (`stored`), or else
/// what a short measurement of the link between the ranks finds best. The same on all ranks. Collective.
Buckets choose_buckets(const Config::Train&, const ParameterSet&, Session&,
                       const std::optional<parallel::BucketOptions>& stored = {});

}  // namespace lockstep::launch
