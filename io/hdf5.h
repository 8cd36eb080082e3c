#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace lockstep::io {
class RawFile;
}

/// HDF5 files for the rest of io, behind the C library, which is included by io/hdf5*.cpp alone.
///
/// The library is not thread-safe as distributions package it: every call below takes one lock for the whole process (the
/// loader's thread reads training rows while the main thread evaluates or saves). Failures become an Error with the file's name
/// and what the library itself said.
namespace lockstep::io::hdf5 {

/// How values lie in our memory; the library converts from whatever numeric type and byte order a file has.
enum class Element : std::uint8_t { u8, u16, i32, f32, i64 };
constexpr std::size_t size_of(Element e) {
  return e == Element::u8 ? 1 : e == Element::u16 ? 2 : e == Element::i64 ? 8 : 4;
}

enum class Class : std::uint8_t { integer, real, text, other };

/// What a file says about one of its datasets.
struct Info {
  std::string name;  ///< path without the leading slash: "train/images"
  Shape shape;
  Shape limit;  ///< how large each axis may become; -1: without end
  Class type = Class::other;
  int bytes = 0;  ///< of one value
  bool is_signed = true;
  std::string type_text;    ///< "u8", "f32", "i16 big-endian", "text", …
  std::string layout;       ///< "contiguous", "chunks (64, 28, 28)", "compact", "virtual"
  std::string filters;      ///< "deflate 4, fletcher32"; empty: none
  std::int64_t stored = 0;  ///< bytes in the file; counted by File::datasets(true) alone

  bool numeric() const { return type == Class::integer || type == Class::real; }
  /// "train/images (60000, 28, 28) u8"
  std::string text() const;
};

/// What a file says of itself, its values apart: File::contents() gives it, and File::answer_from() has it used in place of the
/// library, which may crash on a damaged file.
struct Contents {
  struct Attribute {
    std::string object, name;  ///< object: without the leading slash; empty: the root
    std::optional<std::vector<double>> numbers = {};
    std::optional<std::vector<std::string>> texts = {};
  };
  std::vector<Info> datasets = {};
  std::vector<Attribute> attributes = {};  ///< of the root, of datasets and of the groups that they lie in
};

/// One filter of a dataset's chunks.
struct Filter {
  int id = 0;
  std::vector<unsigned> values = {};
};
/// A kind of number that needs no library to be understood: integers of 8 to 64 bits, IEEE reals of 16, 32 and 64.
struct Number {
  Class type = Class::other;
  int bytes = 0;
  bool is_signed = true, big_endian = false;
};
/// Where the values of a dataset lie.
struct Layout {
  /// library: bytes that only the library finds or understands (compact, external, virtual, filters and types of its own).
  enum class Kind : std::uint8_t { library, contiguous, chunked } kind = Kind::library;
  Number number = {};
  std::int64_t offset = 0;           ///< contiguous: of the first value, from the beginning of the file
  Shape chunk = {};                  ///< chunked, as are the next two
  std::vector<Filter> filters = {};  ///< in the order of writing
  std::vector<std::byte> fill = {};  ///< one value, as in the file, of chunks that were never written
};

/// An identifier of the library, closed when it goes.
class Handle {
 public:
  using Close = int (*)(std::int64_t);
  Handle() = default;
  Handle(std::int64_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(other.id_), close_(other.close_) { other.id_ = -1; }
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle();
  std::int64_t id() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }
  /// Gives the identifier up without closing it.
  std::int64_t release() { return std::exchange(id_, -1); }

 private:
  std::int64_t id_ = -1;
  Close close_ = nullptr;
};

/// An open dataset; rows are positions of its first axis. Outlives nothing: keep the File open.
class Data {
 public:
  Data(Handle handle, std::string file, Info info);
  const Info& info() const { return info_; }
  std::int64_t rows() const { return info_.shape.empty() ? 1 : info_.shape[0]; }
  std::int64_t width() const;  ///< values of one row
  /// Rows [first, first + count), converted, into out (count * width() values).
  void read(Element, std::int64_t first, std::int64_t count, void* out) const;
  void write(Element, std::int64_t first, std::int64_t count, const void* from);
  /// Adds rows, as they lie in memory, to a dataset that create_rows() made.
  void append(std::int64_t count, const void* from);
  /// Where a contiguous dataset's bytes lie in the file.
  std::int64_t offset() const;
  /// Where and how its bytes lie, for reading without the library.
  Layout layout() const;
  /// The bytes of one chunk as they are stored, and the mask of filters that were not used on it; `at` is its place in the grid
  /// of chunks. None: never written.
  struct RawChunk {
    std::byte* data = nullptr;  ///< in `buffer(bytes)`
    std::size_t bytes = 0;
    std::uint32_t mask = 0;
  };
  RawChunk read_chunk(const Layout&, const Shape& at, const std::function<std::byte*(std::size_t)>& buffer) const;
  /// Virtual datasets: every source must be there and cover what it is to show, since the library reads what is missing as fill
  /// values. Throws (bad_data) naming the source.
  void check_sources() const;
  /// A descriptor of its own of the file that the dataset lies in, which may be another one (external links). To be closed.
  int descriptor() const;
  /// Where its object header lies, counted from the end of a user block.
  std::int64_t header() const;

 private:
  [[noreturn]] void fail_reading(const std::string& what) const;
  Handle handle_;
  std::string file_;
  Info info_;
};

struct CreateOptions {
  Shape chunk = {};       ///< empty: contiguous
  bool checksum = false;  ///< Fletcher32 on every chunk
  bool reserve = false;   ///< contiguous: take the space now and write no fill values, so that offset() is known
};

struct RowsOptions {
  Shape chunk = {};        ///< (rows, …) of one chunk
  std::int64_t rows = -1;  ///< how many there will be; -1: as many as are appended
  int deflate = 0;         ///< 1 to 9: compress, with the bytes of values shuffled first
  bool checksum = true;    ///< Fletcher32 on every chunk
};

/// A part of a virtual dataset: its elements [begin, begin + count(shape)), counted in row-major order, are the dataset of the
/// same name in another file, whose path is relative to the folder of the file that shows them.
struct Source {
  std::string file;
  Shape shape;
  std::int64_t begin = 0;
};

class File {
 public:
  /// For reading. Missing, unreadable or not HDF5: Error (bad_data).
  static File open(const std::string& path);
  /// A new file, replacing one that is there.
  static File create(const std::string& path);
  /// A new file in memory (RawFile::Mode::memory), which may go before it; image() are its bytes.
  static File create_in(const RawFile& memory);
  /// The bytes of the whole file as it is now.
  std::string image() const;
  /// Writes out and closes; without it the destructor closes and says nothing.
  void close();
  const std::string& path() const { return path_; }

  /// All datasets in name order, hard and soft links followed once. Counting the bytes that are stored walks the indexes of all
  /// chunks.
  std::vector<Info> datasets(bool count_stored = false) const;
  /// Whether there is an object of that name; group or dataset.
  bool has(const std::string& name) const;
  bool has_group(const std::string& name) const;
  bool has_dataset(const std::string& name) const;
  Data dataset(const std::string& name) const;

  Data create_dataset(const std::string& name, Element, const Shape&, const CreateOptions& = {});
  /// A chunked dataset of numbers without rows, for Data::append(). `row` is the shape of one.
  Data create_rows(const std::string& name, const Number&, const Shape& row, const RowsOptions&);
  /// A dataset whose values lie in other files; what is missing there reads as `fill`.
  void create_virtual(const std::string& name, Element, const Shape&, const std::vector<Source>&, double fill);

  /// Attributes of a group or dataset ("" or "/": the root). Absent or of another class: none.
  std::optional<std::vector<double>> numbers(const std::string& object, const std::string& attribute) const;
  std::optional<std::vector<std::string>> texts(const std::string& object, const std::string& attribute) const;
  std::vector<std::string> attributes(const std::string& object) const;
  /// All of the above.
  Contents contents() const;
  /// From now on, what there is and what attributes say is answered from here; the library only opens datasets and reads values.
  void answer_from(std::shared_ptr<const Contents> contents) { known_ = std::move(contents); }
  void set(const std::string& object, const std::string& attribute, const std::vector<double>& values);
  void set(const std::string& object, const std::string& attribute, std::int64_t value);
  void set(const std::string& object, const std::string& attribute, const std::string& text);
  void set(const std::string& object, const std::string& attribute, const std::vector<std::string>& texts);

 private:
  File(Handle handle, std::string path) : handle_(std::move(handle)), path_(std::move(path)) {}
  const Info* known(const std::string& name) const;
  const Contents::Attribute* known(const std::string& object, const std::string& attribute) const;
  Handle handle_;
  std::string path_;
  std::shared_ptr<const Contents> known_;  // none: the library is asked
};

/// "1.10.8": of the library that runs.
std::string version();

/// Makes the library give memory back at once instead of keeping it for itself, so that reading beyond a block is seen by the
/// system (or a sanitizer) and not hidden by an older, larger block. For a process that only checks files.
void forgo_free_lists();

/// Held while a call runs; for code that forks.
class Lock {
 public:
  Lock();
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};

}  // namespace lockstep::io::hdf5
