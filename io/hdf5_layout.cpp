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

namespace {

std::string text_of(ssize_t (*get)(hid_t, size_t, char*, size_t), hid_t list, std::size_t i) {
  const auto length = get(list, i, nullptr, 0);
  std::string text(std::size_t(std::max<ssize_t>(length, 0)) + 1, '\0');
  get(list, i, text.data(), text.size());
  text.resize(text.size() - 1);
  return text;
}

/// "part_%b.h5" for block 3: "part_3.h5"; "%%" is a percent sign.
std::string numbered(const std::string& name, std::int64_t block) {
  std::string out;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const char next = name[i] == '%' && i + 1 < name.size() ? name[i + 1] : '\0';
    if (next == 'b') out += std::to_string(block);
    if (next == '%') out += '%';
    if (next == 'b' || next == '%')
      ++i;
    else
      out += name[i];
  }
  return out;
}

/// How many blocks a mapping without an end has in a dataset of this shape; 0: the mapping has an end.
std::int64_t blocks_of(hid_t space, const Shape& shape) {
  std::vector<hsize_t> start(shape.size()), stride(shape.size()), count(shape.size()), block(shape.size());
  if (H5Sget_select_type(space) != H5S_SEL_HYPERSLABS || H5Sis_regular_hyperslab(space) <= 0 ||
      H5Sget_regular_hyperslab(space, start.data(), stride.data(), count.data(), block.data()) < 0)
    return 0;
  for (std::size_t i = 0; i < shape.size(); ++i)
    if (count[i] == H5S_UNLIMITED)
      return (shape[i] - std::int64_t(start[i]) + std::int64_t(stride[i]) - 1) / std::int64_t(stride[i]);
  return 0;
}

int close_space(std::int64_t id) {
  return H5Sclose(id);
}
int close_dataset(std::int64_t id) {
  return H5Dclose(id);
}

/// What is wrong with a source: "is missing", "has the shape …". Looked for where the library looks: beside the virtual dataset's
/// file, then in the working folder.
std::string source_problem(hid_t own, const std::string& file, const std::string& source, const std::string& name,
                           hid_t selection, std::int64_t shown) {
  const auto slash = file.rfind('/');
  const std::string beside = source == "."                                           ? file
                             : source.starts_with('/') || slash == std::string::npos ? source
                                                                                     : file.substr(0, slash + 1) + source;
  Handle opened;
  if (beside == file) opened = Handle(H5Iget_file_id(own), close_file);
  for (const auto& path : {beside, source})
    if (!opened && !path.empty()) opened = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), close_file);
  if (!opened) return "is missing";
  Handle data(H5Dopen2(opened.id(), name.c_str(), H5P_DEFAULT), close_dataset);
  if (!data) return "has no such dataset";
  Handle space(H5Dget_space(data.id()), close_space);
  const int axes = H5Sget_simple_extent_ndims(space.id());
  std::vector<hsize_t> size(std::size_t(std::max(axes, 0))), low(size), high(size);
  H5Sget_simple_extent_dims(space.id(), size.data(), nullptr);
  bool covers = true;
  if (H5Sget_select_type(selection) == H5S_SEL_ALL) {
    covers = H5Sget_simple_extent_npoints(space.id()) >= shown;
  } else if (H5Sget_simple_extent_ndims(selection) != axes) {
    covers = false;
  } else if (H5Sget_select_bounds(selection, low.data(), high.data()) >= 0) {  // fails for one without an end
    for (std::size_t i = 0; i < size.size(); ++i) covers = covers && high[i] < size[i];
  }
  return covers ? "" : "has only the shape " + to_text(Shape(size.begin(), size.end()));
}

}  // namespace

void Data::check_sources() const {
  if (info_.layout != "virtual") return;
  Lock lock;
  Handle list(H5Dget_create_plist(handle_.id()), close_list);
  std::size_t mappings = 0;
  if (!list || H5Pget_virtual_count(list.id(), &mappings) < 0) fail_reading("listing the sources of '" + info_.name + "'");
  std::int64_t shown = 0;
  bool endless = false;
  for (std::size_t i = 0; i < mappings; ++i) {
    const std::string source = text_of(H5Pget_virtual_filename, list.id(), i),
                      name = text_of(H5Pget_virtual_dsetname, list.id(), i);
    Handle here(H5Pget_virtual_vspace(list.id(), i), close_space), there(H5Pget_virtual_srcspace(list.id(), i), close_space);
    const std::int64_t blocks = blocks_of(here.id(), info_.shape);
    endless |= blocks > 0;
    const std::int64_t here_values = blocks == 0 ? std::int64_t(H5Sget_select_npoints(here.id())) : 0;
    shown += here_values;
    const bool each = blocks > 0 && numbered(source + name, 0) != numbered(source + name, 1);
    for (std::int64_t b = 0; b < (each ? blocks : 1); ++b) {
      const std::string from = numbered(source, b), what = numbered(name, b);
      const std::string problem = source_problem(handle_.id(), file_, from, what, there.id(), here_values);
      H5Eclear2(H5E_DEFAULT);
      require(Exit::bad_data, problem.empty(), "{}: '{}' shows values of {}:{}{}, which {}", file_, info_.name,
              from == "." ? file_ : from, what.starts_with('/') ? "" : "/", what, problem);
    }
  }
  require(Exit::bad_data, endless || shown >= count(info_.shape), "{}: '{}' {} has sources for only {} of its {} values", file_,
          info_.name, to_text(info_.shape), shown, count(info_.shape));
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
