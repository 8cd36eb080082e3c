#include "kernels/update.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/memory.h"
#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;
using kernels::Scalar;
using kernels::Segment;
using kernels::Span;

/// The step's numbers on a device.
Tensor scalars(Device& device, float rate, float scale = 1, float correction1 = 1, float correction2 = 1, bool first = false) {
  std::vector<float> values(std::size_t(Scalar::count), 0.f);
  values[std::size_t(Scalar::rate)] = rate;
  values[std::size_t(Scalar::gradient_scale)] = scale;
  values[std::size_t(Scalar::correction1)] = correction1;
  values[std::size_t(Scalar::correction2)] = correction2;
  values[std::size_t(Scalar::first)] = first;
  return make_tensor(device, {std::int64_t(values.size())}, values);
}

/// Pieces laid out on a device.
template <class Piece>
struct Laid {
  Laid(Device& device, const std::vector<Piece>& pieces)
      : memory(device, {std::int64_t(kernels::table_bytes(int(pieces.size())))}, DType::u8),
        table(kernels::lay_out(device.queue(), memory.view(), pieces.data(), int(pieces.size()))) {}
  operator const kernels::PieceTable<Piece>&() const { return table; }
  Tensor memory;
  kernels::PieceTable<Piece> table;
};
using Segments = Laid<Segment>;
using Spans = Laid<Span>;

/// Flat memory with weights that are the masters, or weights of 16 bits beside them.
struct Memory {
  Memory(Device& device, const std::vector<float>& values, DType weight_type)
      : masters(make_tensor(device, {std::int64_t(values.size())}, values)),
        weights(weight_type == DType::f32 ? masters : make_tensor(device, masters.shape(), values, weight_type)),
        m(make_tensor(device, masters.shape(), std::vector<float>(values.size(), 0.f))),
        v(make_tensor(device, masters.shape(), std::vector<float>(values.size(), 0.f))) {}
  kernels::FlatState state(const Tensor& gradients) const { return {weights.view(), masters.view(), gradients.view()}; }
  Tensor masters, weights, m, v;
};

/// One step of the optimizer of a golden case.
void step(Device& device, const GoldenCase& c, const Memory& memory, const Tensor& gradients,
          const std::vector<Segment>& segments, int t, float rate) {
  float scale = float(c.number("scale"));
  if (c.text("kind") == "sgd") {
    kernels::SgdSettings settings{float(c.number("momentum", 0)), float(c.number("dampening", 0)), c.number("nesterov", 0) != 0};
    kernels::sgd(device.queue(), memory.state(gradients), settings.momentum != 0 ? memory.m.view() : View{},
                 Segments(device, segments), scalars(device, rate, scale, 1, 1, t == 1).view(), settings);
  } else {
    kernels::AdamWSettings settings{float(c.number("beta1")), float(c.number("beta2")), float(c.number("eps"))};
    float correction1 = float(1 - std::pow(double(settings.beta1), t)),
          correction2 = float(1 - std::pow(double(settings.beta2), t));
    kernels::adamw(device.queue(), memory.state(gradients), memory.m.view(), memory.v.view(), Segments(device, segments),
                   scalars(device, rate, scale, correction1, correction2).view(), settings);
  }
}

TEST(Update, Golden) {
  auto cases = read_golden("update");
  for (auto& device : devices())
    for (auto& c : cases)
      for (DType weight_type : {DType::f32, DType::bf16, DType::f16})
        for (DType gradient_type : {DType::f32, DType::bf16, DType::f16}) {
          SCOPED_TRACE(c.name + " " + name_of(weight_type) + " " + name_of(gradient_type));
          auto& w = c["w"].values;
          auto n = std::int64_t(w.size()), split = std::int64_t(c.number("split"));
          std::vector<Segment> segments{{0, split, 1, float(c.number("decay"))}, {split, n - split, 2, 0}};
          Memory memory(*device, w, weight_type);
          auto& rates = c["rates"].values;
          for (std::size_t t = 0; t < rates.size(); ++t) {
            auto row = [&](const char* name) {
              auto begin = c[name].values.begin() + std::ptrdiff_t(t) * n;
              return std::vector<float>(begin, begin + n);
            };
            Tensor gradients = make_tensor(*device, {n}, row("gradients"), gradient_type);  // exact in bf16
            step(*device, c, memory, gradients, segments, int(t) + 1, rates[t]);
            // Masters keep to PyTorch's f64 whatever the type of weights and gradients.
            expect_close(*device, memory.masters, row("results"), DType::f32, "step " + std::to_string(t + 1));
            Tensor rounded(*device, {n}, weight_type);
            kernels::cast(device->queue(), rounded.view(), memory.masters.view());
            EXPECT_EQ(download(device->queue(), memory.weights), download(device->queue(), rounded));
          }
        }
}

TEST(Update, OnlySegmentsChange) {
  for (auto& device : devices())
    for (bool adam : {false, true}) {
      const Queue& q = device->queue();
      std::int64_t n = 30000;
      auto values = random_values(n, 1);
      Memory memory(*device, values, DType::bf16);
      auto weights = download(q, memory.weights);
      Tensor gradients = make_tensor(*device, {n}, std::vector<float>(std::size_t(n), 1.f));
      std::vector<Segment> segments{{20000, 1}, {5, 3}, {100, 0}, {8000, 9001}};
      for (int i = 0; i < 100; ++i) segments.push_back({25000 + 20 * i, 7});
      if (adam)
        kernels::adamw(q, memory.state(gradients), memory.m.view(), memory.v.view(), Segments(*device, segments),
                       scalars(*device, 0.5f, 1, 0.1f, 0.001f).view(), {});
      else
        kernels::sgd(q, memory.state(gradients), {}, Segments(*device, segments), scalars(*device, 0.5f).view(), {});
      auto after = download(q, memory.masters), rounded = download(q, memory.weights);
      std::vector<bool> inside(std::size_t(n), false);
      for (auto& s : segments)
        for (std::int64_t i = s.begin; i < s.begin + s.size; ++i) inside[std::size_t(i)] = true;
      for (std::size_t i = 0; i < values.size(); ++i) {
        ASSERT_NEAR(after[i], values[i] - (inside[i] ? 0.5f : 0.f), inside[i] ? 1e-4 : 0) << i;
        if (!inside[i]) {
          ASSERT_EQ(rounded[i], weights[i]) << i;
        }
      }
    }
}

TEST(Update, SquareSumsAndClip) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    std::int64_t n = 20000;
    Tensor gradients = make_tensor(device, {n}, random_values(n, 1), dtype);
    auto g = download(q, gradients);
    std::vector<Span> spans{{10000, 9000, 0}, {3, 1, 3}, {50, 0, 4}, {100, 4096, 4}, {5000, 4097, 5}};
    std::vector<std::pair<std::int64_t, std::int64_t>> blocks;
    for (auto& s : spans)
      for (std::int64_t i = 0; i < s.size; i += kernels::norm_block)
        blocks.push_back({s.begin + i, std::min(s.size - i, kernels::norm_block)});
    ASSERT_EQ(blocks.size(), 7u);
    Tensor partials = poisoned(device, {7});
    kernels::square_sums(q, partials.view(), gradients.view(), Spans(device, spans));
    auto sums = download(q, partials);
    Tensor alone = poisoned(device, {2});  // a span of its own, as long as its memory
    kernels::square_sums(q, alone.view(), gradients.view().slice(5000, 4097));
    EXPECT_EQ(download(q, alone), (std::vector<float>{sums[5], sums[6]}));
    double total = 0;
    // Vectors add in lanes, which is better; a build without them adds 4096 terms one by one, which is this good.
    double tolerance = golden_tolerance(DType::f32);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      double sum = 0;
      for (std::int64_t i = 0; i < blocks[b].second; ++i) sum += std::pow(double(g[std::size_t(blocks[b].first + i)]), 2);
      EXPECT_NEAR(sums[b] / sum, 1, tolerance) << b;
      total += sum;
    }
    float norm = float(std::sqrt(total));
    auto clip = [&](const Tensor& of, float limit) {
      Tensor s = scalars(device, 0);
      kernels::clip(q, s.view(), of.view(), limit);
      auto values = download(q, s);
      return std::pair(values[std::size_t(Scalar::gradient_norm)], values[std::size_t(Scalar::gradient_scale)]);
    };
    EXPECT_NEAR(clip(partials, 0).first / norm, 1, tolerance);
    EXPECT_EQ(clip(partials, 0).second, 1) << "no limit";
    EXPECT_EQ(clip(partials, 2 * norm).second, 1) << "below the limit";
    EXPECT_NEAR(clip(partials, norm / 4).second, 0.25, tolerance);
    for (float bad : {NAN, INFINITY}) {
      auto [seen, scale] = clip(make_tensor(device, {3}, {1, bad, 1}), 1);
      EXPECT_FALSE(std::isfinite(seen)) << "the norm tells";
      EXPECT_EQ(scale, 0);
      EXPECT_EQ(clip(make_tensor(device, {1}, {bad}), 0).second, 0) << "also without a limit";
    }
    EXPECT_EQ(clip(make_tensor(device, {2}, {0, 0}), 1), std::pair(0.f, 1.f));
    Tensor empty(device, {1});
    kernels::square_sums(q, empty.view().slice(0, 0), gradients.view(), Spans(device, {}));
  });
}

// An element is updated alike wherever it lies in the flat memory and its segment: bucket plans and slices may move it.
TEST(Update, PlaceDoesNotMatter) {
  Device device;
  const Queue& q = device.queue();
  std::int64_t n = 5003;
  auto values = random_values(n, 1), g = random_values(n, 2);
  for (bool adam : {false, true})
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      auto run = [&](std::int64_t shift, const std::vector<std::int64_t>& ends, std::int64_t moments_begin = 0) {
        std::vector<float> moved(std::size_t(n + shift), 0.f), gradient = moved;
        std::copy(values.begin(), values.end(), moved.begin() + std::ptrdiff_t(shift));
        std::copy(g.begin(), g.end(), gradient.begin() + std::ptrdiff_t(shift));
        Memory memory(device, moved, dtype);
        Tensor gradients = make_tensor(device, {n + shift}, gradient, dtype);
        std::vector<Segment> segments;
        std::int64_t begin = 0;
        for (std::int64_t end : ends) {
          segments.push_back({shift + begin, end - begin, 1, 0.1f, moments_begin});
          begin = end;
        }
        for (int t = 1; t < 4; ++t) {
          if (adam)
            kernels::adamw(q, memory.state(gradients), memory.m.view(), memory.v.view(), Segments(device, segments),
                           scalars(device, 0.1f, 0.3f, 0.2f, 0.7f).view(), {});
          else
            kernels::sgd(q, memory.state(gradients), memory.m.view(), Segments(device, segments),
                         scalars(device, 0.1f, 0.3f, 1, 1, t == 1).view(), {.momentum = 0.9f, .nesterov = true});
        }
        return download(q, memory.masters.view().slice(shift, n));
      };
      EXPECT_EQ(run(0, {n}), run(13, {1, 7, 32, 1000, 1003, n}));
      EXPECT_EQ(run(0, {n}), run(13, {1, 7, 32, 1000, 1003, n}, 13)) << "moments that begin where the segments do";
    }
}

TEST(Update, AScaleOfZeroChangesNothing) {
  for (auto& device : devices()) {
    const Queue& q = device->queue();
    Memory memory(*device, {1, 2, 3}, DType::f32);
    Tensor gradients = make_tensor(*device, {3}, {NAN, INFINITY, 1});
    Segment segment{0, 3, 1, 0.5f};
    kernels::sgd(q, memory.state(gradients), memory.m.view(), Segments(*device, {segment}),
                 scalars(*device, 0.5f, 0, 1, 1, true).view(), {.momentum = 0.9f});
    kernels::adamw(q, memory.state(gradients), memory.m.view(), memory.v.view(), Segments(*device, {segment}),
                   scalars(*device, 0.5f, 0).view(), {});
    EXPECT_EQ(download(q, memory.masters), (std::vector<float>{1, 2, 3}));
    EXPECT_EQ(download(q, memory.m), (std::vector<float>{0, 0, 0}));
    EXPECT_EQ(download(q, memory.v), (std::vector<float>{0, 0, 0}));
  }
}

TEST(Update, LossScaleFindsItsSizeAndCountsUpdates) {
  for (auto& device : devices()) {
    const Queue& q = device->queue();
    Tensor state = make_tensor(*device, {3}, {1024, 0, 0});
    auto clip = [&](float partial, float step) {
      Tensor s = scalars(*device, 0.5f, 1, 7, 8, step == 1);
      for (auto [which, value] : {std::pair{Scalar::step, step}, {Scalar::beta1, 0.9f}, {Scalar::beta2, 0.99f}})
        kernels::fill(q, s.view().slice(int(which), 1), value);
      kernels::clip(q, s.view(), make_tensor(*device, {1}, {partial}).view(), 2, state.view(), {.interval = 2});
      return download(q, s);
    };
    auto of = [](const std::vector<float>& s, Scalar which) { return s[std::size_t(which)]; };
    const float square = 1024 * 1024;
    auto s = clip(INFINITY, 1);  // too large by far: halved, and no update
    EXPECT_EQ(of(s, Scalar::gradient_scale), 0);
    EXPECT_EQ(download(q, state), (std::vector<float>{512, 0, 1}));
    s = clip(square, 2);  // a norm of 2 is the limit
    EXPECT_EQ(of(s, Scalar::gradient_norm), 2);
    EXPECT_EQ(of(s, Scalar::gradient_scale), 1.f / 512);
    EXPECT_EQ(of(s, Scalar::first), 1) << "the first update that is made";
    EXPECT_FLOAT_EQ(of(s, Scalar::correction1), 0.1f);
    EXPECT_FLOAT_EQ(of(s, Scalar::correction2), float(1 - double(0.99f)));
    s = clip(square * 4, 3);  // a norm of 4 is clipped to 2; the second in a row
    EXPECT_EQ(of(s, Scalar::gradient_scale), 0.5f / 512);
    EXPECT_EQ(of(s, Scalar::first), 0);
    EXPECT_FLOAT_EQ(of(s, Scalar::correction1), 1 - 0.9f * 0.9f);
    EXPECT_EQ(download(q, state), (std::vector<float>{1024, 0, 1}));
    clip(square, 4);
    EXPECT_EQ(download(q, state), (std::vector<float>{1024, 1, 1}));
    clip(NAN, 5);
    EXPECT_EQ(download(q, state), (std::vector<float>{512, 0, 2}));
  }
}

// Without masters an update far below the last place must count on the average, and alike wherever the element lies.
TEST(Update, WithoutMastersRoundsAtRandom) {
  for (auto& device : devices())
    for (DType dtype : {DType::bf16, DType::f16})
      for (bool adam : {false, true}) {
        const Queue& q = device->queue();
        const std::int64_t n = 40000;
        const float place = dtype == DType::bf16 ? 0x1p-7f : 0x1p-10f;  // the last one of numbers from 1 to 2
        Tensor gradients = make_tensor(*device, {n}, std::vector<float>(std::size_t(n), 1.f));
        auto run = [&](std::uint64_t seed, float step, const std::vector<Segment>& segments, float start = 1.5f) {
          Tensor weights = make_tensor(*device, {n}, std::vector<float>(std::size_t(n), start), dtype);
          Tensor m = make_tensor(*device, {n}, std::vector<float>(std::size_t(n), 0.f)),
                 v = make_tensor(*device, {n}, std::vector<float>(std::size_t(n), 0.f));
          kernels::FlatState state{weights.view(), weights.view(), gradients.view(), seed};
          Tensor s = scalars(*device, place / 10, 1, 0.1f, 0.001f);
          kernels::fill(q, s.view().slice(int(Scalar::step), 1), step);
          if (adam)
            kernels::adamw(q, state, m.view(), v.view(), Segments(*device, segments), s.view(), {});
          else
            kernels::sgd(q, state, {}, Segments(*device, segments), s.view(), {});
          return download(q, weights);
        };
        auto segment = [](std::int64_t begin, std::int64_t size) {
          return Segment{.begin = begin, .size = size, .element = begin, .site = 5};
        };
        const auto once = run(1, 1, {segment(0, n)});
        double down = 0;
        for (float w : once) {
          ASSERT_TRUE(w == 1.5f || w == 1.5f - place) << w;
          down += w != 1.5f;
        }
        // A tenth of a place: 4000 of 40000, with a deviation of 60.
        EXPECT_NEAR(down, 4000, 5 * 60);
        EXPECT_EQ(run(1, 1, {segment(0, n)}), once);
        if (!adam) {  // word i % 4 of block i / 4, whatever the piece
          const RandomKey key{.seed = 1, .step = 1, .site = 5};
          const float share = (1.5f - place / 10 - 1.5f) / -place;
          for (std::int64_t i = 0; i < n; ++i)
            ASSERT_EQ(once[std::size_t(i)] != 1.5f, to_uniform(random_word(key, std::uint64_t(i))) < share) << i;
        }
        EXPECT_EQ(run(1, 1, {segment(7, n - 7), segment(0, 7)}), once) << "pieces do not matter";
        EXPECT_EQ(run(1, 1, {segment(4094, n - 4094), segment(1, 4093), segment(0, 1)}), once) << "pieces do not matter";
        EXPECT_NE(run(2, 1, {segment(0, n)}), once) << "another seed";
        EXPECT_NE(run(1, 2, {segment(0, n)}), once) << "another step";
        for (float w : run(1, 1, {segment(0, n)}, 0)) ASSERT_LT(w, 0) << "a value that the type nearly holds stays near";
      }
}

// The mean of what is written is what an f32 would have held, wherever it lies between two neighbours.
TEST(Update, RoundingAtRandomIsRightOnTheAverage) {
  for (auto& device : devices())
    for (DType dtype : {DType::bf16, DType::f16})
      for (float start : {1.5f, -0.75f, 0x1.8p-12f}) {
        const Queue& q = device->queue();
        const std::int64_t n = 100000;
        const float place = std::ldexp(dtype == DType::bf16 ? 0x1p-7f : 0x1p-10f, std::ilogb(start));
        for (float share : {0.02f, 0.25f, 0.5f, 0.7f, 0.97f, 1.3f}) {
          auto all = [&](float value) { return std::vector<float>(std::size_t(n), value); };
          Tensor weights = make_tensor(*device, {n}, all(start), dtype),
                 gradients = make_tensor(*device, {n}, all(place * share));
          Segments segments(*device, {Segment{.begin = 0, .size = n, .site = 7}});
          kernels::sgd(q, {weights.view(), weights.view(), gradients.view(), 11}, {}, segments, scalars(*device, 1).view(), {});
          double mean = 0;
          for (float w : download(q, weights)) {
            ASSERT_LT(std::abs(w - (start - place * share)), place) << "one of the two neighbours";
            mean += (double(start) - double(w)) / place / double(n);
          }
          const double rest = share - std::floor(share);
          EXPECT_NEAR(mean, share, 5 * std::sqrt(rest * (1 - rest) / double(n))) << name_of(dtype) << " " << start;
        }
      }
}

TEST(Update, WrongSizesAreRefused) {
  Device device;
  Memory memory(device, {1, 2, 3}, DType::f32);
  Tensor gradients = make_tensor(device, {3}, {1, 1, 1}), partials(device, {2});
  Segment beyond{1, 3};
  Span outside{0, 3, 2};
  auto s = scalars(device, 1);
  EXPECT_THROW(kernels::sgd(device.queue(), memory.state(gradients), {}, Segments(device, {beyond}), s.view(), {}), Error);
  EXPECT_THROW(kernels::adamw(device.queue(), memory.state(gradients), memory.m.view(), memory.v.view(),
                              Segments(device, {beyond}), s.view(), {}),
               Error);
  Segment before{0, 3, 1, 0, 1};  // its moments begin at its second element
  EXPECT_THROW(kernels::adamw(device.queue(), memory.state(gradients), memory.m.view(), memory.v.view(),
                              Segments(device, {before}), s.view(), {}),
               Error);
  Segment fine{0, 3};
  EXPECT_THROW(kernels::sgd(device.queue(), memory.state(gradients), {}, Segments(device, {fine}), s.view(), {.momentum = 0.9f}),
               Error);
  EXPECT_THROW(kernels::square_sums(device.queue(), partials.view(), gradients.view(), Spans(device, {outside})), Error);
  EXPECT_THROW(Segments(device, {Segment{-1, 2}}), Error);
  EXPECT_THROW(Spans(device, {Span{0, 3, -1}}), Error);
}

TEST(Update, ThreadsDoNotMatter) {
  Device device;
  const Queue& q = device.queue();
  std::int64_t n = 100001;
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor gradients = make_tensor(device, {n}, random_values(n, 2), dtype);
    std::vector<Segment> segments{{0, 50001, 1, 0.1f}, {50001, 50000, 1, 0}};
    expect_same_for_any_threads(
        [&] {
          Memory memory(device, random_values(n, 1), dtype);
          for (int t = 1; t < 4; ++t) {
            kernels::sgd(q, memory.state(gradients), memory.m.view(), Segments(device, segments),
                         scalars(device, 0.1f, 1, 1, 1, t == 1).view(), {.momentum = 0.9f});
            kernels::adamw(q, memory.state(gradients), memory.m.view(), memory.v.view(), Segments(device, segments),
                           scalars(device, 0.1f).view(), {});
          }
          return download(q, memory.masters);
        },
        "update");
    Tensor partials(device, {25});
    std::vector<Span> spans{{0, n}};
    expect_same_for_any_threads(
        [&] {
          Tensor s = scalars(device, 0);
          kernels::square_sums(q, partials.view(), gradients.view(), Spans(device, spans));
          kernels::clip(q, s.view(), partials.view(), 1);
          return download(q, s);
        },
        "norm");
  }
}

}  // namespace
}  // namespace lockstep
