#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "io/stream.h"
#include "kernels/base/check.h"

namespace lockstep::test {

/// A random order of rows and what must hold for it, whatever its sizes. Nothing here uses how Stream works: it looks at the rows
/// that every lane gets, step after step.
class OrderCase {
 public:
  explicit OrderCase(std::uint64_t seed) : random_(seed) {
    options_.lanes = pick(1, 10);
    options_.rows_per_lane = pick(1, pick(1, 12));
    options_.seed = random_();
    options_.shuffle = io::Shuffle(pick(0, 2));
    options_.tail = io::Tail(pick(0, 2));
    options_.window = pick(0, 3) == 0 ? 0 : pick(1, 150);
    epochs_ = pick(1, 4);
    const int sources = pick(0, 3) == 0 ? pick(1, 5) : 0;
    for (int i = 0; i < std::max(sources, 1); ++i) {
      const std::int64_t first = options_.rows;
      for (int files = pick(1, 4); files > 0; --files) add_file(pick(0, 60));
      if (options_.rows == first) add_file(1);
      if (sources > 0)
        options_.mixture.push_back({options_.rows - first, pick(0, 2) ? double(pick(1, 9)) : double(pick(1, 1000)) / 1000});
    }
    if (sources > 0) options_.tail = io::Tail::carry;
    if (options_.tail == io::Tail::drop && options_.rows < batch()) options_.tail = io::Tail::partial;
    if (pick(0, 5) == 0) options_.chunks.clear();
  }

  /// "" when all holds.
  std::string problem() {
    const io::Stream stream(options_);
    steps_ = stream.steps(epochs_);
    for (std::int64_t step = 0; step < steps_; ++step) read_step(stream, step);
    if (problem_.empty()) check_resume();
    if (problem_.empty() && options_.mixture.empty()) check_epochs();
    if (problem_.empty() && !options_.mixture.empty()) check_mixture();
    if (problem_.empty() && options_.tail == io::Tail::carry && options_.mixture.empty()) check_counts(0, options_.rows, 1);
    return problem_;
  }
  std::string text() const {
    std::string chunks, mixture;
    for (const auto& run : options_.chunks) chunks += format_text(" {}/{}", {run.rows, run.chunk});
    for (const auto& source : options_.mixture) mixture += format_text(" {}*{}", {source.rows, source.weight});
    return format_text("rows {} lanes {} x {} shuffle {} window {} tail {} epochs {} chunks{} mixture{}",
                       {options_.rows, options_.lanes, options_.rows_per_lane, name_of(options_.shuffle), options_.window,
                        name_of(options_.tail), epochs_, chunks, mixture});
  }

 private:
  using Rows = std::vector<std::int64_t>;

  int pick(int low, int high) { return low + int(random_() % std::uint64_t(high - low + 1)); }
  std::int64_t batch() const { return options_.lanes * options_.rows_per_lane; }
  void add_file(int rows) {
    if (rows > 0) options_.chunks.push_back({options_.rows, rows, pick(1, pick(1, rows + 3)), 1});
    options_.rows += rows;
  }
  template <class... A>
  void wrong(const char* pattern, const A&... values) {
    if (problem_.empty()) problem_ = format_text(pattern, {Argument(values)...});
  }

  void read_step(const io::Stream& stream, std::int64_t step) {
    std::int64_t sum = 0, least = batch(), most = 0;
    for (int lane = 0; lane < options_.lanes; ++lane) {
      Rows rows = {-7};
      stream.rows(step, lane, rows);
      const auto n = std::int64_t(rows.size());
      if (n != stream.count(step, lane)) wrong("step {} lane {}: {} rows, count {}", step, lane, n, stream.count(step, lane));
      for (auto row : rows)
        if (row < 0 || row >= options_.rows) wrong("step {} lane {}: row {}", step, lane, row);
      sum += n, least = std::min(least, n), most = std::max(most, n);
      read_[{step, lane}] = rows;
    }
    if (sum != stream.total(step)) wrong("step {}: {} rows, total {}", step, sum, stream.total(step));
    if (most > options_.rows_per_lane || most - least > options_.rows_per_lane)
      wrong("step {}: lanes of {} to {} rows", step, least, most);
    if (options_.tail != io::Tail::partial && least != options_.rows_per_lane) wrong("step {} is short: {} rows", step, least);
  }

  /// Ranks of another number, each with a stream of its own and asking for its own lanes only, go on at any step.
  void check_resume() {
    for (int trial = 0; trial < 3; ++trial) {
      const int ranks = pick(1, options_.lanes), begin = pick(0, int(steps_) - 1), end = std::min<int>(int(steps_), begin + 4);
      for (int rank = 0; rank < ranks; ++rank) {
        const io::Stream own(options_);
        for (int step = begin; step < end; ++step)
          for (int lane = options_.lanes * rank / ranks; lane < options_.lanes * (rank + 1) / ranks; ++lane) {
            Rows rows;
            own.rows(step, lane, rows);
            if (rows != read_[{step, lane}]) wrong("step {} lane {} differs on rank {} of {}", step, lane, rank, ranks);
          }
      }
    }
  }

  /// What each lane reads of each epoch, in its order. With carry a row's epoch follows from how many came before it when
  /// lanes take turns; else epochs begin with a step.
  std::vector<std::vector<Rows>> by_epoch() {
    const std::int64_t each = options_.tail == io::Tail::drop ? options_.rows / batch() : (options_.rows + batch() - 1) / batch();
    std::vector<std::vector<Rows>> epochs(std::size_t(epochs_) + 1, std::vector<Rows>(std::size_t(options_.lanes)));
    for (auto& [at, rows] : read_)
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::int64_t t = at.first * options_.rows_per_lane + std::int64_t(i);
        const std::int64_t epoch =
            options_.tail == io::Tail::carry ? (t * options_.lanes + at.second) / options_.rows : at.first / each;
        if (epoch < epochs_) epochs[std::size_t(epoch)][std::size_t(at.second)].push_back(rows[i]);
      }
    return epochs;
  }

  void check_epochs() {
    auto epochs = by_epoch();
    for (int epoch = 0; epoch < epochs_; ++epoch) {
      std::vector<int> seen(std::size_t(options_.rows), 0);
      std::size_t least = seen.size(), most = 0;
      for (const Rows& rows : epochs[std::size_t(epoch)]) {
        for (auto row : rows) ++seen[std::size_t(row)];
        least = std::min(least, rows.size()), most = std::max(most, rows.size());
      }
      const auto once = std::count(seen.begin(), seen.end(), 1), never = std::count(seen.begin(), seen.end(), 0);
      if (once + never != options_.rows) wrong("epoch {}: a row comes twice", epoch);
      if (options_.tail == io::Tail::drop ? never >= batch() : never > 0) wrong("epoch {}: {} rows are missing", epoch, never);
      if (most - least > 1) wrong("epoch {}: lanes' pieces of {} to {} rows", epoch, least, most);
      check_chunks(epochs[std::size_t(epoch)], epoch);
      if (options_.shuffle == io::Shuffle::none && options_.tail != io::Tail::drop) {
        std::int64_t next = 0;
        for (const Rows& rows : epochs[std::size_t(epoch)])
          for (auto row : rows)
            if (row != next++) wrong("epoch {}: row {} where {} is in the file", epoch, row, next - 1);
      }
    }
  }

  /// Lanes share a chunk only where their pieces meet, and read each chunk within one window.
  void check_chunks(const std::vector<Rows>& lanes, int epoch) {
    if (options_.shuffle == io::Shuffle::full || options_.chunks.empty()) return;
    std::vector<int> chunk_of;
    std::set<std::int64_t> sizes;
    int chunks = 0;
    for (const auto& run : options_.chunks)
      for (std::int64_t i = 0; i < run.rows; ++i) {
        if (i % run.chunk == 0) ++chunks, sizes.insert(std::min(run.chunk, run.rows - i));
        chunk_of.push_back(chunks - 1);
      }
    std::int64_t shared = -chunks, slack = 0;
    for (auto size : sizes) slack += size;
    const double window = options_.window > 0 ? double(options_.window) : double(options_.rows);
    const double longest = std::max(1.5 * window, double(options_.rows) / chunks) + double(slack);
    std::set<int> used;
    for (const Rows& rows : lanes) {
      std::map<int, std::pair<std::size_t, std::size_t>> span;  // by chunk: first and last place in the lane's order
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const int chunk = chunk_of[std::size_t(rows[i])];
        span.try_emplace(chunk, i, i).first->second.second = i;
        used.insert(chunk);
      }
      shared += std::int64_t(span.size());
      for (auto& [chunk, places] : span)
        if (double(places.second - places.first + 1) > longest)
          wrong("epoch {}: a chunk is spread over {} rows, windows have {}", epoch, places.second - places.first + 1, longest);
    }
    shared += chunks - std::int64_t(used.size());
    if (shared > options_.lanes - 1) wrong("epoch {}: {} lanes too many read a chunk", epoch, shared - options_.lanes + 1);
  }

  void check_mixture() {
    double weights = 0;
    for (const auto& source : options_.mixture) weights += source.weight;
    std::int64_t first = 0;
    for (const auto& source : options_.mixture) {
      check_counts(first, source.rows, source.weight / weights);
      first += source.rows;
    }
  }

  /// After every step a source has given its share to less than one row, and every row of it has come equally often, or once more
  /// when the source is in the middle of an epoch.
  void check_counts(std::int64_t first, std::int64_t rows, double share) {
    std::vector<std::int64_t> seen(std::size_t(rows), 0);
    std::int64_t taken = 0;
    for (std::int64_t step = 0; step < steps_; ++step) {
      for (int lane = 0; lane < options_.lanes; ++lane)
        for (auto row : read_[{step, lane}])
          if (row >= first && row < first + rows) ++seen[std::size_t(row - first)], ++taken;
      const double due = share * double((step + 1) * batch());
      if (std::abs(double(taken) - due) > 1 - 1e-9) wrong("step {}: {} rows of a source, its share is {}", step, taken, due);
      const auto [least, most] = std::minmax_element(seen.begin(), seen.end());
      if (*least != taken / rows || *most != (taken + rows - 1) / rows)
        wrong("step {}: of {} rows after {} some came {} times, some {}", step, rows, taken, *least, *most);
    }
  }

  std::mt19937_64 random_;
  io::StreamOptions options_;
  int epochs_ = 1;
  std::int64_t steps_ = 0;
  std::map<std::pair<std::int64_t, int>, Rows> read_;
  std::string problem_;
};

/// Cases first … first + count - 1; a failing one is named by its seed.
inline void check_orders(std::uint64_t first, std::uint64_t count) {
  int failed = 0;
  for (std::uint64_t seed = first; seed < first + count && failed < 5; ++seed) {
    OrderCase one(seed);
    const std::string problem = one.problem();
    EXPECT_EQ(problem, "") << "case " << seed << ": " << one.text();
    failed += !problem.empty();
  }
}

}  // namespace lockstep::test
