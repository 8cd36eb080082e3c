#pragma once

#include "kernels/version.h"

namespace lockstep::parallel {
/// MPI and NCCL. MPI need not have been started.
std::vector<Version> versions();
Version nccl_version();
}  // namespace lockstep::parallel
