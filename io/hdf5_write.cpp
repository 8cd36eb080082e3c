// Datasets that grow row by row, of any number type.

#define H5_USE_110_API
#include <hdf5.h>

#include <algorithm>
#include <cstring>

#include "io/hdf5.h"
#include "kernels/base/check.h"

namespace lockstep::io::hdf5 {
namespace {

using Sizes = std::vector<hsize_t>;

int close_list(std::int64_t id) {
  return H5Pclose(id);
}
int close_space(std::int64_t id) {
  return H5Sclose(id);
}
int close_type(std::int64_t id) {
  return H5Tclose(id);
}
int close_dataset(std::int64_t id) {
  return H5Dclose(id);
}

/// The library's innermost reason, as one line.
std::string reason() {
  std::string text;
  auto take = [](unsigned n, const H5E_error2_t* error, void* out) -> herr_t {
    if (n == 0 && error->desc) *static_cast<std::string*>(out) = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take, &text);
  H5Eclear2(H5E_DEFAULT);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? "the HDF5 library gave no reason" : text;
}

/// IEEE reals of 16 bits are no type of the library's own.
Handle half_type(bool big) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), close_type);
  H5Tset_fields(type.id(), 15, 10, 5, 0, 10);
  H5Tset_size(type.id(), 2);
  H5Tset_ebias(type.id(), 15);
  H5Tset_order(type.id(), big ? H5T_ORDER_BE : H5T_ORDER_LE);
  return type;
}

Handle type_of(const Number& number) {
  require(number.bytes == 1 || number.bytes == 2 || number.bytes == 4 || number.bytes == 8, "hdf5: numbers of {} bytes",
          number.bytes);
  if (number.type == Class::real && number.bytes == 2) return half_type(number.big_endian);
  hid_t type = number.type == Class::real ? (number.bytes == 8 ? H5T_IEEE_F64LE : H5T_IEEE_F32LE)
               : number.bytes == 1        ? (number.is_signed ? H5T_STD_I8LE : H5T_STD_U8LE)
               : number.bytes == 2        ? (number.is_signed ? H5T_STD_I16LE : H5T_STD_U16LE)
               : number.bytes == 4        ? (number.is_signed ? H5T_STD_I32LE : H5T_STD_U32LE)
                                          : (number.is_signed ? H5T_STD_I64LE : H5T_STD_U64LE);
  Handle copy(H5Tcopy(type), close_type);
  if (number.big_endian) H5Tset_order(copy.id(), H5T_ORDER_BE);
  return copy;
}

}  // namespace

Data File::create_rows(const std::string& name, const Number& number, const Shape& row, const RowsOptions& options) {
  require(options.chunk.size() == row.size() + 1, "hdf5: chunks of {} axes for rows of {}", options.chunk.size(), row.size());
  Lock lock;
  Handle links(H5Pcreate(H5P_LINK_CREATE), close_list), list(H5Pcreate(H5P_DATASET_CREATE), close_list), type = type_of(number);
  H5Pset_create_intermediate_group(links.id(), 1);
  const Sizes chunk(options.chunk.begin(), options.chunk.end());
  Sizes size(row.begin(), row.end()), most;
  size.insert(size.begin(), 0);
  most = size;
  most[0] = options.rows < 0 ? H5S_UNLIMITED : hsize_t(options.rows);
  bool ok = H5Pset_chunk(list.id(), int(chunk.size()), chunk.data()) >= 0;
  if (options.deflate > 0) {
    ok = ok && (number.bytes == 1 || H5Pset_shuffle(list.id()) >= 0);
    ok = ok && H5Pset_deflate(list.id(), unsigned(options.deflate)) >= 0;
  }
  if (options.checksum) ok = ok && H5Pset_fletcher32(list.id()) >= 0;
  Handle space(H5Screate_simple(int(size.size()), size.data(), most.data()), close_space);
  Handle dataset(ok ? H5Dcreate2(handle_.id(), name.c_str(), type.id(), space.id(), links.id(), list.id(), H5P_DEFAULT) : -1,
                 close_dataset);
  if (!dataset) throw Error(path_ + ": creating '" + name + "' failed: " + reason(), Exit::io);
  Info info;
  info.name = name.substr(std::min(name.find_first_not_of('/'), name.size()));
  info.shape = Shape(size.begin(), size.end());
  info.type = number.type;
  info.bytes = number.bytes;
  info.is_signed = number.is_signed;
  return Data(std::move(dataset), path_, std::move(info));
}

void Data::append(std::int64_t count, const void* from) {
  if (count == 0) return;
  Lock lock;
  Sizes begin(info_.shape.size(), 0), size(info_.shape.begin(), info_.shape.end()), block = size;
  begin[0] = size[0];
  block[0] = hsize_t(count);
  size[0] += hsize_t(count);
  bool ok = H5Dset_extent(handle_.id(), size.data()) >= 0;
  Handle in_file(H5Dget_space(handle_.id()), close_space), type(H5Dget_type(handle_.id()), close_type);
  Handle in_memory(H5Screate_simple(int(block.size()), block.data(), nullptr), close_space);
  ok = ok && H5Sselect_hyperslab(in_file.id(), H5S_SELECT_SET, begin.data(), nullptr, block.data(), nullptr) >= 0;
  ok = ok && (width() == 0 || H5Dwrite(handle_.id(), type.id(), in_memory.id(), in_file.id(), H5P_DEFAULT, from) >= 0);
  if (!ok)
    throw Error(file_ + ": writing rows " + std::to_string(info_.shape[0]) + " to " + std::to_string(size[0] - 1) + " of '" +
                    info_.name + "' failed: " + reason(),
                Exit::io);
  info_.shape[0] += count;
}

}  // namespace lockstep::io::hdf5
