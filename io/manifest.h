#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lockstep::io {

/// manifest.json of a checkpoint: which elements of every tensor lie where in which file, and checksums of every byte. Loading
/// follows it and never asks the HDF5 library about a file that may be damaged.
struct Manifest {
  struct Tensor {
    std::string name;
    Shape shape;
    DType dtype = DType::f32;
    std::int64_t bytes() const { return count(shape) * std::int64_t(size_of(dtype)); }
  };
  struct File {
    std::string name;
    std::int64_t bytes = 0;
    std::string rest_xxh3;  ///< of what lies between the pieces, in order
  };
  /// Elements [begin, begin + size) of a tensor, counted in row-major order.
  struct Piece {
    std::int64_t tensor = 0, file = 0;  ///< which ones
    std::int64_t begin = 0, size = 0;
    std::int64_t offset = 0;        ///< of the first byte in the file
    std::vector<std::string> xxh3;  ///< of each block of `block_bytes`, the last one may be shorter
  };
  std::int64_t step = 0;
  std::string state = "{}";  ///< JSON
  std::int64_t block_bytes = 4 << 20;
  std::vector<Tensor> tensors;
  std::vector<File> files;
  std::vector<Piece> pieces;  ///< tensor after tensor, in order of `begin`, without holes

  std::int64_t bytes_of(const Piece& piece) const {
    return piece.size * std::int64_t(size_of(tensors[std::size_t(piece.tensor)].dtype));
  }
  std::int64_t blocks_of(const Piece& piece) const { return (bytes_of(piece) - 1) / block_bytes + 1; }

  std::string to_json() const;
  /// Throws (bad_data) beginning with `where` when the text is damaged: its own checksum, types, names, ranges, holes and
  /// overlaps are checked. Version 1 (one file, one checksum a tensor) is read too.
  static Manifest parse(const std::string& text, const std::string& where);
};

/// The bytes of a file that belong to no piece: [begin, end) in order.
struct Gap {
  std::int64_t begin, end;
};
std::vector<Gap> gaps(const Manifest&, std::int64_t file);

}  // namespace lockstep::io
