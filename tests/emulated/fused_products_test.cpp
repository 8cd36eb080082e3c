// What kernels/matmul.h says joins a product must do so: one call of cuBLASLt, with the epilogue that says it.

#include <gtest/gtest.h>

#include "kernels/matmul.h"
#include "tests/emulated/cublaslt/product.h"
#include "tests/support/devices.h"

namespace lockstep {
namespace {

using kernels::MatmulOptions;
using test::make_tensor;

/// y (16, 24) of a (16, 8) or its transpose and b (8, 24), with everything that options may name.
struct FusedProducts : testing::Test {
  static constexpr std::int64_t m = 16, n = 24, k = 8;
  Device device{DeviceKind::cuda};

  Tensor zeros(std::int64_t size, DType dtype) {
    return make_tensor(device, {size}, std::vector<float>(std::size_t(size)), dtype);
  }

  void expect(cublasLtEpilogue_t epilogue, DType in, DType out, const MatmulOptions& options) {
    SCOPED_TRACE(std::to_string(epilogue) + " " + name_of(in) + " " + name_of(out));
    Tensor a = zeros(m * k, in), b = zeros(k * n, in), y = zeros(m * n, out);
    using emulated::cublaslt::count_of;
    const int before = count_of(epilogue), plain = count_of(CUBLASLT_EPILOGUE_DEFAULT);
    kernels::matmul(device.queue(), y.view(), a.view(), b.view(), m, n, k, options);
    EXPECT_EQ(count_of(epilogue), before + 1);
    if (epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
      EXPECT_EQ(count_of(CUBLASLT_EPILOGUE_DEFAULT), plain);
    }
  }
};

TEST_F(FusedProducts, AreOneCall) {
  for (DType d : {DType::f32, DType::bf16, DType::f16}) {
    Tensor row = zeros(n, d), column = zeros(m, d), f32_row = zeros(n, DType::f32), x = zeros(m * n, d);
    expect(CUBLASLT_EPILOGUE_DEFAULT, d, d, {});
    for (Write write : {Write::overwrite, Write::accumulate}) {
      expect(CUBLASLT_EPILOGUE_BIAS, d, d, {.write = write, .bias = row.view()});
      expect(CUBLASLT_EPILOGUE_BIAS, d, d, {.write = write, .bias = f32_row.view()});
      expect(CUBLASLT_EPILOGUE_BGRADB, d, d, {.transpose_a = true, .write = write, .bias_gradient = column.view()});
      expect(CUBLASLT_EPILOGUE_DEFAULT, d, d,
             {.transpose_a = true, .write = write, .bias_gradient = column.view(), .write_bias_gradient = Write::accumulate});
    }
    const bool half = is_half(d);  // cuBLASLt's GELU is not exact enough for f32
    const kernels::Slope slope{Unary::gelu_tanh, x.view(), x.view()};
    expect(half ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_DEFAULT, d, d, {.activation = Unary::gelu_tanh});
    expect(half ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS, d, d,
           {.bias = row.view(), .activation = Unary::gelu_tanh});
    expect(half ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_DEFAULT, d, d,
           {.activation = Unary::gelu_tanh, .kept = x.view()});
    expect(half ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_BIAS, d, d,
           {.bias = row.view(), .activation = Unary::gelu_tanh, .kept = x.view()});
    expect(half ? CUBLASLT_EPILOGUE_DGELU : CUBLASLT_EPILOGUE_DEFAULT, d, d, {.slope = slope});
    expect(half ? CUBLASLT_EPILOGUE_DGELU_BGRAD : CUBLASLT_EPILOGUE_DEFAULT, d, d, {.slope = slope, .bias_gradient = row.view()});
    expect(CUBLASLT_EPILOGUE_BIAS, d, d, {.bias = row.view(), .activation = Unary::gelu});
  }
  // A gradient in f32 of products in 16 bits, as of layers with masters.
  Tensor column = zeros(m, DType::f32);
  expect(CUBLASLT_EPILOGUE_BGRADB, DType::bf16, DType::f32, {.transpose_a = true, .bias_gradient = column.view()});
}

}  // namespace
}  // namespace lockstep
