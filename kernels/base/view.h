#pragma once

#include "kernels/base/dtype.h"

namespace lockstep {

/// Dense memory that someone else owns: `size` elements of `dtype`. An empty view (no data) means "absent".
struct View {
  void* data = nullptr;
  std::int64_t size = 0;
  DType dtype = DType::f32;

  explicit operator bool() const { return data != nullptr; }
  std::size_t bytes() const { return std::size_t(size) * size_of(dtype); }
  /// Elements [begin, begin + count) of this view.
  View slice(std::int64_t begin, std::int64_t count) const {
    return {static_cast<char*>(data) + begin * std::int64_t(size_of(dtype)), count, dtype};
  }
  /// The data as T, checked; null for an absent view.
  template <class T>
  T* as() const {
    require(!data || dtype_of<std::remove_const_t<T>> == dtype, "View::as: the memory holds {}", name_of(dtype));
    return static_cast<T*>(data);
  }
};

/// Whether a kernel replaces what an output holds or adds to it.
enum class Write : std::uint8_t { overwrite, accumulate };

}  // namespace lockstep
