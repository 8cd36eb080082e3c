#include "io/dataset.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

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

namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < 8; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > 8 ? text + fmt::format(" and {} more", names.size() - 8) : text;
}

/// Files named part-00002-of-00008.h5 are to be all there.
void require_all_shards(const std::string& pattern, const std::vector<std::string>& files) {
  static const std::regex shard("^(.*[^0-9])?([0-9]+)(-of-|_of_)([0-9]+)([^0-9].*)?$");
  std::map<std::string, std::set<std::string>> sets;  // a name with a mark in place of its number; the names of its files
  std::smatch match;
  for (const auto& file : files)
    if (std::regex_match(file, match, shard))
      sets[match[1].str() + '\n' + match[3].str() + match[4].str() + match[5].str()].insert(file);
  for (const auto& [name, there] : sets) {
    std::regex_match(*there.begin(), match, shard);
    const std::int64_t total = std::strtoll(match[4].str().c_str(), nullptr, 10), width = match[2].length();
    if (total > 1000000 || total <= std::int64_t(there.size())) continue;
    const auto middle = name.find('\n');
    auto numbered = [&](std::int64_t i) {
      return fmt::format("{}{:0{}}{}", name.substr(0, middle), i, width, name.substr(middle + 1));
    };
    const std::int64_t first = there.contains(numbered(0)) ? 0 : 1;  // ours count from 1
    std::vector<std::string> missing;
    for (std::int64_t i = first; i < first + total; ++i)
      if (!there.contains(numbered(i))) missing.push_back(numbered(i));
    throw Error(fmt::format("{}: {} of {} shards {} missing: {}", pattern, missing.size(), total,
                            missing.size() == 1 ? "is" : "are", joined(missing)),
                Exit::bad_data);
  }
}

}  // namespace

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
    const std::vector<std::string> matches(found.gl_pathv, found.gl_pathv + (problem == 0 ? found.gl_pathc : 0));
    globfree(&found);
    require(Exit::bad_data, problem == 0, "{}: no file matches", path);
    require_all_shards(path, matches);
    files.insert(files.end(), matches.begin(), matches.end());
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
  const auto files = expand_paths(options.paths);
  std::vector<std::string> missing;
  for (const auto& path : files)
    if (access(path.c_str(), F_OK) != 0) missing.push_back(path);
  require(Exit::bad_data, missing.empty(), "{}: no such file", joined(missing));
  for (const auto& path : files) {
    const auto there = sources.file(path)->datasets();
    const Names names = find_training(path, there, options.inputs, options.labels, options.mask);
    training.push_back({path, names});
    if (none || fraction || other_files) continue;
    if (auto found = find_validation(path, there, names, options.validation)) validation.push_back({path, *found});
  }
  if (other_files)
    for (const auto& path : expand_paths({options.validation}))
      validation.push_back({path, find_only(path, sources.file(path)->datasets(), training[0].names)});

  std::vector<Plan> plans = {make_plan(options, training, sources, nullptr)};
  if (!validation.empty()) {
    plans.push_back(make_plan(options, validation, sources, &plans[0]));
  } else if (fraction) {
    plans.push_back(plans[0]);
    plans[0].to = plans[1].from = 1 - *fraction;
  }
  return plans;
}

/// Memory of this machine that nothing uses, within the limit of a container.
std::size_t free_memory() {
  auto number = [](const char* path, const std::string& key) {
    std::ifstream file(path);
    std::string word;
    for (std::size_t value = 0; file >> word;)
      if (word == key || key.empty()) {
        if (key.empty()) return word == "max" ? std::size_t(-1) : std::size_t(std::strtoull(word.c_str(), nullptr, 10));
        return file >> value ? value : 0;
      }
    return std::size_t(-1);
  };
  const std::size_t machine = number("/proc/meminfo", "MemAvailable:"), most = number("/sys/fs/cgroup/memory.max", ""),
                    used = number("/sys/fs/cgroup/memory.current", "");
  const std::size_t here = machine == std::size_t(-1) ? 0 : machine << 10;
  return most == std::size_t(-1) || used == std::size_t(-1) ? here : std::min(here, most - std::min(most, used));
}

/// One place in memory for all rows of the plans, shared by the ranks of a machine. Returns what to tell.
std::string share(std::vector<Plan>& plans, Sources& sources, Group& group) {
  std::vector<std::shared_ptr<Rows>> all;
  settle(group, [&] {
    for (const auto& plan : plans)
      for (const auto& part : plan.parts) {
        auto add = [&](const std::string& name, hdf5::Element element) {
          auto rows = name.empty() ? nullptr : sources.rows(part.file, name, element, false);
          if (rows && std::ranges::find(all, rows) == all.end()) all.push_back(rows);
        };
        add(part.names.inputs, plan.inputs);
        add(part.names.targets, plan.targets);
        add(part.names.mask, plan.mask);
      }
  });
  auto padded = [](const Rows& rows) { return (rows.kept_bytes() + 255) / 256 * 256; };
  std::size_t bytes = 0;
  for (const auto& rows : all) bytes += padded(*rows);
  const std::size_t unused = free_memory();
  auto text = [](std::size_t n) { return fmt::format("{:.1f} MiB", double(n) / (1 << 20)); };
  const std::string wanted = fmt::format("data.cache = \"node\": {} of data", text(bytes));
  if (!group.all(bytes < unused / 10 * 9)) {
    std::size_t least = unused;
    for (const auto& line : group.gather(std::to_string(unused))) least = std::min(least, std::size_t(std::stoull(line)));
    return wanted + " do not fit the " + text(least) + " that are free, so each rank keeps up to data.memory_mib of its own";
  }
  auto memory = group.node_memory(bytes);
  if (!memory) return wanted + " found no memory that ranks can share, so each rank keeps up to data.memory_mib of its own";
  std::size_t at = 0;
  for (const auto& rows : all) {
    rows->keep(Memory(memory, memory.get() + at));
    at += padded(*rows);
  }
  for (auto& plan : plans) plan.hold = plan.hold_targets = true;
  return wanted + fmt::format(" have one place in the memory of each machine, for its {} ranks", group.node_size());
}

}  // namespace

Datasets open_dataset(const DatasetOptions& options, Group& group) {
  Sources sources(std::max<std::size_t>(options.memory_limit, 64 << 20), options.checked);
  const auto found = agree_on(group, [&] {
    auto list = nlohmann::json::array();
    for (const auto& plan : find_plans(options, sources)) list.push_back(plan.to_json());
    return list;
  });
  std::vector<Plan> plans;
  for (const auto& plan : found) plans.push_back(Plan::from_json(plan));
  Datasets opened;
  const bool several = !group.all(group.node_size() == 1);
  if (options.node_cache && several) plans[0].note = opened.note = share(plans, sources, group);

  // One rank looks at the values; what it learns is how many classes there are, and whether all targets count.
  const Memo memo(options.notes);
  const auto learned = agree_on(group, [&] {
    auto list = nlohmann::json::array();
    for (auto& plan : plans) {
      if (plan.from == 0)
        scan(plan, sources, options.scan, memo, options.notes_after);  // a share held out is of the same rows
      else
        plan.info.classes = plans[0].info.classes, plan.info.ignores = plans[0].info.ignores;
      if (&plan == &plans[0])
        for (auto& other : plans) other.info.classes = plan.info.classes;
      list.push_back({plan.info.classes, plan.info.ignores});
    }
    return list;
  });
  for (std::size_t i = 0; i < plans.size(); ++i) plans[i].info.classes = learned[i][0], plans[i].info.ignores = learned[i][1];
  settle(group, [&] {
    opened.train = open_plan(plans[0], sources);
    require(Exit::bad_data, opened.train->rows() > 0, "{}: no training rows are left", options.paths[0]);
    if (plans.size() < 2) return;
    opened.validation = open_plan(plans[1], sources);
    require(Exit::bad_data, opened.validation->rows() > 0, "{}: data.validation = {} leaves no rows for validation",
            options.paths[0], options.validation);
  });
  return opened;
}

}  // namespace lockstep::io
