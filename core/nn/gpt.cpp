#include "core/nn/gpt.h"

#include <cmath>

namespace lockstep::nn {

Gpt::Options Gpt::size(std::string_view name) {
  if (name == "nano") return {.vocabulary = 256, .length = 64, .layers = 3, .width = 48, .heads = 3};
  if (name == "124M") return {.layers = 12, .width = 768, .heads = 12};
  if (name == "350M") return {.layers = 24, .width = 1024, .heads = 16};
  if (name == "774M") return {.layers = 36, .width = 1280, .heads = 20};
  if (name == "1558M") return {.layers = 48, .width = 1600, .heads = 25};
  throw Error("gpt: size \"" + std::string(name) + "\" is not known; nano, 124M, 350M, 774M and 1558M are", Exit::usage);
}

Gpt::Gpt(ParameterSet& set, const Options& o) : options_(o) {
  require(Exit::usage, o.width % o.heads == 0, "gpt: a width of {} cannot be split over {} heads", o.width, o.heads);
  auto before = set.count_elements();
  wte_ = set.add("wte.weight", {o.vocabulary, o.width}, Initial::normal(0, 0.02f));
  wpe_ = set.add("wpe.weight", {o.length, o.width}, Initial::normal(0, 0.01f));
  auto weight = Initial::normal(0, 0.02f), zero = Initial::constant(0);
  auto residual = Initial::normal(0, 0.02f / std::sqrt(2.f * float(o.layers)));
  for (std::int64_t i = 0; i < o.layers; ++i) {
    std::string h = "h." + std::to_string(i);
    blocks_.push_back({Norm(set, h + ".ln_1", o.width),
                       Linear(set, h + ".attn.c_attn", o.width, 3 * o.width, {.weight = weight, .offset = zero}),
                       Linear(set, h + ".attn.c_proj", o.width, o.width, {.weight = residual, .offset = zero}),
                       Norm(set, h + ".ln_2", o.width),
                       Linear(set, h + ".mlp.c_fc", o.width, 4 * o.width, {.weight = weight, .offset = zero}),
                       Linear(set, h + ".mlp.c_proj", 4 * o.width, o.width, {.weight = residual, .offset = zero}), h});
  }
  ln_f_.emplace_back(set, "ln_f", o.width);
  elements_ = set.count_elements() - before;
}

std::vector<Tensor> Gpt::Block::parameters() const {
  return {ln_1.weight, ln_1.bias, c_attn.weight, c_attn.bias, attn_proj.weight, attn_proj.bias,
          ln_2.weight, ln_2.bias, c_fc.weight,   c_fc.bias,   mlp_proj.weight,  mlp_proj.bias};
}

/// The attention branch of a block, from normalised x to what is added to the residual.
Tensor Gpt::attend(Tape& t, const Block& b, const Tensor& x) const {
  Tensor qkv = b.c_attn(t, x);  // (batch, length, 3 * width)
  Tensor y = ops::attention(t, qkv, {.heads = options_.heads, .dropout = options_.dropout, .site = hash_name(b.path + ".attn")});
  return ops::dropout(t, b.attn_proj(t, y), options_.dropout, hash_name(b.path + ".attn.dropout"));  // (batch, length, width)
}

/// The MLP branch of a block.
Tensor Gpt::expand(Tape& t, const Block& b, const Tensor& x) const {
  auto &up = b.c_fc, &down = b.mlp_proj;
  Tensor y = ops::feed_forward(t, x, up.weight, up.bias, Unary::gelu_tanh, down.weight, down.bias);  // (batch, length, width)
  return ops::dropout(t, y, options_.dropout, hash_name(b.path + ".mlp.dropout"));
}

Tensor Gpt::forward(Tape& t, const Tensor& tokens) const {
  Tensor x = ops::dropout(t, ops::embedding(t, tokens, wte_, wpe_), options_.dropout, hash_name("wte.dropout"));
  Tensor y;
  if (options_.recompute) {
    for (auto& b : blocks_)
      x = ops::recompute(t, x, b.parameters(), [this, &b](Tape& t, const Tensor& x) {
        auto [sum, normed] = b.ln_2(t, attend(t, b, b.ln_1(t, x)), x);
        return ops::add(t, expand(t, b, normed), sum);
      });
    y = ln_f_[0](t, x);
  } else {
    // Each residual addition is fused with the norm that follows it, across block borders.
    y = blocks_.empty() ? ln_f_[0](t, x) : blocks_[0].ln_1(t, x);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      auto& b = blocks_[i];
      auto middle = b.ln_2(t, attend(t, b, y), x);
      auto& next = i + 1 < blocks_.size() ? blocks_[i + 1].ln_1 : ln_f_[0];
      auto end = next(t, expand(t, b, middle.y), middle.sum);
      x = end.sum;
      y = end.y;
    }
  }
  return ops::linear(t, y, wte_);  // (batch, length, vocabulary)
}

double Gpt::flops_per_row() const {
  auto& o = options_;
  return (6.0 * double(elements_) + 6.0 * double(o.layers * o.width * o.length)) * double(o.length);
}

}  // namespace lockstep::nn
