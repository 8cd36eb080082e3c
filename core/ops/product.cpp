#include "core/ops.h"
#include "kernels/matmul.h"
#include "kernels/unary.h"

namespace lockstep::ops {

Tensor matmul(Tape& t, const Tensor& a, const Tensor& b) {
  bool batched = b.shape().size() == 3;
  require(b.shape().size() == 2 || (batched && a.shape().size() == 3 && a.dim(0) == b.dim(0)),
          "matmul: {} times {} is not a product", to_text(a.shape()), to_text(b.shape()));
  std::int64_t k = a.dim(-1), n = b.dim(-1), batch = batched ? b.dim(0) : 1, m = a.rows() / batch;
  require(b.dim(-2) == k, "matmul: inner sizes differ: {} times {}", to_text(a.shape()), to_text(b.shape()));
  Shape shape = a.shape();
  shape.back() = n;
  Tensor y = t.make(shape, a.dtype());
  kernels::matmul(t.queue(), y.view(), a.view(), b.view(), m, n, k, {.batch = batch});
  return t.record(y, {a, b}, [=](Tape& t) {
    View dy = t.gradient(y);
    if (auto [db, write] = t.into(b); db)
      kernels::matmul(t.queue(), db, a.view(), dy, k, n, m, {.transpose_a = true, .batch = batch, .write = write});
    if (auto [da, write] = t.into(a); da)
      kernels::matmul(t.queue(), da, dy, b.view(), m, k, n, {.transpose_b = true, .batch = batch, .write = write});
  });
}

Tensor linear(Tape& t, const Tensor& x, const Tensor& w, const Tensor& bias, std::optional<Unary> activation) {
  require(w.shape().size() == 2 && w.dim(1) == x.dim(-1), "linear: a weight {} (out, in) cannot take {}", to_text(w.shape()),
          to_text(x.shape()));
  require(!bias || bias.size() == w.dim(0), "linear: a bias of {} elements for {} outputs", bias ? bias.size() : 0, w.dim(0));
  std::int64_t m = x.rows(), n = w.dim(0), k = w.dim(1);
  Shape shape = x.shape();
  shape.back() = n;
  Tensor y = t.make(shape, x.dtype());
  // The gradient of the activation reads what came before it; inference does not keep it.
  Tensor before = activation && t.recording() ? t.make(shape, x.dtype()) : Tensor();
  kernels::matmul(t.queue(), y.view(), x.view(), w.view(), m, n, k,
                  {.transpose_b = true,
                   .bias = bias ? bias.view() : View{},
                   .activation = activation,
                   .pre_activation = before ? before.view() : View{}});
  return t.record(y, {x, w, bias}, [=](Tape& t) {
    View dy = t.gradient(y);
    if (activation) {
      dy = t.exclusive_gradient(y);
      kernels::unary_backward(t.queue(), *activation, dy, dy, before.view(), y.view(), Write::overwrite);
    }
    if (auto [dw, write] = t.into(w); dw)
      kernels::matmul(t.queue(), dw, dy, x.view(), n, k, m, {.transpose_a = true, .write = write});
    if (auto [db, write] = t.into(bias); db) kernels::sum_rows(t.queue(), db, dy, n, write);
    if (auto [dx, write] = t.into(x); dx) kernels::matmul(t.queue(), dx, dy, w.view(), m, k, n, {.write = write});
  });
}

Tensor convolution(Tape& t, const Tensor& x, const Tensor& w, const Tensor& bias, ConvolutionOptions o) {
  require(x.shape().size() == 4 && w.shape().size() == 4 && w.dim(3) * o.groups == x.dim(3) && w.dim(0) % o.groups == 0,
          "convolution: weights {} (out, height, width, in / groups) cannot take {} (batch, height, width, in) in {} groups",
          to_text(w.shape()), to_text(x.shape()), o.groups);
  kernels::ConvolutionShape s{.batch = x.dim(0),
                              .height = x.dim(1),
                              .width = x.dim(2),
                              .in = x.dim(3),
                              .out = w.dim(0),
                              .kernel_height = w.dim(1),
                              .kernel_width = w.dim(2),
                              .stride = o.stride,
                              .padding = o.padding,
                              .dilation = o.dilation,
                              .groups = o.groups};
  require(s.out_height() > 0 && s.out_width() > 0, "convolution: a {} x {} kernel does not fit images {}", s.kernel_height,
          s.kernel_width, to_text(x.shape()));
  Tensor y = t.make({s.batch, s.out_height(), s.out_width(), s.out}, x.dtype());
  kernels::convolution(t.queue(), s, y.view(), x.view(), w.view(), bias ? bias.view() : View{});
  return t.record(y, {x, w, bias}, [=](Tape& t) {
    View dy = t.gradient(y);
    if (auto [dw, write] = t.into(w); dw) kernels::convolution_backward_weights(t.queue(), s, dw, dy, x.view(), write);
    if (auto [db, write] = t.into(bias); db) kernels::sum_rows(t.queue(), db, dy, s.out, write);
    if (auto [dx, write] = t.into(x); dx) kernels::convolution_backward_data(t.queue(), s, dx, dy, w.view(), write);
  });
}

Tensor attention(Tape& t, const Tensor& qkv, AttentionOptions o) {
  require(qkv.shape().size() == 3 && qkv.dim(2) % (3 * o.heads) == 0,
          "attention: {} is not (batch, length, 3 * heads * size) with {} heads", to_text(qkv.shape()), o.heads);
  kernels::AttentionShape s{.batch = qkv.dim(0),
                            .length = qkv.dim(1),
                            .heads = o.heads,
                            .size = qkv.dim(2) / (3 * o.heads),
                            .causal = o.causal,
                            .dropout = t.training() ? o.dropout : 0.f};
  Tensor y = t.make({s.batch, s.length, s.width()}, qkv.dtype());
  Tensor log_sum = t.make({s.batch, s.heads, s.length}, DType::f32);
  RandomKey key = t.random(o.site);
  kernels::attention(t.queue(), s, y.view(), log_sum.view(), qkv.view(), key);
  return t.record(y, {qkv}, [=](Tape& t) {
    auto [dqkv, write] = t.into(qkv);
    Tensor fresh = write == Write::accumulate ? t.make(qkv.shape(), qkv.dtype()) : Tensor();
    Tensor scratch = t.make({std::int64_t(kernels::attention_scratch(s))}, DType::u8);
    kernels::attention_backward(t.queue(), s, fresh ? fresh.view() : dqkv, t.gradient(y), y.view(), log_sum.view(), qkv.view(),
                                key, scratch.view());
    if (fresh) kernels::binary(t.queue(), kernels::Binary::add, dqkv, dqkv, fresh.view());
  });
}

}  // namespace lockstep::ops
