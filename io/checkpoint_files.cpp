#include "io/checkpoint_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "io/output.h"

namespace lockstep::io {

namespace fs = std::filesystem;

std::int64_t step_of(const std::string& name) {
  if (!name.starts_with("step_") || name.size() > 23 || name.size() == 5) return -1;
  if (name.find_first_not_of("0123456789", 5) != std::string::npos) return -1;
  return std::stoll(name.substr(5));
}

std::vector<std::int64_t> steps_in(const std::string& folder) {
  std::vector<std::int64_t> steps;
  std::error_code ignored;
  for (fs::directory_iterator at(folder, ignored), end; !ignored && at != end; at.increment(ignored))
    if (const auto step = step_of(at->path().filename().string()); step >= 0) steps.push_back(step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::string step_path(const std::string& folder, std::int64_t step) {
  return folder + "/step_" + std::to_string(step);
}

namespace {
/// Takes a folder away so that it is never seen half deleted.
void remove_folder(const std::string& path) {
  std::error_code ignored;
  const std::string gone = fmt::format("{}.tmp.{}", path, getpid());
  fs::rename(path, gone, ignored);
  if (!ignored) fs::remove_all(gone, ignored);
}
}  // namespace

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (!path.empty()) fs::remove_all(path, ignored);
}

void publish(TemporaryFolder& from, const std::string& to) {
  if (::rename(from.path.c_str(), to.c_str()) == 0) {
    from.path.clear();
    return;
  }
  if (errno != ENOTEMPTY && errno != EEXIST) write_failed(to, 0, errno);
  if (::renameat2(AT_FDCWD, from.path.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0)
    return;  // the old one is removed as temporary
  remove_folder(to);
  if (::rename(from.path.c_str(), to.c_str()) != 0) write_failed(to, 0, errno);
  from.path.clear();
}

void prune(const std::string& folder, std::int64_t written, int keep, std::int64_t keep_every) {
  int kept = 1;
  for (const auto step : steps_in(folder)) {
    if (step >= written || keep <= 0 || (keep_every > 0 && step % keep_every == 0)) continue;
    if (++kept > keep) remove_folder(step_path(folder, step));
  }
}

void remove_leftovers(const std::string& folder, const std::vector<std::string>& but) {
  std::error_code ignored;
  std::vector<fs::path> old;
  for (fs::directory_iterator at(folder, ignored), end; !ignored && at != end; at.increment(ignored)) {
    const std::string name = at->path().filename().string();
    const bool ours = name.starts_with("latest.") || name.starts_with("step_");
    const bool temporary = ours && name.find(".tmp.") != std::string::npos;
    if (temporary && std::ranges::find(but, name) == but.end()) old.push_back(at->path());
  }
  for (const auto& path : old) fs::remove_all(path, ignored);
}

}  // namespace lockstep::io
