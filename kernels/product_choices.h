#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/base/queue.h"

namespace lockstep {

/// Algorithms of matrix products that were found by timing, by what a product is (types, sizes, epilogue, alignment). As text
/// they go from rank to rank, into checkpoints and into notes for later runs.
class ProductChoices {
 public:
  using Product = std::array<std::int64_t, 20>;    ///< a PlanKey
  using Algorithm = std::array<std::uint64_t, 8>;  ///< as the library knows it, opaque

  void add(const Product& product, const Algorithm& algorithm) { algorithms_[product] = algorithm; }
  const Algorithm* find(const Product&) const;
  std::size_t size() const { return algorithms_.size(); }

  /// A line for each product: its numbers, then the algorithm's words in hex. Equal choices give equal text.
  std::string text() const;
  /// Adds what text() gave; throws (Exit::bad_data) when it is something else.
  void add(const std::string& text);

 private:
  std::map<Product, Algorithm> algorithms_;
};

/// Which of `count` candidates is the fastest. `time(i)` runs candidate i once and gives its time. All are timed in turn, so that
/// a clock that changes meanwhile changes it for all; those that are far behind after the first round drop out. Candidate 0 is
/// the library's own choice: another one must be faster by 2 % to take its place.
std::size_t fastest(std::size_t count, const std::function<double(std::size_t)>& time, int rounds = 5);

namespace kernels {

/// Where the queue is a GPU's and `search` is set, a product that is met for the first time and has no choice yet is timed with
/// every algorithm the library offers, on random data of its own; this waits for the queue. Otherwise it takes the library's
/// first. A product that has run keeps its algorithm.
void search_products(const Queue&, bool search);
/// The choices so far; none on a CPU.
std::string product_choices(const Queue&);
/// Products that have not run yet follow these.
void follow_product_choices(const Queue&, const std::string& text);
/// What choices hold for: the library and its version; "" on a CPU.
std::string product_library(const Queue&);

}  // namespace kernels
}  // namespace lockstep
