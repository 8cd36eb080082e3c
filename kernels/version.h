#pragma once

#include <string>
#include <vector>

namespace lockstep {

/// A library that Lockstep stands on: the version it was compiled with and the one that runs. Empty: not built in; not found.
struct Version {
  std::string name, built, found;
};

namespace kernels {
/// oneDNN, CUDA with its driver, cuBLASLt, cuDNN.
std::vector<Version> versions();
}  // namespace kernels

namespace kernels::cuda {
std::vector<Version> versions();
}  // namespace kernels::cuda

}  // namespace lockstep
