#include "launch/run_folder.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/agree.h"
#include "kernels/matmul.h"
#include "launch/version.h"

extern char** environ;

namespace lockstep::launch {

namespace fs = std::filesystem;

std::string open_run_folder(const Config::Run& run, bool resume, Group& group) {
  return io::agree(group, [&] {
    std::error_code error;
    auto holds_metrics = [&](const fs::path& folder) {
      auto size = fs::file_size(folder / "metrics.jsonl", error);
      return !error && size > 0;
    };
    fs::path folder = fs::path(run.folder) / run.name;
    for (int number = 2; !resume && holds_metrics(folder); ++number)
      folder = fs::path(run.folder) / fmt::format("{}-{}", run.name, number);
    for (const char* part : {"checkpoints", "trace"}) {
      fs::create_directories(folder / part, error);
      require(Exit::io, !error, "cannot make the run folder {}: {}", folder.string(), error.message());
    }
    return folder.string();
  });
}

std::optional<io::FoundCheckpoint> find_checkpoint(const Config::Run& run, Group& group) {
  return io::find_checkpoint((fs::path(run.folder) / run.name / "checkpoints").string(), group);
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::trunc);
  file << text;
  file.close();
  require(Exit::io, bool(file), "cannot write {}: {}", path, std::strerror(errno));
}

std::string environment_json(const Session& session, double peak_flops, const std::string& peak_text) {
  using nlohmann::json;
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  json mine = {{"rank", session.rank()},
               {"host", host},
               {"device", session.device().name()},
               {"threads", session.threads()},
               {"cores", session.placement()}};
  json ranks = json::array();
  for (const std::string& text : session.group().gather(mine.dump())) ranks.push_back(json::parse(text));
  json all = {{"ranks", ranks},
              {"communicator", session.communicator().name()},
              {"cpu_products", kernels::cpu_products()},
              {"peak", {{"flops_per_s", peak_flops}, {"refers_to", peak_text}}}};
  for (const Version& v : versions()) all["versions"][v.name] = {{"built", v.built}, {"found", v.found}};
  json& slurm = all["slurm"] = json::object();
  for (char** variable = environ; *variable; ++variable) {
    std::string text = *variable;
    if (auto equals = text.find('='); text.starts_with("SLURM_") && equals != std::string::npos)
      slurm[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return all.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

Config read_run_config(const std::string& run) {
  std::string file = (fs::path(run) / "config.toml").string();
  require(Exit::bad_data, fs::is_directory(run), "{}: there is no such run folder", run);
  require(Exit::bad_data, fs::exists(file), "{} is not a run folder: it has no config.toml", run);
  return read_config(file);
}

}  // namespace lockstep::launch
