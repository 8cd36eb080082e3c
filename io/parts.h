#pragma once

#include <functional>
#include <vector>

#include "io/convert.h"
#include "io/hdf5.h"
#include "io/output.h"

namespace lockstep::io {

// What the conversions share.

void check_options(const ConvertOptions&);
/// Bytes to ask the disk for: the values, checksums and what HDF5 adds.
std::int64_t file_bytes(std::int64_t values);
/// Which rows are held out, drawn once and for all from (rows, share).
std::vector<bool> choose_rows(std::int64_t rows, double share);
/// A dataset in chunks of whole rows, about 256 KiB each, with Fletcher32: large enough to be read at full speed, small enough
/// that a row in random order costs little more than itself.
hdf5::Data create_part(hdf5::File&, const std::string& name, hdf5::Element, const Shape&);
/// Source and licence as attributes of the file.
void set_origin(hdf5::File&, const ConvertOptions&);
/// Creates the file, lets `fill` write it and closes it; when the disk is full the Error says how much was needed for `target`.
void writing(const Output&, const std::string& target, std::int64_t bytes, const std::function<void(hdf5::File&)>& fill);

/// Writes row after row, many at a time.
class PartWriter {
 public:
  PartWriter(hdf5::Data data, hdf5::Element element);
  void add(const void* row);
  void finish();  ///< writes the rest

 private:
  hdf5::Data data_;
  hdf5::Element element_;
  std::size_t row_bytes_;
  std::int64_t written_ = 0;
  std::vector<std::byte> pending_;
};

}  // namespace lockstep::io
