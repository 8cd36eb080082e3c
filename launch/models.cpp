#include "launch/models.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>

#include "core/nn/convnet.h"
#include "core/nn/gpt.h"
#include "core/nn/mlp.h"
#include "core/nn/resnet.h"
#include "core/optim/adamw.h"
#include "core/optim/sgd.h"

namespace lockstep::launch {
namespace {

template <class T>
T one_of(const std::string& name, std::initializer_list<std::pair<const char*, T>> all) {
  for (auto [text, value] : all)
    if (name == text) return value;
  throw Error("unknown " + name, Exit::usage);
}

Unary to_unary(const std::string& name) {
  return one_of<Unary>(name, {{"relu", Unary::relu},
                              {"gelu", Unary::gelu},
                              {"gelu_tanh", Unary::gelu_tanh},
                              {"sigmoid", Unary::sigmoid},
                              {"tanh", Unary::tanh},
                              {"silu", Unary::silu}});
}

}  // namespace

std::string notes_folder() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  return cache && *cache ? std::string(cache) + "/lockstep" : home && *home ? std::string(home) + "/.cache/lockstep" : "";
}

DType to_dtype(const std::string& precision) {
  return precision == "bf16" ? DType::bf16 : precision == "f16" ? DType::f16 : DType::f32;
}

io::DatasetOptions dataset_options(const Config& c) {
  io::DatasetOptions o;
  o.paths = c.data.path;
  o.inputs = c.data.inputs;
  o.labels = c.data.labels;
  o.mask = c.data.mask;
  o.ignore = c.data.ignore;
  if (c.data.shift != "automatic") o.shift = c.data.shift == "yes";
  o.validation = c.data.validation;
  o.kind = one_of<io::DataKind>(c.data.kind, {{"automatic", io::DataKind::automatic},
                                              {"tokens", io::DataKind::tokens},
                                              {"images", io::DataKind::images},
                                              {"table", io::DataKind::table}});
  if (c.model.kind == "gpt") o.kind = io::DataKind::tokens;
  o.length = c.model.length.value_or(0);
  o.regression = c.data.regression;
  o.channels_first = c.data.channels_first;
  o.mean.assign(c.data.mean.begin(), c.data.mean.end());
  o.deviation.assign(c.data.deviation.begin(), c.data.deviation.end());
  o.memory_limit = std::size_t(c.data.memory_mib * (1 << 20));
  o.scan = c.data.scan;
  o.notes = notes_folder();
  o.node_cache = c.data.cache == "node";
  o.documents = c.data.documents;
  o.crop_padding = c.data.crop_padding;
  o.flip = c.data.flip;
  return o;
}

void resolve_size(Config& c) {
  if (c.model.kind != "gpt") return;
  auto size = nn::Gpt::size(c.model.size);
  auto fill = [](Auto& to, std::int64_t value) {
    if (!to) to = value;
  };
  fill(c.model.layers, size.layers);
  fill(c.model.width, size.width);
  fill(c.model.heads, size.heads);
  fill(c.model.length, size.length);
  require(Exit::usage, *c.model.width % *c.model.heads == 0, "model.width = {} must be a multiple of model.heads = {}",
          *c.model.width, *c.model.heads);
}

void resolve_model(Config& c, const io::DatasetInfo& info) {
  auto& m = c.model;
  bool image_model = m.kind == "convnet" || m.kind.starts_with("resnet");
  if (m.kind == "gpt") {
    if (!m.vocabulary) m.vocabulary = info.classes;
    require(Exit::usage, *m.vocabulary >= info.classes, "model.vocabulary = {} is smaller than the data's: {}", *m.vocabulary,
            info.text);
    return;
  }
  require(Exit::usage, info.kind != io::DataKind::tokens, "model.kind = {} cannot read tokens ({}); gpt can", m.kind, info.text);
  require(Exit::usage, !image_model || info.kind == io::DataKind::images, "model.kind = {} reads images, not {}", m.kind,
          info.text);
  if (m.input.empty()) m.input = info.input;
  require(Exit::usage, m.input == info.input, "model.input is {}, but a row of the data is {}: {}", to_text(m.input),
          to_text(info.input), info.text);
  std::int64_t outputs = info.classes > 0 ? info.classes : count(info.target);
  if (!m.outputs) m.outputs = outputs;
  require(Exit::usage, info.classes > 0 ? *m.outputs >= outputs : *m.outputs == outputs,
          "model.outputs = {} does not fit the data: {}", *m.outputs, info.text);
  if (m.hidden.empty()) m.hidden = m.kind == "mlp" ? nn::Mlp::Options{}.hidden : std::vector{nn::ConvNet::Options{}.hidden};
  if (m.kind == "convnet") {
    if (m.features.empty()) m.features = nn::ConvNet::Options{}.features;
    if (!m.kernel) m.kernel = nn::ConvNet::Options{}.kernel;
  }
  if (m.kind.starts_with("resnet") && !m.small_stem) m.small_stem = std::max(m.input[0], m.input[1]) <= 64;
}

std::string advice_for_gpu(const Config& c) {
  constexpr std::int64_t aligned = 16 / 2, usual = 128;  // GPT-2's 50257 is rounded up to 50304 by most who train it
  if (c.model.kind != "gpt" || c.train.precision == "f32" || *c.model.vocabulary % aligned == 0) return "";
  return fmt::format(
      "model.vocabulary = {} is not a multiple of {}: products with the logits are slow on this GPU; a model trained from its "
      "beginning with model.vocabulary = {} is faster, its other tokens never occur",
      *c.model.vocabulary, aligned, (*c.model.vocabulary + usual - 1) / usual * usual);
}

std::unique_ptr<nn::Model> build_model(const Config& c, ParameterSet& parameters) {
  const auto& m = c.model;
  if (m.kind == "gpt")
    return std::make_unique<nn::Gpt>(parameters, nn::Gpt::Options{.vocabulary = *m.vocabulary,
                                                                  .length = *m.length,
                                                                  .layers = *m.layers,
                                                                  .width = *m.width,
                                                                  .heads = *m.heads,
                                                                  .dropout = float(m.dropout),
                                                                  .recompute = c.train.recompute});
  if (m.kind == "mlp")
    return std::make_unique<nn::Mlp>(parameters, nn::Mlp::Options{.inputs = count(m.input),
                                                                  .hidden = m.hidden,
                                                                  .outputs = *m.outputs,
                                                                  .activation = to_unary(m.activation),
                                                                  .dropout = float(m.dropout)});
  if (m.kind == "convnet")
    return std::make_unique<nn::ConvNet>(parameters, nn::ConvNet::Options{.height = m.input[0],
                                                                          .width = m.input[1],
                                                                          .channels = m.input[2],
                                                                          .classes = *m.outputs,
                                                                          .features = m.features,
                                                                          .kernel = *m.kernel,
                                                                          .hidden = m.hidden[0],
                                                                          .dropout = float(m.dropout)});
  return std::make_unique<nn::ResNet>(parameters, nn::ResNet::Options{.depth = m.kind == "resnet18" ? 18 : 50,
                                                                      .height = m.input[0],
                                                                      .width = m.input[1],
                                                                      .channels = m.input[2],
                                                                      .classes = *m.outputs,
                                                                      .small_stem = *m.small_stem});
}

std::unique_ptr<optim::Optimizer> build_optimizer(const Config& c, ParameterSet& parameters, const Flat& flat, View gradients) {
  const auto& o = c.optimizer;
  std::vector<optim::Group> groups;
  for (const auto& g : o.groups) groups.push_back({g.prefix, float(g.rate_scale), g.decay ? float(*g.decay) : -1.f});
  std::unique_ptr<optim::Optimizer> optimizer;
  if (o.kind == "sgd")
    optimizer = std::make_unique<optim::Sgd>(
        parameters, flat, gradients,
        optim::Sgd::Options{.momentum = float(o.momentum), .decay = float(o.decay), .nesterov = o.nesterov, .groups = groups});
  else
    optimizer = std::make_unique<optim::AdamW>(parameters, flat, gradients,
                                               optim::AdamW::Options{.beta1 = float(o.beta1),
                                                                     .beta2 = float(o.beta2),
                                                                     .epsilon = float(o.epsilon),
                                                                     .decay = float(o.decay),
                                                                     .groups = groups});
  if (c.train.precision == "f16") {
    kernels::LossScaleSettings scale;
    if (const auto& interval = c.train.loss_scale_interval) scale.interval = *interval > 0 ? float(*interval) : INFINITY;
    scale.most = float(c.train.loss_scale_most.value_or(scale.most));
    optimizer->scale_loss(float(c.train.loss_scale.value_or(default_loss_scale)), scale);
  }
  return optimizer;
}

optim::Schedule build_schedule(const Config& c, std::int64_t steps) {
  using Kind = optim::Schedule::Kind;
  auto kind = one_of<Kind>(
      c.schedule.kind, {{"constant", Kind::constant}, {"linear", Kind::linear}, {"cosine", Kind::cosine}, {"wsd", Kind::wsd}});
  return {.kind = kind,
          .rate = float(c.optimizer.rate),
          .steps = steps,
          .warmup = c.schedule.warmup,
          .final = float(c.schedule.final),
          .decay_share = float(c.schedule.decay_share)};
}

Tensor batch_loss(Tape& tape, Tensor&& predicted, const io::Batch& batch, float label_smoothing) {
  if (batch.targets.dtype() == DType::i32)
    return ops::cross_entropy(tape, std::move(predicted), batch.targets, {.label_smoothing = label_smoothing});
  return ops::squared_error(tape, predicted, batch.targets);
}

}  // namespace lockstep::launch
