#include "io/version.h"

#include <hdf5.h>

namespace lockstep::io {

std::vector<Version> versions() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  auto text = [](unsigned a, unsigned b, unsigned c) {
    return std::to_string(a) + "." + std::to_string(b) + "." + std::to_string(c);
  };
  return {{"HDF5", text(H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE), text(major, minor, release)}};
}

}  // namespace lockstep::io
