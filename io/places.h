#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/hdf5.h"

namespace lockstep::io {

/// Which file it is, and its size and time of change.
struct FileState {
  std::uint64_t device = 0, inode = 0;
  std::int64_t bytes = 0, seconds = 0, nanoseconds = 0;
  bool operator==(const FileState&) const = default;
};

/// A file's bytes by place, every length and offset checked against its size.
class FileBytes {
 public:
  /// Throws (bad_data) when it cannot be read.
  explicit FileBytes(const std::string& path);
  /// Takes over an open descriptor; `path` is for messages.
  FileBytes(int descriptor, std::string path);
  ~FileBytes();
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  /// Exactly [offset, offset + bytes); a place beyond the end is bad_data that names `what`.
  void read(std::uint64_t offset, void* out, std::size_t bytes, const char* what) const;
  std::uint64_t size() const { return std::uint64_t(state_.bytes); }
  /// As it was when this was made.
  const FileState& state() const { return state_; }
  /// Whether somebody wrote to the file since then.
  bool changed() const;
  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }

 private:
  std::string path_;
  int descriptor_;
  FileState state_;
};

/// A piece of a dataset in its file: a chunk as it is stored (filtered), or some rows of contiguous data.
struct Place {
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;  ///< 0: not stored, reads as the fill value
  std::uint32_t filter_mask = 0;
};
/// The pieces of one dataset. Chunks are counted over the grid of chunks, the last axis fastest.
struct Places {
  Shape chunk = {};        ///< empty: contiguous
  std::int64_t block = 0;  ///< contiguous: bytes of a piece (whole rows, about 64 KiB; the last one may be shorter)
  std::vector<Place> pieces = {};
  std::string unknown = {};  ///< a sentence: why only the library finds them; empty when they were found
};

/// Finds all chunks of a dataset by reading the file's own index, of any kind that HDF5 1.10 makes; the library of that release
/// needs time in proportion to the number of chunks for each chunk that it is asked about. Cost: a read for each 32 to 64 chunks,
/// or fewer. Compact data has no pieces. Not known: virtual and external storage, layouts of other releases. Throws (bad_data)
/// for damage. From the HDF5 File Format Specification, version 3.0, II and IV.
Places find_places(const FileBytes&, const hdf5::Data&);

}  // namespace lockstep::io
