#include "launch/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace lockstep::launch {
namespace {

/// Under Open MPI every rank writes to a pseudo-terminal, whatever mpirun itself writes to: what counts is mpirun's own output.
bool reaches_terminal() {
  if (!isatty(STDOUT_FILENO)) return false;
  if (!std::getenv("OMPI_COMM_WORLD_SIZE")) return true;
  char target[256];
  auto length = readlink(fmt::format("/proc/{}/fd/1", getppid()).c_str(), target, sizeof target);
  std::string_view name(target, length > 0 ? std::size_t(length) : 0);
  return name.starts_with("/dev/pts/") || name.starts_with("/dev/tty") || name == "/dev/console";
}

bool shows_escapes() {
  const char* term = std::getenv("TERM");
  return reaches_terminal() && !std::getenv("NO_COLOR") && term && std::strcmp(term, "dumb") != 0;
}

std::size_t columns() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

Console::Console(bool quiet) : quiet_(quiet), terminal_(!quiet && shows_escapes()) {}

Console::~Console() {
  if (shown_) std::fputs("\n", stdout), std::fflush(stdout);
}

void Console::line(const std::string& text) {
  if (quiet_) return;
  if (shown_) std::fputs("\r\x1b[K", stdout);
  shown_ = false;
  std::fputs((text + "\n").c_str(), stdout);
  std::fflush(stdout);
}

void Console::status(const std::string& text) {
  if (!terminal_) return;
  std::string cut = text.substr(0, columns() - 1);
  std::fputs(("\r\x1b[K" + cut).c_str(), stdout);
  std::fflush(stdout);
  shown_ = true;
}

std::string duration_text(double seconds) {
  auto s = std::int64_t(std::llround(std::max(seconds, 0.0)));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s % 3600 / 60);
  return fmt::format("{}d{:02}h", s / 86400, s % 86400 / 3600);
}

std::string count_text(double value) {
  if (value >= 1e9) return fmt::format("{:.1f}G", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.1f}k", value / 1e3);
  return fmt::format("{:.0f}", value);
}

std::string bytes_text(double bytes) {
  if (bytes >= 1 << 30) return fmt::format("{:.1f} GiB", bytes / (1 << 30));
  if (bytes >= 1 << 20) return fmt::format("{:.1f} MiB", bytes / (1 << 20));
  if (bytes >= 1 << 10) return fmt::format("{:.1f} KiB", bytes / (1 << 10));
  return fmt::format("{:.0f} B", bytes);
}

std::string to_text(const Progress& p) {
  std::string text = fmt::format("step {}/{}  loss {:.6g}  rate {:.2e}  {:.1f} ms  {} {}/s", p.step, p.steps, p.loss, p.rate,
                                 p.step_ms, count_text(p.per_second), p.unit);
  if (p.mfu >= 0) text += fmt::format("  {:.1f} % of peak", 100 * p.mfu);
  text += fmt::format("  exposed {:.1f} %", 100 * p.exposed_share);
  if (p.seconds_left >= 0) text += fmt::format("  {} left", duration_text(p.seconds_left));
  return text;
}

}  // namespace lockstep::launch
