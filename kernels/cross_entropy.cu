#include "kernels/cross_entropy.h"

#include "kernels/base/launch.h"
#include "kernels/base/math.h"

namespace lockstep::kernels {
namespace {

HD float not_a_number() {
  return std::bit_cast<float>(0x7fc00000);
}

template <class T>
struct Forward {
  float* row_loss;
  float* log_sum;
  const T* logits;
  const std::int32_t* targets;
  std::int64_t columns;
  CrossEntropyOptions options;

  template <class Team>
  HD void operator()(Team team, std::int64_t row) const {
    const T* x = logits + row * columns;
    float most = team.max(columns, [&](std::int64_t c) { return float(x[c]); });
    float total = team.sum(columns, [&](std::int64_t c) { return math::exp(float(x[c]) - most); });
    float log_total = most + math::log(total);
    float smoothing = options.label_smoothing;
    float sum = smoothing > 0 ? team.sum(columns, [&](std::int64_t c) { return float(x[c]); }) : 0.f;
    if (!team.first()) return;
    log_sum[row] = log_total;
    std::int32_t target = targets[row];
    if (target == options.ignore_index)
      row_loss[row] = 0;
    else if (target < 0 || target >= columns)
      row_loss[row] = not_a_number();
    else
      row_loss[row] = log_total - (1 - smoothing) * float(x[target]) - smoothing * (sum / float(columns));
  }
};

template <class T, bool accumulate>
struct Backward {
  T* dlogits;
  const float* seed;
  const T* logits;
  const float* log_sum;
  const std::int32_t* targets;
  std::int64_t columns;
  CrossEntropyOptions options;

  template <class Team>
  HD void operator()(Team team, std::int64_t row) const {
    const T* x = logits + row * columns;
    T* dx = dlogits + row * columns;
    std::int32_t target = targets[row];
    if (target == options.ignore_index) {
      if (!accumulate) team.each(columns, [&](std::int64_t c) { dx[c] = T(0.f); });
      return;
    }
    float factor = target < 0 || target >= columns ? not_a_number() : seed[0];
    float from = log_sum[row];
    float spread = options.label_smoothing / float(columns), peak = 1 - options.label_smoothing;
    team.each(columns, [&](std::int64_t c) {
      float wanted = std::int32_t(c) == target ? peak + spread : spread;
      float d = factor * (math::exp(float(x[c]) - from) - wanted);
      dx[c] = T(accumulate ? float(dx[c]) + d : d);
    });
  }
};

std::int64_t rows_of(const char* op, View logits, View targets, View log_sum, std::int64_t columns) {
  require(columns > 0 && logits.size % columns == 0, "{}: {} logits in rows of {}", op, logits.size, columns);
  std::int64_t rows = logits.size / columns;
  require(targets.size == rows && log_sum.size == rows, "{}: {} rows of logits, {} targets, {} log sums", op, rows, targets.size,
          log_sum.size);
  return rows;
}

}  // namespace

void cross_entropy(const Queue& q, View row_loss, View log_sum, View logits, View targets, std::int64_t columns,
                   CrossEntropyOptions options) {
  std::int64_t rows = rows_of("cross_entropy", logits, targets, log_sum, columns);
  require(row_loss.size == rows, "cross_entropy: {} rows of logits, {} losses", rows, row_loss.size);
  visit_float(logits.dtype, [&]<class T>() {
    for_each_row(
        q, rows, columns,
        Forward<T>{row_loss.as<float>(), log_sum.as<float>(), logits.as<T>(), targets.as<std::int32_t>(), columns, options});
  });
}

void cross_entropy_backward(const Queue& q, View dlogits, View seed, View logits, View log_sum, View targets,
                            std::int64_t columns, CrossEntropyOptions options, Write write) {
  std::int64_t rows = rows_of("cross_entropy_backward", logits, targets, log_sum, columns);
  require(dlogits.size == logits.size && seed.size == 1, "cross_entropy_backward: {} gradients of {} logits, {} seeds",
          dlogits.size, logits.size, seed.size);
  visit_float(logits.dtype, [&]<class T>() {
    auto run = [&]<bool accumulate>() {
      for_each_row(q, rows, columns,
                   Backward<T, accumulate>{dlogits.as<T>(), seed.as<float>(), logits.as<T>(), log_sum.as<float>(),
                                           targets.as<std::int32_t>(), columns, options});
    };
    write == Write::accumulate ? run.template operator()<true>() : run.template operator()<false>();
  });
}

}  // namespace lockstep::kernels
