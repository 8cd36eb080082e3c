#include "io/names.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <functional>

namespace lockstep::io {
namespace {

using hdf5::Info;
using Texts = std::vector<std::string>;

const Texts training_words = {"train", "training"};
const Texts validation_words = {"validation", "val", "valid", "dev", "test", "testing"};
const Texts input_words = {"images", "image", "x", "inputs", "input", "data", "features", "tokens", "input_ids"};
const Texts target_words = {"labels", "label", "y", "targets", "target", "class", "classes"};
const Texts mask_words = {"attention_mask", "loss_mask", "mask"};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return text;
}
bool contains(const Texts& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// "a/b/c" -> {"a/b/", "c"}
std::pair<std::string, std::string> split_path(const std::string& path) {
  auto slash = path.rfind('/');
  return slash == std::string::npos ? std::pair{std::string{}, path}
                                    : std::pair{path.substr(0, slash + 1), path.substr(slash + 1)};
}

const Info* find(const std::vector<Info>& there, const std::string& name) {
  std::string plain = name.substr(std::min(name.find_first_not_of('/'), name.size()));
  for (const auto& info : there)
    if (info.name == plain) return &info;
  for (const auto& info : there)
    if (lower(info.name) == lower(plain)) return &info;
  return nullptr;
}

/// The ways in which `base` is written for a part: "train/x", "x_train", "train_x", "train_set_x".
Texts spellings(const std::string& part, const std::string& base) {
  auto [parent, leaf] = split_path(base);
  return {parent + part + "/" + leaf, parent + leaf + "_" + part, parent + part + "_" + leaf, parent + part + "_set_" + leaf};
}

/// A dataset's last name without the part's word in it, and how to put another base in its place.
struct Leaf {
  std::string base;
  std::function<std::string(const std::string&)> with;
};
Leaf take_apart(const std::string& path) {
  auto [parent, leaf] = split_path(path);
  std::string parent_ = parent, small = lower(leaf);
  for (const auto* words : {&training_words, &validation_words})
    for (const auto& word : *words)
      for (const std::string& before : {word + "_set_", word + "_"})
        if (small.starts_with(before) && small.size() > before.size()) {
          std::string kept = leaf.substr(0, before.size());
          return {small.substr(before.size()), [=](const std::string& base) { return parent_ + kept + base; }};
        } else if (std::string after = "_" + word; small.ends_with(after) && small.size() > after.size()) {
          std::string kept = leaf.substr(leaf.size() - after.size());
          return {small.substr(0, small.size() - after.size()), [=](const std::string& base) { return parent_ + base + kept; }};
        }
  return {small, [=](const std::string& base) { return parent_ + base; }};
}

/// Where the dataset `path` of the training part would lie in `part`.
Texts counterparts(const std::string& path, const std::string& part) {
  Texts found;
  for (std::size_t begin = 0; begin < path.size();) {  // a folder named train
    auto end = std::min(path.find('/', begin), path.size());
    if (end < path.size() && contains(training_words, lower(path.substr(begin, end - begin))))
      found.push_back(path.substr(0, begin) + part + path.substr(end));
    begin = end + 1;
  }
  auto [parent, leaf] = split_path(path);
  for (const auto& word : training_words) {  // train_x, x_train
    std::string small = lower(leaf);
    if (small.starts_with(word + "_")) found.push_back(parent + part + leaf.substr(word.size()));
    if (small.ends_with("_" + word)) found.push_back(parent + leaf.substr(0, leaf.size() - word.size()) + part);
  }
  for (auto& name : spellings(part, path)) found.push_back(name);
  return found;
}

bool is_tokens(const Info& info) {
  return info.type == hdf5::Class::integer && info.shape.size() == 1;
}

/// Whether a dataset can only be tokens by its name or its one axis: it needs no targets.
bool needs_targets(const Info& inputs) {
  std::string base = take_apart(inputs.name).base;
  return !is_tokens(inputs) && base != "tokens" && base != "input_ids";
}

/// Datasets beside the inputs under one of these words.
Texts beside(const std::vector<Info>& there, const Info& inputs, const Texts& words, bool same_shape) {
  Texts found;
  auto leaf = take_apart(inputs.name);
  for (const auto& word : words)
    if (const auto* info = find(there, leaf.with(word)); info && info->name != inputs.name)
      if (!same_shape || (info->numeric() && info->shape == inputs.shape)) found.push_back(info->name);
  return found;
}

[[noreturn]] void absent(const std::string& file, const std::vector<Info>& there, const std::string& what) {
  throw Error(file + ": " + what + "; the file holds " + list_datasets(there), Exit::bad_data);
}

/// A dataset by the name that `key` of the configuration gives, in full or as it is called beside the inputs.
std::string named(const std::string& file, const std::vector<Info>& there, const Info& inputs, const std::string& name,
                  const char* key) {
  if (const auto* exact = find(there, name)) return exact->name;
  if (const auto* info = find(there, split_path(inputs.name).first + name)) return info->name;
  if (const auto* spelled = find(there, take_apart(inputs.name).with(name))) return spelled->name;
  absent(file, there, "there is no dataset '" + name + "' (" + key + ")");
}

/// The targets of inputs: named, beside, or (the only other dataset with as many rows) alone in the file.
std::string find_targets(const std::string& file, const std::vector<Info>& there, const Info& inputs, const std::string& targets,
                         const std::string& mask) {
  if (targets == "none") return "";
  if (!targets.empty()) return named(file, there, inputs, targets, "data.labels");
  const bool tokens = !needs_targets(inputs);
  if (auto found = beside(there, inputs, target_words, tokens); !found.empty()) return found[0];
  if (tokens) return "";
  const Info* only = nullptr;
  int fitting = 0;
  for (const auto& info : there)
    if (info.name != inputs.name && info.name != mask && info.numeric() && !info.shape.empty() && !inputs.shape.empty() &&
        info.shape[0] == inputs.shape[0] && info.shape.size() <= 2 &&
        split_path(info.name).first == split_path(inputs.name).first)
      only = &info, ++fitting;
  if (fitting == 1) return only->name;
  absent(file, there, "no labels were found for '" + inputs.name + "': name them with data.labels (or \"none\")");
}

/// The mask of inputs: named, or beside them with their shape.
std::string find_mask(const std::string& file, const std::vector<Info>& there, const Info& inputs, const std::string& mask) {
  if (mask == "none") return "";
  if (!mask.empty()) return named(file, there, inputs, mask, "data.mask");
  if (inputs.type != hdf5::Class::integer) return "";
  const auto found = beside(there, inputs, mask_words, true);
  if (found.size() > 1)
    absent(file, there,
           "there are several masks, '" + found[0] + "' and '" + found[1] +
               "': name the one that says which targets count with data.mask (or \"none\")");
  return found.empty() ? "" : found[0];
}

Names complete(const std::string& file, const std::vector<Info>& there, const Info& inputs, const std::string& targets,
               const std::string& mask) {
  const std::string found = find_mask(file, there, inputs, mask);
  return {inputs.name, find_targets(file, there, inputs, targets, found), found};
}

/// The held-out rows `inputs` with a mask if the training rows have one.
Names complete_like(const std::string& file, const std::vector<Info>& there, const Info& inputs, const std::string& targets,
                    const Names& training) {
  const std::string mask = training.mask.empty() ? "none" : take_apart(inputs.name).with(take_apart(training.mask).base);
  return complete(file, there, inputs, targets, mask);
}

const Info* first_common(const std::vector<Info>& there, const Texts& parts, bool plain) {
  for (const auto& part : parts)
    for (const auto& word : input_words)
      for (const auto& name : spellings(part, word))
        if (const auto* info = find(there, name)) return info;
  if (plain)
    for (const auto& word : input_words)
      if (const auto* info = find(there, word)) return info;
  return nullptr;
}

/// Without common names: the only dataset that can be inputs, which is the only numeric one or the only one with several axes.
const Info* only_inputs(const std::vector<Info>& there) {
  const Info *any = nullptr, *wide = nullptr;
  int numeric = 0, several_axes = 0;
  for (const auto& info : there) {
    if (!info.numeric() || info.shape.empty()) continue;
    any = &info, ++numeric;
    if (info.shape.size() > 1 && info.shape[1] > 1) wide = &info, ++several_axes;
  }
  return numeric == 1 ? any : several_axes == 1 ? wide : nullptr;
}

}  // namespace

std::string list_datasets(const std::vector<Info>& there) {
  if (there.empty()) return "no datasets";
  std::string text;
  for (std::size_t i = 0; i < there.size() && i < 12; ++i) text += (i ? ", " : "") + there[i].text();
  if (there.size() > 12) text += " and " + std::to_string(there.size() - 12) + " more";
  return text;
}

Names find_training(const std::string& file, const std::vector<Info>& there, const std::string& inputs,
                    const std::string& targets, const std::string& mask) {
  const Info* found = nullptr;
  if (!inputs.empty()) {
    found = find(there, inputs);
    for (const auto& part : training_words)
      for (const auto& name : spellings(part, inputs))
        if (!found) found = find(there, name);
    if (!found) absent(file, there, "there is no dataset '" + inputs + "' (data.inputs)");
  } else {
    found = first_common(there, training_words, true);
    if (!found) found = only_inputs(there);
    if (!found) absent(file, there, "none of the common dataset names were found: name yours with data.inputs and data.labels");
  }
  return complete(file, there, *found, targets, mask);
}

std::optional<Names> find_validation(const std::string& file, const std::vector<Info>& there, const Names& training,
                                     const std::string& part) {
  if (!part.empty())
    if (const auto* exact = find(there, part))
      return complete_like(file, there, *exact, training.targets.empty() ? "none" : "", training);
  for (const auto& word : part.empty() ? validation_words : Texts{part})
    for (const auto& name : counterparts(training.inputs, word)) {
      const auto* inputs = find(there, name);
      if (!inputs || inputs->name == training.inputs) continue;
      if (training.targets.empty()) return complete_like(file, there, *inputs, "none", training);
      for (const auto& other : counterparts(training.targets, word))
        if (const auto* targets = find(there, other)) return complete_like(file, there, *inputs, targets->name, training);
      return complete_like(file, there, *inputs, "", training);
    }
  if (part.empty()) return {};
  absent(file, there, "there is no group, dataset or file '" + part + "' (data.validation)");
}

Names find_only(const std::string& file, const std::vector<Info>& there, const Names& training) {
  if (auto found = find_validation(file, there, training, "")) return *found;
  const Info* inputs = find(there, training.inputs);
  if (!inputs) inputs = first_common(there, validation_words, true);
  if (!inputs) inputs = first_common(there, training_words, false);
  if (!inputs) inputs = only_inputs(there);
  if (!inputs) absent(file, there, "no dataset like '" + training.inputs + "' was found");
  const bool same = inputs->name == training.inputs && !training.targets.empty() && find(there, training.targets);
  return complete_like(file, there, *inputs, training.targets.empty() ? "none" : same ? training.targets : "", training);
}

}  // namespace lockstep::io
