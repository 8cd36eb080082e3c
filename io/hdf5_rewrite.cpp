// Copies a file, object by object, with other chunks and filters.

#define H5_USE_110_API
#include <fmt/format.h>
#include <hdf5.h>

#include <algorithm>
#include <map>

#include "io/hdf5.h"
#include "io/parts.h"
#include "io/rechunk.h"

namespace lockstep::io::hdf5 {
namespace {

using Sizes = std::vector<hsize_t>;

/// An identifier that is closed when it goes; a negative one is an error of the named file.
class Id {
 public:
  Id(hid_t id, herr_t (*close)(hid_t), const std::string& file, const std::string& what) : id_(id), close_(close) {
    require(Exit::bad_data, id >= 0, "{}: {} failed; the file is damaged or unusual, or the disk is full", file, what);
  }
  ~Id() { close_(id_); }
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

class Rewrite {
 public:
  Rewrite(const std::string& from, const std::string& to, const RechunkOptions& options, const ConvertOptions& convert,
          std::string& report)
      : from_(from),
        to_(to),
        options_(options),
        convert_(convert),
        report_(report),
        in_(H5Fopen(from.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, from, "opening"),
        out_(H5Fcreate(to.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose, to, "creating the file") {}

  void run() {
    H5O_info_t wanted{};
    if (!options_.dataset.empty() && H5Oget_info_by_name(in_, options_.dataset.c_str(), &wanted, H5P_DEFAULT) >= 0)
      wanted_ = wanted.addr;
    copy_attributes("/");
    copy_group("/");
    require(Exit::usage, options_.dataset.empty() || found_, "{}: there is no dataset '{}' with numbers", from_,
            options_.dataset);
    require(Exit::io, H5Fflush(out_, H5F_SCOPE_GLOBAL) >= 0, "{}: writing out failed: the disk is full, or it has failed", to_);
  }

 private:
  void copy_group(const std::string& group) {
    std::vector<std::string> names;
    auto note = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
      static_cast<std::vector<std::string>*>(out)->emplace_back(name);
      return 0;
    };
    require(Exit::bad_data,
            H5Literate_by_name(in_, group.c_str(), H5_INDEX_NAME, H5_ITER_INC, nullptr, note, &names, H5P_DEFAULT) >= 0,
            "{}: listing '{}' failed; the file is damaged", from_, group);
    for (const auto& name : names) copy_link((group == "/" ? "/" : group + "/") + name);
  }

  void copy_link(const std::string& path) {
    H5L_info_t link{};
    require(Exit::bad_data, H5Lget_info(in_, path.c_str(), &link, H5P_DEFAULT) >= 0, "{}: '{}' is damaged", from_, path);
    if (link.type != H5L_TYPE_HARD) {
      std::vector<char> value(link.u.val_size + 1);
      bool ok = H5Lget_val(in_, path.c_str(), value.data(), link.u.val_size, H5P_DEFAULT) >= 0;
      if (link.type == H5L_TYPE_SOFT) {
        ok = ok && H5Lcreate_soft(value.data(), out_, path.c_str(), H5P_DEFAULT, H5P_DEFAULT) >= 0;
      } else {
        const char *file = nullptr, *object = nullptr;
        ok = ok && H5Lunpack_elink_val(value.data(), link.u.val_size, nullptr, &file, &object) >= 0 &&
             H5Lcreate_external(file, object, out_, path.c_str(), H5P_DEFAULT, H5P_DEFAULT) >= 0;
      }
      require(Exit::bad_data, ok, "{}: copying the link '{}' failed", from_, path);
      return;
    }
    H5O_info_t object{};
    require(Exit::bad_data, H5Oget_info_by_name(in_, path.c_str(), &object, H5P_DEFAULT) >= 0, "{}: '{}' is damaged", from_,
            path);
    if (const auto [known, first] = copied_.try_emplace(object.addr, path); !first) {
      require(Exit::io, H5Lcreate_hard(out_, known->second.c_str(), out_, path.c_str(), H5P_DEFAULT, H5P_DEFAULT) >= 0,
              "{}: linking '{}' failed", to_, path);
      return;
    }
    if (object.type == H5O_TYPE_GROUP) {
      { Id made(H5Gcreate2(out_, path.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose, to_, "making '" + path + "'"); }
      copy_attributes(path);
      copy_group(path);
    } else if (object.type != H5O_TYPE_DATASET || (!options_.dataset.empty() && object.addr != wanted_) || !copy_dataset(path)) {
      require(Exit::io, H5Ocopy(in_, path.c_str(), out_, path.c_str(), H5P_DEFAULT, H5P_DEFAULT) >= 0,
              "{}: copying '{}' failed; the file is damaged or unusual, or the disk is full", from_, path);
    }
  }

  /// False for what has no rows of numbers: that is copied as it is.
  bool copy_dataset(const std::string& path) {
    Id source(H5Dopen2(in_, path.c_str(), H5P_DEFAULT), H5Dclose, from_, "opening '" + path + "'");
    Id space(H5Dget_space(source), H5Sclose, from_, "opening '" + path + "'");
    Id stored(H5Dget_type(source), H5Tclose, from_, "opening '" + path + "'");
    const auto kind = H5Tget_class(stored);
    const int axes = H5Sget_simple_extent_ndims(space);
    const bool numbers = kind == H5T_INTEGER || kind == H5T_FLOAT || kind == H5T_ENUM || kind == H5T_BITFIELD;
    if (!numbers || axes < 1 || H5Sget_simple_extent_npoints(space) == 0) return false;
    found_ = true;
    Id type(H5Tcopy(stored), H5Tclose, from_, "reading the type of '" + path + "'");
    Sizes size(std::size_t(axes), 0), most = size;
    H5Sget_simple_extent_dims(space, size.data(), most.data());

    const int bytes = int(H5Tget_size(type));
    Shape chunk = choose_chunk(Shape(size.begin() + 1, size.end()), bytes, std::int64_t(size[0]));
    if (options_.rows > 0) chunk[0] = std::min<std::int64_t>(options_.rows, std::int64_t(size[0]));
    require(Exit::usage, (long double)count(chunk) * bytes < 4294967295.0L,
            "{}: chunks of {} rows of '{}' would have 4 GiB or more", from_, chunk[0], path);
    Id list(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, to_, "preparing '" + path + "'");
    copy_fill_value(source, type, list);
    bool ok = true;
    if (!options_.contiguous) {
      const Sizes sizes(chunk.begin(), chunk.end());
      ok = H5Pset_chunk(list, axes, sizes.data()) >= 0;
      if (convert_.deflate > 0) {
        ok = ok && (bytes == 1 || H5Pset_shuffle(list) >= 0) && H5Pset_deflate(list, unsigned(convert_.deflate)) >= 0;
      }
      ok = ok && H5Pset_fletcher32(list) >= 0;
    } else {
      most = size;
    }
    require(ok, "{}: preparing '{}' failed", to_, path);
    Id room(H5Screate_simple(axes, size.data(), most.data()), H5Sclose, to_, "preparing '" + path + "'");
    Id made(H5Dcreate2(out_, path.c_str(), type, room, H5P_DEFAULT, list, H5P_DEFAULT), H5Dclose, to_, "creating '" + path + "'");
    copy_values(source, made, type, size, chunk, path);
    copy_attributes(path);
    report_ += fmt::format("{} {}: {}\n", path.substr(1), to_text(Shape(size.begin(), size.end())),
                           options_.contiguous ? "contiguous" : explain_chunk(chunk, bytes));
    return true;
  }

  void copy_fill_value(hid_t source, hid_t type, hid_t list) {
    Id old(H5Dget_create_plist(source), H5Pclose, from_, "reading properties");
    H5D_fill_value_t state = H5D_FILL_VALUE_UNDEFINED;
    if (H5Pfill_value_defined(old, &state) < 0 || state != H5D_FILL_VALUE_USER_DEFINED) return;
    std::vector<std::byte> value(H5Tget_size(type));
    if (H5Pget_fill_value(old, type, value.data()) >= 0) H5Pset_fill_value(list, type, value.data());
  }

  void copy_values(hid_t source, hid_t made, hid_t type, const Sizes& size, const Shape& chunk, const std::string& path) {
    std::size_t row = H5Tget_size(type);
    for (std::size_t i = 1; i < size.size(); ++i) row *= size[i];
    // Whole chunks of both, as far as memory goes: none is decoded twice.
    hsize_t run = hsize_t(chunk[0]);
    Id old(H5Dget_create_plist(source), H5Pclose, from_, "reading properties");
    if (H5Pget_layout(old) == H5D_CHUNKED) {
      Sizes from(size.size(), 1);
      H5Pget_chunk(old, int(from.size()), from.data());
      run = std::max(run, (from[0] + run - 1) / run * run);
    }
    const hsize_t fits = std::max<hsize_t>(1, (hsize_t(256) << 20) / row);
    run = std::max(run, std::min(hsize_t(16) << 20, fits * row) / row / run * run);
    if (run > fits) run = std::max<hsize_t>(1, fits / hsize_t(chunk[0]) * hsize_t(chunk[0]));
    std::vector<std::byte> block(std::min(run, size[0]) * row);
    for (hsize_t first = 0; first < size[0]; first += run) {
      Sizes begin(size.size(), 0), part = size;
      begin[0] = first;
      part[0] = std::min(run, size[0] - first);
      Id memory(H5Screate_simple(int(part.size()), part.data(), nullptr), H5Sclose, from_, "reading '" + path + "'");
      for (const auto& [data, reads] : {std::pair{source, true}, {made, false}}) {
        Id file(H5Dget_space(data), H5Sclose, from_, "reading '" + path + "'");
        H5Sselect_hyperslab(file, H5S_SELECT_SET, begin.data(), nullptr, part.data(), nullptr);
        const auto done = reads ? H5Dread(data, type, memory, file, H5P_DEFAULT, block.data())
                                : H5Dwrite(data, type, memory, file, H5P_DEFAULT, block.data());
        require(reads ? Exit::bad_data : Exit::io, done >= 0, "{}: {} rows {} to {} of '{}' failed; {}", reads ? from_ : to_,
                reads ? "reading" : "writing", first, first + part[0] - 1, path.substr(1),
                reads ? "the file is damaged" : "the disk is full, or it has failed");
      }
      tell(convert_, "rewriting", std::int64_t(first), std::int64_t(size[0]));
    }
  }

  void copy_attributes(const std::string& path) {
    Id source(H5Oopen(in_, path.c_str(), H5P_DEFAULT), H5Oclose, from_, "opening '" + path + "'");
    Id target(H5Oopen(out_, path.c_str(), H5P_DEFAULT), H5Oclose, to_, "opening '" + path + "'");
    std::vector<std::string> names;
    auto note = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
      static_cast<std::vector<std::string>*>(out)->emplace_back(name);
      return 0;
    };
    hsize_t position = 0;
    require(Exit::bad_data, H5Aiterate2(source, H5_INDEX_NAME, H5_ITER_INC, &position, note, &names) >= 0,
            "{}: listing the attributes of '{}' failed; the file is damaged", from_, path);
    for (const auto& name : names) {
      const std::string what = "copying the attribute '" + name + "' of '" + path + "'";
      Id old(H5Aopen(source, name.c_str(), H5P_DEFAULT), H5Aclose, from_, what);
      Id stored(H5Aget_type(old), H5Tclose, from_, what);
      Id type(H5Tcopy(stored), H5Tclose, from_, what);
      Id space(H5Aget_space(old), H5Sclose, from_, what);
      if (H5Tdetect_class(type, H5T_REFERENCE) != 0) {
        report_ += fmt::format("{}: the attribute '{}' refers to other objects and was left out\n", path, name);
        continue;
      }
      const auto n = H5Sget_simple_extent_type(space) == H5S_NULL ? 0 : H5Sget_simple_extent_npoints(space);
      std::vector<std::byte> value(std::size_t(std::max<hssize_t>(0, n)) * H5Tget_size(type));
      Id made(H5Acreate2(target, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, to_, what);
      if (n <= 0) continue;
      const bool ok = H5Aread(old, type, value.data()) >= 0 && H5Awrite(made, type, value.data()) >= 0;
      if (H5Tdetect_class(type, H5T_VLEN) > 0 || H5Tdetect_class(type, H5T_STRING) > 0)
        H5Dvlen_reclaim(type, space, H5P_DEFAULT, value.data());
      require(Exit::bad_data, ok, "{}: {} failed", from_, what);
    }
  }

  const std::string &from_, &to_;
  const RechunkOptions& options_;
  const ConvertOptions& convert_;
  std::string& report_;
  Id in_, out_;
  std::map<haddr_t, std::string> copied_;  // objects by address: others links to them become links
  haddr_t wanted_ = HADDR_UNDEF;           // options_.dataset, which may have several names
  bool found_ = false;
};

}  // namespace

void rewrite(const std::string& from, const std::string& to, const RechunkOptions& options, const ConvertOptions& convert,
             std::string& report) {
  Lock lock;
  Rewrite(from, to, options, convert, report).run();
}

}  // namespace lockstep::io::hdf5
