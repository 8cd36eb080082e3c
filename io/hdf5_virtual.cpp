// Files in memory, and virtual datasets: whole tensors whose values lie in the files of several ranks.

#define H5_USE_110_API
#include <hdf5.h>

#include <algorithm>

#include "io/hdf5.h"
#include "io/raw_file.h"
#include "kernels/base/check.h"

namespace lockstep::io::hdf5 {
namespace {

using Sizes = std::vector<hsize_t>;

/// An identifier that is closed when it goes.
struct Id {
  hid_t id;
  herr_t (*close)(hid_t);
  Id(hid_t id, herr_t (*close)(hid_t)) : id(id), close(close) {}
  ~Id() {
    if (id >= 0) close(id);
  }
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
};

Id space_of(const Shape& shape) {
  const Sizes size(shape.begin(), shape.end());
  return {shape.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(int(size.size()), size.data(), nullptr), H5Sclose};
}

/// Adds elements [begin, end), counted in row-major order below `at`, to a selection: part of a row, whole rows, part of a row.
bool select(hid_t space, const Shape& shape, Sizes& at, std::int64_t begin, std::int64_t end) {
  if (begin >= end) return true;
  const std::size_t axis = at.size();
  std::int64_t inner = 1;
  for (std::size_t i = axis + 1; i < shape.size(); ++i) inner *= shape[i];
  auto part = [&](std::int64_t row, std::int64_t from, std::int64_t to) {
    at.push_back(hsize_t(row));
    const bool ok = select(space, shape, at, from, to);
    at.pop_back();
    return ok;
  };
  if (begin % inner != 0) {
    const std::int64_t row = begin / inner, stop = std::min(end, (row + 1) * inner);
    return part(row, begin - row * inner, stop - row * inner) && select(space, shape, at, stop, end);
  }
  const std::int64_t first = begin / inner, last = end / inner;
  if (first < last) {
    Sizes start = at, size(at.size(), 1);
    start.push_back(hsize_t(first)), size.push_back(hsize_t(last - first));
    for (std::size_t i = axis + 1; i < shape.size(); ++i) start.push_back(0), size.push_back(hsize_t(shape[i]));
    if (H5Sselect_hyperslab(space, H5S_SELECT_OR, start.data(), nullptr, size.data(), nullptr) < 0) return false;
  }
  return last * inner == end || part(last, 0, end - last * inner);
}

}  // namespace

File File::create_in(const RawFile& memory) {
  Lock lock;
  Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fapl_stdio(access.id);  // the library's usual driver looks for the real path, and there is none
  Handle file(H5Fcreate(memory.path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.id),
              [](std::int64_t id) { return int(H5Fclose(id)); });
  require(Exit::io, bool(file), "a file in memory could not be opened");
  return {std::move(file), "a file in memory"};
}

std::string File::image() const {
  Lock lock;
  bool ok = H5Fflush(handle_.id(), H5F_SCOPE_GLOBAL) >= 0;
  const ssize_t size = ok ? H5Fget_file_image(handle_.id(), nullptr, 0) : -1;
  std::string bytes(std::size_t(std::max<ssize_t>(size, 0)), '\0');
  ok = size > 0 && H5Fget_file_image(handle_.id(), bytes.data(), bytes.size()) == size;
  require(Exit::io, ok, "{}: its bytes could not be had", path_);
  return bytes;
}

void File::create_virtual(const std::string& name, Element element, const Shape& shape, const std::vector<Source>& sources,
                          double fill) {
  Lock lock;
  Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose), list(H5Pcreate(H5P_DATASET_CREATE), H5Pclose), space = space_of(shape);
  bool ok = H5Pset_create_intermediate_group(links.id, 1) >= 0 && H5Pset_fill_value(list.id, H5T_NATIVE_DOUBLE, &fill) >= 0;
  for (const auto& source : sources) {
    Id here = space_of(shape), there = space_of(source.shape);
    Sizes at;
    if (!shape.empty())
      ok = ok && H5Sselect_none(here.id) >= 0 && select(here.id, shape, at, source.begin, source.begin + count(source.shape));
    ok = ok && H5Pset_virtual(list.id, here.id, source.file.c_str(), name.c_str(), there.id) >= 0;
  }
  const hid_t type = element == Element::u8    ? H5T_STD_U8LE
                     : element == Element::u16 ? H5T_STD_U16LE
                     : element == Element::i32 ? H5T_STD_I32LE
                                               : H5T_IEEE_F32LE;
  Id dataset(ok ? H5Dcreate2(handle_.id(), name.c_str(), type, space.id, links.id, list.id, H5P_DEFAULT) : -1, H5Dclose);
  require(Exit::io, dataset.id >= 0, "{}: the virtual dataset '{}' {} could not be made", path_, name, to_text(shape));
}

}  // namespace lockstep::io::hdf5
