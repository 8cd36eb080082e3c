#include "io/rows.h"

#include <fmt/format.h>

namespace lockstep::io {

Rows::Rows(std::shared_ptr<const hdf5::File> file, const std::string& name, hdf5::Element element, bool hold)
    : file_(std::move(file)),
      data_(file_->dataset(name)),
      element_(element),
      count_(data_.rows()),
      width_(data_.width()),
      where_(file_->path() + ":/" + data_.info().name) {
  if (!hold) return;
  held_.resize(std::size_t(count_ * row_bytes()));
  const std::int64_t run = std::max<std::int64_t>(1, (std::int64_t(64) << 20) / std::max<std::int64_t>(1, row_bytes()));
  for (std::int64_t first = 0; first < count_; first += run)
    data_.read(element_, first, std::min(run, count_ - first), held_.data() + first * row_bytes());
}

const void* Rows::get(std::int64_t first, std::int64_t count, std::vector<std::byte>& scratch) const {
  if (!held_.empty()) return held_.data() + first * row_bytes();
  scratch.resize(std::size_t(count * row_bytes()));
  data_.read(element_, first, count, scratch.data());
  return scratch.data();
}

}  // namespace lockstep::io
