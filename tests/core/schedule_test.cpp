#include "core/optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lockstep::optim {
namespace {

TEST(Schedule, WarmsUpThenFollowsItsKind) {
  Schedule cosine{.kind = Schedule::Kind::cosine, .rate = 2, .steps = 101, .warmup = 10, .final = 0.1f};
  EXPECT_FLOAT_EQ(cosine.at(0), 0.2f);
  EXPECT_FLOAT_EQ(cosine.at(9), 2);
  EXPECT_FLOAT_EQ(cosine.at(10), 2);
  EXPECT_FLOAT_EQ(cosine.at(55), 2 * 0.55f);
  EXPECT_FLOAT_EQ(cosine.at(100), 0.2f);
  EXPECT_FLOAT_EQ(cosine.at(1000), 0.2f);

  Schedule linear{.kind = Schedule::Kind::linear, .rate = 1, .steps = 11};
  EXPECT_FLOAT_EQ(linear.at(0), 1);
  EXPECT_FLOAT_EQ(linear.at(5), 0.5f);
  EXPECT_FLOAT_EQ(linear.at(10), 0);

  Schedule wsd{.kind = Schedule::Kind::wsd, .rate = 1, .steps = 101, .warmup = 10, .final = 0, .decay_share = 0.2f};
  EXPECT_FLOAT_EQ(wsd.at(50), 1);
  EXPECT_FLOAT_EQ(wsd.at(80), 1);
  EXPECT_FLOAT_EQ(wsd.at(100), 0);
  EXPECT_NEAR(wsd.at(90), 10.0 / 19.2, 1e-3);

  Schedule constant{.rate = 3, .steps = 5};
  for (int i = 0; i < 10; ++i) EXPECT_FLOAT_EQ(constant.at(i), 3);
}

TEST(Schedule, OneStepRunsAreDefined) {
  for (auto kind : {Schedule::Kind::constant, Schedule::Kind::linear, Schedule::Kind::cosine, Schedule::Kind::wsd})
    EXPECT_TRUE(std::isfinite((Schedule{.kind = kind, .rate = 1, .steps = 1}.at(0))));
}

}  // namespace
}  // namespace lockstep::optim
