#include "io/order.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/base/check.h"
#include "kernels/base/random.h"

namespace lockstep::io {

Permutation::Permutation(std::int64_t size, std::uint64_t seed, std::uint64_t epoch)
    : size_(std::uint64_t(size)), seed_(seed), epoch_(epoch) {
  require(size >= 1, "permutation: {} elements", size);
  a_ = std::max<std::uint64_t>(1, std::uint64_t(std::sqrt(double(size_))));
  b_ = (size_ + a_ - 1) / a_;
}

std::int64_t Permutation::operator()(std::int64_t position) const {
  constexpr std::uint32_t site = hash_name("order of rows");
  std::uint64_t value = std::uint64_t(position);
  do {  // a value beyond the size walks on along its cycle; a_ * b_ exceeds the size by less than a_
    std::uint64_t left = value / b_, right = value % b_;
    for (std::uint32_t round = 0; round < 8; ++round) {
      const std::uint64_t from = round % 2 ? left : right;
      const Random4 r =
          philox(std::uint32_t(seed_), std::uint32_t(seed_ >> 32), std::uint32_t(from), std::uint32_t(from >> 32) ^ (round << 24),
                 std::uint32_t(epoch_), site ^ std::uint32_t(epoch_ >> 32));
      const std::uint64_t word = std::uint64_t(r.x) << 32 | r.y;
      if (round % 2)
        right = (right + word % b_) % b_;
      else
        left = (left + word % a_) % a_;
    }
    value = left * b_ + right;
  } while (value >= size_);
  return std::int64_t(value);
}

const char* name_of(Shuffle shuffle) {
  switch (shuffle) {
    case Shuffle::none: return "none";
    case Shuffle::window: return "window";
    default: return "full";
  }
}

Shuffle choose_shuffle(const std::vector<ChunkRun>& chunks) {
  return chunks.empty() ? Shuffle::full : Shuffle::window;
}

std::int64_t choose_window(const std::vector<ChunkRun>& chunks, int lanes, std::int64_t bytes) {
  std::int64_t largest = 1, row = 1, rows = 0;
  for (const auto& run : chunks) {
    largest = std::max(largest, std::min(run.chunk, run.rows));
    row = std::max(row, run.row_bytes);
    rows += run.rows;
  }
  const std::int64_t wanted = std::max(bytes / 2 / std::min(lanes, 128) / row, 8 * largest);
  return std::max<std::int64_t>(1, std::min(wanted, rows));
}

namespace {

/// 64 random bits for one use of a seed.
std::uint64_t draw(std::uint64_t seed, std::uint32_t site, std::uint64_t a, std::uint64_t b) {
  const Random4 r = philox(std::uint32_t(seed), std::uint32_t(seed >> 32), std::uint32_t(a), std::uint32_t(a >> 32) ^ site,
                           std::uint32_t(b), std::uint32_t(b >> 32));
  return std::uint64_t(r.x) << 32 | r.y;
}

/// floor((a * b + c) / d) where the product may need more than 64 bits.
std::int64_t share(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
  __extension__ using Wide = unsigned __int128;
  return std::int64_t((Wide(std::uint64_t(a)) * Wide(std::uint64_t(b)) + Wide(std::uint64_t(c))) / Wide(std::uint64_t(d)));
}

}  // namespace

/// One epoch of a windowed order.
class Order::Epoch {
 public:
  Epoch(const Order& order, std::uint64_t epoch) : order_(order), epoch_(epoch) {
    for (std::size_t k = 0; k < order.classes_.size(); ++k)
      offsets_.push_back(std::int64_t(draw(order.seed_, hash_name("sections"), k, epoch) % std::uint64_t(order.sections_)));
  }

  /// The section that holds a position.
  std::int64_t section_of(std::int64_t position) const {
    std::int64_t low = 0, high = order_.sections_ - 1;
    while (low < high) {
      const std::int64_t middle = low + (high - low + 1) / 2;
      if (begin(middle) <= position)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }
  /// The first position of a section.
  std::int64_t begin(std::int64_t section) const {
    std::int64_t rows = 0;
    for (std::size_t k = 0; k < offsets_.size(); ++k) rows += order_.classes_[k].size * place(k, section);
    return rows;
  }

  /// Appends rows at positions [first, last) of a section, which is mixed within [begin, end).
  void rows(std::int64_t section, std::int64_t begin_of_section, std::int64_t begin, std::int64_t end, std::int64_t first,
            std::int64_t last, std::vector<std::int64_t>& out) const {
    struct Part {
      std::int64_t end;    // of the class's rows, counted from the section's first
      std::int64_t place;  // of its first chunk in the class
      std::size_t index;
      Permutation chunks;
    };
    std::vector<Part> parts;
    for (std::size_t k = 0; k < offsets_.size(); ++k) {
      const auto& c = order_.classes_[k];
      const std::int64_t from = place(k, section), to = place(k, section + 1), rows = (to - from) * c.size;
      if (rows > 0)
        parts.push_back({(parts.empty() ? 0 : parts.back().end) + rows, from, k,
                         Permutation(c.chunks, draw(order_.seed_, hash_name("chunks"), k, 0), epoch_)});
    }
    const Permutation mix(end - begin, draw(order_.seed_, hash_name("window"), std::uint64_t(begin), 0), epoch_);
    for (std::int64_t position = first; position < last; ++position) {
      std::int64_t at = begin + mix(position - begin) - begin_of_section;
      const auto part = std::upper_bound(parts.begin(), parts.end(), at, [](std::int64_t a, const Part& p) { return a < p.end; });
      if (part != parts.begin()) at -= (part - 1)->end;
      const Class& c = order_.classes_[part->index];
      out.push_back(first_row(c, part->chunks(part->place + at / c.size)) + at % c.size);
    }
  }

 private:
  std::int64_t place(std::size_t k, std::int64_t section) const {
    return share(section, order_.classes_[k].chunks, offsets_[k], order_.sections_);
  }
  static std::int64_t first_row(const Class& c, std::int64_t chunk) {
    const auto after =
        std::upper_bound(c.runs.begin(), c.runs.end(), chunk, [](std::int64_t i, const Class::Run& r) { return i < r.begin; });
    return (after - 1)->first + (chunk - (after - 1)->begin) * c.size;
  }

  const Order& order_;
  std::uint64_t epoch_;
  std::vector<std::int64_t> offsets_;
};

Order::Order(Options options) : rows_(options.rows), shuffle_(options.shuffle), seed_(options.seed) {
  require(options.rows >= 1, "order of rows: {} rows", options.rows);
  if (shuffle_ != Shuffle::window) return;
  if (options.chunks.empty()) options.chunks = {{.first = 0, .rows = rows_, .chunk = 1, .row_bytes = 1}};
  std::map<std::int64_t, Class> classes;
  std::int64_t rows = 0, chunks = 0;
  auto add = [&](std::int64_t size, std::int64_t count, std::int64_t first) {
    if (size == 0 || count == 0) return;
    Class& c = classes[size];
    c.size = size;
    c.runs.push_back({c.chunks, first});
    c.chunks += count;
    chunks += count;
  };
  for (const auto& run : options.chunks) {
    require(run.first == rows && run.rows >= 0 && run.chunk >= 1,
            "order of rows: a run of {} rows in chunks of {} begins at {}, not {}", run.rows, run.chunk, run.first, rows);
    const std::int64_t whole = run.rows / run.chunk;
    add(run.chunk, whole, run.first);
    add(run.rows % run.chunk, 1, run.first + whole * run.chunk);
    rows += run.rows;
  }
  require(rows == rows_, "order of rows: chunks hold {} rows of {}", rows, rows_);
  for (auto& [size, c] : classes) classes_.push_back(std::move(c));
  const std::int64_t window = options.window > 0 ? options.window : rows_;
  sections_ = std::clamp<std::int64_t>((rows_ + window / 2) / window, 1, chunks);
}

void Order::rows(std::uint64_t epoch, Piece piece, std::int64_t first, std::int64_t count, std::vector<std::int64_t>& out) const {
  std::int64_t position = piece.begin + first;
  const std::int64_t last = position + count;
  if (count <= 0) return;
  if (shuffle_ == Shuffle::none) {
    for (; position < last; ++position) out.push_back(position);
    return;
  }
  if (shuffle_ == Shuffle::full) {
    const Permutation order(rows_, seed_, epoch);
    for (; position < last; ++position) out.push_back(order(position));
    return;
  }
  const Epoch e(*this, epoch);
  for (std::int64_t section = e.section_of(position), begin = e.begin(section), end; position < last; ++section, begin = end) {
    end = e.begin(section + 1);
    const std::int64_t to = std::min(last, end);
    if (to > position)
      e.rows(section, begin, std::max(begin, piece.begin), std::min(end, piece.begin + piece.size), position, to, out);
    position = std::max(position, to);
  }
}

}  // namespace lockstep::io
