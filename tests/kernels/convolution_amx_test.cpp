#include "kernels/convolution_amx_cpu.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/device.h"
#include "kernels/matmul_amx_cpu.h"
#include "tests/support/guarded.h"

namespace lockstep::kernels {
namespace {

/// A convolution with its gradients, beside the definition in f64.
class Convolved {
 public:
  Convolved(const ConvolutionShape& shape, unsigned seed)
      : s(shape),
        x(std::size_t(s.batch * s.height * s.width * s.in)),
        w(std::size_t(s.out * s.kernel_height * s.kernel_width * s.in)),
        bias(std::size_t(s.out)),
        dy(std::size_t(s.batch * s.out_height() * s.out_width() * s.out)),
        y(dy.size()),
        dx(x.size()),
        dw(w.size()) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (GuardedFloats* values : {&x, &w, &bias, &dy, &y, &dx, &dw})
      for (float& v : *values) v = normal(random);
  }

  void run(bool with_bias, Write write) {
    const Queue& q = device.queue();
    cpu::convolution_by_amx(q, s, view(y), view(x), view(w), with_bias ? view(bias) : View{});
    cpu::convolution_backward_data_by_amx(q, s, view(dx), view(dy), view(w), write);
    cpu::convolution_backward_weights_by_amx(q, s, view(dw), view(dy), view(x), write);
  }
  std::vector<float> results() const {
    std::vector<float> all(y.begin(), y.end());
    all.insert(all.end(), dx.begin(), dx.end());
    all.insert(all.end(), dw.begin(), dw.end());
    return all;
  }

  /// The same in f64, and for each result the absolute sum of its terms.
  struct Sums {
    std::vector<double> sum, size;
    explicit Sums(std::size_t n) : sum(n), size(n) {}
    void add(std::size_t i, double term) { sum[i] += term, size[i] += std::abs(term); }
  };
  /// The worst errors of y, dx and dw after run(), in units of 2^-24 of the absolute sums. `before`: results() that were added
  /// to.
  std::vector<double> errors(bool with_bias, const std::vector<float>& before) const {
    Sums all(y.size() + dx.size() + dw.size());
    const std::size_t at_dx = y.size(), at_dw = at_dx + dx.size();
    for (std::size_t i = at_dx; i < before.size(); ++i) all.add(i, before[i]);
    for (std::size_t i = 0; with_bias && i < y.size(); ++i) all.add(i, bias[i % std::size_t(s.out)]);
    for (std::int64_t n = 0; n < s.batch; ++n)
      for (std::int64_t row = 0; row < s.out_height(); ++row)
        for (std::int64_t column = 0; column < s.out_width(); ++column)
          for (std::int64_t i = 0; i < s.kernel_height; ++i)
            for (std::int64_t j = 0; j < s.kernel_width; ++j) {
              const std::int64_t from_row = row + i * s.dilation - s.padding, from_column = column + j * s.dilation - s.padding;
              if (from_row < 0 || from_row >= s.height || from_column < 0 || from_column >= s.width) continue;
              const auto to = std::size_t(((n * s.out_height() + row) * s.out_width() + column) * s.out),
                         from = std::size_t(((n * s.height + from_row) * s.width + from_column) * s.in);
              for (std::size_t o = 0; o < std::size_t(s.out); ++o) {
                const auto weight =
                    ((o * std::size_t(s.kernel_height) + std::size_t(i)) * std::size_t(s.kernel_width) + std::size_t(j)) *
                    std::size_t(s.in);
                for (std::size_t c = 0; c < std::size_t(s.in); ++c) {
                  all.add(to + o, double(x[from + c]) * w[weight + c]);
                  all.add(at_dx + from + c, double(dy[to + o]) * w[weight + c]);
                  all.add(at_dw + weight + c, double(dy[to + o]) * x[from + c]);
                }
              }
            }
    const std::vector<float> found = results();
    std::vector<double> worst(3);
    for (std::size_t i = 0; i < found.size(); ++i) {
      double& most = worst[i < at_dx ? 0 : i < at_dw ? 1 : 2];
      most = std::max(most, std::abs(double(found[i]) - all.sum[i]) / (all.size[i] + 1e-300) * 0x1p24);
    }
    return worst;
  }

  const ConvolutionShape s;
  GuardedFloats x, w, bias, dy, y, dx, dw;

 private:
  static View view(GuardedFloats& f) { return {f.data(), std::int64_t(f.size()), DType::f32}; }
  Device device{DeviceKind::cpu};
};

#define SKIP_WITHOUT_AMX() \
  if (!amx::available()) GTEST_SKIP() << "this processor has no AMX, or oneDNN is told to do without"

void expect_precise(const ConvolutionShape& s, unsigned seed) {
  SCOPED_TRACE(testing::Message() << s.batch << " x " << s.height << " x " << s.width << " x " << s.in << " -> " << s.out
                                  << " kernel " << s.kernel_height << " x " << s.kernel_width << " padding " << s.padding
                                  << " dilation " << s.dilation);
  for (bool plain : {true, false}) {
    Convolved c(s, seed);
    const std::vector<float> before = c.results();
    c.run(!plain, plain ? Write::overwrite : Write::accumulate);
    for (double error : c.errors(!plain, plain ? std::vector<float>() : before))
      EXPECT_LT(error, 4);  // one rounding of the sum is 1
  }
}

TEST(ConvolutionAmx, IsAsPreciseAsF32InEveryShape) {
  SKIP_WITHOUT_AMX();
  const ConvolutionShape shapes[] = {
      {.batch = 3, .height = 14, .width = 14, .in = 32, .out = 64, .kernel_height = 5, .kernel_width = 5, .padding = 2},
      {.batch = 1, .height = 1, .width = 1, .in = 1, .out = 1, .kernel_height = 1, .kernel_width = 1},
      {.batch = 2, .height = 9, .width = 33, .in = 40, .out = 17, .kernel_height = 3, .kernel_width = 3, .padding = 1},
      {.batch = 2, .height = 8, .width = 17, .in = 70, .out = 33, .kernel_height = 3, .kernel_width = 2, .padding = 0},
      {.batch = 1, .height = 7, .width = 20, .in = 5, .out = 3, .kernel_height = 2, .kernel_width = 5, .padding = 4},
      {.batch = 1,
       .height = 13,
       .width = 16,
       .in = 33,
       .out = 31,
       .kernel_height = 3,
       .kernel_width = 3,
       .padding = 2,
       .dilation = 2},
      {.batch = 1, .height = 6, .width = 6, .in = 16, .out = 16, .kernel_height = 3, .kernel_width = 3, .padding = 5},
      // One strip of an image at a time.
      {.batch = 1, .height = 70, .width = 41, .in = 64, .out = 40, .kernel_height = 3, .kernel_width = 3, .padding = 1},
      {.batch = 1, .height = 5, .width = 300, .in = 130, .out = 8, .kernel_height = 3, .kernel_width = 3, .padding = 1},
      // Nine shares of images.
      {.batch = 9, .height = 4, .width = 5, .in = 8, .out = 8, .kernel_height = 3, .kernel_width = 3, .padding = 1}};
  unsigned seed = 0;
  for (const ConvolutionShape& s : shapes) expect_precise(s, ++seed);
}

TEST(ConvolutionAmx, IsAsPreciseInRandomShapes) {
  SKIP_WITHOUT_AMX();
  std::mt19937 random(17);
  auto from = [&](std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random);
  };
  for (int i = 0; i < 60; ++i) {
    // With fewer channels, which are not computed this way, sums of few terms are rounded six times for each: 8 units were seen.
    ConvolutionShape s{.batch = from(1, 5),
                       .height = from(1, 20),
                       .width = from(1, 40),
                       .in = from(8, 80),
                       .out = from(8, 80),
                       .kernel_height = from(1, 5),
                       .kernel_width = from(1, 5),
                       .padding = from(0, 5),
                       .dilation = from(1, 3)};
    if (s.height + 2 * s.padding <= s.dilation * (s.kernel_height - 1) ||
        s.width + 2 * s.padding <= s.dilation * (s.kernel_width - 1))
      continue;
    expect_precise(s, unsigned(100 + i));
  }
}

TEST(ConvolutionAmx, GivesTheSameBitsForAnyNumberOfThreads) {
  SKIP_WITHOUT_AMX();
  const int threads = omp_get_max_threads();
  for (std::int64_t batch : {1, 3, 20}) {
    std::vector<float> first;
    for (int n : {1, 2, 3, 5, 8, 19}) {
      omp_set_num_threads(n);
      Convolved c(
          {.batch = batch, .height = 15, .width = 18, .in = 40, .out = 48, .kernel_height = 3, .kernel_width = 5, .padding = 2},
          7);
      c.run(true, Write::overwrite);
      if (first.empty()) first = c.results();
      EXPECT_EQ(c.results(), first) << n << " threads";
    }
  }
  omp_set_num_threads(threads);
}

TEST(ConvolutionAmx, SaysWhatIsNotFinite) {
  SKIP_WITHOUT_AMX();
  for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Convolved c({.batch = 2, .height = 6, .width = 6, .in = 8, .out = 8, .kernel_height = 3, .kernel_width = 3, .padding = 1}, 7);
    c.x[0] = bad;  // a corner of the first image, which 4 pixels see
    c.run(false, Write::overwrite);
    std::size_t found = 0, pixels_seen = 0;
    for (float v : c.y) found += !std::isfinite(v);
    for (std::size_t p = 0; p < c.y.size(); p += 8) pixels_seen += !std::isfinite(c.y[p]);
    EXPECT_EQ(pixels_seen, 4);
    EXPECT_EQ(found, 4 * 8);
    for (float v : c.dx) ASSERT_TRUE(std::isfinite(v));
  }
}

TEST(ConvolutionAmx, SuitsKernelsThatAreLarge) {
  SKIP_WITHOUT_AMX();
  const ConvolutionShape s{
      .batch = 64, .height = 14, .width = 14, .in = 32, .out = 64, .kernel_height = 5, .kernel_width = 5, .padding = 2};
  const double direct = 64. * 14 * 14 * 32 * 64 * 25;
  EXPECT_TRUE(cpu::suits_amx(s, false, direct));
  EXPECT_TRUE(cpu::suits_amx(s, true, direct));
  EXPECT_FALSE(cpu::suits_amx(s, false, direct / 2));
  ConvolutionShape narrow = s;
  narrow.width = 4;
  EXPECT_FALSE(cpu::suits_amx(narrow, false, direct * 4 / 14));
}

}  // namespace
}  // namespace lockstep::kernels
