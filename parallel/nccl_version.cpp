#include <nccl.h>

#include "parallel/version.h"

namespace lockstep::parallel {

Version nccl_version() {
  auto text = [](int v) {
    return std::to_string(v / 10000) + "." + std::to_string(v % 10000 / 100) + "." + std::to_string(v % 100);
  };
  int found = 0;
  ncclGetVersion(&found);
  return {"NCCL", text(NCCL_VERSION_CODE), text(found)};
}

}  // namespace lockstep::parallel
