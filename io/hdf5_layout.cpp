// How datasets lie in their files: what reading without the library needs to know, and chunks as they are stored.

#define H5_USE_110_API
#include <fcntl.h>
#include <fmt/format.h>
#include <hdf5.h>

#include <algorithm>

#include "io/hdf5.h"

namespace lockstep::io::hdf5 {
namespace {

int close_list(std::int64_t id) {
  return H5Pclose(id);
}
int close_type(std::int64_t id) {
  return H5Tclose(id);
}
int close_file(std::int64_t id) {
  return H5Fclose(id);
}

/// What kind of number a type is; nothing for one that only the library understands.
std::optional<Number> number_of(hid_t type) {
  if (H5Tget_class(type) == H5T_ENUM) {  // h5py's bool
    Handle base(H5Tget_super(type), close_type);
    return base ? number_of(base.id()) : std::nullopt;
  }
  auto is = [&](hid_t other) { return H5Tequal(type, other) > 0; };
  struct Known {
    hid_t type;
    Number number;
  };
  constexpr auto whole = Class::integer, real = Class::real;
  for (const auto& known : {Known{H5T_STD_U8LE, {whole, 1, false, false}},  Known{H5T_STD_I8LE, {whole, 1, true, false}},
                            Known{H5T_STD_U8BE, {whole, 1, false, true}},   Known{H5T_STD_I8BE, {whole, 1, true, true}},
                            Known{H5T_STD_U16LE, {whole, 2, false, false}}, Known{H5T_STD_U16BE, {whole, 2, false, true}},
                            Known{H5T_STD_I16LE, {whole, 2, true, false}},  Known{H5T_STD_I16BE, {whole, 2, true, true}},
                            Known{H5T_STD_U32LE, {whole, 4, false, false}}, Known{H5T_STD_U32BE, {whole, 4, false, true}},
                            Known{H5T_STD_I32LE, {whole, 4, true, false}},  Known{H5T_STD_I32BE, {whole, 4, true, true}},
                            Known{H5T_STD_U64LE, {whole, 8, false, false}}, Known{H5T_STD_U64BE, {whole, 8, false, true}},
                            Known{H5T_STD_I64LE, {whole, 8, true, false}},  Known{H5T_STD_I64BE, {whole, 8, true, true}},
                            Known{H5T_IEEE_F32LE, {real, 4, true, false}},  Known{H5T_IEEE_F32BE, {real, 4, true, true}},
                            Known{H5T_IEEE_F64LE, {real, 8, true, false}},  Known{H5T_IEEE_F64BE, {real, 8, true, true}}})
    if (is(known.type)) return known.number;
  if (H5Tget_class(type) != H5T_FLOAT || H5Tget_size(type) != 2 || H5Tget_precision(type) != 16) return {};
  std::size_t sign = 0, exponent = 0, exponent_bits = 0, fraction = 0, fraction_bits = 0;
  H5Tget_fields(type, &sign, &exponent, &exponent_bits, &fraction, &fraction_bits);
  const bool half = sign == 15 && exponent == 10 && exponent_bits == 5 && fraction == 0 && fraction_bits == 10 &&
                    H5Tget_ebias(type) == 15 && H5Tget_norm(type) == H5T_NORM_IMPLIED;
  if (!half) return {};
  return Number{real, 2, true, H5Tget_order(type) == H5T_ORDER_BE};
}

/// Fills in the chunks of a dataset; false when the library has to read them.
bool describe_chunks(hid_t list, hid_t type, std::size_t axes, Layout& layout) {
  unsigned options = 0;
  if (H5Pget_chunk_opts(list, &options) < 0 || options != 0) return false;  // chunks at the edge would not be filtered
  std::vector<hsize_t> chunk(axes);
  if (H5Pget_chunk(list, int(axes), chunk.data()) != int(axes)) return false;
  layout.chunk.assign(chunk.begin(), chunk.end());
  for (int i = 0, n = H5Pget_nfilters(list); i < n; ++i) {
    unsigned flags = 0, values[16] = {};
    std::size_t count = 16;
    const auto id = H5Pget_filter2(list, unsigned(i), &flags, &count, values, 0, nullptr, nullptr);
    if (id < 0) return false;
    layout.filters.push_back({int(id), {values, values + std::min<std::size_t>(count, 16)}});
  }
  layout.fill.assign(H5Tget_size(type), std::byte{0});
  H5D_fill_value_t defined = H5D_FILL_VALUE_UNDEFINED;
  H5Pfill_value_defined(list, &defined);
  return defined == H5D_FILL_VALUE_UNDEFINED || H5Pget_fill_value(list, type, layout.fill.data()) >= 0;
}

/// Whether the latest error only says that a chunk was never written.
bool says_absent() {
  bool absent = false;
  auto look = [](unsigned n, const H5E_error2_t* error, void* out) -> herr_t {
    if (n == 0 && error->desc)
      *static_cast<bool*>(out) = std::string_view(error->desc).find("not allocated") != std::string_view::npos;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, look, &absent);
  if (absent) H5Eclear2(H5E_DEFAULT);
  return absent;
}

}  // namespace

Layout Data::layout() const {
  Lock lock;
  Layout layout;
  Handle list(H5Dget_create_plist(handle_.id()), close_list), type(H5Dget_type(handle_.id()), close_type);
  const auto number = type ? number_of(type.id()) : std::nullopt;
  if (!list || !number || info_.shape.empty() || count(info_.shape) == 0) return layout;
  layout.number = *number;
  const auto kind = H5Pget_layout(list.id());
  if (kind == H5D_CHUNKED && describe_chunks(list.id(), type.id(), info_.shape.size(), layout)) {
    layout.kind = Layout::Kind::chunked;
  } else if (kind == H5D_CONTIGUOUS && H5Pget_external_count(list.id()) == 0) {
    const haddr_t offset = H5Dget_offset(handle_.id());
    if (offset == HADDR_UNDEF) return layout;  // never written
    layout.kind = Layout::Kind::contiguous;
    layout.offset = std::int64_t(offset);
  }
  H5Eclear2(H5E_DEFAULT);
  return layout;
}

Data::RawChunk Data::read_chunk(const Layout& layout, const Shape& at,
                                const std::function<std::byte*(std::size_t)>& buffer) const {
  std::vector<hsize_t> first(at.size());
  std::size_t whole = std::size_t(info_.bytes);
  for (std::size_t i = 0; i < at.size(); ++i) {
    first[i] = hsize_t(at[i] * layout.chunk[i]);
    whole *= std::size_t(layout.chunk[i]);
  }
  Lock lock;
  RawChunk chunk;
  hsize_t bytes = 0;
  if (H5Dget_chunk_storage_size(handle_.id(), first.data(), &bytes) < 0) {
    if (says_absent()) return chunk;
    fail_reading(fmt::format("finding chunk {} of '{}'", to_text(at), info_.name));
  }
  if (bytes == 0) return chunk;
  // Filters may make a chunk a little larger, never much.
  require(Exit::bad_data, bytes <= whole + whole / 4 + 4096, "{}: chunk {} of '{}' claims {} bytes for {}; the file is damaged",
          file_, to_text(at), info_.name, bytes, whole);
  chunk.bytes = std::size_t(bytes);
  chunk.data = buffer(chunk.bytes);
  if (H5Dread_chunk(handle_.id(), H5P_DEFAULT, first.data(), &chunk.mask, chunk.data) < 0)
    fail_reading(fmt::format("reading chunk {} of '{}'", to_text(at), info_.name));
  return chunk;
}

int Data::descriptor() const {
  Lock lock;
  Handle file(H5Iget_file_id(handle_.id()), close_file);
  void* descriptor = nullptr;
  if (!file || H5Fget_vfd_handle(file.id(), H5P_DEFAULT, &descriptor) < 0 || !descriptor)
    fail_reading("finding the file of '" + info_.name + "'");
  const int own = fcntl(*static_cast<int*>(descriptor), F_DUPFD_CLOEXEC, 0);
  require(Exit::io, own >= 0, "{}: too many open files", file_);
  return own;
}

}  // namespace lockstep::io::hdf5
