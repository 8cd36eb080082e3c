#pragma once

#include <vector>

#include "kernels/base/view.h"
#include "kernels/sums.h"

namespace lockstep::parallel {

/// Which rank is on which machine, and how a sum over all of them in the exact order (tree.h) is shared: every machine adds up
/// the subtrees that lie on it alone, only these travel, and the rest of the tree is added from them.
///
/// Memory is cut into as many columns as the largest machine has ranks, and each column into one piece a machine. A column has a
/// handler on every machine, the machine's ranks take turns; the handler adds its machine's subtrees over the whole column, sends
/// each piece to the column's handler on the piece's machine, which adds them up and sends the sum back.
class Machines {
 public:
  /// machine_of_rank[r]: any number that ranks of one machine have in common.
  Machines(const std::vector<int>& machine_of_rank, int rank);

  int count() const { return int(ranks_.size()); }
  int mine() const { return mine_; }
  int columns() const { return columns_; }
  /// Machines are numbered by their first ranks; a machine's ranks in order.
  const std::vector<int>& ranks(int machine) const { return ranks_[std::size_t(machine)]; }
  int handler(int machine, int column) const;

  /// Subtrees that lie on this machine alone: merges of its ranks' leaves, and where the subtrees' sums then stand.
  const std::vector<kernels::Merge>& local_merges() const { return local_merges_; }
  const std::vector<int>& local_sums() const { return local_sums_; }
  /// Number of such sums on a machine.
  int sums(int machine) const { return sums_[std::size_t(machine)]; }
  /// Merges of all machines' sums, machine after machine, into sum number result().
  const std::vector<kernels::Merge>& merges() const { return merges_; }
  int result() const { return result_; }

  View column(View, int column) const;
  View piece(View, int column, int machine) const;

 private:
  std::vector<std::vector<int>> ranks_;
  int mine_ = 0, columns_ = 1, result_ = 0;
  std::vector<kernels::Merge> local_merges_, merges_;
  std::vector<int> local_sums_, sums_;
};

/// Part i of `parts`, which begin at multiples of 64 bytes and differ by at most that.
View part_of(View, int i, int parts);

}  // namespace lockstep::parallel
