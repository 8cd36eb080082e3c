#include "launch/overlap.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "launch/progress.h"

namespace lockstep::launch {

void OverlapTable::add(const Times& times) {
  if (times.empty()) return;
  sums_.resize(times.size());
  for (std::size_t i = 0; i < times.size(); ++i) {
    sums_[i].bytes = times[i].bytes;
    sums_[i].started += times[i].started;
    sums_[i].finished += times[i].finished;
    sums_[i].hidden += times[i].hidden;
    sums_[i].worked += times[i].worked;
    sums_[i].exposed += times[i].exposed;
  }
  ++steps_;
}

std::string OverlapTable::text() const {
  std::string out = fmt::format("communication, mean of {} steps\n{:>8}  {:>10}  {:>10}  {:>10}  {:>10}  {:>9}", steps_, "bucket",
                                "bytes", "hidden ms", "worked ms", "exposed ms", "hidden %");
  auto row = [&](const std::string& name, const parallel::DataParallel::BucketTime& t) {
    double n = double(steps_), whole = t.hidden + t.worked + t.exposed;
    out += fmt::format("\n{:>8}  {:>10}  {:>10.3f}  {:>10.3f}  {:>10.3f}  {:>9}", name, bytes_text(double(t.bytes)), t.hidden / n,
                       t.worked / n, t.exposed / n, whole > 0 ? fmt::format("{:.1f}", 100 * t.hidden / whole) : "-");
  };
  parallel::DataParallel::BucketTime all;
  for (std::size_t i = 0; i < sums_.size(); ++i) {
    row(std::to_string(i), sums_[i]);
    all.bytes += sums_[i].bytes;
    all.hidden += sums_[i].hidden;
    all.worked += sums_[i].worked;
    all.exposed += sums_[i].exposed;
  }
  row("all", all);
  return out +
         "\nhidden: went on while backward computed; worked: this rank did it instead of computing; exposed: the step waited";
}

double hidden_ms(const OverlapTable::Times& times) {
  double sum = 0;
  for (const auto& t : times) sum += t.hidden;
  return sum;
}

double exposed_ms(const OverlapTable::Times& times) {
  double sum = 0;
  for (const auto& t : times) sum += t.exposed;
  return sum;
}

void Timeline::add(Track track, const std::string& name, double started, double finished) {
  events_.push_back({track, name, started, finished});
}

void Timeline::add_bucket(int index, double step_started, const parallel::DataParallel::BucketTime& t) {
  events_.push_back({Track::communication, fmt::format("bucket {}", index), step_started + t.started / 1e3,
                     step_started + t.finished / 1e3, double(t.bytes), t.hidden, t.worked, t.exposed});
}

std::string Timeline::json() const {
  using nlohmann::json;
  const char* tracks[] = {"step", "compute", "communication"};
  json events = json::array();
  events.push_back({{"name", "process_name"}, {"ph", "M"}, {"pid", rank_}, {"args", {{"name", fmt::format("rank {}", rank_)}}}});
  for (int t = 0; t < 3; ++t)
    events.push_back({{"name", "thread_name"}, {"ph", "M"}, {"pid", rank_}, {"tid", t}, {"args", {{"name", tracks[t]}}}});
  double zero = events_.empty() ? 0 : events_.front().started;
  for (const Event& e : events_) zero = std::min(zero, e.started);
  for (const Event& e : events_) {
    json event = {{"name", e.name},
                  {"ph", "X"},
                  {"pid", rank_},
                  {"tid", int(e.track)},
                  {"ts", (e.started - zero) * 1e6},
                  {"dur", (e.finished - e.started) * 1e6}};
    if (e.track == Track::communication)
      event["args"] = {{"bytes", e.bytes}, {"hidden_ms", e.hidden}, {"worked_ms", e.worked}, {"exposed_ms", e.exposed}};
    events.push_back(event);
  }
  return json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump(1) + "\n";
}

}  // namespace lockstep::launch
