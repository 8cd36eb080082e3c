#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "io/dataset.h"

namespace lockstep::io {

struct MixtureSource {
  std::int64_t rows = 0;
  double weight = 1;  ///< relative to the sum of all
};

/// Which source each row of an endless stream comes from, so that the number taken from every source is at any point less than
/// one row away from its share: a periodic table made by the algorithm of Tijdeman, "The chairman assignment problem" (Discrete
/// Mathematics 32, 1980), whose bound is 1 - 1 / (2 k - 2) rows for k sources.
///
/// Shares are fractions with a common denominator, the period. Weights of up to six decimals or whole numbers whose sum, reduced,
/// is at most 2^20 (for up to 64 sources) are kept exactly; others are rounded to that denominator.
class Mixture {
 public:
  Mixture() = default;
  explicit Mixture(const std::vector<double>& weights);

  std::size_t sources() const { return places_.size(); }
  /// The share of a source that is kept.
  double share(std::size_t source) const { return double(places_[source].size()) / double(period_); }
  /// Rows of `source` among the first `rows`: within less than one of share(source) * rows.
  std::int64_t taken(std::size_t source, std::int64_t rows) const;

 private:
  std::int64_t period_ = 1;
  std::vector<std::vector<std::uint32_t>> places_;  // by source: its places in a period, rising
};

/// Several datasets of the same kind of rows as one: theirs follow one another. Throws (Exit::bad_data) when they differ in
/// what a row is.
std::unique_ptr<Dataset> join_datasets(std::vector<std::unique_ptr<Dataset>>);

}  // namespace lockstep::io
