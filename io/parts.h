#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/convert.h"
#include "io/hdf5.h"
#include "io/output.h"

namespace lockstep::io {

// What the conversions share.

constexpr hdf5::Number u8{hdf5::Class::integer, 1, false, false}, u16{hdf5::Class::integer, 2, false, false},
    i32{hdf5::Class::integer, 4, true, false}, f32{hdf5::Class::real, 4, true, false};

void check_options(const ConvertOptions&);
/// Bytes to ask the disk for: the values, checksums and what HDF5 adds.
std::int64_t file_bytes(std::int64_t values);
/// Which rows are held out, drawn once and for all from (rows, share).
std::vector<bool> choose_rows(std::int64_t rows, double share);
/// Calls options.progress when there is one.
void tell(const ConvertOptions&, const char* what, std::int64_t done, std::int64_t total);

/// Chunks of whole rows, about 256 KiB each: large enough to be read at full speed, small enough that a row in random order costs
/// little more than itself. A row above 16 MiB is cut along its longest axis.
Shape choose_chunk(const Shape& row, int bytes, std::int64_t rows);
/// "chunks of 334 rows (262 kB), …": for the user.
std::string explain_chunk(const Shape& chunk, int bytes);

/// The files of one conversion, one or several shards: written beside their targets, and seen under their names, with their
/// manifests, when all of them are complete.
class DataFiles {
 public:
  /// Asks the disk for `bytes` and creates the files; removes what an earlier conversion to the same place left when it was
  /// killed.
  DataFiles(const ConvertOptions&, std::int64_t bytes);
  ~DataFiles();
  std::size_t count() const { return files_.size(); }
  hdf5::File& file(std::size_t shard) { return files_[shard]; }
  /// The name that a shard has until commit().
  const std::string& path(std::size_t shard) const { return outputs_[shard]->path(); }
  /// Closes the files, for a writer of its own.
  void close();
  /// Runs `fill`; when the disk is full the Error says how much was needed.
  void write(const std::function<void()>& fill);
  /// An attribute of every shard.
  template <class T>
  void set(const std::string& object, const std::string& attribute, const T& value) {
    for (auto& file : files_)
      if (file.has(object)) file.set(object, attribute, value);
  }
  /// Source, licence, and the names and checksum of the files that were read, as attributes of every shard.
  void set_origin(const std::vector<std::string>& inputs, const std::string& checksum);
  /// Closes what is open, writes the manifests, renames.
  void commit();
  /// "a.h5" or "a-00000-of-00004.h5 and 3 more"
  std::string names() const;

 private:
  const ConvertOptions& options_;
  std::int64_t bytes_;
  std::vector<std::string> targets_;
  std::vector<std::unique_ptr<Output>> outputs_;
  std::vector<hdf5::File> files_;
  std::vector<std::string> manifests_;  // temporary names
};

/// The rows of one dataset, spread over the shards: shard s takes rows [s * rows / shards, (s + 1) * rows / shards).
class PartWriter {
 public:
  /// rows: how many there will be; -1: not known, next_shard() says where a shard ends.
  PartWriter(DataFiles&, std::string name, const hdf5::Number&, Shape row, std::int64_t rows, int deflate);
  void add(const void* rows, std::int64_t count = 1);
  void next_shard();
  void finish();  ///< writes the rest
  std::int64_t written() const { return written_; }
  const Shape& chunk() const { return chunk_; }

 private:
  void flush(bool all);
  std::int64_t end_of(std::size_t shard) const;

  DataFiles* files_;
  std::string name_;
  hdf5::Number number_;
  Shape row_, chunk_;
  std::int64_t rows_, written_ = 0;
  int deflate_;
  std::size_t row_bytes_, shard_ = 0;
  std::unique_ptr<hdf5::Data> data_;  // of the current shard, once something was written
  std::vector<std::byte> pending_;
};

/// XXH3-128 of files' bytes, one after another, as they lie on disk.
std::string checksum_of(const std::vector<std::string>& paths, const ConvertOptions&);

}  // namespace lockstep::io
