#include "core/tape.h"

#include <algorithm>
#include <utility>

#include "core/parameter.h"
#include "kernels/memory.h"

namespace lockstep {

Tape::~Tape() {
  for (auto& node : nodes_)
    for (auto& x : node.inputs) --x->pending_uses;
}

Tape Tape::nested(bool recording) const {
  Options options = options_;
  options.recording = recording;
  options.nested = true;
  return Tape(device_, options);
}

RandomKey Tape::random(std::uint32_t site) const {
  RandomKey key = options_.random;
  key.site = site;
  return key;
}

void Tape::record(std::vector<Tensor> outputs, std::vector<Tensor> inputs, Backward backward) {
  if (!options_.recording || std::ranges::none_of(inputs, [](auto& x) { return x && x->wants_gradient; })) return;
  std::erase_if(inputs, [](auto& x) { return !x || !x->wants_gradient; });
  for (auto& y : outputs) y->wants_gradient = true;
  for (auto& x : inputs) ++x->pending_uses;
  nodes_.push_back({std::move(outputs), std::move(inputs), std::move(backward)});
}

Tensor Tape::record(Tensor output, std::vector<Tensor> inputs, Backward backward) {
  record(std::vector<Tensor>{output}, std::move(inputs), std::move(backward));
  return output;
}

Tape::Target Tape::into(const Tensor& x) {
  if (!x || !x->wants_gradient) return {{}, Write::overwrite};
  ++x->contributions;
  if (!x->gradient) {
    x->gradient_memory = device_.arena().allocate(x.view().bytes());
    x->gradient = {x->gradient_memory.get(), x.size(), x.dtype()};
  }
  if (!std::exchange(x->has_gradient, true)) return {x->gradient, Write::overwrite};
  return {exclusive_gradient(x), Write::accumulate};
}

View Tape::exclusive_gradient(const Tensor& y) {
  if (y->gradient_memory.use_count() > 1) {
    Memory own = device_.arena().allocate(y->gradient.bytes());
    View copy{own.get(), y->gradient.size, y->gradient.dtype};
    kernels::copy(queue(), copy, y->gradient);
    y->gradient_memory = std::move(own);
    y->gradient = copy;
  }
  return y->gradient;
}

void Tape::pass(const Tensor& x, const Tensor& y) {
  if (!x || !x->wants_gradient || !y->has_gradient) return;
  if (!x->gradient && y->gradient_memory && x.dtype() == y->gradient.dtype) {
    ++x->contributions;
    x->gradient_memory = y->gradient_memory;
    x->gradient = y->gradient;
    x->has_gradient = true;
    return;
  }
  auto [view, write] = into(x);
  if (write == Write::accumulate)
    kernels::add(queue(), view, view, y->gradient);
  else
    kernels::cast(queue(), view, y->gradient);
}

bool Tape::may_overwrite(const Tensor& x, int uses) const {
  return options_.recording && x->wants_gradient && x->spare && x->pending_uses == uses && x->memory.use_count() == 1 &&
         !x->gradient;
}

View Tape::overwrite(const Tensor& x) {
  x->gradient_memory = std::move(x->memory);
  x->gradient = x->value;
  x->taken = true;
  return x->gradient;
}

void Tape::mark(std::function<void()> action) {
  if (options_.recording) nodes_.push_back({{}, {}, [action = std::move(action)](Tape&) { action(); }});
}

void Tape::finish_input(const Tensor& x) {
  if (--x->pending_uses > 0 || !x->parameter || !options_.sink) return;
  options_.sink->ready(queue(), *x->parameter);
}

namespace {
void check_loss(const Tape& t, const Tensor& loss) {
  require(t.recording(), "backward: this tape does not record");
  require(!loss->wants_gradient || loss.size() == 1, "backward: the loss has shape {}, not one element", to_text(loss.shape()));
}
}  // namespace

void Tape::backward(const Tensor& loss, float seed) {
  check_loss(*this, loss);
  if (auto target = into(loss)) kernels::fill(queue(), target.view, seed);
  backward();
}

void Tape::backward(const Tensor& loss) {
  const Tensor& upstream = options_.upstream;
  if (!upstream) return backward(loss, 1);
  check_loss(*this, loss);
  require(upstream.size() == 1 && upstream.dtype() == DType::f32, "backward: the upstream gradient is one f32, not {} of {}",
          to_text(upstream.shape()), name_of(upstream.dtype()));
  if (loss->wants_gradient && !loss->gradient &&
      upstream->memory) {  // shared, so that ops which used it ahead of time know it again
    loss->gradient_memory = upstream->memory;
    loss->gradient = upstream.view();
    loss->has_gradient = true;
  } else if (auto target = into(loss)) {
    kernels::copy(queue(), target.view, upstream.view());
  }
  backward();
}

void Tape::backward() {
  while (!nodes_.empty()) {
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    bool reached = node.outputs.empty() || std::ranges::any_of(node.outputs, [](auto& y) { return y->has_gradient; });
    if (reached) node.backward(*this);
    node.backward = nullptr;  // frees what the op saved before its inputs are told
    for (auto& y : node.outputs) {
      if (y->parameter) continue;
      y->gradient_memory.reset();
      y->gradient = {};
      y->has_gradient = false;
    }
    for (auto& x : node.inputs) finish_input(x);
    if (options_.sink) options_.sink->progress(queue());
  }
  if (options_.sink && !options_.nested) options_.sink->backward_ended(queue());
}

}  // namespace lockstep
