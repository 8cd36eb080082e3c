#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lockstep::io {

/// manifest.json of a checkpoint: where every tensor's bytes lie, and checksums of every byte. Loading follows it and never asks
/// the HDF5 library about a file that may be damaged.
struct Manifest {
  struct Stored {
    std::string name;
    Shape shape;
    DType dtype = DType::f32;
    std::string file;         ///< in the checkpoint's folder
    std::int64_t offset = 0;  ///< of the first byte in the file
    std::string xxh3;
    std::int64_t bytes() const { return count(shape) * std::int64_t(size_of(dtype)); }
  };
  struct File {
    std::string name;
    std::int64_t bytes = 0;
    std::string rest_xxh3;  ///< of what lies between the tensors, in order
  };
  std::int64_t step = 0;
  std::string state = "{}";  ///< JSON
  std::vector<Stored> tensors;
  std::vector<File> files;

  std::string to_json() const;
  /// Throws (bad_data) beginning with `where` when the text is damaged: its own checksum, types, names, ranges and overlaps are
  /// checked.
  static Manifest parse(const std::string& text, const std::string& where);
};

/// The bytes of `file` that belong to no tensor: [begin, end) in order.
struct Gap {
  std::int64_t begin, end;
};
std::vector<Gap> gaps(const Manifest&, const Manifest::File& file);

}  // namespace lockstep::io
