#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/hdf5.h"

namespace lockstep::io {

/// The rows of one numeric dataset of a file: held in memory, or read in runs when they are asked for. Thread-safe.
class Rows {
 public:
  /// Values are kept as `element`. hold: read everything now.
  Rows(std::shared_ptr<const hdf5::File>, const std::string& name, hdf5::Element, bool hold);

  std::int64_t count() const { return count_; }
  std::int64_t width() const { return width_; }  ///< values of a row
  std::int64_t row_bytes() const { return width_ * std::int64_t(hdf5::size_of(element_)); }
  hdf5::Element element() const { return element_; }
  const std::string& where() const { return where_; }  ///< "fashion.h5:/train/images"

  /// Rows [first, first + count) one after another: a place in memory, or `scratch`, which is filled.
  const void* get(std::int64_t first, std::int64_t count, std::vector<std::byte>& scratch) const;

 private:
  std::shared_ptr<const hdf5::File> file_;
  hdf5::Data data_;
  hdf5::Element element_;
  std::int64_t count_, width_;
  std::string where_;
  std::vector<std::byte> held_;
};

/// Calls f with a typed pointer to values that Rows::get gave.
template <class F>
decltype(auto) visit(hdf5::Element element, const void* data, F&& f) {
  switch (element) {
    case hdf5::Element::u8: return f(static_cast<const std::uint8_t*>(data));
    case hdf5::Element::u16: return f(static_cast<const std::uint16_t*>(data));
    case hdf5::Element::i32: return f(static_cast<const std::int32_t*>(data));
    default: return f(static_cast<const float*>(data));
  }
}

}  // namespace lockstep::io
