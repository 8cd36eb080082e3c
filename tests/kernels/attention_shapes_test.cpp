// Attention at the shapes of language models of 16 bits, where a GPU takes the vendor's tensor cores: against f32 on the CPU.
#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "tests/support/devices.h"

namespace lockstep::kernels {
namespace {

using namespace test;

struct Results {
  std::vector<float> y, log_sum, dqkv;
};

Results run(Device& device, const AttentionShape& s, DType dtype) {
  const std::int64_t n = s.batch * s.length * s.width();
  // Rounded to bf16 on either side, so that both see the same numbers.
  auto rounded = [](std::vector<float> values) {
    for (float& v : values) v = float(bf16(v));
    return values;
  };
  Tensor qkv = make_tensor(device, {3 * n}, rounded(random_values(3 * n, 1)), dtype);
  Tensor dy = make_tensor(device, {n}, rounded(random_values(n, 2)), dtype);
  Tensor y = poisoned(device, {n}, dtype), dqkv = poisoned(device, {3 * n}, dtype);
  Tensor log_sum = poisoned(device, {s.batch * s.heads * s.length});
  Tensor scratch(device, {std::int64_t(attention_scratch(s))}, DType::u8);
  const Queue& q = device.queue();
  attention(q, s, y.view(), log_sum.view(), qkv.view(), {});
  attention_backward(q, s, dqkv.view(), dy.view(), y.view(), log_sum.view(), qkv.view(), {}, scratch.view());
  return {download(q, y), download(q, log_sum), download(q, dqkv)};
}

TEST(AttentionShapes, In16BitsAgreeWithF32) {
  Device cpu;
  for (bool causal : {true, false})
    for (AttentionShape s : {AttentionShape{2, 128, 3, 64}, AttentionShape{3, 200, 2, 128}, AttentionShape{1, 257, 4, 32},
                             AttentionShape{2, 64, 2, 40}, AttentionShape{2, 65, 1, 20}}) {
      s.causal = causal;
      Results expected = run(cpu, s, DType::f32);
      for (auto& device : devices())
        for (DType dtype : {DType::bf16, DType::f16}) {
          Results got = run(*device, s, dtype);
          std::string where = device->name() + ", " + name_of(dtype) + ", " + std::to_string(s.length) + " rows, heads of " +
                              std::to_string(s.size);
          EXPECT_LT(relative_norm(got.y, expected.y), 1e-2) << where;
          EXPECT_LT(relative_norm(got.log_sum, expected.log_sum), 1e-2) << where;
          EXPECT_LT(relative_norm(got.dqkv, expected.dqkv), 2e-2) << where;  // of y and dy, both rounded
          Results again = run(*device, s, dtype);
          EXPECT_EQ(again.y, got.y) << where;
          EXPECT_EQ(again.dqkv, got.dqkv) << where << ": gradients must be the same each run";
        }
    }
}

}  // namespace
}  // namespace lockstep::kernels
