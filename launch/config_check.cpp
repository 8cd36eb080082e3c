#include <fmt/format.h>

#include <cmath>

#include "kernels/base/check.h"
#include "launch/config.h"

namespace lockstep::launch {

void check_together(const Config& c, const std::string& file) {
  auto need = [&](bool ok, const std::string& text) {
    if (!ok) throw Error(file + ": " + text, Exit::usage);
  };
  const bool path = !c.data.path.empty() && !c.data.path[0].empty();
  need(path || !c.data.mixture.empty(), "data.path is missing: the HDF5 file to train on");
  need(!path || c.data.mixture.empty(), "data.path and data.mixture are both given; one is enough");
  need(
      c.data.mixture.empty() || c.data.tail == "carry",
      fmt::format("data.tail = \"{}\" needs epochs that end, but each source of data.mixture goes through its own: use \"carry\"",
                  c.data.tail));
  need(!c.model.kind.empty(), "model.kind is missing: mlp, convnet, resnet18, resnet50 or gpt");
  need(c.train.steps || c.train.epochs, "the run's length is missing: give train.steps or train.epochs");
  need(!(c.train.steps && c.train.epochs), "train.steps and train.epochs are both given; one is enough");
  need(c.train.gradient == "f32" || c.train.gradient == c.train.precision,
       fmt::format(
           "train.gradient = \"{}\" does not go with train.precision = \"{}\": gradients travel in f32 or in the type that "
           "they are computed in",
           c.train.gradient, c.train.precision));
  auto needs_f16 = [&](bool given, const char* key) {
    need(!given || c.train.precision == "f16",
         fmt::format("train.{} belongs to train.precision = \"f16\": {} has the range of f32 and needs none", key,
                     c.train.precision));
  };
  needs_f16(bool(c.train.loss_scale), "loss_scale");
  needs_f16(bool(c.train.loss_scale_interval), "loss_scale_interval");
  needs_f16(bool(c.train.loss_scale_most), "loss_scale_most");
  need(c.train.masters || c.train.precision != "f32",
       "train.masters = false belongs to weights of 16 bits: train.precision is f32");
  auto power_of_two = [&](std::optional<double> value, const char* key) {
    int exponent = 0;
    need(!value || std::frexp(*value, &exponent) == 0.5,
         fmt::format("train.{} must be a power of two, not {}", key, value.value_or(0)));
  };
  power_of_two(c.train.loss_scale, "loss_scale");
  power_of_two(c.train.loss_scale_most, "loss_scale_most");
  const double first = c.train.loss_scale.value_or(default_loss_scale), most = c.train.loss_scale_most.value_or(first);
  need(first <= most,
       fmt::format("train.loss_scale_most = {} is less than the {} that the factor begins with: train.loss_scale", most, first));
  need(!c.train.recompute || c.model.kind == "gpt", "train.recompute belongs to model.kind = gpt");
  need(c.model.kind != "convnet" || c.model.hidden.size() <= 1, "model.hidden of a convnet is one width");
  need(!c.model.kernel || *c.model.kernel % 2 == 1, "model.kernel must be odd");
  need(c.run.name != "." && c.run.name != ".." && c.run.name.find('/') == std::string::npos,
       fmt::format("run.name must be the name of a folder, not \"{}\"; its place is run.folder", c.run.name));
  need(!(c.schedule.decay_share == 0 && c.schedule.kind == "wsd"), "schedule.decay_share must be above 0");
}

}  // namespace lockstep::launch
