#include "io/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/check.h"

namespace lockstep::io {
namespace {

/// Whole numbers in the proportion of the weights whose sum is at most `most`.
std::vector<std::int64_t> whole_parts(const std::vector<double>& weights, std::int64_t most) {
  std::vector<std::int64_t> parts;
  for (std::int64_t scale = 1; scale <= 1'000'000; scale *= 10) {
    parts.clear();
    std::int64_t divisor = 0;
    for (double w : weights) {
      const double scaled = w * double(scale), whole = std::round(scaled);
      if (whole < 1 || whole > 1e15 || std::abs(scaled - whole) > 1e-9 * whole) break;
      parts.push_back(std::int64_t(whole));
      divisor = std::gcd(divisor, parts.back());
    }
    if (parts.size() < weights.size()) continue;
    for (auto& part : parts) part /= divisor;
    if (std::accumulate(parts.begin(), parts.end(), 0.0) <= double(most)) return parts;
    break;
  }
  // Rounded: at least one each, and what is left over to those that lost most.
  parts.clear();
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::pair<double, std::size_t>> lost;
  std::int64_t left = most;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double exact = weights[i] / sum * double(most);
    parts.push_back(std::max<std::int64_t>(1, std::int64_t(exact)));
    lost.emplace_back(double(parts.back()) - exact, i);
    left -= parts.back();
  }
  std::sort(lost.begin(), lost.end());
  for (std::size_t i = 0; left > 0; --left, i = (i + 1) % lost.size()) ++parts[lost[i].second];
  return parts;
}

}  // namespace

Mixture::Mixture(const std::vector<double>& weights) : places_(weights.size()) {
  const auto sources = std::int64_t(weights.size());
  require(Exit::usage, sources >= 1 && sources <= 1 << 16, "a mixture of {} sources: 1 to 65536 work", sources);
  for (double w : weights)
    require(Exit::usage, std::isfinite(w) && w > 0, "the weight of a source of a mixture is {}; it must be above 0", w);
  // Making the table takes period x sources operations.
  const std::int64_t most = std::max<std::int64_t>(std::min<std::int64_t>(1 << 20, (1 << 26) / sources), 16 * sources);
  const auto parts = whole_parts(weights, most);
  period_ = std::accumulate(parts.begin(), parts.end(), std::int64_t(0));
  // Row t (from 1) goes to a source whose lag part / period * t - taken is at least 1 / n, n = 2 sources - 2, and among them to
  // the one whose lag would reach 1 - 1 / n first. All numbers are multiplied by n and the period, so they stay whole.
  const std::int64_t n = std::max<std::int64_t>(2 * sources - 2, 1);
  std::vector<std::int64_t> taken(parts.size(), 0);
  for (std::int64_t t = 1; t <= period_; ++t) {
    std::size_t best = parts.size();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (n * (parts[i] * t - period_ * taken[i]) < period_) continue;
      auto deadline = [&](std::size_t j) { return (taken[j] + 1) * n - 1; };  // over parts[j]
      if (best == parts.size() || deadline(i) * parts[best] < deadline(best) * parts[i]) best = i;
    }
    require(best < parts.size(), "mixture: no source is due at row {}", t);
    ++taken[best];
    places_[best].push_back(std::uint32_t(t - 1));
  }
}

std::int64_t Mixture::taken(std::size_t source, std::int64_t rows) const {
  const auto& places = places_[source];
  const auto before = std::lower_bound(places.begin(), places.end(), std::uint32_t(rows % period_)) - places.begin();
  return rows / period_ * std::int64_t(places.size()) + std::int64_t(before);
}

namespace {

class JoinedDataset final : public Dataset {
 public:
  explicit JoinedDataset(std::vector<std::unique_ptr<Dataset>> parts) : parts_(std::move(parts)) {
    require(!parts_.empty(), "join_datasets: there are none");
    info_ = parts_[0]->info();
    info_.rows = 0;
    info_.text.clear();
    for (const auto& part : parts_) {
      const auto& p = part->info();
      require(Exit::bad_data,
              p.kind == info_.kind && p.input == info_.input && p.target == info_.target && p.target_dtype == info_.target_dtype,
              "a mixture needs rows of one kind, but {} has {} {} and {} has {} {}", parts_[0]->info().text, name_of(info_.kind),
              to_text(info_.input), p.text, name_of(p.kind), to_text(p.input));
      firsts_.push_back(info_.rows);
      info_.rows += p.rows;
      info_.ignores |= p.ignores;
      if (p.classes > info_.classes) info_.classes = p.classes, info_.class_names = p.class_names;
      info_.text += (info_.text.empty() ? "" : " + ") + p.text;
    }
  }

  void read(std::span<const std::int64_t> rows, View inputs, View targets, const RandomKey* draws) const override {
    const std::int64_t n = count(info_.input), m = count(info_.target);
    for (std::size_t begin = 0, end; begin < rows.size(); begin = end) {  // neighbours of one part are read at once
      require(rows[begin] >= 0 && rows[begin] < info_.rows, "dataset: row {} of {}", rows[begin], info_.rows);
      const auto part = part_of(rows[begin]);
      const std::int64_t first = firsts_[part], last = first + parts_[part]->rows();
      std::vector<std::int64_t> own;
      for (end = begin; end < rows.size() && rows[end] >= first && rows[end] < last; ++end) own.push_back(rows[end] - first);
      const auto at = std::int64_t(begin), size = std::int64_t(own.size());
      RandomKey key = draws ? *draws : RandomKey{};
      key.seed ^= begin * 0x9E3779B97F4A7C15u;  // places count from this part's first
      parts_[part]->read(own, inputs.slice(at * n, size * n), targets.slice(at * m, size * m), draws ? &key : nullptr);
    }
  }

  void expect(std::span<const std::int64_t> rows) const override {
    for (std::int64_t row : rows) {
      const auto part = part_of(row);
      const std::int64_t own[] = {row - firsts_[part]};
      parts_[part]->expect(own);
    }
  }

  std::vector<ChunkRun> chunks() const override {
    std::vector<ChunkRun> all;
    bool any = false;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      auto own = parts_[i]->chunks();
      any |= !own.empty();
      if (own.empty()) own = {{.first = 0, .rows = parts_[i]->rows(), .chunk = 1, .row_bytes = 1}};
      for (auto& run : own) run.first += firsts_[i], all.push_back(run);
    }
    return any ? all : std::vector<ChunkRun>{};
  }

 private:
  std::size_t part_of(std::int64_t row) const {
    return std::size_t(std::upper_bound(firsts_.begin(), firsts_.end(), row) - firsts_.begin()) - 1;
  }

  std::vector<std::unique_ptr<Dataset>> parts_;
  std::vector<std::int64_t> firsts_;
};

}  // namespace

std::unique_ptr<Dataset> join_datasets(std::vector<std::unique_ptr<Dataset>> parts) {
  return std::make_unique<JoinedDataset>(std::move(parts));
}

}  // namespace lockstep::io
