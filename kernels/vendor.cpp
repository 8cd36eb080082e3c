#include "kernels/vendor.h"

namespace lockstep::kernels {

float* workspace(const Queue& q, std::int64_t floats) {
  return q.on_gpu ? cuda::workspace(q, floats) : cpu::workspace(q, floats);
}

}  // namespace lockstep::kernels
