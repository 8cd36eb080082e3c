#include "launch/gpt2.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "io/checkpoint.h"
#include "io/output.h"
#include "io/safetensors.h"
#include "launch/config.h"
#include "launch/run_folder.h"

namespace lockstep::launch {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

/// Weights of GPT-2's Conv1D, stored (in, out); ours are (out, in).
bool is_conv1d(const std::string& name) {
  for (const char* end : {".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight"})
    if (name.starts_with("h.") && name.ends_with(end)) return true;
  return false;
}

/// (rows, columns) to (columns, rows).
std::vector<float> transposed(const std::vector<float>& x, const Shape& shape) {
  const auto rows = std::size_t(shape[0]), columns = std::size_t(shape[1]);
  std::vector<float> y(x.size());
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < columns; ++j) y[j * rows + i] = x[i * columns + j];
  return y;
}

// ---- what config.json says

Json hugging_face_config(const Config& c) {
  const auto& m = c.model;
  return {{"model_type", "gpt2"},
          {"architectures", {"GPT2LMHeadModel"}},
          {"activation_function", "gelu_new"},
          {"layer_norm_epsilon", 1e-5},
          {"n_embd", *m.width},
          {"n_head", *m.heads},
          {"n_layer", *m.layers},
          {"n_positions", *m.length},
          {"n_ctx", *m.length},
          {"vocab_size", *m.vocabulary},
          {"tie_word_embeddings", true},
          {"torch_dtype", "float32"}};
}

/// Heads by config.json, 0 when there is none; refuses what our gpt does not compute.
std::int64_t heads_by_config(const std::string& path) {
  if (!fs::exists(path)) return 0;
  const Json config = Json::parse(io::read_text(path), nullptr, false);
  require(Exit::bad_data, config.is_object(), "{}: not JSON", path);
  const std::string activation = config.value("activation_function", "gelu_new");
  require(Exit::bad_data, activation == "gelu_new" || activation == "gelu_pytorch_tanh",
          "{}: activation_function is {}; a gpt computes gelu_new", path, activation);
  require(Exit::bad_data, std::abs(config.value("layer_norm_epsilon", 1e-5) - 1e-5) < 1e-9,
          "{}: layer_norm_epsilon is not 1e-5, which a gpt has", path);
  return config.value("n_head", std::int64_t(0));
}

// ---- the tensors of a file under our names

struct Found {
  const io::SafetensorsFile& file;
  std::map<std::string, io::SafetensorsHeader::Entry> tensors;

  explicit Found(const io::SafetensorsFile& file, const std::string& path) : file(file) {
    for (const auto& entry : file.header().tensors) {
      const std::string prefix = "transformer.";
      const std::string name = entry.name.starts_with(prefix) ? entry.name.substr(prefix.size()) : entry.name;
      if (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")) continue;  // the causal mask, not weights
      require(Exit::bad_data, tensors.emplace(name, entry).second, "{}: '{}' is there with and without \"transformer.\"", path,
              name);
    }
  }
  Shape shape(const std::string& name, std::size_t axes, const std::string& path) const {
    const auto at = tensors.find(name);
    require(Exit::bad_data, at != tensors.end() && at->second.shape.size() == axes, "{} is no GPT-2: it has no '{}' of {} axes",
            path, name, axes);
    return at->second.shape;
  }
};

/// The tensors that a gpt of these sizes has, with our shapes.
std::vector<std::pair<std::string, Shape>> gpt_tensors(const Config::Model& m) {
  const std::int64_t w = *m.width;
  std::vector<std::pair<std::string, Shape>> all = {{"wte.weight", {*m.vocabulary, w}}, {"wpe.weight", {*m.length, w}}};
  for (std::int64_t i = 0; i < *m.layers; ++i) {
    const std::string h = fmt::format("h.{}.", i);
    for (const char* norm : {"ln_1", "ln_2"}) all.insert(all.end(), {{h + norm + ".weight", {w}}, {h + norm + ".bias", {w}}});
    for (const auto& [name, out, in] :
         {std::tuple{"attn.c_attn", 3 * w, w}, {"attn.c_proj", w, w}, {"mlp.c_fc", 4 * w, w}, {"mlp.c_proj", w, 4 * w}})
      all.insert(all.end(), {{h + name + ".weight", {out, in}}, {h + name + ".bias", {out}}});
  }
  all.insert(all.end(), {{"ln_f.weight", {w}}, {"ln_f.bias", {w}}});
  return all;
}

std::vector<float> read_as_ours(const Found& found, const std::string& name, const Shape& ours, const std::string& path) {
  const Shape theirs = is_conv1d(name) ? Shape{ours[1], ours[0]} : ours;
  const auto at = found.tensors.find(name);
  require(Exit::bad_data, at != found.tensors.end(), "{}: '{}' {} is missing", path, name, lockstep::to_text(theirs));
  require(Exit::bad_data, at->second.shape == theirs, "{}: '{}' is {} and should be {}", path, name,
          lockstep::to_text(at->second.shape), lockstep::to_text(theirs));
  auto values = found.file.read(at->second);
  return is_conv1d(name) ? transposed(values, theirs) : values;
}

}  // namespace

std::string export_weights(const std::string& run, const std::string& out) {
  const auto group = solo_group();
  const auto found = io::open_checkpoint(run, *group);
  const Json state = Json::parse(found.state, nullptr, false);
  const bool gpt = state.is_object() && state.value("model", "") == "gpt";
  std::vector<io::SafetensorsTensor> tensors;
  for (const auto& stored : io::list_checkpoint(found)) {
    if (stored.name.find('/') != std::string::npos) continue;  // the optimizer's
    const bool turn = gpt && is_conv1d(stored.name);
    tensors.push_back({stored.name, turn ? Shape{stored.shape[1], stored.shape[0]} : stored.shape, [&group, found, stored, turn] {
                         std::vector<float> values(std::size_t(count(stored.shape)));
                         const View view{values.data(), std::int64_t(values.size()), DType::f32};
                         io::load_checkpoint(found, {{stored.name, stored.shape, view}}, io::Match::subset, Queue{}, *group);
                         return turn ? transposed(values, stored.shape) : values;
                       }});
  }
  const std::size_t n = tensors.size();
  const bool one_file = out.ends_with(".safetensors");
  const std::string file = one_file ? out : out + "/model.safetensors";
  io::write_safetensors(file, std::move(tensors), {{"format", "pt"}});
  std::string told = fmt::format("{}: {} tensors of {}", file, n, found.path);
  const fs::path folder = fs::path(found.path).parent_path().parent_path();
  if (one_file || !gpt) return told;
  if (!fs::exists(folder / "config.toml")) return told + "; no config.json: the run's config.toml is not there";
  io::replace_text(out + "/config.json", hugging_face_config(read_run_config(folder.string())).dump(2) + "\n");
  return told + fmt::format("\n{}/config.json", out);
}

std::string import_weights(const std::string& from, const std::string& out, std::int64_t heads) {
  const std::string path = fs::is_directory(from) ? from + "/model.safetensors" : from;
  const io::SafetensorsFile file(path);
  const Found found(file, path);

  Config config;
  auto& m = config.model;
  m.kind = "gpt";
  const Shape words = found.shape("wte.weight", 2, path), places = found.shape("wpe.weight", 2, path);
  m.vocabulary = words[0], m.width = words[1], m.length = places[0], m.layers = 0;
  while (found.tensors.contains(fmt::format("h.{}.ln_1.weight", *m.layers))) ++*m.layers;
  const std::int64_t by_config = heads_by_config((fs::path(path).parent_path() / "config.json").string());
  m.heads = heads > 0 ? heads : by_config > 0 ? by_config : std::max<std::int64_t>(*m.width / 64, 1);
  require(Exit::usage, *m.width > 0 && *m.width % *m.heads == 0, "{}: a width of {} cannot be split over {} heads: give --heads",
          path, *m.width, *m.heads);

  std::vector<std::vector<float>> values;
  std::vector<io::NamedView> views;
  std::set<std::string> known = {"lm_head.weight"};
  for (const auto& [name, shape] : gpt_tensors(m)) {
    values.push_back(read_as_ours(found, name, shape, path));
    views.push_back({name, shape, {values.back().data(), std::int64_t(values.back().size()), DType::f32}});
    known.insert(name);
  }
  for (const auto& [name, entry] : found.tensors)
    require(Exit::bad_data, known.contains(name), "{} is no GPT-2: '{}' {} has no place in one", path, name,
            lockstep::to_text(entry.shape));
  if (const auto head = found.tensors.find("lm_head.weight"); head != found.tensors.end())
    require(Exit::bad_data, head->second.shape == words && file.read(head->second) == values[0],
            "{}: lm_head.weight is not wte.weight; the two are one in a gpt", path);

  const fs::path folder = fs::path(out).lexically_normal();
  require(Exit::usage, !fs::exists(folder / "config.toml"), "{} is a run already: choose another name", out);
  config.run.name = folder.has_filename() ? folder.filename().string() : folder.parent_path().filename().string();
  config.data.path = {"give --data FILE.h5"};
  config.train.steps = 1;
  const Json state = {{"step", 0}, {"model", "gpt"}, {"imported_from", path}};
  const auto group = solo_group();
  const auto saved = io::save_checkpoint((folder / "checkpoints").string(), 0, views, state.dump(), 0, Queue{}, *group);
  io::replace_text((folder / "config.toml").string(), print_config(config));
  return fmt::format("{}: {} tensors of {}: {} layers, width {}, {} heads{}, length {}, vocabulary {}", saved, views.size(), path,
                     *m.layers, *m.width, *m.heads, heads > 0 || by_config > 0 ? "" : " (width / 64; --heads says otherwise)",
                     *m.length, *m.vocabulary);
}

}  // namespace lockstep::launch
