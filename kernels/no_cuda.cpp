// Stands in for kernels/*_cuda.{cpp,cu} where the CUDA half is not built.

#include "kernels/base/check.h"
#include "kernels/libraries.h"

namespace lockstep {
namespace {
[[noreturn]] void absent() {
  throw Error("This program was built without CUDA.", Exit::usage);
}
}  // namespace

std::shared_ptr<CudaLibraries> make_cuda_libraries(CUstream_st*) {
  absent();
}

}  // namespace lockstep
