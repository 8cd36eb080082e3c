#include "kernels/cross_entropy.h"

#include "kernels/base/launch.h"
#include "kernels/base/math.h"

namespace lockstep::kernels {
namespace {

HD float not_a_number() {
  return std::bit_cast<float>(0x7fc00000);
}

/// What a row's loss and gradient are made of.
struct Row {
  std::int32_t target;
  std::int64_t columns;
  CrossEntropyOptions options;

  HD bool ignored() const { return target == options.ignore_index; }
  HD bool out_of_range() const { return target < 0 || target >= columns; }

  struct Sums {
    float log_total;  ///< log of the sum of exp(x)
    float logits;     ///< sum of x, where labels are smoothed
  };
  template <class Team, class T>
  HD Sums sums(Team every, const T* x) const {
    const auto team = every.from(x);  // few vocabularies are multiples of 8
    auto value = [](T v) { return float(v); };
    float log_total = team.log_sum_exp(columns, value, x);
    float logits = options.label_smoothing > 0 ? team.sum(columns, value, x) : 0.f;
    return {log_total, logits};
  }

  HD float loss(Sums sums, float at_target) const {
    if (ignored()) return 0;
    if (out_of_range()) return not_a_number();
    float smoothing = options.label_smoothing;
    return sums.log_total - (1 - smoothing) * at_target - smoothing * (sums.logits / float(columns));
  }

  /// to (+)= seed * (softmax(x) - target), from the logits x; zero where the row is ignored. `to` may be x.
  template <bool accumulate, class Team, class T, class To>
  HD void gradient(Team every, To to, const T* x, float log_total, float seed) const {
    const auto team = every.from(x);
    if (ignored()) {
      if constexpr (!accumulate)
        team.each(
            columns, [](T& d) { d = T(0.f); }, to);
      return;
    }
    const float factor = out_of_range() ? not_a_number() : seed;
    const float spread = options.label_smoothing / float(columns), peak = 1 - options.label_smoothing;
    const std::int32_t at = target;
    auto put = [=](std::int64_t c, T& d, T v) {
      float wanted = std::int32_t(c) == at ? peak + spread : spread;
      float value = factor * (math::exp_nonpositive(float(v) - log_total) - wanted);
      d = T(accumulate ? float(d) + value : value);
    };
    team.each_at(columns, put, to, x);
  }
};

template <class T>
struct Forward {
  float* row_loss;
  float* log_sum;
  const T* logits;
  const std::int32_t* targets;
  std::int64_t columns;
  CrossEntropyOptions options;

  template <class Team>
  HD void operator()(Team team, std::int64_t r) const {
    const T* x = logits + r * columns;
    Row row{targets[r], columns, options};
    Row::Sums sums = row.sums(team, x);
    if (!team.first()) return;
    log_sum[r] = sums.log_total;
    row_loss[r] = row.loss(sums, row.out_of_range() ? 0.f : float(x[row.target]));
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
  HD void operator()(Team team, std::int64_t r) const {
    const T* x = logits + r * columns;
    T* dx = dlogits + r * columns;
    Row row{targets[r], columns, options};
    if constexpr (accumulate)
      row.template gradient<true>(team, dx, x, log_sum[r], seed[0]);
    else
      row.template gradient<false>(team, out(dx), x, log_sum[r], seed[0]);
  }
};

template <class T>
struct InPlace {
  using ReadsRowsAgain = void;
  float* row_loss;
  T* logits;
  const float* seed;
  const std::int32_t* targets;
  std::int64_t columns;
  CrossEntropyOptions options;

  template <class Team>
  HD void operator()(Team team, std::int64_t r) const {
    T* x = logits + r * columns;
    Row row{targets[r], columns, options};
    // Every member reads it before the sums, behind which the first of them overwrites it.
    float at_target = row.out_of_range() ? 0.f : float(x[row.target]);
    Row::Sums sums = row.sums(team, static_cast<const T*>(x));
    if (team.first()) row_loss[r] = row.loss(sums, at_target);
    row.template gradient<false>(team, out(x), static_cast<const T*>(x), sums.log_total, seed[0]);
  }
};
static_assert(ReadsRowsAgain<InPlace<float>>);

template <class T>
struct Reseed {
  const float* seed;
  const float* used;
  HD void operator()(T& d) const {
    float factor = used[0] == 0 ? 0.f : seed[0] / used[0];
    d = T(float(d) * factor);
  }
};

std::int64_t rows_of(const char* op, View logits, View targets, View of_rows, std::int64_t columns) {
  require(columns > 0 && logits.size % columns == 0, "{}: {} logits in rows of {}", op, logits.size, columns);
  std::int64_t rows = logits.size / columns;
  require(targets.size == rows && of_rows.size == rows, "{}: {} rows of logits, {} targets, {} values of rows", op, rows,
          targets.size, of_rows.size);
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

void cross_entropy_in_place(const Queue& q, View row_loss, View logits, View seed, View targets, std::int64_t columns,
                            CrossEntropyOptions options) {
  std::int64_t rows = rows_of("cross_entropy_in_place", logits, targets, row_loss, columns);
  require(seed.size == 1, "cross_entropy_in_place: {} seeds", seed.size);
  visit_float(logits.dtype, [&]<class T>() {
    for_each_row(
        q, rows, columns,
        InPlace<T>{row_loss.as<float>(), logits.as<T>(), seed.as<float>(), targets.as<std::int32_t>(), columns, options});
  });
}

void cross_entropy_reseed(const Queue& q, View dlogits, View seed, View used) {
  require(seed.size == 1 && used.size == 1, "cross_entropy_reseed: {} and {} seeds", seed.size, used.size);
  visit_float(dlogits.dtype, [&]<class T>() {
    for_each(q, dlogits.size, Reseed<T>{seed.as<float>(), used.as<float>()}, dlogits.as<T>());
  });
}

}  // namespace lockstep::kernels
