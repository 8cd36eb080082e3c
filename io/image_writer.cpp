#include "io/image_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/rows.h"

namespace lockstep::io {

namespace {
const char* const part_names[2] = {"train", "validation"};
}

ImageWriter::ImageWriter(DataFiles& files, const hdf5::Number& number, hdf5::Element element, Shape row,
                         const std::int64_t (&rows)[2], int deflate)
    : files_(files), number_(number), element_(element), row_(std::move(row)), rows_{rows[0], rows[1]} {
  for (int part = 0; part < 2; ++part) {
    if (rows[part] == 0) continue;
    const std::string name = part_names[part];
    images_[part].emplace(files, name + "/images", number, row_, rows[part], deflate);
    labels_[part].emplace(files, name + "/labels", i32, Shape{}, rows[part], deflate);
  }
  const std::size_t channels = row_.size() == 3 ? std::size_t(row_[2]) : 1;
  sum_.resize(channels), square_.resize(channels);
}

void ImageWriter::add(bool held_out, const void* image, std::int32_t label) {
  images_[held_out]->add(image);
  labels_[held_out]->add(&label);
  if (held_out) return;
  const std::int64_t values = count(row_), channels = std::int64_t(sum_.size());
  visit(element_, image, [&](const auto* x) {
    for (std::int64_t i = 0; i < values; i += channels)
      for (std::int64_t c = 0; c < channels; ++c) {
        const double v = double(x[i + c]);
        sum_[std::size_t(c)] += v, square_[std::size_t(c)] += v * v;
      }
  });
  pixels_ += values / channels;
}

void ImageWriter::finish(std::int64_t classes, const std::vector<std::string>& names) {
  classes_ = names.empty() ? classes : std::int64_t(names.size());
  for (auto* writers : {images_, labels_})
    for (int part = 0; part < 2; ++part)
      if (writers[part]) writers[part]->finish();
  for (const char* part : part_names) {
    const std::string labels = std::string(part) + "/labels";
    if (names.empty())
      files_.set(labels, "classes", classes_);
    else
      files_.set(labels, "classes", names);
  }
  const double white = element_ == hdf5::Element::u8 ? 255 : 1, n = double(pixels_);
  std::vector<double> mean, deviation;
  for (std::size_t c = 0; c < sum_.size(); ++c) {
    mean.push_back(sum_[c] / n / white);
    deviation.push_back(std::sqrt(std::max(0.0, square_[c] / n / (white * white) - mean[c] * mean[c])));
  }
  files_.set("train/images", "mean", mean);
  files_.set("train/images", "std", deviation);
}

std::string ImageWriter::report() const {
  std::string text;
  for (int part = 0; part < 2; ++part) {
    if (!images_[part]) continue;
    Shape shape = row_;
    shape.insert(shape.begin(), rows_[part]);
    text += fmt::format("{}: {}/images {}, {} classes\n", files_.names(), part_names[part], to_text(shape), classes_);
  }
  return text + explain_chunk(images_[0]->chunk(), number_.bytes) + "\n";
}

}  // namespace lockstep::io
