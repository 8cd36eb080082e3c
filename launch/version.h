#pragma once

#include "kernels/version.h"

namespace lockstep::launch {

/// Everything this program stands on: Lockstep itself (commit), compiler, MPI, CUDA, NCCL, cuDNN, HDF5, oneDNN.
std::vector<Version> versions();
/// As a table, for --version: built with, and found where it differs.
std::string version_text();

}  // namespace lockstep::launch
