#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

// Private to kernels: the GPU half of copy() and synchronize().
namespace lockstep::kernels::cuda {

void copy(const Queue&, View to, View from);
void synchronize(const Queue&);

}  // namespace lockstep::kernels::cuda
