#include "launch/saved_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/product_choices.h"

namespace lockstep::launch {
namespace {

using nlohmann::ordered_json;

/// Settings whose change would change results, by their names in the configuration.
ordered_json choices(const Config& c, const Session& session, const RunData& data) {
  ordered_json sources = ordered_json::array();
  for (const auto& source : data.mixture) sources.push_back({source.rows, source.weight});
  return {{"run.seed", c.run.seed},
          {"train.lanes", c.train.lanes},
          {"train.rows_per_lane", c.train.rows_per_lane},
          {"train.reduction", c.train.reduction},
          {"train.precision", c.train.precision},
          {"train.gradient", c.train.gradient},
          {"train.masters", c.train.masters},
          {"train.threads", session.threads()},
          {"data.shuffle", c.data.shuffle},
          {"data.window", c.data.shuffle == "window" ? *c.data.window : 0},
          {"data.tail", c.data.tail},
          {"data.mask", c.data.mask},
          {"data.ignore", c.data.ignore},
          {"data.shift", c.data.shift},
          {"data.mixture: rows and weights", sources},
          {"data: number of rows", data.train->rows()},
          {"data: chunks", layout_text(c, *data.train)},
          {"train.products", c.train.products},
          {"library of products", kernels::product_library(session.device().queue())},
          {"device", session.device().name()}};
}

}  // namespace

std::vector<io::NamedView> named_views(const ParameterSet& parameters, const optim::Optimizer* optimizer) {
  std::vector<io::NamedView> views;
  for (const auto& p : parameters.all()) views.push_back({p->name, p->value.shape(), p->master});
  if (optimizer)
    for (const auto& state : optimizer->state()) views.push_back({state.name, state.shape, state.view, state.begin});
  return views;
}

std::string state_json(const Config& c, const Session& session, std::int64_t step, double seconds, const RunData& data,
                       const optim::Optimizer& optimizer, const parallel::BucketOptions& buckets) {
  ordered_json state = {{"step", step},
                        {"optimizer_steps", optimizer.steps()},
                        {"seconds", seconds},
                        {"ranks", session.size()},
                        {"model", c.model.kind},
                        {"choices", choices(c, session, data)},
                        {"products", kernels::product_choices(session.device().queue())}};
  if (session.size() > 1) state["bucket_bytes"] = {{"head", buckets.head}, {"middle", buckets.middle}, {"tail", buckets.tail}};
  if (optimizer.scales_loss()) state["loss_scale"] = optimizer.loss_scale();
  return state.dump(1);
}

std::optional<parallel::BucketOptions> stored_buckets(const io::FoundCheckpoint& found, int ranks) {
  const ordered_json state = ordered_json::parse(found.state, nullptr, false);
  if (ranks == 1) return {};  // a lone rank has no buckets
  if (!state.is_object() || !state.contains("ranks") || state["ranks"] != ranks || !state.contains("bucket_bytes")) return {};
  auto size = [&](const char* name) {
    const auto& sizes = state["bucket_bytes"];
    const bool good = sizes.is_object() && sizes.contains(name) && sizes[name].is_number_integer();
    const std::int64_t bytes = good ? sizes[name].get<std::int64_t>() : 0;
    require(Exit::bad_data, bytes > 0, "{}: its run's bucket sizes are not numbers above 0", found.path);
    return bytes;
  };
  return parallel::BucketOptions{.head = size("head"), .middle = size("middle"), .tail = size("tail")};
}

SavedState read_state(const io::FoundCheckpoint& found, const Config& c, const Session& session, const RunData& data) {
  ordered_json state = ordered_json::parse(found.state, nullptr, false);
  bool ours = state.is_object() && state.contains("step") && state["step"].is_number_integer() &&
              state.contains("optimizer_steps") && state["optimizer_steps"].is_number_integer() && state.contains("choices") &&
              state["choices"].is_object();
  require(Exit::bad_data, ours, "{} was not written by a training run: it lacks the run's state", found.path);
  SavedState saved{state["step"], state["optimizer_steps"], state.value("seconds", 0.0), {}, {}, {}};
  if (const auto scale = state.find("loss_scale"); scale != state.end()) {
    const bool numbers = scale->is_array() && scale->size() == std::size_t(kernels::LossScale::count) &&
                         std::ranges::all_of(*scale, [](const auto& value) { return value.is_number(); });
    require(Exit::bad_data, numbers, "{}: the loss scale in the run's state is not {} numbers", found.path,
            int(kernels::LossScale::count));
    saved.loss_scale = scale->get<std::vector<float>>();
  }
  const ordered_json present = choices(c, session, data);
  for (const auto& [name, now] : present.items()) {
    if (!state["choices"].contains(name) || state["choices"][name] == now) continue;
    std::string change =
        fmt::format("{} was {} in the checkpoint and is {} now", name, state["choices"][name].dump(), now.dump());
    require(Exit::usage, c.train.reduction != "exact",
            "{}: {}; with train.reduction = \"exact\" a resumed run must not change what results depend on", found.path, change);
    saved.changes.push_back(change);
  }
  auto as_now = [&](const char* name) { return state["choices"].value(name, ordered_json()) == present[name]; };
  if (as_now("device") && as_now("library of products")) saved.products = state.value("products", "");
  return saved;
}

}  // namespace lockstep::launch
