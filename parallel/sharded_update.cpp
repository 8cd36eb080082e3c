#include "parallel/sharded_update.h"

#include <algorithm>

#include "kernels/memory.h"
#include "kernels/update.h"

namespace lockstep::parallel {
namespace {

/// Elements of a piece: its masters are still near in the cache when they are copied to the other ranks.
constexpr std::int64_t near = 256 << 10;
/// A step's collectives must not crowd out the timings of its buckets.
constexpr std::int64_t most_pieces = Communicator::timings_kept / 8;

/// The last place up to x where a part may begin: the first element of a norm block, or padding.
std::int64_t cut(const std::vector<Layout::Slot>& slots, std::int64_t x) {
  for (const auto& slot : slots)
    if (slot.bucket >= 0 && slot.begin <= x && x < slot.begin + slot.size)
      return slot.begin + (x - slot.begin) / kernels::norm_block * kernels::norm_block;
  return x;
}

/// [begin, end) in `count` parts of about one size.
std::vector<Range> divide(const std::vector<Layout::Slot>& slots, std::int64_t begin, std::int64_t end, std::int64_t count) {
  std::vector<Range> parts;
  std::int64_t at = begin;
  for (std::int64_t i = 1; i <= count; ++i) {
    std::int64_t next = i == count ? end : std::max(at, cut(slots, begin + (end - begin) * i / count));
    parts.push_back({at, next - at});
    at = next;
  }
  return parts;
}

}  // namespace

ShardedUpdate::ShardedUpdate(Communicator& communicator, const Flat& flat, bool common)
    : communicator_(communicator), flat_(flat), common_(common), meeting_(communicator.allocate(sizeof(float))) {
  const auto& slots = flat.layout.slots;
  const std::int64_t ranks = communicator.size();
  const std::int64_t size = std::max(near, flat.layout.trained / ranks / most_pieces);
  for (auto [begin, end] : flat.layout.buckets) {
    buckets_.push_back(divide(slots, begin, end, ranks));
    const std::int64_t count = std::max<std::int64_t>(1, ((end - begin) / ranks + size / 2) / size);
    std::vector<std::vector<Range>> by_rank;
    for (Range part : buckets_.back()) by_rank.push_back(divide(slots, part.begin, part.begin + part.size, count));
    for (std::int64_t i = 0; i < count; ++i) {
      auto& piece = pieces_.emplace_back();
      for (auto& parts : by_rank) piece.push_back(parts[std::size_t(i)]);
      mine_.push_back(piece[std::size_t(communicator.rank())]);
    }
  }
}

std::vector<View> ShardedUpdate::parts(View arena, std::size_t bucket) const {
  std::vector<View> views;
  for (Range part : buckets_[bucket]) views.push_back(arena.slice(part.begin, part.size));
  return views;
}

Communicator::Seen ShardedUpdate::seen(std::size_t bucket) const {
  if (!seen_) return {};
  const std::int64_t first = buckets_[bucket][std::size_t(communicator_.rank())].begin;
  return [seen = seen_, first](std::int64_t begin, std::int64_t end) { seen({first + begin, end - begin}); };
}

void ShardedUpdate::sum(const Queue& queue, View values) {
  if (sums_size_ < values.size) {
    sums_ = communicator_.allocate(values.bytes());
    sums_size_ = values.size;
  }
  View sums{sums_.get(), values.size, values.dtype};
  kernels::copy(queue, sums, values);
  communicator_.all_reduce(queue, sums, Reduction::exact);
  communicator_.join(queue);
  kernels::copy(queue, values, sums);
}

void ShardedUpdate::publish(const Queue& queue, std::size_t part) {
  if (common_) return;
  std::vector<View> views;
  for (Range piece : pieces_[part]) views.push_back(flat_.masters.slice(piece.begin, piece.size));
  communicator_.gather_parts(queue, views);
  communicator_.progress();  // earlier ones too, while they are near
}

void ShardedUpdate::join(const Queue& queue) {
  if (common_) communicator_.all_reduce(queue, {meeting_.get(), 1, DType::f32});  // all have updated their parts
  communicator_.join(queue);
}

}  // namespace lockstep::parallel
