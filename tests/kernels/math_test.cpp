#include "kernels/base/math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "kernels/base/random.h"

// The polynomials against the C library in double, over the ranges that their comments state.
namespace lockstep {
namespace {

/// Largest relative error over [low, high] in `steps` points that are not round numbers.
double worst(const std::function<float(float)>& ours, const std::function<double(double)>& exact, double low, double high,
             double floor = 0) {
  constexpr int steps = 200003;
  double most = 0;
  for (int i = 0; i <= steps; ++i) {
    float x = float(low + (high - low) * i / steps);
    double wanted = exact(double(x)), error = std::abs(double(ours(x)) - wanted) / std::max(std::abs(wanted), floor);
    if (std::isnan(error)) return error;
    most = std::max(most, error);
  }
  return most;
}

constexpr double ulp = 0x1p-23;

TEST(Math, ExpIsAccurate) {
  EXPECT_LE(worst(
                math::exp, [](double x) { return std::exp(x); }, -87.2, 88.6),
            ulp);
  EXPECT_LE(worst(
                math::exp, [](double x) { return std::exp(x); }, -1, 1),
            ulp);
}

TEST(Math, ExpAtTheEnds) {
  EXPECT_EQ(math::exp(0.f), 1.f);
  EXPECT_EQ(math::exp(-88.f), 0.f);
  EXPECT_EQ(math::exp(-INFINITY), 0.f);
  EXPECT_EQ(math::exp(89.f), INFINITY);
  EXPECT_EQ(math::exp(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(math::exp(NAN)));
}

TEST(Math, LogIsAccurate) {
  auto exact = [](double x) { return std::log(x); };
  EXPECT_LE(worst(math::log, exact, 1e-3, 0.7), 2 * ulp);
  EXPECT_LE(worst(math::log, exact, 0.7, 1.5, 1e-2), 2 * ulp);
  EXPECT_LE(worst(math::log, exact, 1.5, 1e6), 2 * ulp);
  EXPECT_LE(worst([](float x) { return math::log(std::ldexp(1 + x, -120)); },
                  [](double x) { return std::log(std::ldexp(double(float(1 + float(x))), -120)); }, 0, 1),
            2 * ulp);
  EXPECT_EQ(math::log(1.f), 0.f);
  EXPECT_EQ(math::log(0.f), -INFINITY);
  EXPECT_EQ(math::log(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(math::log(-1.f)));
  EXPECT_TRUE(std::isnan(math::log(NAN)));
}

TEST(Math, TanhIsAccurate) {
  EXPECT_LE(worst(
                math::tanh, [](double x) { return std::tanh(x); }, -12, 12),
            3 * ulp);
  EXPECT_LE(worst(
                math::tanh, [](double x) { return std::tanh(x); }, -1e-3, 1e-3, 1e-30),
            3 * ulp);
  EXPECT_EQ(math::tanh(100.f), 1.f);
  EXPECT_EQ(math::tanh(-INFINITY), -1.f);
  EXPECT_TRUE(std::isnan(math::tanh(NAN)));
}

TEST(Math, SigmoidIsAccurate) {
  EXPECT_LE(worst(
                math::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -80, 80),
            4 * ulp);
  EXPECT_EQ(math::sigmoid(INFINITY), 1.f);
  EXPECT_EQ(math::sigmoid(-INFINITY), 0.f);
  EXPECT_TRUE(std::isnan(math::sigmoid(NAN)));
}

TEST(Math, ErfIsAccurate) {
  EXPECT_LE(worst(
                math::erf, [](double x) { return std::erf(x); }, -5, 5, 1e-30),
            8 * ulp);
  EXPECT_NEAR(math::erf(INFINITY), 1.f, 2 * ulp);
  EXPECT_TRUE(std::isnan(math::erf(NAN)));
}

TEST(Math, SineAndCosineOfTurns) {
  double most = 0;
  for (int i = 0; i <= 100000; ++i) {
    float t = float(i) / 100000;
    auto [sine, cosine] = math::sine_cosine_turns(t);
    most = std::max({most, std::abs(double(sine) - std::sin(2 * M_PI * double(t))),
                     std::abs(double(cosine) - std::cos(2 * M_PI * double(t)))});
  }
  EXPECT_LE(most, 2 * ulp);
}

// The known answers that come with Random123 (kat_vectors), for Philox-4x32-10.
TEST(Random, PhiloxKnownAnswers) {
  auto expect = [](Random4 r, std::uint32_t x, std::uint32_t y, std::uint32_t z, std::uint32_t w) {
    EXPECT_EQ(r.x, x);
    EXPECT_EQ(r.y, y);
    EXPECT_EQ(r.z, z);
    EXPECT_EQ(r.w, w);
  };
  expect(philox(0, 0, 0, 0, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  std::uint32_t f = 0xffffffff;
  expect(philox(f, f, f, f, f, f), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
  expect(philox(0xa4093822, 0x299f31d0, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), 0xd16cfe09, 0x94fdcceb, 0x5001e420,
         0x24126ea1);
}

TEST(Random, EveryPartOfTheKeyMatters) {
  RandomKey key{1, 2, 3, 4};
  std::uint32_t word = random_word(key, 5);
  EXPECT_NE(word, random_word({9, 2, 3, 4}, 5));
  EXPECT_NE(word, random_word({1ull << 40 | 1, 2, 3, 4}, 5));
  EXPECT_NE(word, random_word({1, 9, 3, 4}, 5));
  EXPECT_NE(word, random_word({1, 2, 9, 4}, 5));
  EXPECT_NE(word, random_word({1, 2, 3, 9}, 5));
  EXPECT_NE(word, random_word(key, 6));
  EXPECT_NE(word, random_word(key, 5 + (1ull << 34)));
}

}  // namespace
}  // namespace lockstep
