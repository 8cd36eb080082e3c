#include "kernels/binary.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;
using kernels::Binary;

Binary op_named(const std::string& name) {
  if (name == "add") return Binary::add;
  if (name == "subtract") return Binary::subtract;
  if (name == "multiply") return Binary::multiply;
  require(name == "divide", "no binary op named {}", name);
  return Binary::divide;
}

TEST(Binary, Golden) {
  std::set<Binary> seen;
  for_each_golden("binary", [&](Device& device, DType dtype, const GoldenCase& c) {
    Binary op = op_named(c.text("op"));
    seen.insert(op);
    const Queue& q = device.queue();
    Tensor a = c.load(device, "a", dtype), b = c.load(device, "b", dtype), dy = c.load(device, "dy", dtype);
    Tensor y = poisoned(device, a.shape(), dtype);
    kernels::binary(q, op, y.view(), a.view(), b.view());
    expect_close(device, y, c["y"].values, dtype, "y");
    expect_gradient(
        device, a.shape(), dtype, c["da"].values,
        [&](View da, Write write) { kernels::binary_backward_a(q, op, da, dy.view(), a.view(), b.view(), write); }, "da");
    for (DType gradient : {dtype, DType::f32})
      expect_gradient(
          device, b.shape(), gradient, dtype, c["db"].values,
          [&](View db, Write write) { kernels::binary_backward_b(q, op, db, dy.view(), a.view(), b.view(), write); }, "db");
  });
  EXPECT_EQ(seen.size(), std::size(kernels::all_binary));
}

TEST(Binary, Derivatives) {
  for (auto& device : devices())
    for (Binary op : kernels::all_binary)
      for (std::int64_t columns : {7, 63}) {  // a row, and as large as a
        const Queue& q = device->queue();
        auto forward = [&](const Values& in) {
          Tensor a = make_tensor(*device, {63}, in[0]), b = make_tensor(*device, {columns}, in[1]), y = poisoned(*device, {63});
          kernels::binary(q, op, y.view(), a.view(), b.view());
          return download(q, y);
        };
        auto backward = [&](const Values& in, const std::vector<float>& up) {
          Tensor a = make_tensor(*device, {63}, in[0]), b = make_tensor(*device, {columns}, in[1]);
          Tensor dy = make_tensor(*device, {63}, up), da = poisoned(*device, {63}), db = poisoned(*device, {columns});
          kernels::binary_backward_a(q, op, da.view(), dy.view(), a.view(), b.view(), Write::overwrite);
          kernels::binary_backward_b(q, op, db.view(), dy.view(), a.view(), b.view(), Write::overwrite);
          return Values{download(q, da), download(q, db)};
        };
        std::vector<float> b = random_values(columns, 2);
        for (float& v : b) v = v < 0 ? v - 1 : v + 1;  // away from division by zero
        EXPECT_LE(derivative_error({random_values(63, 1), b}, forward, backward), 1e-3) << int(op) << " " << columns;
      }
}

TEST(Binary, ScalarsInPlaceAndAbsentGradients) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    Tensor a = make_tensor(device, {5}, {1, 2, 3, 4, 5}, dtype), two = make_tensor(device, {1}, {2}, dtype);
    kernels::binary(q, Binary::multiply, a.view(), a.view(), two.view());
    EXPECT_EQ(download(q, a), (std::vector<float>{2, 4, 6, 8, 10}));
    Tensor dy = make_tensor(device, {5}, {1, 2, 3, 4, 5}, dtype), db = poisoned(device, {1}, dtype);
    kernels::binary_backward_b(q, Binary::add, db.view(), dy.view(), {}, {}, Write::overwrite);
    EXPECT_EQ(download(q, db), (std::vector<float>{15}));
    kernels::binary_backward_a(q, Binary::multiply, {}, dy.view(), a.view(), two.view(), Write::overwrite);
    kernels::binary_backward_b(q, Binary::multiply, {}, dy.view(), a.view(), two.view(), Write::overwrite);
    kernels::binary_backward_a(q, Binary::multiply, dy.view(), dy.view(), a.view(), two.view(), Write::overwrite);
    EXPECT_EQ(download(q, dy), (std::vector<float>{2, 4, 6, 8, 10}));
    View nothing{nullptr, 0, dtype};
    kernels::binary(q, Binary::add, nothing, nothing, nothing);
  });
}

TEST(Binary, WrongSizesAreRefused) {
  Device device;
  Tensor a(device, {6}), b(device, {4});
  EXPECT_THROW(kernels::binary(device.queue(), Binary::add, a.view(), a.view(), b.view()), Error);
  EXPECT_THROW(kernels::binary(device.queue(), Binary::add, b.view(), a.view(), a.view()), Error);
}

TEST(Binary, ThreadsDoNotMatter) {
  Device device;
  const Queue& q = device.queue();
  std::int64_t rows = 1501, columns = 37;
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor a = make_tensor(device, {rows, columns}, random_values(rows * columns, 1), dtype);
    Tensor b = make_tensor(device, {columns}, random_values(columns, 2), dtype);
    Tensor y(device, a.shape(), dtype), db(device, {columns});
    for (Binary op : kernels::all_binary) {
      expect_same_for_any_threads(
          [&] {
            kernels::binary(q, op, y.view(), a.view(), b.view());
            return download(q, y);
          },
          "y");
      expect_same_for_any_threads(
          [&] {
            kernels::binary_backward_b(q, op, db.view(), a.view(), a.view(), b.view(), Write::overwrite);
            return download(q, db);
          },
          "db");
    }
  }
}

}  // namespace
}  // namespace lockstep
