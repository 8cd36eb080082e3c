#include "parallel/open_communicator.h"
#include "parallel/version.h"

namespace lockstep::parallel {

std::unique_ptr<Communicator> open_nccl_communicator(Group&, const Queue&, NcclOptions) {
  throw Error("this program was built without CUDA and NCCL, so ranks cannot talk between GPUs; configure with LOCKSTEP_CUDA=ON",
              Exit::usage);
}

Version nccl_version() {
  return {"NCCL", "", ""};
}

}  // namespace lockstep::parallel
