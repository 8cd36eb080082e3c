#include "io/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

#include "io/output.h"
#include "kernels/base/check.h"

namespace lockstep::io {

namespace {

/// The lines that a run resumed at `step` keeps.
std::string kept_lines(const std::string& text, std::int64_t step) {
  std::string kept, line;
  for (std::istringstream lines(text); std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object() || object.value("event", "") == "end") continue;
    if (const auto at = object.find("step"); at != object.end() && at->is_number() && at->get<double>() > double(step)) continue;
    kept += line + "\n";
  }
  return kept;
}

}  // namespace

MetricsFile::MetricsFile(std::string path, std::int64_t resume_step) : path_(std::move(path)) {
  try {
    if (resume_step >= 0 && ::access(path_.c_str(), F_OK) == 0) replace_text(path_, kept_lines(read_text(path_), resume_step));
  } catch (const Error& e) {
    trouble_ = std::string(e.what()) + "; metrics of the earlier run stay as they are";
  }
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) trouble_ = path_ + ": cannot be opened: " + std::strerror(errno) + "; this run goes on without metrics";
}

MetricsFile::~MetricsFile() {
  if (file_ >= 0) ::close(file_);
}

void MetricsFile::write(const std::string& object) {
  if (file_ < 0) return;
  // A line that was cut short (full disk) must not run into the next one.
  const std::string line = (torn_ ? "\n" : "") + object + "\n";
  ssize_t n;
  do n = ::write(file_, line.data(), line.size());
  while (n < 0 && errno == EINTR);
  if (n == ssize_t(line.size())) {
    torn_ = false;
    return;
  }
  if (n > 0) torn_ = true;
  if (trouble_.empty())
    trouble_ =
        path_ + ": " + (n < 0 ? std::strerror(errno) : std::strerror(ENOSPC)) + "; lines of metrics are lost, the run goes on";
}

std::string MetricsFile::trouble() {
  if (told_ || trouble_.empty()) return {};
  told_ = true;
  return trouble_;
}

}  // namespace lockstep::io
