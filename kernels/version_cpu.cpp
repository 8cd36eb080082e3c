#include "kernels/version.h"

#include <dnnl.h>

namespace lockstep::kernels {

std::vector<Version> versions() {
  auto text = [](int major, int minor, int patch) {
    return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
  };
  const dnnl_version_t* found = dnnl_version();
  std::vector<Version> all = {{"oneDNN", text(DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR, DNNL_VERSION_PATCH),
                               text(found->major, found->minor, found->patch)}};
  for (Version& v : cuda::versions()) all.push_back(std::move(v));
  return all;
}

}  // namespace lockstep::kernels
