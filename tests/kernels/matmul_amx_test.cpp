#include "kernels/matmul_amx_cpu.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/libraries.h"
#include "tests/support/guarded.h"

namespace lockstep::kernels {
namespace {

struct Shape {
  std::int64_t m, n, k;
};

/// A product with its operands in either layout, beside the same sum in f64. What y is made of lies among poison.
struct Product {
  Shape s;
  bool a_along_k, b_along_k;
  std::int64_t y_row;
  GuardedFloats a, b, bias, y;
  std::shared_ptr<CpuLibraries> libraries = make_cpu_libraries();

  Product(Shape shape, bool a_along_k, bool b_along_k, unsigned seed, std::int64_t gap = 3)
      : s(shape),
        a_along_k(a_along_k),
        b_along_k(b_along_k),
        y_row(s.n + gap),
        a(std::size_t(s.m * s.k)),
        b(std::size_t(s.k * s.n)),
        bias(std::size_t(s.n)),
        y(std::size_t(s.m * y_row)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (GuardedFloats* values : {&a, &b, &bias})
      for (float& v : *values) v = normal(random);
    std::fill(y.begin(), y.end(), poison);
  }

  static constexpr float poison = -12345.5f;
  amx::Operand left() const { return a_along_k ? amx::Operand{a.data(), s.k, 1} : amx::Operand{a.data(), 1, s.m}; }
  amx::Operand right() const { return b_along_k ? amx::Operand{b.data(), s.k, 1} : amx::Operand{b.data(), 1, s.n}; }
  float& a_at(std::int64_t i, std::int64_t l) { return a[std::size_t(a_along_k ? i * s.k + l : l * s.m + i)]; }
  float& b_at(std::int64_t l, std::int64_t j) { return b[std::size_t(b_along_k ? j * s.k + l : l * s.n + j)]; }
  float& y_at(std::int64_t i, std::int64_t j) { return y[std::size_t(i * y_row + j)]; }
  void run(bool with_bias, bool add) {
    amx::product(*libraries, y.data(), y_row, left(), right(), s.m, s.n, s.k, with_bias ? bias.data() : nullptr, add);
  }

  struct Errors {
    double ours = 0, plain = 0, worst = 0;  ///< sums of squares; the largest in units of 2^-24 of the terms' absolute sum
    bool gap_is_kept = true;
  };
  /// After run(): beside f64, and beside f32's multiply-adds one after another.
  Errors errors(bool with_bias, const std::vector<float>& before) {
    Errors e;
    for (std::int64_t i = 0; i < s.m; ++i) {
      for (std::int64_t j = 0; j < s.n; ++j) {
        const float start = (with_bias ? bias[std::size_t(j)] : 0) + (before.empty() ? 0 : before[std::size_t(i * y_row + j)]);
        double exact = start, size = std::abs(exact);
        float plain = start;
        for (std::int64_t l = 0; l < s.k; ++l) {
          exact += double(a_at(i, l)) * double(b_at(l, j));
          size += std::abs(double(a_at(i, l)) * double(b_at(l, j)));
          plain = std::fma(a_at(i, l), b_at(l, j), plain);
        }
        const double error = double(y_at(i, j)) - exact;
        e.ours += error * error;
        e.plain += (double(plain) - exact) * (double(plain) - exact);
        e.worst = std::max(e.worst, std::abs(error) / size * 0x1p24);
      }
      for (std::int64_t j = s.n; j < y_row; ++j) e.gap_is_kept &= y_at(i, j) == poison;
    }
    return e;
  }
};

#define SKIP_WITHOUT_AMX() \
  if (!amx::available()) GTEST_SKIP() << "this processor has no AMX, or oneDNN is told to do without"

TEST(MatmulAmx, IsAsPreciseAsF32InEveryLayoutAndSize) {
  SKIP_WITHOUT_AMX();
  unsigned seed = 1;
  for (Shape s :
       {Shape{1, 1, 1}, {16, 16, 32}, {32, 32, 128}, {33, 31, 129}, {5, 70, 17}, {64, 1056, 100}, {97, 40, 300}, {20, 20, 1000}})
    for (bool a_along_k : {false, true})
      for (bool b_along_k : {false, true})
        for (bool with_bias : {false, true})
          for (bool add : {false, true}) {
            SCOPED_TRACE(testing::Message() << s.m << " x " << s.n << " x " << s.k << " a " << a_along_k << " b " << b_along_k
                                            << " bias " << with_bias << " add " << add);
            Product p(s, a_along_k, b_along_k, ++seed);
            std::vector<float> before;
            if (add) {
              for (std::int64_t i = 0; i < s.m; ++i)
                for (std::int64_t j = 0; j < s.n; ++j) p.y_at(i, j) = 0.5f * float(i % 7) - float(j % 5);
              before.assign(p.y.begin(), p.y.end());
            }
            p.run(with_bias, add);
            const Product::Errors e = p.errors(with_bias, before);
            EXPECT_TRUE(e.gap_is_kept);
            EXPECT_LT(e.worst, 4);  // one rounding of the whole sum is 1
            if (s.k >= 100) {
              EXPECT_LT(e.ours, e.plain);
            }
          }
}

TEST(MatmulAmx, GivesTheSameBitsForAnyNumberOfThreads) {
  SKIP_WITHOUT_AMX();
  const int threads = omp_get_max_threads();
  std::vector<float> first;
  for (int n : {1, 2, 3, 4, 6}) {
    omp_set_num_threads(n);
    Product p({150, 1100, 200}, true, false, 7);
    p.run(true, false);
    const std::vector<float> found(p.y.begin(), p.y.end());
    if (first.empty()) first = found;
    EXPECT_EQ(found, first) << n << " threads";
  }
  omp_set_num_threads(threads);
}

/// Such a y is written around the caches, in one pass along k; here its rows begin at lines of a cache or not, and end within
/// one.
TEST(MatmulAmx, WritesALargeResultOnce) {
  SKIP_WITHOUT_AMX();
  for (std::int64_t gap : {0, 3, 8})
    for (std::int64_t k : {1, 100, 250}) {
      Product p({1025, 1064, k}, false, true, unsigned(gap + k), gap);
      p.run(true, false);
      const Product::Errors e = p.errors(true, {});
      EXPECT_TRUE(e.gap_is_kept);
      EXPECT_LT(e.worst, 4) << gap << " " << k;
    }
}

/// Integers of 24 bits times powers of two have exact products: all three parts count.
TEST(MatmulAmx, LosesNoBitOfANumber) {
  SKIP_WITHOUT_AMX();
  Product p({40, 40, 40}, true, true, 3);
  std::mt19937 random(5);
  for (float& v : p.a) v = float(int(random() >> 8) - (1 << 23));
  std::fill(p.b.begin(), p.b.end(), 0.f);
  for (std::int64_t j = 0; j < 40; ++j) p.b_at(j, j) = std::ldexp(1.f, int(j % 9) - 4);
  p.run(false, false);
  for (std::int64_t i = 0; i < 40; ++i)
    for (std::int64_t j = 0; j < 40; ++j) ASSERT_EQ(p.y_at(i, j), p.a_at(i, j) * p.b_at(j, j)) << i << ", " << j;
}

TEST(MatmulAmx, WorksFarFromOneAndSaysWhatIsNotFinite) {
  SKIP_WITHOUT_AMX();
  for (float scale : {1e-30f, 1e30f}) {
    Product p({40, 40, 64}, true, false, 11, 0);
    for (float& v : p.a) v *= scale;
    for (float& v : p.b) v /= scale;
    p.run(false, false);
    EXPECT_LT(p.errors(false, {}).worst, 4) << scale;
  }
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float odd_nan = std::bit_cast<float>(0x7f800001), negative_nan = std::bit_cast<float>(0xffffffff);
  for (float bad : {infinity, -infinity, nan, odd_nan, negative_nan})
    for (bool along_k : {false, true}) {
      Product p({40, 40, 64}, along_k, along_k, 13, 0);
      p.a_at(7, 33) = bad;
      p.b_at(2, 25) = bad;
      p.run(false, false);
      for (std::int64_t i = 0; i < 40; ++i)
        for (std::int64_t j = 0; j < 40; ++j)
          ASSERT_EQ(std::isfinite(p.y_at(i, j)), i != 7 && j != 25) << i << ", " << j << " " << bad;
    }
}

/// Run with such a limit by a test of its own.
TEST(MatmulAmx, IsLeftOutWhereOneDnnHasALimitWithoutIt) {
  const char* limit = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (!limit || !std::string(limit).starts_with("AVX2")) GTEST_SKIP() << "no limit is set";
  EXPECT_FALSE(amx::available()) << limit;
}

TEST(MatmulAmx, SuitsLargeProducts) {
  EXPECT_TRUE(amx::suits(2048, 256, 256));
  EXPECT_TRUE(amx::suits(128, 128, 32));
  EXPECT_FALSE(amx::suits(2048, 32, 1024));  // packing a takes longer than it saves
  EXPECT_FALSE(amx::suits(2048, 256, 1));
  EXPECT_FALSE(amx::suits(1, 1, 1 << 20));
}

}  // namespace
}  // namespace lockstep::kernels
