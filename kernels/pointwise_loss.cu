#include "kernels/pointwise_loss.h"

#include "kernels/base/launch.h"
#include "kernels/base/math.h"

namespace lockstep::kernels {
namespace {

struct SquaredError {
  HD static float value(float x, float t) { return (x - t) * (x - t); }
  HD static float slope(float x, float t) { return 2 * (x - t); }
};
struct BinaryCrossEntropy {
  HD static float value(float x, float t) { return (x > 0 ? x : 0) - x * t + std::log1p(math::exp_nonpositive(-std::fabs(x))); }
  HD static float slope(float x, float t) { return math::sigmoid(x) - t; }
};

template <class Loss>
struct Forward {
  HD void operator()(float& loss, float x, float target) const { loss = Loss::value(x, target); }
};
template <class Loss>
struct Backward {
  const float* seed;
  float keep;
  HD void operator()(float& dx, float x, float target) const {
    float d = seed[0] * Loss::slope(x, target);
    dx = keep != 0 ? dx + d : d;
  }
};

template <class F>
void visit(PointwiseLoss loss, F&& f) {
  if (loss == PointwiseLoss::squared_error)
    f.template operator()<SquaredError>();
  else
    f.template operator()<BinaryCrossEntropy>();
}

}  // namespace

void pointwise_loss(const Queue& q, PointwiseLoss kind, View loss, View x, View target) {
  require(loss.size == x.size && target.size == x.size, "loss: {} predictions and {} targets", x.size, target.size);
  visit(kind, [&]<class L>() {
    for_each(q, x.size, Forward<L>{}, out(loss.as<float>()), x.as<const float>(), target.as<const float>());
  });
}

void pointwise_loss_backward(const Queue& q, PointwiseLoss kind, View dx, View seed, View x, View target, Write write) {
  visit(kind, [&]<class L>() {
    for_each(q, x.size, Backward<L>{seed.as<float>(), write == Write::accumulate ? 1.f : 0.f}, dx.as<float>(),
             x.as<const float>(), target.as<const float>());
  });
}

}  // namespace lockstep::kernels
