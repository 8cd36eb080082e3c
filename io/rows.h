#pragma once

// Private to io/: the rows of one dataset, from wherever they lie.

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "io/bands.h"
#include "io/data_manifest.h"
#include "io/decode.h"
#include "io/hdf5.h"
#include "io/places.h"
#include "io/pool.h"

namespace lockstep::io {

/// What the rows of all datasets of a configuration share. Outlives them.
struct Engine {
  explicit Engine(std::size_t cache_bytes) : cache(cache_bytes) {}
  Pool pool;
  BandCache cache;
};

/// The rows of one numeric dataset. Thread-safe. Three ways, chosen by how it lies in its file and whether it is to be kept:
///
/// * kept: all of it has a place in memory; a band is read when a row of it is first asked for, and stays;
/// * contiguous, or whole rows in chunks with nothing to decompress: read from the file at each call, row by row;
/// * else (chunks, and what only the library can read): bands of the cache.
///
/// Chunks are read at the places that the file's own index or a manifest lists, and decoded on the calling thread, without the
/// library. It reads them, under its lock, where the index is not known (find_places), has too many chunks to be held, or may
/// have changed since the file was opened.
class Rows {
 public:
  /// Values are given as `element`. keep: memory of kept_bytes() zero bytes, which other processes of this node may share; none:
  /// not kept.
  /// With a manifest of the file, every chunk or block is compared with its hash as it is read.
  Rows(std::shared_ptr<const hdf5::File>, const std::string& name, hdf5::Element, std::shared_ptr<Engine>,
       std::shared_ptr<const DataManifest> manifest = {});
  ~Rows();
  void keep(Memory memory);
  void keep();  ///< in memory of its own
  std::size_t kept_bytes() const;
  bool kept() const { return bool(kept_); }

  std::int64_t count() const { return count_; }
  std::int64_t width() const { return width_; }  ///< values of a row
  std::int64_t row_bytes() const { return width_ * std::int64_t(hdf5::size_of(element_)); }
  hdf5::Element element() const { return element_; }
  const std::string& where() const { return where_; }  ///< "fashion.h5:/train/images"
  /// Rows that are read and decoded together.
  std::int64_t band_rows() const { return band_rows_; }
  /// Rows that lie together: a chunk, or as many as are worth one read. A property of the file alone.
  std::int64_t run_rows() const { return run_rows_; }
  /// Whether rows come from the file at each call, so that a place of their own saves a copy.
  bool direct() const { return !kept_ && straight_; }

  /// Rows [first, first + count) one after another: in memory that `keep` holds, or in `scratch`.
  struct Block {
    const std::byte* data = nullptr;
    BandCache::Band keep = {};
  };
  Block get(std::int64_t first, std::int64_t count, Scratch& scratch) const;
  /// The same, to a place of the caller's.
  void copy(std::int64_t first, std::int64_t count, std::byte* out) const;
  /// Rows [first, first + count) will be asked for soon: their bands are read meanwhile.
  void expect(std::int64_t first, std::int64_t count) const;

 private:
  void fill(std::int64_t band, std::byte* out) const;
  void fill_chunk(std::int64_t band, std::int64_t across, std::byte* out) const;
  void scatter(const std::byte* values, const Shape& at, std::byte* out) const;
  [[noreturn]] void damaged(const Shape& at, const std::string& problem) const;
  const Place* place(std::int64_t chunk) const;
  hdf5::Data::RawChunk stored_chunk(std::int64_t number, const Shape& at, std::byte* out) const;
  void read_file(std::int64_t offset, std::byte* out, std::int64_t bytes, std::span<std::byte> rest = {}) const;
  void fill_block(std::int64_t index, std::byte* out) const;
  void read_plain(std::int64_t offset, std::int64_t values, std::byte* out) const;
  void read_rows(std::int64_t first, std::int64_t count, std::byte* out) const;
  std::int64_t stored_row() const { return width_ * layout_.number.bytes; }
  std::int64_t rows_of(std::int64_t band) const { return std::min(band_rows_, count_ - band * band_rows_); }
  BandCache::Band band(std::int64_t index) const;
  bool fill_kept(std::int64_t band, bool wait) const;
  std::uint8_t& state(std::int64_t band) const;

  std::shared_ptr<Engine> engine_;
  std::shared_ptr<const hdf5::File> file_;
  hdf5::Data data_;
  hdf5::Element element_;
  hdf5::Layout layout_;
  std::int64_t count_, width_;
  std::string where_;
  std::int64_t band_rows_ = 1, run_rows_ = 1, bands_ = 0;
  std::uint64_t id_;  // in the cache
  std::shared_ptr<const DataManifest> manifest_;
  const DataManifest::Dataset* listed_ = nullptr;  // in the manifest
  std::unique_ptr<const FileBytes> bytes_;         // contiguous and chunked
  mutable std::once_flag looked_;                  // for:
  mutable std::vector<Place> places_;              // chunked, without a manifest; empty: only the library finds them
  Shape grid_;                                     // chunked: chunks along each axis
  std::int64_t across_ = 1;                        // chunks of a band
  std::size_t chunk_bytes_ = 0;                    // of a decoded chunk
  bool straight_ = false;                          // worth no place in the cache
  bool whole_rows_ = false;                        // chunks hold whole rows in the element's own form
  bool summed_ = false;                            // chunks have a Fletcher32 checksum and nothing else
  Memory kept_;                                    // the values, then a byte a band: absent, being read, there
};

/// Calls f with a typed pointer to values that Rows gave.
template <class F>
decltype(auto) visit(hdf5::Element element, const void* data, F&& f) {
  switch (element) {
    case hdf5::Element::u8: return f(static_cast<const std::uint8_t*>(data));
    case hdf5::Element::u16: return f(static_cast<const std::uint16_t*>(data));
    case hdf5::Element::i32: return f(static_cast<const std::int32_t*>(data));
    default: return f(static_cast<const float*>(data));
  }
}

}  // namespace lockstep::io
