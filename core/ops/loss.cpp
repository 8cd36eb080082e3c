#include "core/ops.h"
#include "kernels/embedding.h"
#include "kernels/memory.h"
#include "kernels/pointwise_loss.h"

namespace lockstep::ops {

Tensor embedding(Tape& t, const Tensor& tokens, const Tensor& table, const Tensor& positions) {
  std::int64_t width = table.dim(-1), length = tokens.dim(-1);
  require(!positions || (positions.dim(-1) == width && positions.dim(0) >= length),
          "embedding: {} tokens in a row, but positions are {}", length, to_text(positions ? positions.shape() : Shape{}));
  Shape shape = tokens.shape();
  shape.push_back(width);
  Tensor y = t.make(shape, table.dtype());
  View used = positions ? positions.view().slice(0, length * width) : View{};
  kernels::embedding(t.queue(), y.view(), tokens.view(), table.view(), used, width);
  return t.record(y, {table, positions}, [=](Tape& t) {
    View dy = t.gradient(y);
    if (auto [dp, write] = t.into(positions); dp) {
      // Rows beyond `length` were not used.
      if (write == Write::overwrite && dp.size > length * width)
        kernels::fill(t.queue(), dp.slice(length * width, dp.size - length * width), 0);
      kernels::positions_backward(t.queue(), dp.slice(0, length * width), dy, width, write);
    }
    if (auto [dt, write] = t.into(table); dt) {
      Tensor scratch = t.make({std::int64_t(kernels::embedding_scratch(tokens.size(), table.dim(0)))}, DType::u8);
      kernels::embedding_backward(t.queue(), dt, dy, tokens.view(), width, write, scratch.view());
    }
  });
}

namespace {

/// `given_away`: the caller reads the logits no more.
Tensor row_losses(Tape& t, const Tensor& logits, const Tensor& targets, kernels::CrossEntropyOptions options, bool given_away) {
  std::int64_t classes = logits.dim(-1), rows = logits.rows();
  require(targets.size() == rows, "cross_entropy: logits {} and targets {}", to_text(logits.shape()), to_text(targets.shape()));
  const Tensor& upstream = t.upstream();
  Tensor row_loss = t.make({rows}, DType::f32), y = t.make({1}, DType::f32);
  if (upstream && given_away && t.may_overwrite(logits, 0)) {
    View d = logits.view();
    kernels::cross_entropy_in_place(t.queue(), row_loss.view(), d, upstream.view(), targets.view(), classes, options);
    kernels::sum_all(t.queue(), y.view(), row_loss.view(), Write::overwrite);
    t.record(y, {logits}, [=](Tape& t) {
      logits->has_gradient = true;
      // A loss that was scaled on its way to backward.
      if (View dy = t.gradient(y); dy.data != upstream.view().data)
        kernels::cross_entropy_reseed(t.queue(), d, dy, upstream.view());
    });
    t.overwrite(logits);
    return y;
  }
  Tensor log_sum = t.make({rows}, DType::f32);
  kernels::cross_entropy(t.queue(), row_loss.view(), log_sum.view(), logits.view(), targets.view(), classes, options);
  kernels::sum_all(t.queue(), y.view(), row_loss.view(), Write::overwrite);
  return t.record(y, {logits}, [=](Tape& t) {
    View x = logits.view();
    if (given_away && t.may_overwrite(logits, 1)) t.overwrite(logits);
    auto [dx, write] = t.into(logits);
    kernels::cross_entropy_backward(t.queue(), dx, t.gradient(y), x, log_sum.view(), targets.view(), classes, options, write);
  });
}

}  // namespace

Tensor cross_entropy(Tape& t, const Tensor& logits, const Tensor& targets, kernels::CrossEntropyOptions options) {
  return row_losses(t, logits, targets, options, false);
}
Tensor cross_entropy(Tape& t, Tensor&& logits, const Tensor& targets, kernels::CrossEntropyOptions options) {
  Tensor mine = std::move(logits);
  return row_losses(t, mine, targets, options, true);
}

namespace {
Tensor pointwise(Tape& t, kernels::PointwiseLoss kind, const Tensor& given, const Tensor& target) {
  Tensor x = cast(t, given, DType::f32);
  require(x.size() == target.size(), "loss: predictions {} and targets {}", to_text(x.shape()), to_text(target.shape()));
  Tensor each = t.make({x.size()}, DType::f32), y = t.make({1}, DType::f32);
  kernels::pointwise_loss(t.queue(), kind, each.view(), x.view(), target.view());
  kernels::sum_all(t.queue(), y.view(), each.view(), Write::overwrite);
  return t.record(y, {x}, [=](Tape& t) {
    auto [dx, write] = t.into(x);
    kernels::pointwise_loss_backward(t.queue(), kind, dx, t.gradient(y), x.view(), target.view(), write);
  });
}
}  // namespace

Tensor squared_error(Tape& t, const Tensor& x, const Tensor& target) {
  return pointwise(t, kernels::PointwiseLoss::squared_error, x, target);
}
Tensor binary_cross_entropy(Tape& t, const Tensor& logits, const Tensor& targets) {
  return pointwise(t, kernels::PointwiseLoss::binary_cross_entropy, logits, targets);
}

std::int64_t count_correct(Tape& t, const Tensor& logits, const Tensor& targets) {
  Tensor best = t.make({logits.rows()}, DType::i32);
  kernels::arg_max(t.queue(), best.view(), logits.view(), logits.dim(-1));
  auto a = download(t.queue(), best), b = download(t.queue(), targets);
  std::int64_t correct = 0;
  for (std::size_t i = 0; i < a.size(); ++i) correct += a[i] == b[i];
  return correct;
}

}  // namespace lockstep::ops
