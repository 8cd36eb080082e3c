#pragma once

#include <string_view>
#include <vector>

#include "core/nn/layers.h"
#include "core/nn/model.h"

namespace lockstep::nn {

/// GPT-2 (Radford et al. 2019): pre-LayerNorm blocks, tanh GELU, learned positions, output head tied to the token table, and its
/// initial values: normal 0.02, positions 0.01, residual projections 0.02 / sqrt(2 * layers), biases 0. Parameter names are those
/// of the published checkpoints ("wte.weight", "h.0.attn.c_attn.weight", …); weights here are (out, in).
class Gpt final : public Model {
 public:
  struct Options {
    std::int64_t vocabulary = 50257, length = 1024;
    std::int64_t layers = 12, width = 768, heads = 12;
    float dropout = 0;       ///< after the embedding and each residual branch, and on attention weights
    bool recompute = false;  ///< runs each block again in backward instead of keeping what it computed
  };
  /// nano (3 x 48, for tests), 124M, 350M, 774M, 1558M. Throws (Exit::usage), listing these, for another name.
  static Options size(std::string_view name);

  Gpt(ParameterSet&, const Options&);
  Tensor forward(Tape&, const Tensor& tokens) const override;  // (batch, length) i32 -> (batch, length, vocabulary)
  /// llm.c's count per token, (6 N + 6 layers width length), times the length; N includes the token table.
  double flops_per_row() const override;
  const Options& options() const { return options_; }

 private:
  struct Block {
    Norm ln_1;
    Linear c_attn, attn_proj;
    Norm ln_2;
    Linear c_fc, mlp_proj;
    std::string path;
    std::vector<Tensor> parameters() const;
  };
  Tensor attend(Tape&, const Block&, const Tensor& x) const;
  Tensor expand(Tape&, const Block&, const Tensor& x) const;

  Options options_;
  std::int64_t elements_ = 0;
  Tensor wte_, wpe_;
  std::vector<Block> blocks_;
  std::vector<Norm> ln_f_;
};

}  // namespace lockstep::nn
