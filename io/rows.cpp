#include "io/rows.h"

#include <fmt/format.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "io/pages.h"

namespace lockstep::io {
namespace {

using Kind = hdf5::Layout::Kind;

constexpr std::int64_t block_bytes = 256 << 10;            // of what has no chunks: a read that is worth its call
constexpr std::int64_t most_band = std::int64_t(1) << 30;  // larger ones are left to the library, a part at a time
constexpr std::int64_t run_bytes = 1 << 20;                // of rows that any order costs the same
constexpr std::int64_t smallest_read = 4 << 10;            // a row of fewer bytes is not worth a call of its own
constexpr std::int64_t most_places = 1 << 24;              // chunks: 16 bytes each
enum State : std::uint8_t { absent, filling, there };

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

}  // namespace

Rows::Rows(std::shared_ptr<const hdf5::File> file, const std::string& name, hdf5::Element element, std::shared_ptr<Engine> engine,
           std::shared_ptr<const DataManifest> manifest)
    : engine_(std::move(engine)),
      file_(std::move(file)),
      data_(file_->dataset(name)),
      element_(element),
      layout_(data_.layout()),
      count_(data_.rows()),
      width_(data_.width()),
      where_(file_->path() + ":/" + data_.info().name),
      id_(next_id()),
      manifest_(std::move(manifest)) {
  const auto& shape = data_.info().shape;
  const std::int64_t row = std::max<std::int64_t>(1, row_bytes());
  if (layout_.kind == Kind::chunked) {
    const bool known = std::ranges::all_of(layout_.filters, [](const auto& f) { return can_decode(f.id); });
    const bool sane = layout_.chunk[0] <= most_band / row;
    if (!known || !sane) layout_.kind = Kind::library;
    if (sane) band_rows_ = std::min(layout_.chunk[0], count_);
  }
  if (layout_.chunk.empty() || layout_.chunk[0] > most_band / row)
    band_rows_ = std::clamp<std::int64_t>(block_bytes / row, 1, count_);
  if (manifest_ && layout_.kind != Kind::library) listed_ = manifest_->find(data_.info().name);
  if (listed_ && layout_.kind == Kind::contiguous) band_rows_ = std::max<std::int64_t>(1, listed_->block / stored_row());
  bands_ = (count_ + band_rows_ - 1) / band_rows_;
  if (layout_.kind != Kind::library) bytes_ = std::make_unique<FileBytes>(data_.descriptor(), file_->path());
  straight_ = layout_.kind == Kind::contiguous && !listed_;
  run_rows_ = layout_.kind == Kind::contiguous ? std::max<std::int64_t>(1, run_bytes / row) : band_rows_;
  if (layout_.kind != Kind::chunked) return;
  chunk_bytes_ = std::size_t(layout_.number.bytes);
  bool whole = true;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    grid_.push_back((shape[i] + layout_.chunk[i] - 1) / layout_.chunk[i]);
    chunk_bytes_ *= std::size_t(layout_.chunk[i]);
    if (i > 0) across_ *= grid_[i], whole = whole && layout_.chunk[i] == shape[i];
  }
  whole_rows_ = whole && same(layout_.number, element_);
  summed_ = layout_.filters.size() == 1 && layout_.filters[0].id == fletcher32_filter;
  if (stored_row() < smallest_read || !whole) return;
  const bool plain = layout_.filters.empty(), alone = whole_rows_ && layout_.chunk[0] == 1;
  straight_ = (plain && !listed_) || (alone && (plain || summed_));
  if (straight_ && alone) run_rows_ = std::max<std::int64_t>(1, run_bytes / row);
}

Rows::~Rows() = default;

// ---- kept

std::size_t Rows::kept_bytes() const {
  return std::size_t(count_ * row_bytes() + bands_);
}
void Rows::keep(Memory memory) {
  kept_ = std::move(memory);
}
void Rows::keep() {
  if (!kept_) kept_ = untouched_memory(kept_bytes());
}
std::uint8_t& Rows::state(std::int64_t band) const {
  return reinterpret_cast<std::uint8_t&>(kept_.get()[count_ * row_bytes() + band]);
}

/// Sees to it that a kept band is there; without `wait`, only when nobody reads it yet. Other processes may share the memory, so
/// waiting is looking again.
bool Rows::fill_kept(std::int64_t band, bool wait) const {
  std::atomic_ref<std::uint8_t> mark(state(band));
  for (;;) {
    std::uint8_t now = mark.load(std::memory_order_acquire);
    if (now == there) return true;
    if (now == absent && mark.compare_exchange_strong(now, filling)) break;
    if (!wait) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  try {
    fill(band, kept_.get() + band * band_rows_ * row_bytes());
  } catch (...) {
    mark.store(absent);
    throw;
  }
  mark.store(there, std::memory_order_release);
  return true;
}

// ---- rows

BandCache::Band Rows::band(std::int64_t index) const {
  return engine_->cache.get(id_, index, std::size_t(rows_of(index) * row_bytes()), [&](std::byte* out) { fill(index, out); });
}

Rows::Block Rows::get(std::int64_t first, std::int64_t count, Scratch& scratch) const {
  const std::int64_t begin = first / band_rows_, end = (first + count - 1) / band_rows_ + 1;
  if (kept_) {
    std::vector<std::int64_t> missing;
    for (std::int64_t b = begin; b < end; ++b)
      if (std::atomic_ref(state(b)).load(std::memory_order_acquire) != there) missing.push_back(b);
    if (!missing.empty())
      engine_->pool.each(std::int64_t(missing.size()), [&](std::int64_t i) { fill_kept(missing[std::size_t(i)], true); });
    return {kept_.get() + first * row_bytes(), {}};
  }
  if (!direct() && end == begin + 1) {
    Block block;
    block.keep = band(begin);
    block.data = block.keep.get() + (first - begin * band_rows_) * row_bytes();
    return block;
  }
  std::byte* out = scratch.need(std::size_t(count * row_bytes()));
  copy(first, count, out);
  return {out, {}};
}

void Rows::copy(std::int64_t first, std::int64_t count, std::byte* out) const {
  if (direct()) return read_rows(first, count, out);
  const std::int64_t begin = first / band_rows_, end = (first + count - 1) / band_rows_ + 1, row = row_bytes();
  engine_->pool.each(end - begin, [&](std::int64_t i) {
    Scratch none;
    const std::int64_t from = std::max(first, (begin + i) * band_rows_),
                       to = std::min(first + count, (begin + i + 1) * band_rows_);
    const Block block = get(from, to - from, none);
    std::memcpy(out + (from - first) * row, block.data, std::size_t((to - from) * row));
  });
}

void Rows::expect(std::int64_t first, std::int64_t count) const {
  if (direct()) return;
  for (std::int64_t b = first / band_rows_; b <= (first + count - 1) / band_rows_; ++b) {
    if (kept_ ? std::atomic_ref(state(b)).load() != absent : engine_->cache.has(id_, b)) continue;
    engine_->pool.later([this, b] {
      try {
        if (kept_)
          fill_kept(b, false);
        else if (!engine_->cache.has(id_, b))
          band(b);
      } catch (const std::exception&) {  // whoever reads the row meets it again
      }
    });
  }
}

// ---- bands

void Rows::fill(std::int64_t band, std::byte* out) const {
  switch (layout_.kind) {
    case Kind::chunked: engine_->pool.each(across_, [&](std::int64_t i) { fill_chunk(band, i, out); }); break;
    case Kind::contiguous:
      if (listed_) return fill_block(band, out);
      read_plain(layout_.offset + band * band_rows_ * stored_row(), rows_of(band) * width_, out);
      break;
    default: data_.read(element_, band * band_rows_, rows_of(band), out);
  }
}

void Rows::damaged(const Shape& at, const std::string& problem) const {
  throw Error(where_ + ": chunk " + to_text(at) + " is damaged: " + problem, Exit::bad_data);
}

/// Where a chunk lies; none: only the library finds it.
const Place* Rows::place(std::int64_t chunk) const {
  std::call_once(looked_, [&] {
    if (std::int64_t(grid_[0] * across_) > std::min(most_places, std::int64_t(bytes_->size())) || bytes_->changed()) return;
    auto found = find_places(*bytes_, data_);
    if (found.unknown.empty() && found.chunk == layout_.chunk) places_ = std::move(found.pieces);
  });
  return places_.empty() ? nullptr : &places_[std::size_t(chunk)];
}

/// A chunk as it is stored, or nothing when it was never written. With nothing left to undo it lies in `out`, where that is
/// given.
hdf5::Data::RawChunk Rows::stored_chunk(std::int64_t number, const Shape& at, std::byte* out) const {
  thread_local Scratch raw;
  auto buffer = [&](std::size_t bytes) {
    return out && layout_.filters.empty() && bytes == chunk_bytes_ ? out : raw.need(bytes);
  };
  hdf5::Data::RawChunk chunk;
  if (listed_) {
    require(Exit::bad_data, number < listed_->count && listed_->chunk == layout_.chunk, "{}: the manifest is not of this file",
            where_);
    const auto& piece = manifest_->pieces(*listed_)[std::size_t(number)];
    if (piece.bytes == 0) return chunk;
    chunk = {buffer(piece.bytes), piece.bytes, piece.filter_mask};
    read_file(std::int64_t(piece.offset), chunk.data, piece.bytes);
    manifest_->check(*listed_, number, {chunk.data, chunk.bytes});
    return chunk;
  }
  const Place* known = place(number);
  if (!known) return data_.read_chunk(layout_, at, buffer);
  // Filters may make a chunk a little larger, never much.
  if (known->bytes > chunk_bytes_ + chunk_bytes_ / 4 + 4096)
    damaged(at, "it claims to have " + std::to_string(known->bytes) + " bytes");
  const bool summed = out && summed_ && known->bytes == chunk_bytes_ + 4 && (known->filter_mask & 1) == 0;
  std::byte sum[4];
  if (summed)  // the checksum lies behind the values: no copy is needed
    read_file(std::int64_t(known->offset), chunk.data = out, std::int64_t(chunk_bytes_), sum);
  else if (known->bytes > 0)
    read_file(std::int64_t(known->offset), chunk.data = buffer(known->bytes), known->bytes);
  chunk.bytes = known->bytes, chunk.mask = known->filter_mask;
  if (bytes_->changed()) return data_.read_chunk(layout_, at, buffer);  // the place may be another chunk's by now
  if (!summed) return chunk;
  if (const auto problem = check_fletcher32({out, chunk_bytes_}, sum); !problem.empty()) damaged(at, problem);
  return chunk;
}

void Rows::fill_chunk(std::int64_t band, std::int64_t across, std::byte* out) const {
  thread_local Scratch decoded;
  const std::int64_t number = band * across_ + across;
  Shape at(grid_.size());
  for (std::size_t axis = grid_.size(); axis-- > 1; across /= grid_[axis]) at[axis] = across % grid_[axis];
  at[0] = band;
  // A chunk of whole rows in our own form is decoded, or even read, where it is to lie.
  const bool in_place = whole_rows_ && rows_of(band) == layout_.chunk[0];
  const hdf5::Data::RawChunk chunk = stored_chunk(number, at, in_place ? out : nullptr);
  std::byte* values = in_place ? out : nullptr;
  if (!chunk.data) {
    if (!values) values = decoded.need(chunk_bytes_);
    const std::size_t one = layout_.fill.size();
    for (std::size_t i = 0; i < chunk_bytes_; i += one) std::memcpy(values + i, layout_.fill.data(), one);
  } else if (chunk.data != out) {
    if (!values) values = decoded.need(chunk_bytes_);
    const std::string problem = decode(layout_.filters, chunk.mask, {chunk.data, chunk.bytes}, {values, chunk_bytes_});
    if (!problem.empty()) damaged(at, problem);
  }
  if (!in_place) scatter(values, at, out);
}

/// Copies what of a decoded chunk lies inside the dataset to its places in a band.
void Rows::scatter(const std::byte* values, const Shape& at, std::byte* out) const {
  const auto& shape = data_.info().shape;
  const std::size_t axes = shape.size();
  Shape size(axes), from_stride(axes, 1), to_stride(axes, 1), index(axes, 0);
  std::int64_t to = 0;
  for (std::size_t k = axes; k-- > 0;) {
    const std::int64_t begin = at[k] * layout_.chunk[k];
    size[k] = std::min(layout_.chunk[k], shape[k] - begin);
    if (k + 1 < axes) from_stride[k] = from_stride[k + 1] * layout_.chunk[k + 1], to_stride[k] = to_stride[k + 1] * shape[k + 1];
    if (k > 0) to += begin * to_stride[k];  // a band begins at its own first row
  }
  std::size_t run_axis = axes - 1;  // from here on, values lie one after another on both sides
  while (run_axis > 0 && size[run_axis] == layout_.chunk[run_axis] && size[run_axis] == shape[run_axis]) --run_axis;
  const std::int64_t run = size[run_axis] * from_stride[run_axis];
  const auto wide = std::int64_t(hdf5::size_of(element_));
  for (;;) {
    std::int64_t in = 0, place = to;
    for (std::size_t k = 0; k < run_axis; ++k) in += index[k] * from_stride[k], place += index[k] * to_stride[k];
    convert(layout_.number, element_, values + in * layout_.number.bytes, out + place * wide, run);
    std::size_t k = run_axis;
    while (k > 0 && ++index[k - 1] == size[k - 1]) index[--k] = 0;
    if (k == 0) return;
  }
}

/// Bytes of the file to `out`, and the bytes after them to `rest`.
void Rows::read_file(std::int64_t offset, std::byte* out, std::int64_t bytes, std::span<std::byte> rest) const {
  iovec parts[2] = {{out, std::size_t(bytes)}, {rest.data(), rest.size()}};
  for (iovec* part = parts; part != parts + 2;) {
    if (part->iov_len == 0) {
      ++part;
      continue;
    }
    auto n = preadv(bytes_->descriptor(), part, int(parts + 2 - part), off_t(offset));
    if (n < 0 && errno == EINTR) continue;
    require(Exit::io, n >= 0, "{}: reading failed: {}", where_, std::strerror(errno));
    require(Exit::bad_data, n > 0, "{}: the file ends before the values of this dataset do", where_);
    for (offset += n; n > 0;) {
      const auto done = std::min(std::size_t(n), part->iov_len);
      part->iov_base = static_cast<std::byte*>(part->iov_base) + done;
      part->iov_len -= done, n -= std::int64_t(done);
      if (n > 0) ++part;
    }
  }
}

/// A band of contiguous data that the manifest knows as one block.
void Rows::fill_block(std::int64_t index, std::byte* out) const {
  thread_local Scratch scratch;
  const std::int64_t rows = rows_of(index), bytes = rows * stored_row();
  require(Exit::bad_data, index < listed_->count && listed_->block == band_rows_ * stored_row(),
          "{}: the manifest is not of this file", where_);
  const bool as_is = same(layout_.number, element_);
  std::byte* stored = as_is ? out : scratch.need(std::size_t(bytes));
  read_file(layout_.offset + index * listed_->block, stored, bytes);
  manifest_->check(*listed_, index, {stored, std::size_t(bytes)});
  if (!as_is) convert(layout_.number, element_, stored, out, rows * width_);
}

/// Values that lie one after another from a place in the file on.
void Rows::read_plain(std::int64_t offset, std::int64_t values, std::byte* out) const {
  if (same(layout_.number, element_)) return read_file(offset, out, values * layout_.number.bytes);
  thread_local Scratch scratch;
  const std::int64_t piece = block_bytes / layout_.number.bytes;
  for (std::int64_t at = 0; at < values; at += piece) {
    const std::int64_t n = std::min(piece, values - at);
    std::byte* stored = scratch.need(std::size_t(n * layout_.number.bytes));
    read_file(offset + at * layout_.number.bytes, stored, n * layout_.number.bytes);
    convert(layout_.number, element_, stored, out + at * std::int64_t(hdf5::size_of(element_)), n);
  }
}

/// Rows that are read at each call: of contiguous data, or of chunks without filters.
void Rows::read_rows(std::int64_t first, std::int64_t count, std::byte* out) const {
  if (layout_.kind == Kind::contiguous) return read_plain(layout_.offset + first * stored_row(), count * width_, out);
  for (std::int64_t n; count > 0; first += n, count -= n, out += n * row_bytes()) {
    const std::int64_t index = first / band_rows_, from = first - index * band_rows_;
    n = std::min(count, rows_of(index) - from);
    if (band_rows_ == 1) {
      fill(index, out);
      continue;
    }
    const Place* known = place(index);
    if (known && known->bytes == chunk_bytes_) {
      read_plain(std::int64_t(known->offset) + from * stored_row(), n * width_, out);
      if (!bytes_->changed()) continue;
    }
    const auto whole = band(index);  // never written, or for the library
    std::memcpy(out, whole.get() + from * row_bytes(), std::size_t(n * row_bytes()));
  }
}

}  // namespace lockstep::io
