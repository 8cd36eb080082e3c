#include "kernels/product_choices.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <sstream>

#include "kernels/base/check.h"
#include "kernels/vendor.h"

namespace lockstep {

const ProductChoices::Algorithm* ProductChoices::find(const Product& product) const {
  auto found = algorithms_.find(product);
  return found == algorithms_.end() ? nullptr : &found->second;
}

std::string ProductChoices::text() const {
  std::string text;
  char word[24];
  for (auto& [product, algorithm] : algorithms_) {
    for (std::int64_t v : product) text += std::to_string(v) + " ";
    for (std::uint64_t v : algorithm) {
      std::snprintf(word, sizeof word, "%016llx", (unsigned long long)v);
      text += word;
    }
    text += "\n";
  }
  return text;
}

void ProductChoices::add(const std::string& text) {
  std::istringstream lines(text);
  std::map<Product, Algorithm> read;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    Product product;
    std::string hex, more;
    for (std::int64_t& v : product) words >> v;
    bool right = bool(words >> hex) && hex.size() == 128 && hex.find_first_not_of("0123456789abcdef") == std::string::npos &&
                 !(words >> more);
    require(Exit::bad_data, right, "these are no algorithms of products: \"{}\"", line.substr(0, 80));
    Algorithm algorithm;
    for (std::size_t i = 0; i < algorithm.size(); ++i) algorithm[i] = std::stoull(hex.substr(16 * i, 16), nullptr, 16);
    read[product] = algorithm;
  }
  for (auto& [product, algorithm] : read) algorithms_[product] = algorithm;
}

std::size_t fastest(std::size_t count, const std::function<double(std::size_t)>& time, int rounds) {
  require(count > 0 && rounds > 0, "fastest: {} candidates, {} rounds", count, rounds);
  std::vector<std::vector<double>> times(count);
  std::vector<bool> out(count, false);
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < count; ++i)
      if (!out[i]) times[i].push_back(time(i));
    if (round > 0) continue;
    double best = std::numeric_limits<double>::infinity();
    for (auto& t : times) best = std::min(best, t[0]);
    for (std::size_t i = 1; i < count; ++i) out[i] = times[i][0] > 1.5 * best;
  }
  auto median = [&](std::size_t i) {
    std::ranges::nth_element(times[i], times[i].begin() + std::ptrdiff_t(times[i].size() / 2));
    return times[i][times[i].size() / 2];
  };
  std::size_t chosen = 0;
  double limit = 0.98 * median(0);
  for (std::size_t i = 1; i < count; ++i)
    if (double t = out[i] ? std::numeric_limits<double>::infinity() : median(i); t < limit) limit = t, chosen = i;
  return chosen;
}

namespace kernels {

void search_products(const Queue& q, bool search) {
  if (q.on_gpu) cuda::search_products(q, search);
}
std::string product_choices(const Queue& q) {
  return q.on_gpu ? cuda::product_choices(q).text() : "";
}
void follow_product_choices(const Queue& q, const std::string& text) {
  if (q.on_gpu) cuda::product_choices(q).add(text);
}
std::string product_library(const Queue& q) {
  return q.on_gpu ? cuda::product_library() : "";
}

}  // namespace kernels
}  // namespace lockstep
