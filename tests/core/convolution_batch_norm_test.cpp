#include <gtest/gtest.h>

#include "core/ops.h"
#include "tests/support/devices.h"

// A unit of residual networks is its four operations one by one, to the last bit on the CPU. On a GPU statistics may be summed
// inside the convolution, in another order.
namespace lockstep {
namespace {

using test::make_tensor;
using test::random_values;

enum class Shortcut { none, separate, input };

struct Unit {
  Shape x{4, 9, 8, 6}, w{6, 3, 3, 6};
  ops::ConvolutionOptions shape{.stride = 1, .padding = 1};
};

Tensor one_by_one(Tape& t, const Tensor& x, const Tensor& w, ops::ConvolutionOptions o, const ops::BatchNormTensors& n, bool relu,
                  const Tensor& residual) {
  Tensor y = ops::batch_norm(t, ops::convolution(t, x, w, {}, o), n, relu && !residual);
  if (residual) y = ops::add(t, y, residual);
  return residual && relu ? ops::relu(t, y) : y;
}

/// The result and all gradients: of x, w, scale, shift, the statistics and a separate residual, as far as `frozen` leaves them.
std::vector<std::vector<float>> results(Device& device, const Unit& unit, DType dtype, bool fused, bool relu, Shortcut shortcut,
                                        int frozen, Mode mode) {
  const std::int64_t out = unit.w[0];
  Tensor x = make_tensor(device, unit.x, random_values(count(unit.x), 1), dtype);
  Tensor w = make_tensor(device, unit.w, random_values(count(unit.w), 2, 0.2f), dtype);
  auto row = [&](int seed, DType type) { return make_tensor(device, {out}, random_values(out, std::uint64_t(seed)), type); };
  ops::BatchNormTensors n{row(3, dtype), row(4, dtype), row(5, DType::f32),
                          make_tensor(device, {out}, std::vector<float>(std::size_t(out), 1.5f))};
  Tensor residual = shortcut == Shortcut::input ? x : Tensor();
  if (shortcut == Shortcut::separate) residual = make_tensor(device, unit.x, random_values(count(unit.x), 6), dtype);

  std::vector<Tensor> inputs{x, w, n.weight, n.bias};
  if (shortcut == Shortcut::separate) inputs.push_back(residual);
  for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i]->wants_gradient = mode == Mode::train && !(frozen >> i & 1);
  Tape t(device, {.mode = mode});
  // x has another use, so that its gradient is added to.
  Tensor used = ops::scale(t, x, 0.5f);
  Tensor y = fused ? ops::convolution_batch_norm(t, x, w, unit.shape, n, relu, residual)
                   : one_by_one(t, x, w, unit.shape, n, relu, residual);
  std::vector<std::vector<float>> all{download(device.queue(), y)};
  if (mode == Mode::evaluate) return all;
  Tensor weights = make_tensor(device, y.shape(), random_values(y.size(), 99), dtype);
  Tensor more = make_tensor(device, x.shape(), random_values(x.size(), 98), dtype);
  t.backward(ops::add(t, ops::sum(t, ops::multiply(t, y, weights)), ops::sum(t, ops::multiply(t, used, more))));
  for (auto& one : inputs)
    if (one->has_gradient) all.push_back(download(device.queue(), Tensor(one.shape(), one->gradient)));
  return all;
}

void expect_equal(Device& device, const std::vector<std::vector<float>>& one, const std::vector<std::vector<float>>& two,
                  DType dtype) {
  ASSERT_EQ(one.size(), two.size());
  for (std::size_t i = 0; i < one.size(); ++i)
    if (device.queue().on_gpu)
      EXPECT_LT(test::relative_norm(one[i], two[i]), dtype == DType::f32 ? 1e-5 : 2e-2) << i;
    else
      EXPECT_EQ(one[i], two[i]) << i;
}

TEST(ConvolutionBatchNorm, IsFourOperations) {
  const Unit small;
  for (auto& device : test::devices())
    for (DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (bool relu : {false, true})
        for (Shortcut shortcut : {Shortcut::none, Shortcut::separate, Shortcut::input})
          for (int frozen : {0, 1, 2, 12, 16, 19}) {
            SCOPED_TRACE(device->name() + " " + name_of(dtype) + (relu ? " relu " : " ") + std::to_string(int(shortcut)) + " " +
                         std::to_string(frozen));
            auto run = [&](bool fused) { return results(*device, small, dtype, fused, relu, shortcut, frozen, Mode::train); };
            expect_equal(*device, run(true), run(false), dtype);
          }
}

TEST(ConvolutionBatchNorm, EvaluatesByAverages) {
  const Unit small;
  for (auto& device : test::devices())
    for (DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (Shortcut shortcut : {Shortcut::none, Shortcut::separate}) {
        auto run = [&](bool fused) { return results(*device, small, dtype, fused, true, shortcut, 0, Mode::evaluate); };
        expect_equal(*device, run(true), run(false), dtype);
      }
}

TEST(ConvolutionBatchNorm, StridesAndWideRows) {
  const Unit units[] = {{{3, 11, 11, 16}, {40, 3, 3, 16}, {.stride = 2, .padding = 1}}, {{5, 7, 7, 64}, {256, 1, 1, 64}, {}}};
  for (auto& device : test::devices())
    for (const Unit& unit : units)
      for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        auto run = [&](bool fused) { return results(*device, unit, dtype, fused, true, Shortcut::none, 0, Mode::train); };
        expect_equal(*device, run(true), run(false), dtype);
      }
}

TEST(ConvolutionBatchNorm, WrongShapesAreNamed) {
  Device device;
  Tape t(device);
  auto zeros = [&](Shape s) { return make_tensor(device, s, std::vector<float>(std::size_t(count(s)), 0.f)); };
  ops::BatchNormTensors n{zeros({4}), zeros({4}), zeros({4}), zeros({4})};
  Tensor x = zeros({2, 3, 3, 2}), w = zeros({4, 1, 1, 2});
  EXPECT_THROW(ops::convolution_batch_norm(t, x, w, {}, n, true, zeros({2, 3, 3, 2})), Error);  // the residual has 2 channels
  EXPECT_THROW(ops::convolution_batch_norm(t, x, zeros({3, 1, 1, 2}), {}, n, true), Error);     // 3 channels, 4 scales
  EXPECT_THROW(ops::convolution_batch_norm(t, zeros({1, 1, 1, 2}), w, {}, n, true), Error);     // one row has no variance
  Tape evaluation(device, {.mode = Mode::evaluate});
  EXPECT_THROW(ops::convolution_batch_norm(evaluation, x, w, {}, n, true, zeros({2, 3, 2, 6})), Error);  // as many elements
}

}  // namespace
}  // namespace lockstep
