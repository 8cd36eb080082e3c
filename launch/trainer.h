#pragma once

#include "io/dataset.h"
#include "launch/config.h"
#include "launch/session.h"

namespace lockstep::launch {

/// Trains as configured, in the run folder `run.folder`/`run.name`, which receives everything: metrics, checkpoints, logs, the
/// timeline. `checked`: what io::validate_file() returned. `resume`: go on from the newest complete checkpoint, or start at step
/// 0 when there is none. Collective. Exit::done, or Exit::preempted when a signal asked to stop and a checkpoint was saved.
Exit train(Session&, Config, bool resume, const io::CheckedFiles& checked = {});

}  // namespace lockstep::launch
