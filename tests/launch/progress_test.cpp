#include "launch/progress.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launch/overlap.h"

namespace lockstep::launch {
namespace {

TEST(Progress, OneLine) {
  Progress p{.step = 120,
             .steps = 1000,
             .loss = 1.23456789,
             .rate = 3e-4,
             .step_ms = 12.34,
             .exposed_share = 0.0123,
             .per_second = 10234,
             .unit = "tokens",
             .mfu = 0.314,
             .seconds_left = 185};
  EXPECT_EQ(to_text(p),
            "step 120/1000  loss 1.23457  rate 3.00e-04  12.3 ms  10.2k tokens/s  31.4 % of peak  exposed 1.2 %  3m05s left");
}

TEST(Progress, Durations) {
  EXPECT_EQ(duration_text(0), "0s");
  EXPECT_EQ(duration_text(59.4), "59s");
  EXPECT_EQ(duration_text(59.6), "1m00s");
  EXPECT_EQ(duration_text(3599.4), "59m59s");
  EXPECT_EQ(duration_text(2 * 3600 + 7 * 60), "2h07m");
  EXPECT_EQ(duration_text(3 * 86400 + 4 * 3600), "3d04h");
  EXPECT_EQ(count_text(987.4), "987");
  EXPECT_EQ(count_text(9999), "9999");
  EXPECT_EQ(count_text(10230), "10.2k");
  EXPECT_EQ(count_text(1.3e6), "1.3M");
  EXPECT_EQ(bytes_text(512), "512 B");
  EXPECT_EQ(bytes_text(1.5 * (1 << 20)), "1.5 MiB");
}

TEST(Overlap, TableShowsMeansAndSums) {
  OverlapTable table;
  table.add({{.bytes = 1 << 20, .hidden = 3, .worked = 1, .exposed = 1}, {.bytes = 1 << 10, .hidden = 0, .exposed = 2}});
  table.add({{.bytes = 1 << 20, .hidden = 5, .worked = 1, .exposed = 1}, {.bytes = 1 << 10, .hidden = 0, .exposed = 4}});
  EXPECT_EQ(table.text(),
            "communication, mean of 2 steps\n"
            "  bucket       bytes   hidden ms   worked ms  exposed ms   hidden %\n"
            "       0     1.0 MiB       4.000       1.000       1.000       66.7\n"
            "       1     1.0 KiB       0.000       0.000       3.000        0.0\n"
            "     all     1.0 MiB       4.000       1.000       4.000       44.4\n"
            "hidden: went on while backward computed; worked: this rank did it instead of computing; exposed: the step waited");
}

TEST(Overlap, TimelineIsATraceOfTheGivenTimes) {
  Timeline timeline(3);
  timeline.add(Timeline::Track::steps, "step 4", 100.0, 100.5);
  timeline.add(Timeline::Track::compute, "forward", 100.0, 100.2);
  timeline.add_bucket(1, 100.0, {.bytes = 4096, .started = 250, .finished = 400, .hidden = 50, .exposed = 100});
  auto trace = nlohmann::json::parse(timeline.json());
  nlohmann::json bucket;
  for (const auto& event : trace["traceEvents"]) {
    EXPECT_EQ(event["pid"], 3);
    if (event["name"] == "bucket 1") bucket = event;
  }
  EXPECT_NEAR(double(bucket["ts"]), 250e3, 1);
  EXPECT_NEAR(double(bucket["dur"]), 150e3, 1);
  EXPECT_EQ(bucket["args"]["exposed_ms"], 100);
}

}  // namespace
}  // namespace lockstep::launch
