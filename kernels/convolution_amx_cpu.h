#pragma once

// Private to convolution_cpu.cpp: convolutions of f32 on a processor's matrix unit.

#include "kernels/convolution.h"

namespace lockstep::kernels::cpu {

/// Whether it pays, for the gradient of weights or else for what is made of images; `others` is what the best other way costs, in
/// products of the convolution. Decided by the shape alone. Stride and groups must be 1.
bool suits_amx(const ConvolutionShape&, bool for_weights, double others);

// As kernels::convolution and its gradients, with the precision of amx::product and bits that depend on the shape only.
void convolution_by_amx(const Queue&, const ConvolutionShape&, View y, View x, View w, View bias);
void convolution_backward_data_by_amx(const Queue&, const ConvolutionShape&, View dx, View dy, View w, Write);
void convolution_backward_weights_by_amx(const Queue&, const ConvolutionShape&, View dw, View dy, View x, Write);

}  // namespace lockstep::kernels::cpu
