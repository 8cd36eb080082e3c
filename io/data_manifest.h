#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/places.h"

namespace lockstep::io {

/// What Lockstep keeps beside a data file that it wrote: where every piece of every dataset lies (a chunk as stored, or some rows
/// of contiguous data), with its XXH3-128; and one XXH3-128 of all bytes that belong to no piece (the library's own structures,
/// attributes, compact data, texts). A file that matches its manifest is what was written, byte for byte: whoever loads the
/// manifest and checks each piece before use reads nothing that was damaged since, and the library meets no damaged structure.
///
/// In the file, all little-endian: "LSDATA01"; XXH3-128 of all that follows (high, low); file size (u64); lengths (u64 each) of
/// the JSON, of the gaps and of the pieces; the JSON; gaps (offset u64, bytes u64); pieces (offset u64, bytes u32, filter mask
/// u32, hash high u64, low u64) of one dataset after another.
class DataManifest {
 public:
  struct Piece {
    std::uint64_t offset;
    std::uint32_t bytes, filter_mask;  ///< bytes 0: not stored, reads as the fill value
    std::uint64_t high, low;           ///< XXH3-128 of the stored bytes
  };
  struct Dataset {
    std::string name;                   ///< without the leading slash
    Shape shape, chunk;                 ///< chunk is empty for contiguous data
    std::int64_t block = 0;             ///< contiguous: bytes of a piece
    std::int64_t first = 0, count = 0;  ///< its pieces; chunks over the grid of chunks, the last axis fastest
  };

  /// "FILE.h5.manifest"
  static std::string path_of(const std::string& data_path);
  /// The manifest of a data file; nothing when there is none. Reads the manifest (32 bytes a piece) and the file's bytes that are
  /// in no piece. Throws (bad_data) when the manifest is damaged or the file is not the one it describes.
  static std::optional<DataManifest> load(const std::string& data_path);

  const std::vector<Dataset>& datasets() const { return datasets_; }
  /// The dataset of that name, with or without the leading slash; nullptr: not in the manifest.
  const Dataset* find(std::string_view name) const;
  std::span<const Piece> pieces(const Dataset& dataset) const;
  /// Compares stored bytes with piece `index`. Throws (bad_data) naming file, dataset and chunk or block. Thread-safe.
  void check(const Dataset& dataset, std::int64_t index, std::span<const std::byte> stored) const;
  /// Reads the whole file and checks every piece; returns how many there are.
  std::int64_t check_all() const;

 private:
  friend void write_manifest(const std::string&, const std::string&);
  std::string path_;
  std::vector<Dataset> datasets_;
  std::vector<Piece> pieces_;
};

/// Reads the data file at `data_path` and writes the manifest to `out` (on disk when this returns). Throws (bad_data) when some
/// dataset's places are not known (find_places).
void write_manifest(const std::string& data_path, const std::string& out);

}  // namespace lockstep::io
