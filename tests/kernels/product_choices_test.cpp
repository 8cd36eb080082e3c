#include "kernels/product_choices.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/matmul.h"
#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;

ProductChoices some() {
  ProductChoices choices;
  choices.add({1, -2, 3}, {0x0123456789abcdefu, 0, ~0ull});
  choices.add({1, -3, 3}, {7});
  return choices;
}

TEST(ProductChoices, TextGoesThereAndBack) {
  ProductChoices choices = some(), again;
  EXPECT_EQ(choices.size(), 2u);
  again.add(choices.text());
  EXPECT_EQ(again.text(), choices.text());
  ASSERT_TRUE(again.find({1, -2, 3}));
  EXPECT_EQ((*again.find({1, -2, 3}))[0], 0x0123456789abcdefu);
  EXPECT_EQ((*again.find({1, -2, 3}))[2], ~0ull);
  EXPECT_FALSE(again.find({1, 2, 3}));
  // A later word about the same product counts; others stay.
  ProductChoices other;
  other.add({1, -2, 3}, {5});
  again.add(other.text());
  EXPECT_EQ(again.size(), 2u);
  EXPECT_EQ((*again.find({1, -2, 3}))[0], 5u);
  again.add(std::string());
  EXPECT_EQ(again.size(), 2u);
}

TEST(ProductChoices, OtherTextIsRefusedWhole) {
  const std::string text = some().text();
  for (std::string bad : {std::string("nonsense\n"), text.substr(0, text.size() - 3), text + "1 2 3\n",
                          text.substr(0, text.size() - 2) + "g\n", text.substr(0, text.size() - 1) + " 1\n"}) {
    ProductChoices choices;
    EXPECT_THROW(choices.add(bad), Error) << bad;
    EXPECT_EQ(choices.size(), 0u);
  }
}

TEST(ProductChoices, TheFastestIsChosen) {
  std::vector<int> calls(4, 0);
  auto with = [&](std::vector<double> times) {
    std::ranges::fill(calls, 0);
    return fastest(times.size(), [&, times](std::size_t i) { return ++calls[i], times[i]; });
  };
  EXPECT_EQ(with({4, 3, 2.9, 9}), 2u);
  EXPECT_EQ(calls, (std::vector<int>{5, 5, 5, 1})) << "what is far behind drops out";
  EXPECT_EQ(with({3, 2.99, 4, 3}), 0u) << "less than 2 % is no reason";
  EXPECT_EQ(with({9, 3, 4, 5}), 1u);
  EXPECT_EQ(calls, (std::vector<int>{5, 5, 5, 1}));
  EXPECT_EQ(with({1}), 0u);
  // One slow run among five does not decide.
  int run = 0;
  EXPECT_EQ(fastest(2, [&](std::size_t i) { return i == 0 ? 3.0 : ++run == 3 ? 50.0 : 2.0; }), 1u);
}

TEST(ProductChoices, ACpuHasNone) {
  Device device;
  kernels::search_products(device.queue(), true);
  kernels::follow_product_choices(device.queue(), some().text());
  EXPECT_EQ(kernels::product_choices(device.queue()), "");
  EXPECT_EQ(kernels::product_library(device.queue()), "");
}

// On a GPU: what was found is right, and followed by another queue to the same bits.
TEST(ProductChoices, SearchedProductsAreRightAndFollowed) {
  if (Device::cuda_count() == 0) GTEST_SKIP() << Device::cuda_problem();
  const std::int64_t m = 384, n = 256, k = 512;
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto product = [&](Device& device) {
      Tensor a = make_tensor(device, {m, k}, random_values(m * k, 1), dtype),
             b = make_tensor(device, {n, k}, random_values(n * k, 2), dtype);
      Tensor y = poisoned(device, {m, n}, dtype), bias = make_tensor(device, {n}, random_values(n, 3), dtype);
      kernels::matmul(device.queue(), y.view(), a.view(), b.view(), m, n, k, {.transpose_b = true, .bias = bias.view()});
      return download(device.queue(), y);
    };
    Device plain(DeviceKind::cuda), searching(DeviceKind::cuda), following(DeviceKind::cuda);
    kernels::search_products(searching.queue(), true);
    auto expected = product(plain), found = product(searching);
    EXPECT_LE(relative_norm(found, expected), golden_tolerance(dtype));
    const std::string choices = kernels::product_choices(searching.queue());
    EXPECT_NE(choices, "");
    EXPECT_EQ(kernels::product_choices(plain.queue()), "");
    kernels::follow_product_choices(following.queue(), choices);
    EXPECT_EQ(product(following), found);
    EXPECT_EQ(kernels::product_choices(following.queue()), choices);
  }
}

}  // namespace
}  // namespace lockstep
