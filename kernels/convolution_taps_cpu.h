#pragma once

// Private to kernels/convolution_cpu.cpp: convolutions of small images with many channels as one product for each tap.

#include "kernels/convolution.h"

namespace lockstep::kernels::cpu {

/// Whether an f32 convolution with one group should go by taps; `others` is what the best other way costs, in multiplications.
bool suits_taps(const ConvolutionShape&, double others);

void convolution_by_taps(const Queue&, const ConvolutionShape&, View y, View x, View w, View bias);
void convolution_backward_data_by_taps(const Queue&, const ConvolutionShape&, View dx, View dy, View w, Write);
void convolution_backward_weights_by_taps(const Queue&, const ConvolutionShape&, View dw, View dy, View x, Write);

}  // namespace lockstep::kernels::cpu
