#pragma once

#include <cstdint>
#include <vector>

#include "io/dataset.h"

namespace lockstep::io {

/// A permutation of [0, size) decided by (seed, epoch). Any position is computed by itself, without a table: a Feistel network
/// over Z_a x Z_b with a * b >= size, Philox as its round function, and cycle walking for the few values beyond (Black & Rogaway,
/// "Ciphers with arbitrary finite domains", 2002).
class Permutation {
 public:
  Permutation(std::int64_t size, std::uint64_t seed, std::uint64_t epoch);
  std::int64_t operator()(std::int64_t position) const;

 private:
  std::uint64_t size_, a_, b_, seed_, epoch_;
};

/// How the rows of an epoch are mixed.
enum class Shuffle : std::uint8_t {
  none,    ///< the order of the file
  window,  ///< chunks are permuted, and rows are permuted within windows of whole chunks: each chunk is read once an epoch
  full,    ///< one permutation of all rows
};
const char* name_of(Shuffle);
/// What suits a dataset: full where any row costs the same, else window.
Shuffle choose_shuffle(const std::vector<ChunkRun>& chunks);
/// A window that suits it: all lanes' windows together take about half of `bytes` of memory (counting 128 lanes at most: more of
/// them are more machines), and hold at least eight chunks.
std::int64_t choose_window(const std::vector<ChunkRun>& chunks, int lanes, std::int64_t bytes);

/// Positions [begin, begin + size) of an epoch: one lane's share of it.
struct Piece {
  std::int64_t begin = 0, size = 0;
};

/// The order of a dataset's rows in any epoch: position -> row, a pure function of (seed, epoch) that needs no table of rows.
///
/// window: chunks of equal size are a class (whole ones, and the shorter last one of a run). An epoch is cut into `windows()`
/// sections. Class k has n chunks, permuted by (seed, epoch); section s holds those in places floor((s n + o) / sections) to
/// floor(((s + 1) n + o) / sections), with o in [0, sections) drawn by (seed, epoch, k): every section gets its share of every
/// class, and where it begins is arithmetic. Inside of a section rows are permuted, but never across the ends of a lane's
/// piece: two lanes share a chunk only where their pieces meet.
class Order {
 public:
  struct Options {
    std::int64_t rows = 0;
    Shuffle shuffle = Shuffle::full;
    std::int64_t window = 0;            ///< rows of a section, about; 0: all
    std::vector<ChunkRun> chunks = {};  ///< empty: each row is a chunk
    std::uint64_t seed = 0;
  };
  explicit Order(Options);

  /// Appends the rows at places [first, first + count) of a lane's piece of an epoch.
  void rows(std::uint64_t epoch, Piece piece, std::int64_t first, std::int64_t count, std::vector<std::int64_t>& out) const;
  std::int64_t windows() const { return sections_; }

 private:
  /// Chunks of one size.
  struct Class {
    struct Run {
      std::int64_t begin, first;  ///< its first chunk's place among those of the class; its first row
    };
    std::int64_t size = 1, chunks = 0;
    std::vector<Run> runs = {};
  };
  class Epoch;

  std::int64_t rows_, sections_ = 1;
  Shuffle shuffle_;
  std::uint64_t seed_;
  std::vector<Class> classes_;
};

}  // namespace lockstep::io
