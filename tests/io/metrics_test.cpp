#include "io/metrics.h"

#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

TEST(MetricsFile, AppendsLineByLine) {
  Folder folder;
  const auto path = folder / "metrics.jsonl";
  MetricsFile metrics(path);
  metrics.write(R"({"step":1})");
  EXPECT_EQ(read_file(path), "{\"step\":1}\n");  // at once
  metrics.write(R"({"step":2})");
  {
    MetricsFile again(path);
    again.write(R"({"step":3})");
  }
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
  EXPECT_EQ(metrics.trouble(), "");
}

TEST(MetricsFile, DropsWhatLiesBeyondTheResumedStep) {
  Folder folder;
  const auto path = folder / "metrics.jsonl";
  write_file(path, R"({"event":"start"}
{"step":10,"train/loss":2.5}
{"step":20,"train/loss":2.25}
{"step":20,"val/loss":2.4}
{"step":30,"train/loss":2.0}
{"event":"end","step":30}
{"step":40,"train/lo)");
  MetricsFile metrics(path, 20);
  metrics.write(R"({"step":21})");
  EXPECT_EQ(read_file(path), R"({"event":"start"}
{"step":10,"train/loss":2.5}
{"step":20,"train/loss":2.25}
{"step":20,"val/loss":2.4}
{"step":21}
)");
}

TEST(MetricsFile, TroubleIsToldOnceAndStopsNothing) {
  {
    MetricsFile metrics("/dev/full");
    for (int i = 0; i < 5; ++i) metrics.write("{}");
    EXPECT_NE(metrics.trouble().find("No space left"), std::string::npos);
    EXPECT_EQ(metrics.trouble(), "");
    metrics.write("{}");
    EXPECT_EQ(metrics.trouble(), "");
  }
  MetricsFile nowhere("/no/such/folder/metrics.jsonl", 5);
  nowhere.write("{}");
  EXPECT_NE(nowhere.trouble().find("goes on"), std::string::npos);
}

}  // namespace
}  // namespace lockstep::io
