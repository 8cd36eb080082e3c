#include "io/hdf5.h"

#include <fcntl.h>
#include <fmt/format.h>
#define H5_USE_110_API  // the same calls with every later release
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

namespace lockstep::io::hdf5 {

static_assert(std::is_same_v<hid_t, std::int64_t>, "identifiers of HDF5 1.10 and newer");

namespace {

std::mutex& mutex() {
  static std::mutex one;
  return one;
}
// Calls nest. Counted here and not by a recursive mutex, which would not know its owner again in a forked child.
thread_local int depth = 0;
void lock_library() {
  if (depth++ == 0) mutex().lock();
}
void unlock_library() {
  if (--depth == 0) mutex().unlock();
}

void start_library() {
  static const bool started = [] {
    // Network file systems without locks would refuse every open; a setting of the user's own stands.
    setenv("HDF5_USE_FILE_LOCKING", "BEST_EFFORT", 0);
    // We close what we open. The library's own clean-up at exit loops over files whose last write failed (full disk).
    H5dont_atexit();
    return H5open() >= 0;
  }();
  require(Exit::io, started, "The HDF5 library could not be started.");
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // for each thread where the library keeps a stack for each
}

/// The innermost reason on the library's error stack.
std::string reason() {
  std::string text;
  auto take = [](unsigned n, const H5E_error2_t* error, void* out) -> herr_t {
    auto& text = *static_cast<std::string*>(out);
    if (n == 0 && error->desc) text = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take, &text);
  H5Eclear2(H5E_DEFAULT);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? "the HDF5 library gave no reason" : text;
}

[[noreturn]] void damaged(const std::string& file, const std::string& what) {
  throw Error(fmt::format("{}: {} failed, the file is damaged or unusual: {}", file, what, reason()), Exit::bad_data);
}
[[noreturn]] void unwritten(const std::string& file, const std::string& what) {
  throw Error(fmt::format("{}: {} failed: {}", file, what, reason()), Exit::io);
}

int close_file(std::int64_t id) {
  return H5Fclose(id);
}
int close_dataset(std::int64_t id) {
  return H5Dclose(id);
}
int close_space(std::int64_t id) {
  return H5Sclose(id);
}
int close_type(std::int64_t id) {
  return H5Tclose(id);
}
int close_list(std::int64_t id) {
  return H5Pclose(id);
}
int close_attribute(std::int64_t id) {
  return H5Aclose(id);
}
int close_object(std::int64_t id) {
  return H5Oclose(id);
}

hid_t memory_type(Element e) {
  switch (e) {
    case Element::u8: return H5T_NATIVE_UINT8;
    case Element::u16: return H5T_NATIVE_UINT16;
    case Element::i32: return H5T_NATIVE_INT32;
    case Element::i64: return H5T_NATIVE_INT64;
    default: return H5T_NATIVE_FLOAT;
  }
}
hid_t file_type(Element e) {
  switch (e) {
    case Element::u8: return H5T_STD_U8LE;
    case Element::u16: return H5T_STD_U16LE;
    case Element::i32: return H5T_STD_I32LE;
    case Element::i64: return H5T_STD_I64LE;
    default: return H5T_IEEE_F32LE;
  }
}

std::vector<hsize_t> sizes(const Shape& shape) {
  return {shape.begin(), shape.end()};
}

void describe_type(hid_t type, Info& info) {
  info.bytes = int(H5Tget_size(type));
  bool big = info.bytes > 1 && H5Tget_order(type) == H5T_ORDER_BE;
  switch (H5Tget_class(type)) {
    case H5T_INTEGER:
    case H5T_BITFIELD:
      info.type = Class::integer;
      info.is_signed = H5Tget_class(type) == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_2;
      info.type_text = fmt::format("{}{}", info.is_signed ? "i" : "u", 8 * info.bytes);
      break;
    case H5T_ENUM:  // h5py's bool
      info.type = Class::integer;
      info.type_text = fmt::format("enum of {} bit", 8 * info.bytes);
      break;
    case H5T_FLOAT:
      info.type = Class::real;
      info.type_text = fmt::format("f{}", 8 * info.bytes);
      break;
    case H5T_STRING: info.type = Class::text, info.type_text = "text", big = false; break;
    case H5T_COMPOUND: info.type_text = "compound", big = false; break;
    default: info.type_text = "type that is no number", big = false; break;
  }
  if (big) info.type_text += " big-endian";
}

void describe_layout(hid_t dataset, Info& info) {
  Handle list(H5Dget_create_plist(dataset), close_list);
  if (!list) return;
  switch (H5Pget_layout(list.id())) {
    case H5D_CHUNKED: {
      std::vector<hsize_t> chunk(info.shape.size());
      H5Pget_chunk(list.id(), int(chunk.size()), chunk.data());
      info.layout = "chunks " + to_text(Shape(chunk.begin(), chunk.end()));
      break;
    }
    case H5D_CONTIGUOUS: info.layout = H5Pget_external_count(list.id()) > 0 ? "external" : "contiguous"; break;
    case H5D_COMPACT: info.layout = "compact"; break;
    case H5D_VIRTUAL: info.layout = "virtual"; break;
    default: info.layout = "unknown";
  }
  for (int i = 0, n = H5Pget_nfilters(list.id()); i < n; ++i) {
    unsigned flags = 0, values[8] = {}, config = 0;
    std::size_t count = 8;
    char name[64] = "";
    auto id = H5Pget_filter2(list.id(), unsigned(i), &flags, &count, values, sizeof name, name, &config);
    std::string text = id == H5Z_FILTER_DEFLATE      ? fmt::format("deflate {}", values[0])
                       : id == H5Z_FILTER_SHUFFLE    ? "shuffle"
                       : id == H5Z_FILTER_FLETCHER32 ? "fletcher32"
                       : id == H5Z_FILTER_SZIP       ? "szip"
                       : name[0]                     ? std::string(name)
                                                     : fmt::format("filter {}", id);
    info.filters += (info.filters.empty() ? "" : ", ") + text;
  }
}

Info describe(hid_t dataset, const std::string& name, const std::string& file) {
  Info info;
  info.name = name;
  Handle space(H5Dget_space(dataset), close_space), type(H5Dget_type(dataset), close_type);
  if (!space || !type) damaged(file, "reading the shape and type of '" + name + "'");
  int axes = H5Sget_simple_extent_ndims(space.id());
  if (axes < 0) damaged(file, "reading the shape of '" + name + "'");
  std::vector<hsize_t> dims(std::size_t(axes), 0), limit = dims;
  H5Sget_simple_extent_dims(space.id(), dims.data(), limit.data());
  if (H5Sget_simple_extent_type(space.id()) == H5S_NULL) dims = limit = {0};
  info.shape.assign(dims.begin(), dims.end());
  info.limit.assign(limit.begin(), limit.end());
  describe_type(type.id(), info);
  // A damaged shape must not overflow what is computed from it.
  long double total = info.bytes;
  for (auto d : dims) total *= (long double)d;
  require(Exit::bad_data,
          total < 9e18L && std::all_of(dims.begin(), dims.end(), [](hsize_t d) { return d < (hsize_t(1) << 62); }),
          "{}: '{}' claims the impossible shape {}; the file is damaged", file, name, to_text(info.shape));
  describe_layout(dataset, info);
  return info;
}

std::string plain(const std::string& name) {
  auto begin = name.find_first_not_of('/');
  return begin == std::string::npos ? "" : name.substr(begin);
}

Handle open_attribute(hid_t file, const std::string& object, const std::string& attribute) {
  std::string path = plain(object).empty() ? "/" : object;
  if (H5Aexists_by_name(file, path.c_str(), attribute.c_str(), H5P_DEFAULT) <= 0) return {};
  return {H5Aopen_by_name(file, path.c_str(), attribute.c_str(), H5P_DEFAULT, H5P_DEFAULT), close_attribute};
}

/// Writes an attribute, replacing one of that name.
void write_attribute(hid_t file, const std::string& path, const std::string& object, const std::string& name, hid_t type,
                     std::optional<hsize_t> count, const void* values) {
  Handle target(H5Oopen(file, plain(object).empty() ? "/" : object.c_str(), H5P_DEFAULT), close_object);
  if (!target) unwritten(path, "opening '" + object + "' to set an attribute");
  if (H5Aexists(target.id(), name.c_str()) > 0) H5Adelete(target.id(), name.c_str());
  Handle space(count ? H5Screate_simple(1, &*count, nullptr) : H5Screate(H5S_SCALAR), close_space);
  Handle made(H5Acreate2(target.id(), name.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT), close_attribute);
  if (!made || H5Awrite(made.id(), type, values) < 0) unwritten(path, "writing the attribute '" + name + "'");
}

Handle text_type() {
  Handle type(H5Tcopy(H5T_C_S1), close_type);
  H5Tset_size(type.id(), H5T_VARIABLE);
  H5Tset_cset(type.id(), H5T_CSET_UTF8);
  return type;
}

}  // namespace

Lock::Lock() {
  lock_library();
  try {
    start_library();
  } catch (...) {
    unlock_library();
    throw;
  }
}
Lock::~Lock() {
  unlock_library();
}

Handle::~Handle() {
  if (id_ < 0) return;
  lock_library();
  close_(id_);
  unlock_library();
}

std::string Info::text() const {
  return name + " " + to_text(shape) + " " + type_text;
}

std::string version() {
  Lock lock;
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

void forgo_free_lists() {
  Lock lock;
  H5garbage_collect();
  H5set_free_list_limits(0, 0, 0, 0, 0, 0);
}

// ---- one dataset

Data::Data(Handle handle, std::string file, Info info)
    : handle_(std::move(handle)), file_(std::move(file)), info_(std::move(info)) {}

std::int64_t Data::width() const {
  std::int64_t n = 1;
  for (std::size_t i = 1; i < info_.shape.size(); ++i) n *= info_.shape[i];
  return n;
}

namespace {
/// The rows [first, first + count) as a selection in the file and a dense block in memory.
std::pair<Handle, Handle> select(hid_t dataset, const Info& info, std::int64_t first, std::int64_t count) {
  Handle in_file(H5Dget_space(dataset), close_space);
  if (info.shape.empty()) return {std::move(in_file), Handle(H5Screate(H5S_SCALAR), close_space)};
  auto size = sizes(info.shape);
  std::vector<hsize_t> begin(size.size(), 0);
  begin[0] = hsize_t(first);
  size[0] = hsize_t(count);
  if (in_file) H5Sselect_hyperslab(in_file.id(), H5S_SELECT_SET, begin.data(), nullptr, size.data(), nullptr);
  return {std::move(in_file), Handle(H5Screate_simple(int(size.size()), size.data(), nullptr), close_space)};
}
}  // namespace

void Data::read(Element element, std::int64_t first, std::int64_t count, void* out) const {
  if (count == 0 || width() == 0) return;
  require(first >= 0 && count >= 0 && first + count <= rows(), "{}: rows {} to {} of '{}', which has {}", file_, first,
          first + count, info_.name, rows());
  Lock lock;
  auto [in_file, in_memory] = select(handle_.id(), info_, first, count);
  if (!in_file || !in_memory || H5Dread(handle_.id(), memory_type(element), in_memory.id(), in_file.id(), H5P_DEFAULT, out) < 0)
    damaged(file_, fmt::format("reading rows {} to {} of '{}'", first, first + count - 1, info_.name));
}

void Data::write(Element element, std::int64_t first, std::int64_t count, const void* from) {
  if (count == 0 || width() == 0) return;
  Lock lock;
  auto [in_file, in_memory] = select(handle_.id(), info_, first, count);
  if (!in_file || !in_memory || H5Dwrite(handle_.id(), memory_type(element), in_memory.id(), in_file.id(), H5P_DEFAULT, from) < 0)
    unwritten(file_, fmt::format("writing rows {} to {} of '{}'", first, first + count - 1, info_.name));
}

void Data::fail_reading(const std::string& what) const {
  damaged(file_, what);
}

std::int64_t Data::offset() const {
  Lock lock;
  haddr_t address = H5Dget_offset(handle_.id());
  require(Exit::io, address != HADDR_UNDEF, "{}: '{}' has no place in the file", file_, info_.name);
  return std::int64_t(address);
}

std::int64_t Data::header() const {
  Lock lock;
  H5O_info_t object{};
  if (H5Oget_info2(handle_.id(), &object, H5O_INFO_BASIC) < 0) damaged(file_, "finding the header of '" + info_.name + "'");
  return std::int64_t(object.addr);
}

// ---- a file

File File::open(const std::string& path) {
  struct stat status {};
  int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  int problem = errno;
  require(Exit::bad_data, descriptor >= 0, "{}: {}", path, problem == ENOENT ? "no such file" : std::strerror(problem));
  fstat(descriptor, &status);
  ::close(descriptor);
  require(Exit::bad_data, S_ISREG(status.st_mode), "{}: not a file", path);
  require(Exit::bad_data, status.st_size > 0, "{}: the file is empty", path);

  Lock lock;
  // The library's own degree of closing: it opens the sources of virtual datasets with that, and reads fill values when it
  // cannot.
  Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), close_file);
  if (!file) {
    std::string why = reason();
    if (why.find("signature not found") != std::string::npos)
      throw Error(path + ": not an HDF5 file; `lockstep data text|idx|csv` makes one from other formats", Exit::bad_data);
    if (why.find("unable to lock") != std::string::npos)
      throw Error(path + ": another program is writing this file (or set HDF5_USE_FILE_LOCKING=FALSE): " + why, Exit::bad_data);
    throw Error(path + ": this HDF5 file is damaged: " + why, Exit::bad_data);
  }
  return File(std::move(file), path);
}

File File::create(const std::string& path) {
  Lock lock;
  Handle access(H5Pcreate(H5P_FILE_ACCESS), close_list);
  H5Pset_fclose_degree(access.id(), H5F_CLOSE_STRONG);
  Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.id()), close_file);
  if (!file) unwritten(path, "creating the file");
  return File(std::move(file), path);
}

void File::close() {
  if (!handle_) return;
  Lock lock;
  if (H5Fflush(handle_.id(), H5F_SCOPE_GLOBAL) < 0) {
    std::string why = reason();
    throw Error(path_ + ": writing out failed: " + why, Exit::io);
  }
  if (H5Fclose(handle_.release()) < 0) unwritten(path_, "closing the file");
}

const Info* File::known(const std::string& name) const {
  for (const auto& info : known_->datasets)
    if (info.name == plain(name)) return &info;
  return nullptr;
}
const Contents::Attribute* File::known(const std::string& object, const std::string& attribute) const {
  for (const auto& a : known_->attributes)
    if (a.name == attribute && a.object == plain(object)) return &a;
  return nullptr;
}

Contents File::contents() const {
  Contents all{datasets(true)};
  std::set<std::string> objects = {""};
  for (const auto& info : all.datasets) {
    for (auto end = info.name.find('/'); end != std::string::npos; end = info.name.find('/', end + 1))
      objects.insert(info.name.substr(0, end));
    objects.insert(info.name);
  }
  for (const auto& object : objects)
    for (const auto& name : attributes(object)) {
      auto values = numbers(object, name);
      auto words = values ? std::nullopt : texts(object, name);
      all.attributes.push_back({object, name, std::move(values), std::move(words)});
    }
  return all;
}

std::vector<Info> File::datasets(bool count_stored) const {
  if (known_) return known_->datasets;
  Lock lock;
  struct Walk {
    std::vector<std::string> names;
  } walk;
  auto note = [](hid_t, const char* name, const H5O_info_t* object, void* out) -> herr_t {
    auto& names = static_cast<Walk*>(out)->names;
    if (object->type == H5O_TYPE_DATASET) names.push_back(name);
    return names.size() < 100000 ? 0 : 1;
  };
  if (H5Ovisit_by_name2(handle_.id(), "/", H5_INDEX_NAME, H5_ITER_INC, note, &walk, H5O_INFO_BASIC, H5P_DEFAULT) < 0)
    damaged(path_, "listing the datasets");
  std::vector<Info> found;
  for (const auto& name : walk.names) {
    Handle dataset(H5Dopen2(handle_.id(), name.c_str(), H5P_DEFAULT), close_dataset);
    if (!dataset) damaged(path_, "opening '" + name + "'");
    found.push_back(describe(dataset.id(), name, path_));
    if (count_stored) found.back().stored = std::int64_t(H5Dget_storage_size(dataset.id()));
  }
  return found;
}

bool File::has(const std::string& name) const {
  if (known_) return plain(name).empty() || known(name) || has_group(name);
  Lock lock;
  std::string path = plain(name);
  if (path.empty()) return true;
  for (std::size_t end = 0; end != std::string::npos;) {  // every part of the path must be a link
    end = path.find('/', end + 1);
    if (H5Lexists(handle_.id(), path.substr(0, end).c_str(), H5P_DEFAULT) <= 0) return false;
  }
  return H5Oexists_by_name(handle_.id(), path.c_str(), H5P_DEFAULT) > 0;
}

namespace {
bool is_kind(hid_t file, const std::string& name, H5I_type_t kind) {
  Handle object(H5Oopen(file, plain(name).empty() ? "/" : name.c_str(), H5P_DEFAULT), close_object);
  return object && H5Iget_type(object.id()) == kind;
}
}  // namespace

bool File::has_group(const std::string& name) const {
  if (known_)
    return std::ranges::any_of(known_->datasets, [&](const Info& info) { return info.name.starts_with(plain(name) + "/"); });
  Lock lock;
  return has(name) && is_kind(handle_.id(), name, H5I_GROUP);
}
bool File::has_dataset(const std::string& name) const {
  if (known_) return known(name) != nullptr;
  Lock lock;
  return has(name) && is_kind(handle_.id(), name, H5I_DATASET);
}

Data File::dataset(const std::string& name) const {
  Lock lock;
  const Info* there = known_ ? known(name) : nullptr;
  require(Exit::bad_data, !known_ || there, "{}: there is no dataset '{}'", path_, name);
  Handle dataset(H5Dopen2(handle_.id(), name.c_str(), H5P_DEFAULT), close_dataset);
  if (!dataset) damaged(path_, "opening '" + name + "'");
  Info info = there ? *there : describe(dataset.id(), plain(name), path_);
  if (info.layout.starts_with("chunks")) {
    // Rows in random order would decompress a chunk again and again through the default cache of 1 MB.
    Handle access(H5Pcreate(H5P_DATASET_ACCESS), close_list);
    H5Pset_chunk_cache(access.id(), 12421, std::size_t(64) << 20, 1.0);
    dataset = Handle(H5Dopen2(handle_.id(), name.c_str(), access.id()), close_dataset);
    if (!dataset) damaged(path_, "opening '" + name + "'");
  }
  return Data(std::move(dataset), path_, std::move(info));
}

Data File::create_dataset(const std::string& name, Element element, const Shape& shape, const CreateOptions& options) {
  Lock lock;
  Handle links(H5Pcreate(H5P_LINK_CREATE), close_list), list(H5Pcreate(H5P_DATASET_CREATE), close_list);
  H5Pset_create_intermediate_group(links.id(), 1);
  if (!options.chunk.empty() && count(shape) > 0) {
    auto chunk = sizes(options.chunk);
    H5Pset_chunk(list.id(), int(chunk.size()), chunk.data());
    if (options.checksum) H5Pset_fletcher32(list.id());
  } else if (options.reserve) {
    H5Pset_alloc_time(list.id(), H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(list.id(), H5D_FILL_TIME_NEVER);
  }
  auto size = sizes(shape);
  Handle space(shape.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(int(size.size()), size.data(), nullptr), close_space);
  Handle dataset(H5Dcreate2(handle_.id(), name.c_str(), file_type(element), space.id(), links.id(), list.id(), H5P_DEFAULT),
                 close_dataset);
  if (!dataset) unwritten(path_, "creating '" + name + "'");
  Info info = describe(dataset.id(), plain(name), path_);
  return Data(std::move(dataset), path_, std::move(info));
}

// ---- attributes

std::optional<std::vector<double>> File::numbers(const std::string& object, const std::string& attribute) const {
  if (known_) {
    const auto* found = known(object, attribute);
    return found ? found->numbers : std::nullopt;
  }
  Lock lock;
  if (!has(object)) return {};
  Handle a = open_attribute(handle_.id(), object, attribute);
  if (!a) return {};
  Handle space(H5Aget_space(a.id()), close_space), type(H5Aget_type(a.id()), close_type);
  auto kind = type ? H5Tget_class(type.id()) : H5T_NO_CLASS;
  auto n = space ? H5Sget_simple_extent_npoints(space.id()) : -1;
  if ((kind != H5T_INTEGER && kind != H5T_FLOAT) || n < 0 || n > (1 << 20)) return {};
  std::vector<double> values(std::size_t(n), 0.0);
  if (n > 0 && H5Aread(a.id(), H5T_NATIVE_DOUBLE, values.data()) < 0) damaged(path_, "reading the attribute '" + attribute + "'");
  return values;
}

std::optional<std::vector<std::string>> File::texts(const std::string& object, const std::string& attribute) const {
  if (known_) {
    const auto* found = known(object, attribute);
    return found ? found->texts : std::nullopt;
  }
  Lock lock;
  if (!has(object)) return {};
  Handle a = open_attribute(handle_.id(), object, attribute);
  if (!a) return {};
  Handle space(H5Aget_space(a.id()), close_space), type(H5Aget_type(a.id()), close_type);
  auto n = space ? H5Sget_simple_extent_npoints(space.id()) : -1;
  if (!type || H5Tget_class(type.id()) != H5T_STRING || n < 0 || n > (1 << 20)) return {};
  std::vector<std::string> values;
  if (n == 0) return values;
  if (H5Tis_variable_str(type.id()) > 0) {
    std::vector<char*> raw(std::size_t(n), nullptr);
    Handle memory(H5Tcopy(type.id()), close_type);
    if (H5Aread(a.id(), memory.id(), raw.data()) < 0) damaged(path_, "reading the attribute '" + attribute + "'");
    for (auto* text : raw) values.emplace_back(text ? text : "");
    H5Dvlen_reclaim(memory.id(), space.id(), H5P_DEFAULT, raw.data());
  } else {
    std::size_t size = H5Tget_size(type.id());
    require(Exit::bad_data, size < (1u << 20), "{}: the attribute '{}' claims texts of {} bytes; the file is damaged", path_,
            attribute, size);
    std::string raw(size * std::size_t(n), '\0');
    if (H5Aread(a.id(), type.id(), raw.data()) < 0) damaged(path_, "reading the attribute '" + attribute + "'");
    for (std::size_t i = 0; i < std::size_t(n); ++i) {
      std::string text = raw.substr(i * size, size);
      text.resize(std::strlen(text.c_str()));  // padded with zeros
      values.push_back(std::move(text));
    }
  }
  return values;
}

std::vector<std::string> File::attributes(const std::string& object) const {
  std::vector<std::string> names;
  if (known_) {
    for (const auto& a : known_->attributes)
      if (a.object == plain(object)) names.push_back(a.name);
    return names;
  }
  Lock lock;
  auto note = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  hsize_t position = 0;
  if (H5Aiterate_by_name(handle_.id(), plain(object).empty() ? "/" : object.c_str(), H5_INDEX_NAME, H5_ITER_INC, &position, note,
                         &names, H5P_DEFAULT) < 0)
    damaged(path_, "listing the attributes of '" + object + "'");
  return names;
}

void File::set(const std::string& object, const std::string& attribute, const std::vector<double>& values) {
  Lock lock;
  std::optional<hsize_t> n;
  if (values.size() != 1) n = values.size();
  write_attribute(handle_.id(), path_, object, attribute, H5T_NATIVE_DOUBLE, n, values.data());
}
void File::set(const std::string& object, const std::string& attribute, std::int64_t value) {
  Lock lock;
  write_attribute(handle_.id(), path_, object, attribute, H5T_NATIVE_INT64, {}, &value);
}
void File::set(const std::string& object, const std::string& attribute, const std::string& text) {
  Lock lock;
  const char* raw = text.c_str();
  write_attribute(handle_.id(), path_, object, attribute, text_type().id(), {}, &raw);
}
void File::set(const std::string& object, const std::string& attribute, const std::vector<std::string>& texts) {
  Lock lock;
  std::vector<const char*> raw;
  for (const auto& text : texts) raw.push_back(text.c_str());
  write_attribute(handle_.id(), path_, object, attribute, text_type().id(), raw.size(), raw.data());
}

}  // namespace lockstep::io::hdf5
