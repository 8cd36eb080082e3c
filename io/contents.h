#pragma once

// Private to io/: what a file says of itself, as bytes that pass from one process to another.

#include <string>

#include "io/dataset.h"
#include "io/hdf5.h"
#include "io/places.h"

namespace lockstep::io {

struct CheckedFile {
  FileState state;  ///< before it was looked through
  hdf5::Contents contents;
};
/// Opens a file; what it says of itself is known when it is among those checked. Throws (bad_data) when it changed since.
hdf5::File open_checked(const std::string& path, const CheckedFiles&);

std::string to_bytes(const hdf5::Contents&);
/// Throws (bad_data), naming `path`, unless the bytes are such contents and their shapes are possible: a damaged file may have
/// confused who wrote them.
hdf5::Contents contents_from(const std::string& bytes, const std::string& path);

}  // namespace lockstep::io
