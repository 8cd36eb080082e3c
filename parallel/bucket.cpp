#include "parallel/bucket.h"

#include <algorithm>

namespace lockstep::parallel {
namespace {

/// Every parameter begins at a multiple of this many elements, so that vector loads and library kernels find it aligned.
constexpr std::int64_t alignment = 64;

std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

bool travels(const Parameter& p) {
  return p.role == Parameter::Role::weight && p.trainable;
}

}  // namespace

Layout plan_buckets(const ParameterSet& set, int ranks, DType gradient, BucketOptions options) {
  require(ranks > 0, "plan_buckets: {} ranks", ranks);
  require(Exit::usage, options.head > 0 && options.middle >= 0 && options.tail > 0,
          "buckets need sizes above 0, not head {}, middle {}, tail {}", options.head, options.middle, options.tail);
  constexpr std::int64_t mebi = 1 << 20;
  std::int64_t element = std::int64_t(size_of(gradient));
  std::int64_t middle = options.middle;
  if (middle == 0) {  // large enough for the wire, but about eight pieces of a small model, or nothing leaves before the end
    std::int64_t all = 0;
    for (auto& p : set.all()) all += travels(*p) ? p->value.size() * element : 0;
    middle = std::min(std::max(8 * mebi, ranks * mebi), std::max(mebi / 4, all / 8));
  }

  Layout layout;
  std::vector<std::size_t> order;  // slots in the order in which their gradients become final
  for (auto& p : set.all()) {
    if (travels(*p)) order.push_back(layout.slots.size());
    layout.slots.push_back({p.get(), 0, p->value.size(), -1});
  }
  std::ranges::reverse(order);

  // The tail: as many of the last gradients as fit, at least one.
  std::size_t tail = order.size();
  for (std::int64_t bytes = 0; tail > 0; --tail) {
    bytes += layout.slots[order[tail - 1]].size * element;
    if (bytes > options.tail && tail < order.size()) break;
  }

  std::int64_t at = 0;
  auto close = [&] {
    at = round_up(at, std::int64_t(ranks) * 128);
    layout.buckets.back().end = at;
  };
  for (std::size_t i = 0; i < order.size(); ++i) {
    auto& slot = layout.slots[order[i]];
    bool full = i > 0 && (at - layout.buckets.back().begin) * element >= (layout.buckets.size() == 1 ? options.head : middle);
    if (i == 0 || i == tail || (full && i < tail)) {
      if (i > 0) close();
      layout.buckets.push_back({at, at});
    }
    at = round_up(at, alignment);
    slot.begin = at;
    slot.bucket = int(layout.buckets.size()) - 1;
    at += slot.size;
  }
  if (!layout.buckets.empty()) close();
  layout.trained = at;

  for (auto& slot : layout.slots)
    if (slot.bucket < 0) {
      slot.begin = at;
      at = round_up(at + slot.size, 128);
    }
  layout.total = at;
  return layout;
}

}  // namespace lockstep::parallel
