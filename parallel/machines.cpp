#include "parallel/machines.h"

#include <algorithm>
#include <map>

#include "parallel/tree.h"

namespace lockstep::parallel {

View part_of(View data, int i, int parts) {
  const std::int64_t line = 64 / std::int64_t(size_of(data.dtype)), lines = (data.size + line - 1) / line;
  auto edge = [&](std::int64_t k) { return std::min(data.size, lines * k / parts * line); };
  return data.slice(edge(i), edge(i + 1) - edge(i));
}

Machines::Machines(const std::vector<int>& machine_of_rank, int rank) {
  const int size = int(machine_of_rank.size());
  std::map<int, int> numbers;  // by first rank
  std::vector<int> machine(machine_of_rank.size()), place(machine_of_rank.size());
  for (int r = 0; r < size; ++r) {
    auto [found, fresh] = numbers.try_emplace(machine_of_rank[std::size_t(r)], int(ranks_.size()));
    if (fresh) ranks_.emplace_back();
    machine[std::size_t(r)] = found->second;
    auto& there = ranks_[std::size_t(found->second)];
    place[std::size_t(r)] = int(there.size());
    there.push_back(r);
    columns_ = std::max(columns_, int(there.size()));
  }
  mine_ = machine[std::size_t(rank)];

  // Walk the tree: a merge of two sums of one machine is that machine's; the others are left for all.
  std::vector<int> owner = machine;  // of the sum at this leaf; -1: several machines'
  std::vector<kernels::Merge> rest;
  std::vector<char> merged(machine.size());  // into another on the same machine
  for_each_merge(size, [&](int left, int right) {
    auto l = std::size_t(left), r = std::size_t(right);
    if (owner[l] >= 0 && owner[l] == owner[r]) {
      merged[r] = 1;
      if (owner[l] == mine_) local_merges_.push_back({place[l], place[r]});
    } else {
      owner[l] = owner[r] = -1;
      rest.push_back({left, right});
    }
  });
  std::map<int, int> sum_of_leaf;
  for (auto& there : ranks_) {
    sums_.push_back(0);
    for (int r : there) {
      if (merged[std::size_t(r)]) continue;
      sum_of_leaf[r] = int(sum_of_leaf.size());
      ++sums_.back();
      if (machine[std::size_t(r)] == mine_) local_sums_.push_back(place[std::size_t(r)]);
    }
  }
  for (auto [left, right] : rest) merges_.push_back({sum_of_leaf[left], sum_of_leaf[right]});
  result_ = sum_of_leaf[0];
}

int Machines::handler(int machine, int column) const {
  auto& there = ranks(machine);
  return there[std::size_t(column) * there.size() / std::size_t(columns_)];
}

View Machines::column(View data, int column) const {
  return part_of(data, column, columns_);
}
View Machines::piece(View data, int column, int machine) const {
  return part_of(this->column(data, column), machine, count());
}

}  // namespace lockstep::parallel
