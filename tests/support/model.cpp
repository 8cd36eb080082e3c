#include "tests/support/model.h"

#include <cmath>

#include "kernels/memory.h"
#include "tests/support/devices.h"

namespace lockstep::test {

Placed::Placed(ParameterSet& set, std::uint64_t seed) : set(set) {
  Layout layout = simple_layout(set);
  for (auto& slot : layout.slots)
    if (slot.parameter->role == Parameter::Role::weight && slot.parameter->trainable) slot.bucket = 0;
  layout.trained = layout.total;
  layout.buckets.push_back({0, layout.total});
  auto allocate = [&](std::size_t bytes) { return set.device().arena().allocate(bytes); };
  flat = place(set, layout, allocate);
  gradient_memory = allocate(std::size_t(layout.total) * 4);
  gradients = {gradient_memory.get(), layout.total, DType::f32};
  for (auto& slot : flat.layout.slots)
    if (slot.bucket == 0) slot.parameter->value->gradient = gradients.slice(slot.begin, slot.size);
  set.initialise(seed);
  clear();
}

void Placed::clear() {
  kernels::fill(set.device().queue(), gradients, 0);
  for (auto& p : set.all()) p->value->has_gradient = false;
}

std::vector<float> Placed::gradient(const std::string& name) const {
  return download(set.device().queue(), set.find(name).value->gradient);
}

double directional_error(Device& device, const std::vector<Tensor>& inputs, const std::function<Tensor(Tape&)>& loss, float step,
                         Tape::Options options) {
  const Queue& q = device.queue();
  auto evaluate = [&] {
    Tape::Options quiet = options;
    quiet.recording = false;
    Tape t(device, quiet);
    return double(download(q, loss(t))[0]);
  };
  for (auto& x : inputs) x->wants_gradient = true, x->has_gradient = false;
  Tape t(device, options);
  t.backward(loss(t));

  double analytic = 0, square = 0;
  std::vector<std::vector<float>> centers, directions;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    auto& x = inputs[k];
    centers.push_back(download(q, x));
    directions.push_back(random_values(x.size(), 1000 + k));
    if (!x->has_gradient) return INFINITY;
    auto gradient = download(q, x->gradient);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      analytic += double(gradient[i]) * directions[k][i];
      square += double(gradient[i]) * gradient[i];
    }
  }
  auto at = [&](double h) {
    for (std::size_t k = 0; k < inputs.size(); ++k) {
      auto moved = centers[k];
      for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += float(h * directions[k][i]);
      upload(q, inputs[k], moved);
    }
    return evaluate();
  };
  // Four points: the error of the difference falls with the fourth power of the step.
  double h = step;
  double numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
  at(0);
  for (auto& x : inputs) x->has_gradient = false;
  // The gradient's norm is what a random direction gives on average; one along which terms cancel is no worse.
  return std::abs(analytic - numeric) / std::max({std::abs(analytic), std::abs(numeric), std::sqrt(square), 1e-6});
}

}  // namespace lockstep::test
