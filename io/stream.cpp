#include "io/stream.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/base/random.h"

namespace lockstep::io {

Permutation::Permutation(std::int64_t size, std::uint64_t seed, std::uint64_t epoch)
    : size_(std::uint64_t(size)), seed_(seed), epoch_(epoch) {
  require(size >= 1, "permutation: {} elements", size);
  a_ = std::max<std::uint64_t>(1, std::uint64_t(std::sqrt(double(size_))));
  b_ = (size_ + a_ - 1) / a_;
}

std::int64_t Permutation::operator()(std::int64_t position) const {
  constexpr std::uint32_t site = hash_name("order of rows");
  std::uint64_t value = std::uint64_t(position);
  do {  // a value beyond the size walks on along its cycle; a_ * b_ exceeds the size by less than a_
    std::uint64_t left = value / b_, right = value % b_;
    for (std::uint32_t round = 0; round < 8; ++round) {
      const std::uint64_t from = round % 2 ? left : right;
      const Random4 r =
          philox(std::uint32_t(seed_), std::uint32_t(seed_ >> 32), std::uint32_t(from), std::uint32_t(from >> 32) ^ (round << 24),
                 std::uint32_t(epoch_), site ^ std::uint32_t(epoch_ >> 32));
      const std::uint64_t word = std::uint64_t(r.x) << 32 | r.y;
      if (round % 2)
        right = (right + word % b_) % b_;
      else
        left = (left + word % a_) % a_;
    }
    value = left * b_ + right;
  } while (value >= size_);
  return std::int64_t(value);
}

Stream::Stream(StreamOptions options) : options_(options) {
  require(Exit::usage, options.lanes >= 1 && options.rows_per_lane >= 1,
          "a step needs at least one lane of one row, not {} of {}", options.lanes, options.rows_per_lane);
  require(Exit::bad_data, options.rows >= options.lanes,
          "the training data has {} rows, fewer than the {} lanes of a step: use at most {} lanes", options.rows, options.lanes,
          options.rows);
}

Stream::Piece Stream::piece(int lane) const {
  const std::int64_t each = options_.rows / options_.lanes, rest = options_.rows % options_.lanes;
  return {lane * each + std::min<std::int64_t>(lane, rest), each + (lane < rest)};
}

void Stream::rows(std::int64_t step, int lane, std::span<std::int64_t> out) const {
  const Piece own = piece(lane);
  std::int64_t at = step * options_.rows_per_lane;
  for (std::size_t i = 0; i < out.size();) {
    const std::int64_t epoch = at / own.size;
    const Permutation order(options_.rows, options_.seed, std::uint64_t(epoch));
    for (std::int64_t within = at % own.size; i < out.size() && within < own.size; ++i, ++at, ++within)
      out[i] = options_.shuffle ? order(own.begin + within) : own.begin + within;
  }
}

std::int64_t Stream::steps(double epochs) const {
  return std::int64_t(std::ceil(epochs * double(piece(0).size) / double(options_.rows_per_lane)));
}

double Stream::epochs(std::int64_t step) const {
  return double(step) * double(options_.rows_per_lane) * options_.lanes / double(options_.rows);
}

}  // namespace lockstep::io
