#pragma once

#include <functional>
#include <string>

#include "launch/session.h"

namespace lockstep::launch {

/// Before the first step on GPUs: rank 0 calls `rehearse`, a step's forward and backward, and times the algorithms of every
/// product it meets that is in neither `saved` (what a checkpoint holds, which comes first) nor the notes of earlier runs on such
/// a GPU with such a library. All ranks then follow its choices. `setting`: train.products. Returns a line for the log; "" where
/// nothing was done.
std::string settle_products(Session&, const std::string& setting, const std::string& saved,
                            const std::function<void()>& rehearse);

}  // namespace lockstep::launch
