#pragma once

// Private to kernels/ and its tests: what cuDNN says to our graphs for a GPU that is only described. It needs no GPU, so that a
// graph which cuDNN would refuse is found where programs are built.

#include <string>

#include "kernels/attention.h"
#include "kernels/convolution.h"

namespace lockstep::kernels::cuda {

struct GraphCheck {
  int offered = 0;     ///< engines that cuDNN offers, each with its settings
  int acceptable = 0;  ///< those of them that keep our promises (the same bits each run, sums in f32) and suit the device
  std::int64_t workspace_bytes = 0;  ///< of the first acceptable one
  std::string engine;                ///< its number in cuDNN, and whether it is compiled at run time
  std::string refusal;               ///< what cuDNN says where it has none
};

/// The passes of a convolution that are graphs of cuDNN; kernels/convolution.h and vendor.h say what each computes.
enum class ConvolutionPass : std::int64_t { forward, data, weights, sums };

/// `device`: a GPU's properties as JSON, in the words of cuDNN's CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION. `add`: the result is
/// added to what is there. All addresses count as aligned to 16 bytes.
GraphCheck check_convolution(const std::string& device, ConvolutionPass, const ConvolutionShape&, DType, bool add);
/// Attention through cuDNN's frontend, which tells neither workspace nor engine without a GPU.
GraphCheck check_attention(const std::string& device, const AttentionShape&, DType, bool backward);

}  // namespace lockstep::kernels::cuda
