#pragma once

#include <bit>
#include <vector>

namespace lockstep::parallel {

/// The one order in which exact sums are added: a binary counter. Leaf i is pushed on a stack of partial sums, then the two sums
/// on top are merged as often as i has trailing ones; what is left at the end is folded from the top down. For a power of two
/// leaves this is the balanced binary tree, and equal subtrees of a power of two leaves may be summed elsewhere first (lanes
/// inside a rank) without changing a bit.

/// Where leaf i comes to stand: the height of the stack before it.
inline int level_of_leaf(int leaf) {
  return std::popcount(unsigned(leaf));
}
/// Merges that follow leaf i when more leaves come after it.
inline int merges_after_leaf(int leaf) {
  return std::countr_one(unsigned(leaf));
}
/// The largest height of the stack.
inline int levels_of_leaves(int leaves) {
  return int(std::bit_width(unsigned(leaves)));
}

/// Calls merge(left, right) for leaves - 1 pairs of leaves, in order: the sum at `right` is to be added to the one at `left`.
template <class Merge>
void for_each_merge(int leaves, Merge merge) {
  std::vector<int> stack;
  auto pop_into = [&] {
    int right = stack.back();
    stack.pop_back();
    merge(stack.back(), right);
  };
  for (int i = 0; i < leaves; ++i) {
    stack.push_back(i);
    for (int m = merges_after_leaf(i); m > 0; --m) pop_into();
  }
  while (stack.size() > 1) pop_into();
}

}  // namespace lockstep::parallel
