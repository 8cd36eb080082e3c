#include "core/optim/optimizer.h"

#include <algorithm>

#include "kernels/memory.h"

namespace lockstep::optim {

Optimizer::Optimizer(ParameterSet& set, const Flat& flat, View gradients, const std::vector<Group>& groups, float decay)
    : device_(set.device()),
      flat_{flat.weights, flat.masters, gradients},
      layout_(flat.layout),
      weight_memory_(flat.weight_memory),
      master_memory_(flat.master_memory) {
  std::vector<const Layout::Slot*> trained;
  for (auto& slot : layout_.slots)
    if (slot.bucket >= 0) trained.push_back(&slot);
  for (auto* slot : trained) {
    auto& p = *slot->parameter;
    kernels::Segment segment{slot->begin, slot->size, 1, p.decay ? decay : 0};
    for (auto& group : groups) {
      if (!p.name.starts_with(group.prefix)) continue;
      segment.rate_scale = group.rate_scale;
      if (p.decay && group.decay >= 0) segment.decay = group.decay;
      break;
    }
    segments_.push_back(segment);
  }
  for (auto& group : groups)
    require(Exit::usage, std::ranges::any_of(trained, [&](auto* s) { return s->parameter->name.starts_with(group.prefix); }),
            "optimizer group \"{}\": no trained parameter's name starts with it", group.prefix);

  // The norm is summed in name order, so that the bucket plan does not matter.
  std::ranges::sort(trained, {}, [](auto* s) { return s->parameter->name; });
  std::int64_t blocks = 0;
  for (auto* slot : trained) {
    spans_.push_back({slot->begin, slot->size});
    blocks += (slot->size + kernels::norm_block - 1) / kernels::norm_block;
  }
  auto floats = [&](std::int64_t n) {
    memory_.push_back(device_.arena().allocate(std::size_t(n) * sizeof(float)));
    View view{memory_.back().get(), n, DType::f32};
    kernels::fill(device_.queue(), view, 0);
    return view;
  };
  partials_ = floats(blocks);
  scalars_ = floats(int(kernels::Scalar::count));
}

View Optimizer::add_moment(const std::string& name) {
  memory_.push_back(device_.arena().allocate(std::size_t(layout_.trained) * sizeof(float)));
  View arena{memory_.back().get(), layout_.trained, DType::f32};
  kernels::fill(device_.queue(), arena, 0);
  for (auto& slot : layout_.slots)
    if (slot.bucket >= 0)
      state_.push_back({name + "/" + slot.parameter->name, slot.parameter->value.shape(), arena.slice(slot.begin, slot.size)});
  return arena;
}

void Optimizer::step(float rate, float clip) {
  ++steps_;
  const Queue& q = device_.queue();
  float scalars[int(kernels::Scalar::count)] = {};
  scalars[int(kernels::Scalar::rate)] = rate;
  scalars[int(kernels::Scalar::gradient_scale)] = 1;
  update(scalars);
  kernels::copy(q, scalars_, View{scalars, int(kernels::Scalar::count), DType::f32});
  kernels::square_sums(q, partials_, flat_.gradients, spans_.data(), int(spans_.size()));
  kernels::clip(q, scalars_, partials_, clip);
  launch();
}

float Optimizer::gradient_norm() const {
  return download(device_.queue(), scalars_)[std::size_t(kernels::Scalar::gradient_norm)];
}

}  // namespace lockstep::optim
