#pragma once

#include <optional>
#include <string>
#include <vector>

#include "io/parts.h"

namespace lockstep::io {

/// Writes images with their class: train/images, train/labels and the same in `validation`; at the end `classes`, `mean` and
/// `std` (of each channel of the training images; of u8 in units of 255) as attributes.
class ImageWriter {
 public:
  /// row: (height, width) or (height, width, channels); rows: of training and held out.
  ImageWriter(DataFiles&, const hdf5::Number&, hdf5::Element, Shape row, const std::int64_t (&rows)[2], int deflate);
  void add(bool held_out, const void* image, std::int32_t label);
  /// `names` may be empty: then there are `classes` numbers.
  void finish(std::int64_t classes, const std::vector<std::string>& names);
  /// A line for each part, and why the chunks are what they are.
  std::string report() const;

 private:
  DataFiles& files_;
  hdf5::Number number_;
  hdf5::Element element_;
  Shape row_;
  std::int64_t rows_[2], classes_ = 0;
  std::optional<PartWriter> images_[2], labels_[2];
  std::vector<double> sum_, square_;
  std::int64_t pixels_ = 0;
};

}  // namespace lockstep::io
