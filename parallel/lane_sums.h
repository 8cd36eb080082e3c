#pragma once

#include <vector>

#include "core/flat.h"
#include "kernels/memory.h"
#include "parallel/tree.h"

namespace lockstep::parallel {

/// Flat memory in which one rank's lanes add what they computed. As a tree (exact) it has several levels: each lane overwrites
/// the lowest free one, and levels merge in pairs, every sum rounded to the type; in place it has one, to which later lanes add.
/// Either way level 0 holds the sum at the end.
class LaneSums {
 public:
  LaneSums() = default;
  /// `lanes`: the most that any rank runs, since `allocate` is collective.
  LaneSums(std::int64_t size, DType dtype, int lanes, bool tree, const Allocate& allocate, const Queue& queue) : tree_(tree) {
    for (int i = 0; i < (tree ? levels_of_leaves(lanes) : 1); ++i) {
      memory_.push_back(allocate(std::size_t(size) * size_of(dtype)));
      levels_.push_back({memory_.back().get(), size, dtype});
      if (size > 0) kernels::fill(queue, levels_.back(), 0);  // padding stays zero for good
    }
  }

  /// Where this lane writes.
  View level(int lane) const { return levels_[std::size_t(tree_ ? level_of_leaf(lane) : 0)]; }
  /// Whether it adds to what earlier lanes left there.
  bool adds(int lane) const { return !tree_ && lane > 0; }
  View total() const { return levels_[0]; }

  /// After a lane that others follow.
  void merge(const Queue& queue, int lane) const {
    if (!tree_) return;
    int top = level_of_leaf(lane);
    for (int m = merges_after_leaf(lane); m > 0; --m, --top) add(queue, top, 0, total().size);
  }
  /// After the last lane: the sum of elements [begin, end) comes to level 0.
  void finish(const Queue& queue, int last_lane, std::int64_t begin, std::int64_t end) const {
    if (!tree_) return;
    for (int top = level_of_leaf(last_lane); top > 0; --top) add(queue, top, begin, end);
  }

 private:
  void add(const Queue& queue, int top, std::int64_t begin, std::int64_t end) const {
    View left = levels_[std::size_t(top - 1)].slice(begin, end - begin);
    kernels::add(queue, left, left, levels_[std::size_t(top)].slice(begin, end - begin));
  }

  bool tree_ = false;
  std::vector<Memory> memory_;
  std::vector<View> levels_;
};

}  // namespace lockstep::parallel
