#include "io/dataset.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "io/agree.h"
#include "io/plan.h"

namespace lockstep::io {

const char* name_of(DataKind kind) {
  switch (kind) {
    case DataKind::tokens: return "tokens";
    case DataKind::images: return "images";
    case DataKind::table: return "table";
    default: return "automatic";
  }
}

std::vector<std::string> expand_paths(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  struct stat status {};
  for (const auto& path : paths) {
    if (path.find_first_of("*?[") == std::string::npos || stat(path.c_str(), &status) == 0) {
      files.push_back(path);
      continue;
    }
    glob_t found{};
    const int problem = glob(path.c_str(), 0, nullptr, &found);
    for (std::size_t i = 0; problem == 0 && i < found.gl_pathc; ++i) files.emplace_back(found.gl_pathv[i]);
    globfree(&found);
    require(Exit::bad_data, problem == 0, "{}: no file matches", path);
  }
  require(Exit::usage, !files.empty(), "no data file is given: set data.path");
  return files;
}

namespace {

/// A number in (0, 1), or nothing.
std::optional<double> as_fraction(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') return {};
  require(Exit::usage, value > 0 && value < 1, "data.validation = {}: a fraction lies between 0 and 1", text);
  return value;
}

bool is_file(const std::string& text) {
  struct stat status {};
  for (const char* ending : {".h5", ".hdf5", ".hdf"})
    if (text.ends_with(ending)) return true;
  return text.find_first_of("*?[") != std::string::npos || (stat(text.c_str(), &status) == 0 && S_ISREG(status.st_mode));
}

/// What rank 0 finds: a plan for the training rows and perhaps one for the validation rows.
std::vector<Plan> find_plans(const DatasetOptions& options, Sources& sources) {
  std::vector<Plan::Part> training, validation;
  const bool none = options.validation == "none";
  const auto fraction = none ? std::nullopt : as_fraction(options.validation);
  const bool other_files = !none && !fraction && !options.validation.empty() && is_file(options.validation);
  for (const auto& path : expand_paths(options.paths)) {
    const auto there = sources.file(path)->datasets();
    const Names names = find_training(path, there, options.inputs, options.labels);
    training.push_back({path, names});
    if (none || fraction || other_files) continue;
    if (auto found = find_validation(path, there, names, options.validation)) validation.push_back({path, *found});
  }
  if (other_files)
    for (const auto& path : expand_paths({options.validation}))
      validation.push_back({path, find_only(path, sources.file(path)->datasets(), training[0].names)});

  std::vector<Plan> plans = {make_plan(options, training, sources, nullptr)};
  scan(plans[0], sources, options.scan);
  if (!validation.empty()) {
    plans.push_back(make_plan(options, validation, sources, &plans[0]));
    scan(plans[1], sources, options.scan);
  } else if (fraction) {
    plans.push_back(plans[0]);
    plans[0].to = plans[1].from = 1 - *fraction;
  }
  return plans;
}

}  // namespace

Datasets open_dataset(const DatasetOptions& options, Group& group) {
  Sources sources(std::max<std::size_t>(options.memory_limit, 64 << 20));
  const auto found = agree_on(group, [&] {
    auto list = nlohmann::json::array();
    for (const auto& plan : find_plans(options, sources)) list.push_back(plan.to_json());
    return list;
  });
  Datasets opened;
  settle(group, [&] {
    opened.train = open_plan(Plan::from_json(found[0]), sources);
    require(Exit::bad_data, opened.train->rows() > 0, "{}: no training rows are left", options.paths[0]);
    if (found.size() < 2) return;
    opened.validation = open_plan(Plan::from_json(found[1]), sources);
    require(Exit::bad_data, opened.validation->rows() > 0, "{}: data.validation = {} leaves no rows for validation",
            options.paths[0], options.validation);
  });
  return opened;
}

}  // namespace lockstep::io
