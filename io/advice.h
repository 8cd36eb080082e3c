#pragma once

#include <string>
#include <vector>

#include "io/hdf5.h"

namespace lockstep::io {

/// What slows the reading of a data file or leaves damage unseen, a sentence each with the command that mends it: chunks too
/// large or too small for a shuffled order, rows cut by chunks, compression (a part is read to measure it), a file system on the
/// network, no manifest. The file was validated before.
std::vector<std::string> advise_on_file(const hdf5::File& file);

}  // namespace lockstep::io
