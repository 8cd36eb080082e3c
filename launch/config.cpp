#include "launch/config.h"

#include <fmt/format.h>

#include <toml++/toml.h>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "kernels/base/check.h"

namespace lockstep::launch {
namespace {

/// What a key may hold.
struct Rule {
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  bool above = false;                        ///< low itself is not allowed
  std::vector<std::string> choices = {};     ///< of a text
  const char *yes = nullptr, *no = nullptr;  ///< texts that true and false stand for
  std::vector<std::string> kinds = {};       ///< the section's `kind`s that know this key; all when empty
};

/// The one table of keys: reading, checking, printing and suggestions all walk it.
template <class C, class F>
void visit_keys(C& c, F&& key) {
  key.section("run");
  key("name", c.run.name, "folder of the run below run.folder; the configuration's file name when absent");
  key("folder", c.run.folder, "where runs are kept");
  key("seed", c.run.seed, "decides initial values, order of data and dropout", Rule{.low = 0});
  key("device", c.run.device, "where ranks compute", Rule{.choices = {"auto", "cpu", "cuda"}});

  key.section("data");
  key("path", c.data.path, "HDF5 file, list of files or pattern (*.h5)");
  key("mixture", c.data.mixture, "or several sources in turn, each with its path and weight");
  key("inputs", c.data.inputs, "dataset of tokens, images or rows; common names are found unasked");
  key("labels", c.data.labels, "dataset of labels; common names are found unasked");
  key("mask", c.data.mask,
      "dataset of the tokens' shape: where it is 0 the target is not counted; common names are found unasked");
  key("ignore", c.data.ignore, "labels of this value are not counted in losses, gradients and accuracy",
      Rule{.low = -2147483648.0, .high = 2147483647.0});
  key("shift", c.data.shift, "tokens with labels: the target of a token is the label of the next place (yes) or its own (no)",
      Rule{.choices = {"automatic", "yes", "no"}, .yes = "yes", .no = "no"});
  key("validation", c.data.validation, "file, dataset, share of the rows (\"0.1\") or \"none\"; the file's own part when absent");
  key("kind", c.data.kind, "what a row is", Rule{.choices = {"automatic", "tokens", "images", "table"}});
  key("regression", c.data.regression, "targets are values, not classes");
  key("channels_first", c.data.channels_first, "images are (rows, channels, height, width)");
  key("shuffle", c.data.shuffle, "order of each epoch; automatic: full in memory, else window, which reads a chunk once an epoch",
      Rule{.choices = {"automatic", "none", "window", "full"}, .yes = "full", .no = "none"});
  key("window", c.data.window, "rows that window mixes, in whole chunks; from data.memory_mib when auto", Rule{.low = 1});
  key("tail", c.data.tail, "last rows of an epoch: carry them into the next, a partial step, or drop them",
      Rule{.choices = {"carry", "partial", "drop"}});
  key("scan", c.data.scan, "look for NaN and labels out of range before training starts");
  key("mean", c.data.mean, "of each channel or column; the file's attribute when absent");
  key("deviation", c.data.deviation, "of each channel or column; the file's attribute when absent",
      Rule{.low = 0, .above = true});
  key("memory_mib", c.data.memory_mib, "datasets up to this size are held in memory; of larger ones, as much as was decoded last",
      Rule{.low = 0});
  key("cache", c.data.cache, "node: the ranks of a machine share one copy in memory, of any size that is free",
      Rule{.choices = {"rank", "node"}});
  key("documents", c.data.documents, "dataset of offsets where the documents of a stream begin: no row crosses them");
  key("crop_padding", c.data.crop_padding, "pixels added around training images, of which a random piece is cut out",
      Rule{.low = 0, .high = 1024});
  key("flip", c.data.flip, "mirror half of the training images, left to right");

  key.section("model");
  key("kind", c.model.kind, "what is trained", Rule{.choices = {"mlp", "convnet", "resnet18", "resnet50", "gpt"}});
  key("weights", c.model.weights, "start from the weights of this run or checkpoint instead of random ones");
  key("size", c.model.size, "GPT-2 by name; the keys below change single dimensions",
      Rule{.choices = {"nano", "124M", "350M", "774M", "1558M"}, .kinds = {"gpt"}});
  key("layers", c.model.layers, "transformer blocks", Rule{.low = 1, .kinds = {"gpt"}});
  key("width", c.model.width, "channels of a token", Rule{.low = 1, .kinds = {"gpt"}});
  key("heads", c.model.heads, "attention heads", Rule{.low = 1, .kinds = {"gpt"}});
  key("length", c.model.length, "tokens of context", Rule{.low = 1, .kinds = {"gpt"}});
  key("vocabulary", c.model.vocabulary, "different tokens; from the data when auto", Rule{.low = 2, .kinds = {"gpt"}});
  key("features", c.model.features, "channels of each convolution; 32, 64 when absent", Rule{.low = 1, .kinds = {"convnet"}});
  key("kernel", c.model.kernel, "odd size of the convolutions", Rule{.low = 1, .kinds = {"convnet"}});
  key("hidden", c.model.hidden, "widths of the hidden layers", Rule{.low = 1, .kinds = {"mlp", "convnet"}});
  key("activation", c.model.activation, "between layers",
      Rule{.choices = {"relu", "gelu", "gelu_tanh", "sigmoid", "tanh", "silu"}, .kinds = {"mlp"}});
  key("small_stem", c.model.small_stem, "first layer for small images; chosen by their size when absent",
      Rule{.kinds = {"resnet18", "resnet50"}});
  key("dropout", c.model.dropout, "share of activations dropped while training",
      Rule{.low = 0, .high = 0.99, .kinds = {"mlp", "convnet", "gpt"}});
  key("input", c.model.input, "shape of one row; from the data when absent",
      Rule{.low = 1, .kinds = {"mlp", "convnet", "resnet18", "resnet50"}});
  key("outputs", c.model.outputs, "classes, or predicted values; from the data when auto",
      Rule{.low = 1, .kinds = {"mlp", "convnet", "resnet18", "resnet50"}});

  key.section("train");
  key("steps", c.train.steps, "length of the run in steps", Rule{.low = 1});
  key("epochs", c.train.epochs, "or in passes over the data", Rule{.low = 0, .above = true});
  key("lanes", c.train.lanes, "equal slices of the global batch, dealt out to the ranks", Rule{.low = 1, .high = 1 << 20});
  key("rows_per_lane", c.train.rows_per_lane, "rows (or sequences) of a lane; the global batch is lanes * rows_per_lane",
      Rule{.low = 1});
  key("reduction", c.train.reduction, "exact: the same bits at every rank count; fast: any rank count",
      Rule{.choices = {"fast", "exact"}});
  key("overlap", c.train.overlap, "send buckets while backward runs");
  key("communicate", c.train.communicate, "false: leave gradients unsummed, to measure what communication costs");
  key("update", c.train.update,
      "whole: every rank updates all weights; sharded: each a part, and gathers the rest; auto: the faster",
      Rule{.choices = {"auto", "whole", "sharded"}});
  key("captured", c.train.captured,
      "capture a step once and replay it, which spares the host its calls; yes: also on a CPU, with one rank; auto: on GPUs",
      Rule{.choices = {"auto", "yes", "no"}});
  key("products", c.train.products,
      "algorithms of products on GPUs; search: the fastest, found by timing and remembered; first: the library's first choice",
      Rule{.choices = {"search", "first"}});
  key("precision", c.train.precision, "of weights and activations; masters are f32 (train.masters)",
      Rule{.choices = {"f32", "bf16", "f16"}});
  key("gradient", c.train.gradient, "type that gradients travel in", Rule{.choices = {"f32", "bf16", "f16"}});
  key("masters", c.train.masters, "false: weights of 16 bits are all there is, and updates round them at random");
  key("loss_scale", c.train.loss_scale,
      "f16: factor of the loss in the first step, a power of two; 65536 when absent. It finds its size from there",
      Rule{.low = 1, .high = 16777216});
  key("loss_scale_interval", c.train.loss_scale_interval,
      "f16: finite steps in a row behind which the factor doubles; auto: 2000; 0: it only ever halves",
      Rule{.low = 0, .high = 16777216});
  key("loss_scale_most", c.train.loss_scale_most, "f16: the factor never doubles beyond this power of two; 16777216 when absent",
      Rule{.low = 1, .high = 16777216});
  key("threads", c.train.threads, "CPU threads a rank", Rule{.low = 1, .high = 4096});
  key("recompute", c.train.recompute, "gpt: keep less for backward, compute it again");
  key("label_smoothing", c.train.label_smoothing, "share of a label spread over all classes", Rule{.low = 0, .high = 0.99});
  key("freeze", c.train.freeze, "prefixes of parameters that are not trained");
  const Rule size{.low = 0, .above = true};
  key("head_bucket_mib", c.train.head_bucket_mib, "first bucket to leave; measured at the start when absent", size);
  key("middle_bucket_mib", c.train.middle_bucket_mib, "buckets between", size);
  key("tail_bucket_mib", c.train.tail_bucket_mib, "last bucket", size);
  key("trace_steps", c.train.trace_steps, "steps drawn in the timeline under trace/", Rule{.low = 0, .high = 1000});

  key.section("optimizer");
  key("kind", c.optimizer.kind, "update rule", Rule{.choices = {"sgd", "adamw"}});
  key("rate", c.optimizer.rate, "learning rate at its highest", Rule{.low = 0});
  key("decay", c.optimizer.decay, "weight decay (norms and biases have none)", Rule{.low = 0});
  key("clip", c.optimizer.clip, "largest norm of all gradients; 0: no clipping", Rule{.low = 0});
  key("momentum", c.optimizer.momentum, "", Rule{.low = 0, .high = 1, .kinds = {"sgd"}});
  key("nesterov", c.optimizer.nesterov, "", Rule{.kinds = {"sgd"}});
  key("beta1", c.optimizer.beta1, "", Rule{.low = 0, .high = 1, .kinds = {"adamw"}});
  key("beta2", c.optimizer.beta2, "", Rule{.low = 0, .high = 1, .kinds = {"adamw"}});
  key("epsilon", c.optimizer.epsilon, "", Rule{.low = 0, .above = true, .kinds = {"adamw"}});
  key("groups", c.optimizer.groups, "parameters with their own rate and decay");

  key.section("schedule");
  key("kind", c.schedule.kind, "of the learning rate", Rule{.choices = {"constant", "linear", "cosine", "wsd"}});
  key("warmup", c.schedule.warmup, "steps from 0 to optimizer.rate", Rule{.low = 0});
  key("final", c.schedule.final, "share of the rate at the last step",
      Rule{.low = 0, .high = 1, .kinds = {"linear", "cosine", "wsd"}});
  key("decay_share", c.schedule.decay_share, "share of the steps spent decaying", Rule{.low = 0, .high = 1, .kinds = {"wsd"}});

  key.section("checkpoint");
  key("every", c.checkpoint.every, "steps between checkpoints; 0: at the end only", Rule{.low = 0});
  key("keep", c.checkpoint.keep, "newest checkpoints that stay", Rule{.low = 1});
  key("keep_every", c.checkpoint.keep_every, "those of steps that this divides stay too; 0: none", Rule{.low = 0});
  key("asynchronous", c.checkpoint.asynchronous, "a thread writes while training goes on");

  key.section("log");
  key("every", c.log.every, "steps between lines", Rule{.low = 1});
  key("evaluate_every", c.log.evaluate_every, "steps between evaluations; 0: at the end only", Rule{.low = 0});
  key("evaluate_batches", c.log.evaluate_batches, "batches of an evaluation; 0: all of the validation data", Rule{.low = 0});
}

/// Keys of the tables in a list of tables; the first one is needed.
template <class F>
void visit_table_keys(GroupConfig& g, F&& key) {
  key("prefix", g.prefix, "");
  key("rate_scale", g.rate_scale, "", Rule{.low = 0});
  key("decay", g.decay, "", Rule{.low = 0});
}
template <class F>
void visit_table_keys(MixtureConfig& m, F&& key) {
  key("path", m.path, "");
  key("weight", m.weight, "", Rule{.low = 0, .above = true});
  key("inputs", m.inputs, "");
  key("labels", m.labels, "");
  key("mask", m.mask, "");
}
template <class T>
constexpr bool is_table = std::is_same_v<T, GroupConfig> || std::is_same_v<T, MixtureConfig>;

// ---- values: what each type is called, how it is read from a node, how it is written

std::string quote(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\')
      out += fmt::format("\\{}", char(c));
    else if (c < 0x20 || c == 0x7f)
      out += fmt::format("\\u{:04x}", unsigned(c));
    else
      out += char(c);
  }
  return out + '"';
}
std::string quote(bool value) {
  return value ? "true" : "false";
}
std::string quote(std::int64_t value) {
  return std::to_string(value);
}
std::string quote(double value) {
  std::string text = fmt::format("{}", value);
  return text.find_first_of(".einf") == std::string::npos ? text + ".0" : text;
}
template <class T>
std::string quote(const std::vector<T>& list) {
  std::string out;
  for (const T& value : list) out += (out.empty() ? "" : ", ") + quote(value);
  return "[" + out + "]";
}

std::string type_name(bool*) {
  return "true or false";
}
std::string type_name(std::int64_t*) {
  return "a whole number";
}
std::string type_name(double*) {
  return "a number";
}
std::string type_name(std::string*) {
  return "a text in quotes";
}
std::string type_name(Auto*) {
  return "a whole number or \"auto\"";
}
std::string type_name(std::optional<double>*) {
  return "a number";
}
std::string type_name(std::optional<bool>*) {
  return "true or false";
}
std::string type_name(std::vector<std::string>*) {
  return "a text or a list of texts";
}
std::string type_name(std::vector<std::int64_t>*) {
  return "a list of whole numbers";
}
std::string type_name(std::vector<double>*) {
  return "a list of numbers";
}
std::string type_name(std::vector<GroupConfig>*) {
  return "a list of tables { prefix, rate_scale, decay }";
}
std::string type_name(std::vector<MixtureConfig>*) {
  return "a list of tables { path, weight, inputs, labels }";
}

bool read(const toml::node& node, bool& to) {
  return node.is_boolean() && (to = node.as_boolean()->get(), true);
}
bool read(const toml::node& node, std::int64_t& to) {
  return node.is_integer() && (to = node.as_integer()->get(), true);
}
bool read(const toml::node& node, double& to) {
  return node.is_number() && (to = *node.value<double>(), true);
}
bool read(const toml::node& node, std::string& to) {
  return node.is_string() && (to = node.as_string()->get(), true);
}
bool read(const toml::node& node, Auto& to) {
  if (node.is_string() && node.as_string()->get() == "auto") return to.reset(), true;
  return node.is_integer() && (to = node.as_integer()->get(), true);
}
bool read(const toml::node& node, std::optional<bool>& to) {
  return node.is_boolean() && (to = node.as_boolean()->get(), true);
}
bool read(const toml::node& node, std::optional<double>& to) {
  return node.is_number() && (to = *node.value<double>(), true);
}
template <class T>
bool read(const toml::node& node, std::vector<T>& to) {
  if constexpr (std::is_same_v<T, std::string>)
    if (node.is_string()) return to = {node.as_string()->get()}, true;
  if (!node.is_array()) return false;
  to.clear();
  for (auto& element : *node.as_array()) {
    T value{};
    if (!read(element, value)) return false;
    to.push_back(value);
  }
  return true;
}

std::string shown(const toml::node& node) {
  std::ostringstream out;
  if (node.is_string()) return quote(node.as_string()->get());
  node.visit([&](auto& value) { out << value; });
  return out.str();
}

std::string position(const toml::node& node) {
  const auto& source = node.source();
  std::string path = source.path ? *source.path : "";
  return path.starts_with("--set") ? path : fmt::format("{}:{}", path, source.begin.line);
}

[[noreturn]] void refuse(const toml::node& node, const std::string& text) {
  throw Error(position(node) + ": " + text, Exit::usage);
}

void check_number(const toml::node& node, const std::string& name, double value, const Rule& rule) {
  if (std::isnan(value) || std::isinf(value)) refuse(node, fmt::format("{} must be finite, not {}", name, shown(node)));
  if (rule.above && value <= rule.low) refuse(node, fmt::format("{} must be above {}, not {}", name, rule.low, value));
  if (value < rule.low) refuse(node, fmt::format("{} must be at least {}, not {}", name, rule.low, value));
  if (value > rule.high) refuse(node, fmt::format("{} must be at most {}, not {}", name, rule.high, value));
}
void check_value(const toml::node&, const std::string&, bool, const Rule&) {}
void check_value(const toml::node& node, const std::string& name, std::int64_t value, const Rule& rule) {
  check_number(node, name, double(value), rule);
}
void check_value(const toml::node& node, const std::string& name, double value, const Rule& rule) {
  check_number(node, name, value, rule);
}
void check_value(const toml::node& node, const std::string& name, const std::string& value, const Rule& rule) {
  if (rule.choices.empty() || std::ranges::count(rule.choices, value)) return;
  std::string near = nearest(value, rule.choices);
  refuse(node, fmt::format("{} must be one of {}, not \"{}\"{}", name, fmt::join(rule.choices, ", "), value,
                           near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
}
template <class T>
void check_value(const toml::node& node, const std::string& name, const std::optional<T>& value, const Rule& rule) {
  if (value) check_value(node, name, *value, rule);
}
template <class T>
void check_value(const toml::node& node, const std::string& name, const std::vector<T>& list, const Rule& rule) {
  if constexpr (!is_table<T>)  // tables were checked key by key
    for (const T& value : list) check_value(node, name, value, rule);
}

// ---- the four walks over the table of keys

/// All names, for suggestions.
struct Names {
  std::vector<std::string> sections, keys;
  void section(const char* name) { sections.push_back(name); }
  template <class T>
  void operator()(const char* name, const T&, const char*, const Rule& = {}) {
    keys.push_back(sections.empty() ? name : sections.back() + "." + name);
  }
};

/// The key that was meant: by the name that other programs give it, or by its letters. Of "section.key" only the key is allowed
/// many edits.
std::string suggest(const std::string& name, const std::vector<std::string>& known) {
  const std::pair<const char*, const char*> others[] = {{"lr", "rate"},
                                                        {"learning_rate", "rate"},
                                                        {"weight_decay", "decay"},
                                                        {"batch_size", "rows_per_lane"},
                                                        {"grad_clip", "clip"},
                                                        {"max_steps", "steps"},
                                                        {"n_layer", "layers"},
                                                        {"n_head", "heads"},
                                                        {"n_embd", "width"},
                                                        {"hidden_size", "width"},
                                                        {"vocab_size", "vocabulary"},
                                                        {"block_size", "length"},
                                                        {"warmup_steps", "warmup"},
                                                        {"dtype", "precision"},
                                                        {"num_classes", "outputs"},
                                                        {"std", "deviation"}};
  auto dot = name.rfind('.') + 1;
  std::string section = name.substr(0, dot), key = name.substr(dot);
  for (auto [other, ours] : others)
    if (key == other && std::ranges::count(known, section + ours)) return section + ours;
  std::vector<std::string> keys;
  for (const auto& k : known)
    if (k.starts_with(section)) keys.push_back(k.substr(dot));
  if (std::string near = nearest(key, keys); !near.empty()) return section + near;
  for (const auto& k : known)  // right, but in another section
    if (k.ends_with("." + key)) return k;
  return "";
}

void refuse_unknown(const toml::node& node, const std::string& what, const std::string& name,
                    const std::vector<std::string>& known) {
  if (std::ranges::count(known, name)) return;
  std::string near = suggest(name, known);
  refuse(node, fmt::format("unknown {} {}{}", what, name, near.empty() ? "" : fmt::format("; did you mean {}?", near)));
}

struct Reader {
  const toml::table& root;
  std::string prefix;
  const toml::table* current = nullptr;

  void section(const char* name) {
    prefix = std::string(name) + ".";
    current = root[name].as_table();
  }
  template <class T>
  void operator()(const char* key, T& to, const char*, const Rule& rule = {}) {
    const toml::node* node = current ? current->get(key) : nullptr;
    if (!node) return;
    std::string name = prefix + key;
    if (!rule.kinds.empty()) {
      auto kind = (*current)["kind"].value<std::string>();
      std::string is = kind.value_or(prefix == "optimizer."  ? Config{}.optimizer.kind
                                     : prefix == "schedule." ? Config{}.schedule.kind
                                                             : "");
      if (!std::ranges::count(rule.kinds, is))
        refuse(*node,
               fmt::format("{} belongs to {}kind = {}, but {}kind is {}", name, prefix, fmt::join(rule.kinds, ", "), prefix, is));
    }
    if constexpr (std::is_same_v<T, std::string>)
      if (rule.yes && node->is_boolean()) return void(to = node->as_boolean()->get() ? rule.yes : rule.no);
    if (!read_any(*node, name, to)) refuse(*node, fmt::format("{} must be {}, not {}", name, type_name(&to), shown(*node)));
    check_value(*node, name, to, rule);
  }
  template <class T>
  bool read_any(const toml::node& node, const std::string&, T& to) {
    return read(node, to);
  }
  template <class T>
  requires is_table<T>
  bool read_any(const toml::node& node, const std::string& name, std::vector<T>& to) {
    if (!node.is_array()) return false;
    to.clear();
    for (auto& element : *node.as_array()) {
      const toml::table* table = element.as_table();
      if (!table) return false;
      Names names;
      T one;
      visit_table_keys(one, names);
      for (auto&& [key, value] : *table) refuse_unknown(value, "key of " + name, std::string(key.str()), names.keys);
      if (!table->contains(names.keys[0])) refuse(element, fmt::format("{}: each table needs a {}", name, names.keys[0]));
      Reader reader{*table, name + ".", table};
      visit_table_keys(one, reader);
      to.push_back(one);
    }
    return true;
  }
};

struct Printer {
  bool with_help = false;
  std::string out, kind;

  void section(const char* name) {
    out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", name);
    kind.clear();
  }
  template <class T>
  void operator()(const char* key, const T& value, const char* help, const Rule& rule = {}) {
    if constexpr (std::is_same_v<T, std::string>)
      if (std::string_view(key) == "kind") kind = value;
    if (!rule.kinds.empty() && !std::ranges::count(rule.kinds, kind)) return;
    std::string line = text(key, value);
    if (line.empty() && with_help) line = fmt::format("# {} =", key);
    if (line.empty()) return;
    if (with_help && *help) line = fmt::format("{:<32} # {}", line, help);
    if (with_help && !rule.choices.empty()) line += fmt::format(": {}", fmt::join(rule.choices, ", "));
    out += line + "\n";
  }
  template <class T>
  static std::string text(const char* key, const T& value) {
    return fmt::format("{} = {}", key, quote(value));
  }
  static std::string text(const char* key, const Auto& value) {
    if (std::string_view(key) == "steps" && !value) return "";
    return fmt::format("{} = {}", key, value ? quote(*value) : "\"auto\"");
  }
  static std::string text(const char* key, const std::optional<bool>& value) { return value ? text(key, *value) : ""; }
  static std::string text(const char* key, const std::optional<double>& value) { return value ? text(key, *value) : ""; }
  template <class T>
  static std::string text(const char* key, const std::vector<T>& value) {
    return value.empty() ? "" : fmt::format("{} = {}", key, quote(value));
  }
  template <class T>
  requires is_table<T>
  static std::string text(const char* key, const std::vector<T>& tables) {
    std::string out;
    for (T table : tables) {
      std::string one;
      visit_table_keys(table, [&](const char* name, const auto& value, auto&&...) {
        if constexpr (std::is_same_v<decltype(value), const std::string&>)
          if (value.empty()) return;
        if (std::string line = text(name, value); !line.empty()) one += (one.empty() ? "" : ", ") + line;
      });
      out += (out.empty() ? "{ " : ", { ") + one + " }";
    }
    return out.empty() ? "" : fmt::format("{} = [{}]", key, out);
  }
};

void assign(toml::table& root, const std::string& assignment) {
  auto equals = assignment.find('='), dot = assignment.find('.');
  require(Exit::usage, equals != std::string::npos && dot < equals, "--set {}: write --set section.key=value", assignment);
  auto trim = [](std::string s) {
    auto first = s.find_first_not_of(' '), last = s.find_last_not_of(' ');
    return first == std::string::npos ? std::string() : s.substr(first, last - first + 1);
  };
  std::string section = trim(assignment.substr(0, dot)), key = trim(assignment.substr(dot + 1, equals - dot - 1));
  std::string value = trim(assignment.substr(equals + 1)), source = "--set " + assignment;
  toml::table parsed;
  try {
    parsed = toml::parse("x = " + value, source);
  } catch (const toml::parse_error&) {  // plain text needs no quotes on a command line
    parsed = toml::parse("x = " + quote(value), source);
  }
  Names names;
  Config config;
  visit_keys(config, names);
  refuse_unknown(*parsed.get("x"), "section", section, names.sections);
  refuse_unknown(*parsed.get("x"), "key", section + "." + key, names.keys);
  if (!root.contains(section)) root.insert(section, toml::table{});
  toml::table* table = root[section].as_table();
  parsed.get("x")->visit([&](auto& node) { table->insert_or_assign(key, std::move(node)); });  // moved: it remembers its source
}

void check_unknown(const toml::table& root) {
  Names names;
  Config config;
  visit_keys(config, names);
  for (auto&& [section, node] : root) {
    std::string name(section.str());
    const toml::table* table = node.as_table();
    if (!table) {  // a key outside of any section
      std::vector<std::string> endings;
      for (auto& key : names.keys)
        if (key.ends_with("." + name)) endings.push_back(key);
      refuse(node, endings.empty()
                       ? fmt::format("{} stands outside of any section", name)
                       : fmt::format("{} stands outside of its section; write it as {}", name, fmt::join(endings, " or ")));
    }
    refuse_unknown(node, "section", name, names.sections);
    for (auto&& [key, value] : *table) refuse_unknown(value, "key", name + "." + std::string(key.str()), names.keys);
  }
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  auto distance = [](const std::string& a, const std::string& b) {
    std::vector<std::size_t> row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= b.size(); ++j) {
        std::size_t kept = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, kept});
      }
    }
    return row[b.size()];
  };
  std::string best;
  std::size_t least = std::max<std::size_t>(word.size() / 2, 2) + 1;
  for (const auto& candidate : known)
    if (auto d = distance(word, candidate); d < least) least = d, best = candidate;
  return best;
}

Config parse_config(const std::string& text, const std::string& file, const std::vector<std::string>& assignments) {
  toml::table root;
  try {
    root = toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    throw Error(fmt::format("{}:{}: {}", file, error.source().begin.line, std::string(error.description())), Exit::usage);
  }
  check_unknown(root);
  for (const auto& assignment : assignments) assign(root, assignment);
  Config config;
  Reader reader{root, "", nullptr};
  visit_keys(config, reader);
  if (config.run.name.empty()) config.run.name = std::filesystem::path(file).stem().string();
  check_together(config, file);
  return config;
}

Config read_config(const std::string& file, const std::vector<std::string>& assignments) {
  std::ifstream in(file);
  require(Exit::usage, bool(in) && !std::filesystem::is_directory(file), "{}: there is no such configuration file", file);
  std::stringstream text;
  text << in.rdbuf();
  return parse_config(text.str(), file, assignments);
}

std::string print_config(const Config& config, bool with_help) {
  Printer printer{.with_help = with_help, .out = {}, .kind = {}};
  visit_keys(config, printer);
  return printer.out;
}

}  // namespace lockstep::launch
