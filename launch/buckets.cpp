#include "launch/buckets.h"

#include <fmt/format.h>

#include <algorithm>

#include "launch/models.h"
#include "parallel/bucket_sizes.h"

namespace lockstep::launch {
namespace {

std::string size_text(std::int64_t bytes) {
  return bytes < (1 << 20) ? fmt::format("{:.3g} KiB", double(bytes) / (1 << 10))
                           : fmt::format("{:.3g} MiB", double(bytes) / (1 << 20));
}

/// "all-reduce reaches 5.1 GB/s, 64 KiB take 12.3 us"
std::string measured_text(const std::vector<parallel::AllReduceTime>& times, std::int64_t end) {
  double best = 0;
  std::string text;
  for (const auto& t : times) {
    best = std::max(best, double(t.bytes) / t.seconds);
    if (text.empty() && t.bytes >= end) text = fmt::format("{} take {:.3g} ms", size_text(t.bytes), 1e3 * t.seconds);
  }
  return fmt::format("all-reduce reaches {:.3g} GB/s, {}", best / 1e9, text);
}

}  // namespace

Buckets choose_buckets(const Config::Train& train, const ParameterSet& parameters, Session& session,
                       const std::optional<parallel::BucketOptions>& stored) {
  Buckets buckets;
  if (session.size() == 1) return buckets;
  auto& sizes = buckets.sizes;
  const bool all_set = train.head_bucket_mib && train.middle_bucket_mib && train.tail_bucket_mib;
  std::string why = "as configured";
  if (!all_set && stored) {
    sizes = *stored;
    why = "as in the checkpoint";
  } else if (!all_set) {
    const DType dtype = to_dtype(train.gradient);
    std::int64_t bytes = 0;
    for (const auto& p : parameters.all())
      if (p->role == Parameter::Role::weight && p->trainable) bytes += p->value.size() * std::int64_t(size_of(dtype));
    const auto times =
        parallel::time_all_reduce(session.communicator(), session.group(), session.device().queue(), dtype, bytes / 2);
    sizes = parallel::bucket_sizes(times, bytes);
    why = measured_text(times, sizes.head);
  }
  auto set = [](std::int64_t& size, const std::optional<double>& mebibytes) {
    if (mebibytes) size = std::max<std::int64_t>(1, std::int64_t(*mebibytes * (1 << 20)));
  };
  set(sizes.head, train.head_bucket_mib);
  set(sizes.middle, train.middle_bucket_mib);
  set(sizes.tail, train.tail_bucket_mib);
  buckets.text = fmt::format("buckets: {} first, {} between, {} last ({})", size_text(sizes.head), size_text(sizes.middle),
                             size_text(sizes.tail), why);
  return buckets;
}

}  // namespace lockstep::launch
