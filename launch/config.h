#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::launch {

/// A whole number that is chosen when absent ("auto" in the file).
using Auto = std::optional<std::int64_t>;

/// Parameters whose names start with `prefix` learn at their own rate and decay.
struct GroupConfig {
  std::string prefix;
  double rate_scale = 1;
  std::optional<double> decay;
};

/// One source of a mixture of data.
struct MixtureConfig {
  std::vector<std::string> path;
  double weight = 1;
  std::string inputs, labels, mask;  ///< when they are not those of [data]
};

/// What the loss is multiplied by in the first step in f16, where train.loss_scale is absent.
inline constexpr double default_loss_scale = 65536;

/// Everything that a run is told, with its defaults. The meaning of each key stands in the table of config.cpp, which reads,
/// checks and prints it; `lockstep train FILE --print-config` shows it all.
struct Config {
  struct Run {
    std::string name, folder = "runs";
    std::int64_t seed = 1;
    std::string device = "auto";
  } run;
  struct Data {
    std::vector<std::string> path;
    std::string inputs, labels, mask, shift = "automatic", validation;
    std::int64_t ignore = -100;
    std::string kind = "automatic";
    bool regression = false, channels_first = false, scan = true;
    std::string shuffle = "automatic", tail = "carry";
    Auto window;
    std::vector<MixtureConfig> mixture;
    std::vector<double> mean, deviation;
    double memory_mib = 1024;
    std::string cache = "rank", documents;
    std::int64_t crop_padding = 0;
    bool flip = false;
  } data;
  struct Model {
    std::string kind;
    std::string size = "nano";
    std::string weights;
    Auto layers, width, heads, length, vocabulary, outputs, kernel;
    std::vector<std::int64_t> input, features, hidden;
    std::string activation = "relu";
    std::optional<bool> small_stem;
    double dropout = 0;
  } model;
  struct Train {
    Auto steps;
    std::optional<double> epochs;
    std::int64_t lanes = 4, rows_per_lane = 16;
    std::string reduction = "fast";
    bool overlap = true, communicate = true;
    std::string update = "auto", captured = "auto", products = "search";
    std::string precision = "f32", gradient = "f32";
    bool masters = true;
    std::optional<double> loss_scale, loss_scale_most;
    Auto loss_scale_interval;
    Auto threads;
    bool recompute = false;
    double label_smoothing = 0;
    std::vector<std::string> freeze;
    std::optional<double> head_bucket_mib, middle_bucket_mib, tail_bucket_mib;
    std::int64_t trace_steps = 9;
  } train;
  struct Optimizer {
    std::string kind = "adamw";
    double rate = 1e-3, decay = 0, clip = 0;
    double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
    double momentum = 0.9;
    bool nesterov = false;
    std::vector<GroupConfig> groups;
  } optimizer;
  struct Schedule {
    std::string kind = "constant";
    std::int64_t warmup = 0;
    double final = 0, decay_share = 0.2;
  } schedule;
  struct Checkpoint {
    std::int64_t every = 0, keep = 2, keep_every = 0;
    bool asynchronous = true;
  } checkpoint;
  struct Log {
    std::int64_t every = 10, evaluate_every = 0, evaluate_batches = 0;
  } log;
};

/// Reads a TOML file, then the assignments ("section.key=value", the value as in TOML or plain text), and checks names, types and
/// ranges. Throws Error (Exit::usage) that names the file, the line and the key, with the nearest known key for an unknown one.
Config read_config(const std::string& file, const std::vector<std::string>& assignments = {});
/// As above from the text of a file; `file` is its name in messages.
Config parse_config(const std::string& text, const std::string& file, const std::vector<std::string>& assignments = {});

/// What keys must be, or may not be, together: throws Error (Exit::usage) with a sentence. Part of the two above.
void check_together(const Config&, const std::string& file);

/// The whole configuration as TOML that parse_config reads back to the same values; with a word on each key when asked for.
std::string print_config(const Config&, bool with_help = false);

/// The word of `known` that takes the fewest edits to become `word`, or "" when none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

}  // namespace lockstep::launch
