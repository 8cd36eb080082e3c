#pragma once

#include "kernels/version.h"

namespace lockstep::io {
/// HDF5.
std::vector<Version> versions();
}  // namespace lockstep::io
