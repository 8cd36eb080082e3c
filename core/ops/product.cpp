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
  y->spare = true;
  kernels::matmul(t.queue(), y.view(), a.view(), b.view(), m, n, k, {.batch = batch});
  return t.record(y, {a, b}, [=](Tape& t) {
    View dy = t.gradient(y);
    if (auto [db, write] = t.into(b); db)
      kernels::matmul(t.queue(), db, a.view(), dy, k, n, m, {.transpose_a = true, .batch = batch, .write = write});
    if (auto [da, write] = t.into(a); da)
      kernels::matmul(t.queue(), da, dy, b.view(), m, k, n, {.transpose_b = true, .batch = batch, .write = write});
  });
}

namespace {

/// Sizes of x (…, in) times w (out, in) transposed: rows, outputs, inputs.
struct LinearSizes {
  std::int64_t m, n, k;
  LinearSizes(const char* op, const Tensor& x, const Tensor& w, const Tensor& bias) : m(x.rows()), n(w.dim(0)), k(w.dim(-1)) {
    require(w.shape().size() == 2 && k == x.dim(-1), "{}: a weight {} (out, in) cannot take {}", op, to_text(w.shape()),
            to_text(x.shape()));
    require(!bias || bias.size() == n, "{}: a bias of {} elements for {} outputs", op, bias ? bias.size() : 0, n);
  }
};

Shape with_last(Shape shape, std::int64_t n) {
  shape.back() = n;
  return shape;
}

View view_or_none(const Tensor& x) {
  return x ? x.view() : View{};
}

/// Gradients of w and bias in x wᵀ + bias: one product reads dy for both.
void weight_backward(Tape& t, const LinearSizes& s, View dy, const Tensor& x, const Tensor& w, const Tensor& bias) {
  auto db = t.into(bias);
  if (auto dw = t.into(w))
    kernels::matmul(t.queue(), dw.view, dy, x.view(), s.n, s.k, s.m,
                    {.transpose_a = true, .write = dw.write, .bias_gradient = db.view, .write_bias_gradient = db.write});
  else if (db)
    kernels::sum_rows(t.queue(), db.view, dy, s.n, db.write);
}

void linear_backward(Tape& t, const LinearSizes& s, View dy, const Tensor& x, const Tensor& w, const Tensor& bias) {
  weight_backward(t, s, dy, x, w, bias);
  if (auto dx = t.into(x)) kernels::matmul(t.queue(), dx.view, dy, w.view(), s.m, s.k, s.n, {.write = dx.write});
}

}  // namespace

Tensor linear(Tape& t, const Tensor& x, const Tensor& w, const Tensor& bias, std::optional<Unary> activation) {
  LinearSizes s("linear", x, w, bias);
  Tensor y = t.make(with_last(x.shape(), s.n), x.dtype());
  y->spare = !activation;
  Tensor kept = activation && t.recording() ? t.make(y.shape(), x.dtype()) : Tensor();
  kernels::matmul(t.queue(), y.view(), x.view(), w.view(), s.m, s.n, s.k,
                  {.transpose_b = true, .bias = view_or_none(bias), .activation = activation, .kept = view_or_none(kept)});
  return t.record(y, {x, w, bias}, [=](Tape& t) {
    View dy = t.gradient(y);
    if (activation) {
      dy = t.exclusive_gradient(y);
      kernels::activation_backward(t.queue(), {*activation, kept.view(), y.view()}, dy, dy);
    }
    linear_backward(t, s, dy, x, w, bias);
  });
}

Tensor feed_forward(Tape& t, const Tensor& x, const Tensor& w1, const Tensor& b1, Unary activation, const Tensor& w2,
                    const Tensor& b2) {
  LinearSizes s1("feed_forward", x, w1, b1);
  Tensor h = t.make(with_last(x.shape(), s1.n), x.dtype());
  LinearSizes s2("feed_forward", h, w2, b2);
  Tensor kept = t.recording() ? t.make(h.shape(), x.dtype()) : Tensor();
  kernels::matmul(t.queue(), h.view(), x.view(), w1.view(), s1.m, s1.n, s1.k,
                  {.transpose_b = true, .bias = view_or_none(b1), .activation = activation, .kept = view_or_none(kept)});
  Tensor y = t.make(with_last(x.shape(), s2.n), x.dtype());
  kernels::matmul(t.queue(), y.view(), h.view(), w2.view(), s2.m, s2.n, s2.k, {.transpose_b = true, .bias = view_or_none(b2)});
  if (!t.recording()) return y;

  // Two records, so that the second layer's gradients are final, and on their way, before the first layer's are computed. The
  // first layer's result before its activation is known to the tape as `before`, by its gradient alone. b1's gradient comes with
  // that one, but not where a GPU's product would have to sum rows in another type than its result's (f32): then with that of w1.
  const Tensor before = kept;
  const bool early = b1 && (!t.queue().on_gpu || is_half(b1->gradient ? b1->gradient.dtype : b1.dtype()));
  t.record(before, {x, w1, b1}, [=](Tape& t) { linear_backward(t, s1, t.gradient(before), x, w1, early ? Tensor() : b1); });
  return t.record(y, {before, w2, b2}, [=](Tape& t) {
    View dy = t.gradient(y);
    weight_backward(t, s2, dy, h, w2, b2);
    if (auto d = t.into(before)) {
      auto db1 = t.into(early ? b1 : Tensor());
      kernels::matmul(t.queue(), d.view, dy, w2.view(), s2.m, s2.k, s2.n,
                      {.slope = kernels::Slope{activation, kept.view(), h.view()},
                       .bias_gradient = db1.view,
                       .write_bias_gradient = db1.write});
    }
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
