#include "io/stream.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"

namespace lockstep::io {
namespace {

/// The chunks of rows [first, first + rows), counted from `first`.
std::vector<ChunkRun> chunks_of(const std::vector<ChunkRun>& all, std::int64_t first, std::int64_t rows) {
  std::vector<ChunkRun> own;
  for (ChunkRun run : all)
    if (run.first >= first && run.first < first + rows) run.first -= first, own.push_back(run);
  return own;
}

std::vector<double> weights_of(const std::vector<MixtureSource>& mixture) {
  std::vector<double> weights;
  for (const auto& source : mixture) weights.push_back(source.weight);
  return weights;
}

}  // namespace

const char* name_of(Tail tail) {
  switch (tail) {
    case Tail::partial: return "partial";
    case Tail::drop: return "drop";
    default: return "carry";
  }
}

Stream::Stream(StreamOptions options) : options_(std::move(options)) {
  const auto& o = options_;
  require(Exit::usage, o.lanes >= 1 && o.rows_per_lane >= 1, "a step needs at least one lane of one row, not {} of {}", o.lanes,
          o.rows_per_lane);
  require(Exit::bad_data, o.rows >= 1, "the training data has no rows");
  require(
      Exit::usage, o.tail != Tail::drop || o.rows >= batch(),
      "the training data has {} rows, fewer than the {} lanes x {} rows of a step: with tail = drop nothing is left to train on; "
      "use carry or partial, or smaller steps",
      o.rows, o.lanes, o.rows_per_lane);
  require(Exit::usage, o.mixture.empty() || o.tail == Tail::carry,
          "tail = {} needs epochs that end, but each source of a mixture goes through its own: use carry", name_of(o.tail));
  auto add = [&](std::int64_t first, std::int64_t rows) {
    const std::uint64_t seed = o.seed ^ (sources_.size() * 0x9E3779B97F4A7C15u);
    sources_.push_back({Order({rows, o.shuffle, o.window, chunks_of(o.chunks, first, rows), seed}), rows, first, o.lanes});
  };
  if (o.mixture.empty()) {
    add(0, o.rows);
    return;
  }
  std::int64_t first = 0;
  for (const auto& source : o.mixture) {
    require(Exit::bad_data, source.rows >= 1, "source {} of the mixture has no rows", sources_.size() + 1);
    add(first, source.rows);
    first += source.rows;
  }
  require(first == o.rows, "a mixture of {} rows in a dataset of {}", first, o.rows);
  mixture_ = Mixture(weights_of(o.mixture));
}

/// The lane's share of an epoch's positions, and with it all lanes' before it.
Piece Stream::Source::piece(std::int64_t epoch, int lane) const {
  // Of the first x rows that are dealt out, lanes 0 … l-1 get l * (x / lanes) + min(l, x % lanes).
  auto dealt = [&](std::int64_t x, int l) { return l * (x / lanes) + std::min<std::int64_t>(l, x % lanes); };
  const std::int64_t from = rows * epoch, to = from + rows, begin = dealt(to, lane) - dealt(from, lane);
  return {begin, dealt(to, lane + 1) - dealt(from, lane + 1) - begin};
}

/// Rows t … t + count - 1 of a lane.
void Stream::Source::append(int lane, std::int64_t t, std::int64_t count, std::vector<std::int64_t>& out) const {
  const std::size_t before = out.size();
  while (count > 0) {
    const std::int64_t epoch = (t * lanes + lane) / rows, earlier = (rows * epoch + lanes - 1 - lane) / lanes;
    const Piece own = piece(epoch, lane);
    const std::int64_t n = std::min(count, own.size - (t - earlier));
    order.rows(std::uint64_t(epoch), own, t - earlier, n, out);
    t += n, count -= n;
  }
  for (std::size_t i = before; i < out.size(); ++i) out[i] += first;
}

std::int64_t Stream::steps_per_epoch() const {
  return options_.tail == Tail::drop ? options_.rows / batch() : (options_.rows + batch() - 1) / batch();
}

void Stream::rows(std::int64_t step, int lane, std::vector<std::int64_t>& out) const {
  out.clear();
  if (!options_.mixture.empty()) return mixed_rows(step, lane, out);
  const Source& source = sources_[0];
  if (options_.tail == Tail::carry) return source.append(lane, step * options_.rows_per_lane, options_.rows_per_lane, out);
  const std::int64_t within = step % steps_per_epoch() * options_.rows_per_lane;
  source.order.rows(std::uint64_t(step / steps_per_epoch()), source.piece(0, lane), within, count(step, lane), out);
}

void Stream::mixed_rows(std::int64_t step, int lane, std::vector<std::int64_t>& out) const {
  const int lanes = options_.lanes;
  struct Taken {
    std::int64_t from, to;  // of the source's rows, in the order of its epochs
  };
  std::vector<Taken> taken;
  for (std::size_t i = 0; i < sources_.size(); ++i)
    taken.push_back({mixture_.taken(i, step * batch()), mixture_.taken(i, (step + 1) * batch())});
  // Rows of this step that were dealt to lanes before l.
  auto dealt = [&](int l) {
    auto first = [&](std::int64_t x) { return l * (x / lanes) + std::min<std::int64_t>(l, x % lanes); };
    std::int64_t sum = 0;
    for (auto [from, to] : taken) sum += first(to) - first(from);
    return sum;
  };
  std::int64_t skip = lane * options_.rows_per_lane, wanted = options_.rows_per_lane;
  int owner = 0;  // the last lane that was dealt its first row at or before this lane's
  for (int beyond = lanes; beyond - owner > 1;) {
    const int middle = owner + (beyond - owner) / 2;
    (dealt(middle) <= skip ? owner : beyond) = middle;
  }
  skip -= dealt(owner);
  for (; wanted > 0; ++owner)
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      const std::int64_t begin = (taken[i].from + lanes - 1 - owner) / lanes, end = (taken[i].to + lanes - 1 - owner) / lanes;
      const std::int64_t skipped = std::min(skip, end - begin), n = std::min(wanted, end - begin - skipped);
      sources_[i].append(owner, begin + skipped, n, out);
      skip -= skipped, wanted -= n;
    }
}

std::int64_t Stream::count(std::int64_t step, int lane) const {
  if (options_.tail == Tail::carry) return options_.rows_per_lane;
  const std::int64_t within = step % steps_per_epoch() * options_.rows_per_lane;
  return std::clamp<std::int64_t>(sources_[0].piece(0, lane).size - within, 0, options_.rows_per_lane);
}

std::int64_t Stream::total(std::int64_t step) const {
  if (options_.tail != Tail::partial) return batch();
  return std::min(batch(), options_.rows - step % steps_per_epoch() * batch());
}

std::int64_t Stream::steps(double epochs) const {
  const double each = options_.tail == Tail::carry ? double(options_.rows) / double(batch()) : double(steps_per_epoch());
  return std::int64_t(std::ceil(epochs * each));
}

double Stream::epochs(std::int64_t step) const {
  if (options_.tail == Tail::carry) return double(step) * double(batch()) / double(options_.rows);
  return double(step) / double(steps_per_epoch());
}

double Stream::epochs(std::int64_t step, std::size_t source) const {
  if (options_.mixture.empty()) return epochs(step);
  return double(mixture_.taken(source, step * batch())) / double(options_.mixture[source].rows);
}

}  // namespace lockstep::io
