#include "core/ops.h"

#include <gtest/gtest.h>

#include <map>

#include "core/nn/convnet.h"
#include "core/nn/mlp.h"
#include "core/nn/resnet.h"
#include "tests/support/devices.h"
#include "tests/support/model.h"

// Every op as its users call it: gradients through the tape against finite differences, along random directions. What the kernels
// compute is compared with PyTorch in tests/kernels.
namespace lockstep {
namespace {

using test::directional_error;
using test::make_tensor;
using test::random_values;

struct Case {
  const char* name;
  std::vector<Shape> inputs;
  std::function<Tensor(Tape&, const std::vector<Tensor>&)> op;
  float deviation = 1;
};

Tensor filled(Tape& t, std::int64_t n, float value) {
  return make_tensor(t.device(), {n}, std::vector<float>(std::size_t(n), value));
}

Tensor indices(Device& device, Shape shape, std::int64_t limit) {
  std::vector<std::int32_t> values(std::size_t(count(shape)));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::int32_t((i * 7 + 3) % std::size_t(limit));
  return test::make_indices(device, shape, values);
}

std::vector<Case> cases() {
  using V = const std::vector<Tensor>&;
  std::vector<Case> all;
  for (Unary u : all_unary)
    if (u != Unary::relu)  // not differentiable at 0, where differences may step over it
      all.push_back({name_of(u), {{5, 7}}, [u](Tape& t, V x) { return ops::unary(t, u, x[0]); }});
  for (auto b : kernels::all_binary) {
    all.push_back({"binary", {{4, 3, 5}, {4, 3, 5}}, [b](Tape& t, V x) {
                     return ops::binary(t, b, x[0],
                                        b == kernels::Binary::divide
                                            ? ops::add(t, ops::multiply(t, x[1], x[1]), make_tensor(t.device(), {1}, {1}))
                                            : x[1]);
                   }});
    all.push_back({"binary row", {{4, 3, 5}, {5}}, [b](Tape& t, V x) {
                     return ops::binary(t, b, x[0],
                                        b == kernels::Binary::divide
                                            ? ops::add(t, ops::multiply(t, x[1], x[1]), make_tensor(t.device(), {1}, {1}))
                                            : x[1]);
                   }});
  }
  all.push_back({"scale", {{3, 3}}, [](Tape& t, V x) { return ops::scale(t, x[0], -2.5f); }});
  all.push_back({"dropout", {{9, 9}}, [](Tape& t, V x) { return ops::dropout(t, x[0], 0.4f, 5); }});
  all.push_back({"reshape", {{4, 6}}, [](Tape& t, V x) { return ops::tanh(t, ops::reshape(t, x[0], {3, 8})); }});
  all.push_back(
      {"reduce sum", {{4, 6}}, [](Tape& t, V x) { return ops::reduce(t, kernels::Reduction::sum, ops::tanh(t, x[0])); }});
  all.push_back(
      {"reduce mean", {{4, 6}}, [](Tape& t, V x) { return ops::reduce(t, kernels::Reduction::mean, ops::tanh(t, x[0])); }});
  all.push_back({"softmax", {{4, 6}}, [](Tape& t, V x) { return ops::softmax(t, x[0]); }});
  all.push_back({"matmul", {{3, 5, 4}, {4, 6}}, [](Tape& t, V x) { return ops::matmul(t, x[0], x[1]); }});
  all.push_back({"batched matmul", {{3, 5, 4}, {3, 4, 6}}, [](Tape& t, V x) { return ops::matmul(t, x[0], x[1]); }});
  all.push_back(
      {"linear", {{2, 3, 5}, {4, 5}, {4}}, [](Tape& t, V x) { return ops::linear(t, x[0], x[1], x[2], Unary::gelu_tanh); }});
  all.push_back({"linear alone", {{6, 5}, {4, 5}}, [](Tape& t, V x) { return ops::linear(t, x[0], x[1]); }});
  for (Unary u : {Unary::gelu_tanh, Unary::silu})
    all.push_back({"feed forward", {{2, 3, 5}, {8, 5}, {8}, {4, 8}, {4}}, [u](Tape& t, V x) {
                     return ops::feed_forward(t, x[0], x[1], x[2], u, x[3], x[4]);
                   }});
  all.push_back({"feed forward without biases", {{6, 5}, {7, 5}, {3, 7}}, [](Tape& t, V x) {
                   return ops::feed_forward(t, x[0], x[1], {}, Unary::gelu_tanh, x[2], {});
                 }});
  all.push_back({"convolution", {{2, 7, 6, 4}, {6, 3, 3, 2}, {6}}, [](Tape& t, V x) {
                   return ops::convolution(t, x[0], x[1], x[2], {.stride = 2, .padding = 1, .groups = 2});
                 }});
  all.push_back({"attention", {{2, 5, 24}}, [](Tape& t, V x) { return ops::attention(t, x[0], {.heads = 2}); }});
  all.push_back({"full attention with dropout", {{2, 5, 24}}, [](Tape& t, V x) {
                   return ops::attention(t, x[0], {.heads = 2, .causal = false, .dropout = 0.3f, .site = 3});
                 }});
  all.push_back(
      {"layer norm", {{6, 8}, {8}, {8}}, [](Tape& t, V x) { return ops::norm(t, kernels::Norm::layer, x[0], x[1], x[2]); }});
  all.push_back({"rms norm", {{6, 8}, {8}}, [](Tape& t, V x) { return ops::norm(t, kernels::Norm::rms, x[0], x[1], {}); }});
  all.push_back({"residual norm", {{6, 8}, {6, 8}, {8}, {8}}, [](Tape& t, V x) {
                   auto [sum, y] = ops::add_norm(t, kernels::Norm::layer, x[0], x[1], x[2], x[3]);
                   return ops::add(t, ops::tanh(t, sum), y);
                 }});
  all.push_back({"residual norm, sum unused", {{6, 8}, {6, 8}, {8}, {8}}, [](Tape& t, V x) {
                   return ops::add_norm(t, kernels::Norm::layer, x[0], x[1], x[2], x[3]).y;
                 }});
  all.push_back({"residual norm, norm unused", {{6, 8}, {6, 8}}, [](Tape& t, V x) {
                   Tensor w = make_tensor(t.device(), {8}, random_values(8, 9));
                   return ops::tanh(t, ops::add_norm(t, kernels::Norm::rms, x[0], x[1], w, {}).sum);
                 }});
  all.push_back({"batch norm", {{3, 2, 2, 4}, {4}, {4}}, [](Tape& t, V x) {
                   Tensor mean = filled(t, 4, 0), variance = filled(t, 4, 1);
                   return ops::batch_norm(t, x[0], {x[1], x[2], mean, variance}, false);
                 }});
  all.push_back(
      {"convolution, batch norm, residual", {{2, 4, 4, 3}, {4, 3, 3, 3}, {4}, {4}, {2, 4, 4, 4}}, [](Tape& t, V x) {
         Tensor mean = filled(t, 4, 0), variance = filled(t, 4, 1);
         Tensor y = ops::convolution_batch_norm(t, x[0], x[1], {.padding = 1}, {x[2], x[3], mean, variance}, false, x[4]);
         return ops::silu(t, y);
       }});
  all.push_back(
      {"average pool", {{2, 6, 6, 3}}, [](Tape& t, V x) { return ops::pool(t, kernels::Pooling::average, x[0], 3, 2, 1); }});
  all.push_back({"global pool", {{2, 5, 5, 3}}, [](Tape& t, V x) { return ops::global_average_pool(t, x[0]); }});
  all.push_back({"embedding", {{11, 6}, {9, 6}}, [](Tape& t, V x) {
                   return ops::embedding(t, indices(t.device(), {3, 7}, 11), x[0], x[1]);
                 }});
  all.push_back({"cross entropy", {{6, 9}}, [](Tape& t, V x) {
                   return ops::cross_entropy(t, x[0], indices(t.device(), {6}, 9), {.ignore_index = 3, .label_smoothing = 0.1f});
                 }});
  all.push_back({"squared error", {{6, 3}}, [](Tape& t, V x) {
                   return ops::squared_error(t, x[0], make_tensor(t.device(), {6, 3}, random_values(18, 77)));
                 }});
  all.push_back({"binary cross entropy", {{8}}, [](Tape& t, V x) {
                   return ops::binary_cross_entropy(t, x[0], make_tensor(t.device(), {8}, {0, 1, 0.5f, 1, 0, 0, 1, 0.2f}));
                 }});
  return all;
}

TEST(Ops, GradientsAreDirectionalDerivatives) {
  for (auto& device : test::devices())
    for (auto& c : cases()) {
      std::vector<Tensor> inputs;
      for (std::size_t i = 0; i < c.inputs.size(); ++i)
        inputs.push_back(make_tensor(*device, c.inputs[i], random_values(count(c.inputs[i]), 10 + i, c.deviation)));
      auto loss = [&](Tape& t) {
        Tensor y = c.op(t, inputs);
        if (y.size() == 1) return y;
        // A weighted sum, so that no gradient is trivially zero (sums of softmax and of norms are constant).
        return ops::sum(t, ops::multiply(t, y, make_tensor(t.device(), y.shape(), random_values(y.size(), 99))));
      };
      EXPECT_LT(directional_error(*device, inputs, loss, 1e-2f, {.random = {.seed = 1}}), 1e-3)
          << c.name << " on " << device->name();
    }
}

// feed_forward is two linear layers, to the last bit on the CPU: in both types, whatever type gradients have and whichever
// parameters are frozen.
TEST(Ops, FeedForwardIsTwoLinearLayers) {
  const std::int64_t rows = 40, in = 24, hidden = 96;
  for (auto& device : test::devices())
    for (DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (bool placed : {false, true})  // gradients in flat f32 memory, or of the values' own type
        for (int frozen = 0; frozen < 32; ++frozen) {
          SCOPED_TRACE(device->name() + " " + name_of(dtype) + (placed ? " placed " : " ") + std::to_string(frozen));
          std::vector<Shape> shapes = {{rows, in}, {hidden, in}, {hidden}, {in, hidden}, {in}};
          auto results = [&](bool fused) {
            std::vector<Tensor> x;
            std::vector<Memory> memory;
            for (std::size_t i = 0; i < shapes.size(); ++i) {
              x.push_back(make_tensor(*device, shapes[i], random_values(count(shapes[i]), 10 + i, 0.5f), dtype));
              x[i]->wants_gradient = !(frozen >> i & 1);
              if (!placed || i == 0) continue;
              memory.push_back(device->arena().allocate(std::size_t(x[i].size()) * sizeof(float)));
              x[i]->gradient = {memory.back().get(), x[i].size(), DType::f32};
            }
            Tape t(*device);
            Tensor y = fused ? ops::feed_forward(t, x[0], x[1], x[2], Unary::gelu_tanh, x[3], x[4])
                             : ops::linear(t, ops::linear(t, x[0], x[1], x[2], Unary::gelu_tanh), x[3], x[4]);
            std::vector<std::vector<float>> all = {download(device->queue(), y)};
            Tensor weights = make_tensor(*device, y.shape(), random_values(y.size(), 99), dtype);
            t.backward(ops::sum(t, ops::multiply(t, y, weights)));
            for (auto& one : x) {
              EXPECT_EQ(one->has_gradient, one->wants_gradient);
              if (one->has_gradient) all.push_back(download(device->queue(), Tensor(one.shape(), one->gradient)));
            }
            return all;
          };
          auto one = results(true), two = results(false);
          ASSERT_EQ(one.size(), two.size());
          for (std::size_t i = 0; i < one.size(); ++i) {
            if (device->queue().on_gpu)
              EXPECT_LT(test::relative_norm(one[i], two[i]), dtype == DType::f32 ? 1e-5 : 1e-2) << i;
            else
              EXPECT_EQ(one[i], two[i]) << i;
          }
        }
}

/// Gradients of a linear layer under cross-entropy, and the bytes that the arena held at most.
struct Classified {
  std::vector<float> loss, dx, dw;
  std::size_t peak;
};
enum class Logits { kept, given, given_to_known_upstream, given_then_scaled };
Classified classify(Device& device, DType dtype, Logits way, kernels::CrossEntropyOptions options) {
  const std::int64_t rows = 64, in = 16, classes = 1000;
  Tensor x = make_tensor(device, {rows, in}, random_values(rows * in, 1), dtype);
  Tensor w = make_tensor(device, {classes, in}, random_values(classes * in, 2), dtype);
  x->wants_gradient = w->wants_gradient = true;
  Tensor targets = indices(device, {rows}, classes), mean = make_tensor(device, {1}, {0.01f});
  device.arena().reset_peak();
  Tensor loss;
  {
    Tape t(device, {.upstream = way >= Logits::given_to_known_upstream ? mean : Tensor()});
    if (way == Logits::kept) {
      Tensor logits = ops::linear(t, x, w);
      loss = ops::cross_entropy(t, logits, targets, options);
    } else {
      loss = ops::cross_entropy(t, ops::linear(t, x, w), targets, options);
    }
    if (way == Logits::given_then_scaled)
      t.backward(ops::scale(t, loss, 2));
    else if (way == Logits::given_to_known_upstream)
      t.backward(loss);
    else
      t.backward(loss, 0.01f);
  }
  auto of = [&](const Tensor& a) { return download(device.queue(), Tensor(a.shape(), a->gradient)); };
  return {download(device.queue(), loss), of(x), of(w), device.arena().peak_bytes()};
}

// Logits that are given away need no second memory, and give the same gradients.
TEST(Ops, LogitsBecomeTheirGradient) {
  for (auto& device : test::devices())
    for (DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (kernels::CrossEntropyOptions options :
           {kernels::CrossEntropyOptions{}, kernels::CrossEntropyOptions{.ignore_index = 3, .label_smoothing = 0.1f}}) {
        SCOPED_TRACE(device->name() + " " + name_of(dtype));
        auto kept = classify(*device, dtype, Logits::kept, options);
        for (Logits way : {Logits::given, Logits::given_to_known_upstream, Logits::given_then_scaled}) {
          auto given = classify(*device, dtype, way, options);
          const std::size_t logits = 64 * 1000 * size_of(dtype);
          EXPECT_LE(given.peak + logits, kept.peak + 2048) << int(way);
          if (way == Logits::given_then_scaled) {
            for (auto* all : {&kept.dx, &kept.dw})
              for (float& v : *all) v *= 2;
          }
          const bool same = device->kind() == DeviceKind::cpu && way != Logits::given_then_scaled;
          for (auto [a, b] : {std::pair{given.loss, kept.loss}, {given.dx, kept.dx}, {given.dw, kept.dw}}) {
            if (same) {
              EXPECT_EQ(a, b);
            }
            EXPECT_LT(test::relative_norm(a, b), dtype == DType::f32 ? 1e-6 : 1e-2) << int(way);
          }
        }
      }
}

TEST(Ops, LogitsThatOthersReadAreKept) {
  for (auto& device : test::devices()) {
    Tensor x = make_tensor(*device, {4, 6}, random_values(24, 1)), w = make_tensor(*device, {5, 6}, random_values(30, 2));
    Tensor targets = indices(*device, {4}, 5), one = make_tensor(*device, {1}, {1});
    w->wants_gradient = true;
    auto error = [&](auto loss) { return directional_error(*device, {w}, loss, 1e-2f, {.upstream = one}); };
    // Another op's gradient reads them: one recorded before, one after, the maker itself.
    EXPECT_LT(error([&](Tape& t) {
                Tensor y = ops::linear(t, x, w), z = ops::sum(t, ops::tanh(t, y)), square = ops::sum(t, ops::multiply(t, y, y));
                return ops::add(t, ops::add(t, ops::cross_entropy(t, std::move(y), targets), z), square);
              }),
              1e-3);
    EXPECT_LT(error([&](Tape& t) { return ops::cross_entropy(t, ops::linear(t, x, w, {}, Unary::tanh), targets); }), 1e-3);
    EXPECT_LT(error([&](Tape& t) { return ops::cross_entropy(t, ops::tanh(t, ops::linear(t, x, w)), targets); }), 1e-3);
    // So does whoever holds the same memory under another name.
    Tape t(*device, {.upstream = one});
    Tensor y = ops::linear(t, x, w), alias = ops::detach(y);
    auto before = download(device->queue(), alias);
    t.backward(ops::cross_entropy(t, std::move(y), targets));
    EXPECT_EQ(download(device->queue(), alias), before);
    // A handle that was kept cannot read what is no longer there.
    Tape u(*device, {.upstream = one});
    Tensor logits = ops::linear(u, x, w), copy = logits;
    Tensor loss = ops::cross_entropy(u, std::move(logits), targets);
    EXPECT_THROW(copy.view(), Error);
    EXPECT_THROW(ops::softmax(u, copy), Error);
    // Inference and evaluation keep them.
    Tape quiet(*device, {.recording = false, .upstream = one});
    Tensor shown = ops::linear(quiet, x, w), held = shown;
    ops::cross_entropy(quiet, std::move(shown), targets);
    EXPECT_EQ(download(device->queue(), held), before);
  }
}

TEST(Ops, ModelsOfImagesHaveRightGradients) {
  Device device;
  Tensor images = make_tensor(device, {4, 12, 12, 2}, random_values(4 * 12 * 12 * 2, 1));
  Tensor labels = test::make_indices(device, {4}, {0, 2, 1, 2});
  auto check = [&](auto make, double tolerance) {
    ParameterSet set(device);
    auto model = make(set);
    test::Placed placed(set);
    // Towards the head: what lies behind ReLUs and max pools has kinks that differences cross.
    std::vector<Tensor> last = {set.all()[set.all().size() - 2]->value, set.all()[set.all().size() - 1]->value};
    auto loss = [&](Tape& t) { return ops::cross_entropy(t, model.forward(t, images), labels); };
    EXPECT_LT(directional_error(device, last, loss), tolerance);
    // And a small step against the whole gradient lowers the loss by its squared norm.
    placed.clear();
    Tape t(device);
    Tensor before = loss(t);
    float start = download(device.queue(), before)[0];
    t.backward(before);
    double square = 0;
    for (float g : download(device.queue(), placed.gradients)) square += double(g) * g;
    auto values = download(device.queue(), placed.flat.masters), gradients = download(device.queue(), placed.gradients);
    float h = float(1e-3 * start / square);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] -= h * gradients[i];
    upload(device.queue(), Tensor({std::int64_t(values.size())}, placed.flat.masters), values);
    Tape after(device, {.recording = false});
    double drop = start - download(device.queue(), loss(after))[0];
    EXPECT_NEAR(drop, h * square, 0.1 * h * square);
  };
  check(
      [&](ParameterSet& s) {
        return nn::ConvNet(
            s, {.height = 12, .width = 12, .channels = 2, .classes = 3, .features = {4, 5}, .kernel = 3, .hidden = 16});
      },
      1e-3);
  check(
      [&](ParameterSet& s) {
        return nn::ResNet(
            s, {.depth = 18, .height = 12, .width = 12, .channels = 2, .classes = 3, .small_stem = true, .zero_last = false});
      },
      2e-3);
}

TEST(Ops, WrongShapesAreNamed) {
  Device device;
  Tape t(device);
  Tensor x = make_tensor(device, {2, 3}, random_values(6, 1)), w = make_tensor(device, {4, 5}, random_values(20, 2));
  try {
    ops::linear(t, x, w);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("(4, 5)"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("(2, 3)"), std::string::npos) << e.what();
  }
  EXPECT_THROW(ops::matmul(t, x, w), Error);
  EXPECT_THROW(ops::feed_forward(t, make_tensor(device, {2, 5}, random_values(10, 1)), w, {}, Unary::relu, w, {}), Error);
  EXPECT_THROW(ops::add(t, x, w), Error);
  EXPECT_THROW(ops::attention(t, make_tensor(device, {1, 2, 10}, random_values(20, 3)), {.heads = 2}), Error);
  EXPECT_THROW(ops::dropout(t, x, 1.f, 0), Error);
  EXPECT_THROW(ops::pool(t, kernels::Pooling::max, make_tensor(device, {1, 2, 2, 1}, random_values(4, 4)), 3, 1), Error);
  Tensor image = make_tensor(device, {1, 2, 2, 1}, random_values(4, 4)), filter = make_tensor(device, {1, 1, 1, 1}, {1});
  EXPECT_THROW(ops::pool(t, kernels::Pooling::max, image, 2, 0), Error);
  EXPECT_THROW(ops::convolution(t, image, filter, {}, {.stride = 0}), Error);
  EXPECT_THROW(ops::convolution(t, image, filter, {}, {.dilation = 0}), Error);
  EXPECT_THROW(ops::convolution(t, image, filter, {}, {.groups = 0}), Error);
  EXPECT_THROW(ops::convolution(t, make_tensor(device, {1, 2, 2, 0}, {}), filter, {}, {.groups = 0}), Error);
}

TEST(Ops, CountCorrect) {
  Device device;
  Tape t(device);
  Tensor logits = make_tensor(device, {3, 3}, {1, 2, 0, 5, 1, 1, 0, 0, 9});
  EXPECT_EQ(ops::count_correct(t, logits, test::make_indices(device, {3}, {1, 1, 2})), 2);
}

}  // namespace
}  // namespace lockstep
