#include "core/optim/optimizer.h"

#include <algorithm>
#include <cmath>

#include "kernels/binary.h"
#include "kernels/memory.h"

namespace lockstep::optim {

Optimizer::Optimizer(ParameterSet& set, const Flat& flat, View gradients, const std::vector<Group>& groups, float decay)
    : device_(set.device()), flat_{flat.weights, flat.masters, gradients}, set_(set), strategy_(flat) {
  find_pieces();
  const auto& slots = strategy_.layout.slots;
  std::vector<const Layout::Slot*> trained;
  for (auto& slot : slots)
    if (slot.bucket >= 0) trained.push_back(&slot);
  std::vector<kernels::Segment> segments;
  for (const Piece& piece : pieces_) {
    auto& p = *slots[piece.slot].parameter;
    kernels::Segment segment{.begin = piece.begin,
                             .size = piece.size,
                             .decay = p.decay ? decay : 0,
                             .moments_begin = piece.begin - piece.moments,
                             .element = piece.begin - slots[piece.slot].begin,
                             .site = hash_name(p.name)};
    for (auto& group : groups) {
      if (!p.name.starts_with(group.prefix)) continue;
      segment.rate_scale = group.rate_scale;
      if (p.decay && group.decay >= 0) segment.decay = group.decay;
      break;
    }
    segments.push_back(segment);
  }
  for (auto& group : groups)
    require(Exit::usage, std::ranges::any_of(trained, [&](auto* s) { return s->parameter->name.starts_with(group.prefix); }),
            "optimizer group \"{}\": no trained parameter's name starts with it", group.prefix);

  // The norm is summed in name order, so that the bucket plan does not matter.
  std::ranges::sort(trained, {}, [](auto* s) { return s->parameter->name; });
  std::int64_t blocks = 0;
  std::vector<std::int64_t> first_block(slots.size());
  for (auto* slot : trained) {
    first_block[std::size_t(slot - slots.data())] = blocks;
    blocks += (slot->size + kernels::norm_block - 1) / kernels::norm_block;
  }
  std::vector<kernels::Span> spans;
  for (Piece& piece : pieces_) {
    std::int64_t before = (piece.begin - slots[piece.slot].begin) / kernels::norm_block;
    piece.partial = first_block[piece.slot] + before;
    spans.push_back({piece.begin, piece.size, piece.partial});
  }
  by_place_ = pieces_;
  std::ranges::sort(by_place_, {}, &Piece::begin);
  if (strategy_.update && !device_.queue().on_gpu)
    strategy_.update->watch([this, alive = std::weak_ptr(alive_)](Range gradients) {
      if (!alive.expired()) saw(gradients);
    });
  partials_ = floats(blocks);
  scalars_ = floats(int(kernels::Scalar::count));

  const Queue& q = device_.queue();
  spans_ = kernels::lay_out(q, table(spans.size()), spans.data(), int(spans.size()));
  int begin = 0;
  for (int end : ends_) {
    parts_.push_back(kernels::lay_out(q, table(std::size_t(end - begin)), segments.data() + begin, end - begin));
    begin = end;
  }
}

/// The slots, cut at the ends of the parts that this rank updates.
void Optimizer::find_pieces() {
  const auto& slots = strategy_.layout.slots;
  const std::vector<Range> all{{0, strategy_.layout.trained}};
  for (const Range& part : strategy_.update ? strategy_.update->mine() : all) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].bucket < 0) continue;
      const std::int64_t begin = std::max(part.begin, slots[i].begin);
      const std::int64_t end = std::min(part.begin + part.size, slots[i].begin + slots[i].size);
      if (begin < end) pieces_.push_back({i, begin, end - begin, moments_ + begin - part.begin});
    }
    ends_.push_back(int(pieces_.size()));
    moments_ += part.size;
  }
}

/// Sums the squares of the norm blocks that end in these gradients, which are the next ones of a part of ours.
void Optimizer::saw(Range gradients) {
  const Queue& q = device_.queue();
  if (seen_ == 0) kernels::fill(q, partials_, 0);  // a sum with zeros is exact
  seen_ += gradients.size;
  const std::int64_t end = gradients.begin + gradients.size;
  auto piece = std::ranges::upper_bound(by_place_, gradients.begin, {}, [](const Piece& p) { return p.begin + p.size; });
  for (; piece != by_place_.end() && piece->begin < end; ++piece) {
    const std::int64_t first = std::max<std::int64_t>(0, gradients.begin - piece->begin) / kernels::norm_block;
    const bool whole = end >= piece->begin + piece->size;
    const std::int64_t last = whole ? (piece->size + kernels::norm_block - 1) / kernels::norm_block
                                    : (end - piece->begin) / kernels::norm_block;
    if (first >= last) continue;
    const std::int64_t from = first * kernels::norm_block, to = std::min(piece->size, last * kernels::norm_block);
    kernels::square_sums(q, partials_.slice(piece->partial + first, last - first), flat_.gradients.slice(piece->begin + from, to - from));
  }
}

View Optimizer::floats(std::int64_t n) {
  memory_.push_back(device_.arena().allocate(std::size_t(n) * sizeof(float)));
  View view{memory_.back().get(), n, DType::f32};
  kernels::fill(device_.queue(), view, 0);
  return view;
}

/// Memory for a table of pieces.
View Optimizer::table(std::size_t pieces) {
  const std::size_t bytes = kernels::table_bytes(int(pieces));
  memory_.push_back(device_.arena().allocate(bytes));
  return {memory_.back().get(), std::int64_t(bytes), DType::u8};
}

View Optimizer::add_moment(const std::string& name) {
  View arena = floats(moments_);
  const auto& slots = strategy_.layout.slots;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].bucket < 0) continue;
    State state{name + "/" + slots[i].parameter->name, slots[i].parameter->value.shape(), arena.slice(0, 0), 0};
    for (const Piece& piece : pieces_) {  // those of a slot follow each other, in the arena as well
      if (piece.slot != i) continue;
      if (state.view.size == 0) state.view = arena.slice(piece.moments, 0), state.begin = piece.begin - slots[i].begin;
      state.view.size += piece.size;
    }
    state_.push_back(std::move(state));
  }
  return arena;
}

void Optimizer::prepare(float rate) {
  ++steps_;
  float scalars[int(kernels::Scalar::count)] = {};
  scalars[int(kernels::Scalar::rate)] = rate;
  scalars[int(kernels::Scalar::gradient_scale)] = 1;
  scalars[int(kernels::Scalar::first)] = steps_ == 1;
  scalars[int(kernels::Scalar::step)] = float(steps_);
  correct(scalars);
  kernels::store(device_.queue(), scalars_, scalars);
}

void Optimizer::update(float clip) {
  const Queue& q = device_.queue();
  SharedUpdate* shared = strategy_.update;
  const bool seen = shared && seen_ > 0 && seen_ == moments_;
  if (!seen) {  // by saw(), which has summed them; a rank without a part sees nothing
    if (shared) kernels::fill(q, partials_, 0);  // a sum with zeros is exact
    kernels::square_sums(q, partials_, flat_.gradients, spans_);
  }
  seen_ = 0;
  if (shared) shared->sum(q, partials_);
  kernels::clip(q, scalars_, partials_, clip, loss_scale_, loss_scale_settings_);
  flat_.seed = set_.seed();
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    launch(parts_[part]);
    if (shared) shared->publish(q, part);
  }
  if (!shared) return;
  shared->join(q);
  if (flat_.weights.data != flat_.masters.data) refresh_weights(q, strategy_);
}

float Optimizer::gradient_norm() const {
  return download(device_.queue(), scalars_)[std::size_t(kernels::Scalar::gradient_norm)];
}

void Optimizer::scale_loss(float first, kernels::LossScaleSettings settings) {
  require(Exit::usage, first > 0 && std::isfinite(first) && std::exp2(std::round(std::log2(first))) == first,
          "loss scale: {} is not a power of two", first);
  loss_scale_settings_ = settings;
  loss_scale_ = floats(int(kernels::LossScale::count));
  kernels::fill(device_.queue(), loss_scale_.slice(int(kernels::LossScale::scale), 1), first);
}

void Optimizer::scale_upstream(View upstream) const {
  kernels::binary(device_.queue(), kernels::Binary::multiply, upstream, upstream,
                  loss_scale_.slice(int(kernels::LossScale::scale), 1));
}

std::vector<float> Optimizer::loss_scale() const {
  return download(device_.queue(), loss_scale_);
}

void Optimizer::set_loss_scale(const std::vector<float>& values) {
  require(std::int64_t(values.size()) == loss_scale_.size, "loss scale: {} numbers instead of {}", values.size(),
          loss_scale_.size);
  kernels::store(device_.queue(), loss_scale_, values);
}

}  // namespace lockstep::optim
