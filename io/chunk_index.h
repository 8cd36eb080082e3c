#pragma once

// Private to io/: the indexes of chunks that HDF5 files hold, read without the library.

#include <cstdint>
#include <string>
#include <vector>

#include "io/places.h"

namespace lockstep::io {

/// An address that says "nothing there".
constexpr std::uint64_t nowhere = ~std::uint64_t(0);

/// Little-endian numbers from a block of a file, never beyond its end.
class BlockReader {
 public:
  BlockReader(const FileBytes& file, std::uint64_t offset, std::size_t bytes, const char* what);
  std::uint64_t number(int bytes) {
    std::uint64_t value = 0;
    const unsigned char* from = take(std::size_t(bytes));
    for (int i = bytes; i-- > 0;) value = value << 8 | from[i];
    return value;
  }
  std::string text(std::size_t bytes) { return {reinterpret_cast<const char*>(take(bytes)), bytes}; }
  void skip(std::size_t bytes) { take(bytes); }
  std::size_t left() const { return block_.size() - at_; }
  /// Compares the last four bytes with the checksum of all before them, and takes them away.
  void check_sum();

 private:
  const unsigned char* take(std::size_t bytes);
  const std::string& path_;
  const char* what_;
  std::vector<unsigned char> block_;
  std::size_t at_ = 0;
};

/// Bob Jenkins' lookup3 ("hashlittle"), with which newer structures of HDF5 are checked.
std::uint32_t lookup3(const unsigned char* bytes, std::size_t count);

/// An index as a dataset's layout message describes it.
struct ChunkIndex {
  enum class Kind : std::uint8_t { tree, single, implicit, fixed_array, extensible_array, newer_tree } kind = Kind::tree;
  Shape chunk = {};
  std::uint64_t address = nowhere;
  std::uint64_t bytes = 0;  ///< single: of the chunk as stored; 0: nothing was filtered
  std::uint32_t mask = 0;   ///< single
};

/// The places of all chunks that lie inside a dataset's shape. `base`: bytes before the first byte of HDF5. Throws (bad_data)
/// where the index is damaged. Reads no more than the index can have, whatever is in it.
std::vector<Place> read_chunk_index(const FileBytes&, std::uint64_t base, const hdf5::Info&, const ChunkIndex&,
                                    const std::string& where);

}  // namespace lockstep::io
