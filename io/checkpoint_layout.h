#pragma once

// Private to io/: which elements of a checkpoint's tensors a rank writes, and where in its file.

#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint.h"
#include "io/manifest.h"

namespace lockstep::io {

/// Elements [begin, begin + size) of a tensor.
struct Slice {
  std::size_t tensor;
  std::int64_t begin, size;
};
/// What each rank holds of tensors that are not whole on every rank, by rank.
using Parts = std::vector<std::vector<Slice>>;
/// What a rank writes: its parts, and its share when all other tensors, one after another, are cut into pieces of equal bytes.
std::vector<Slice> slices_of(const std::vector<Manifest::Tensor>&, const Parts&, int rank);
/// Throws when the parts of a tensor leave a hole or overlap.
void check_parts(const std::vector<Manifest::Tensor>&, const Parts&);

/// "rank3.h5"
std::string rank_file_name(int rank);

/// An HDF5 file before it has values: where each dataset's bytes begin, and all other bytes.
struct FileLayout {
  std::int64_t bytes = 0;
  std::vector<std::int64_t> offsets;                            ///< one a slice
  std::vector<std::pair<std::int64_t, std::string>> rest = {};  ///< offset and bytes
  std::string rest_xxh3;
};
/// A file with a contiguous dataset for each slice: under the tensor's name, in its shape when it is all of it, else flat with
/// the attribute "begin". The library makes it in memory, without values, which take no space there; `path` is for errors.
FileLayout lay_out(const std::vector<Manifest::Tensor>&, const std::vector<Slice>&, const std::string& path);

/// checkpoint.h5, and where in it stands what changes from one to the next.
struct CheckpointView {
  std::string bytes;
  std::size_t step_at = 0, state_at = 0;
  std::size_t room = 0;  ///< for the state; 0: it is too large for an attribute
};
/// Bytes to keep for such a state.
std::size_t room_for(const std::string& state);
/// Every tensor as a virtual dataset over the pieces of the manifest, whose order is tensor after tensor. Takes some 50 us a tensor.
CheckpointView view_file(const Manifest&, std::size_t room);
/// Its bytes with step and state as attributes; spaces follow a state that leaves room.
std::string view_file_at(const CheckpointView&, std::int64_t step, const std::string& state);

}  // namespace lockstep::io
