#include "parallel/staging.h"

namespace lockstep::parallel {

std::unique_ptr<Staging> open_cuda_staging(const Queue&) {
  throw Error("this program was built without CUDA, so there is no GPU memory to move; configure with LOCKSTEP_CUDA=ON",
              Exit::usage);
}

}  // namespace lockstep::parallel
