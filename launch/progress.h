#pragma once

#include <cstdint>
#include <string>

namespace lockstep::launch {

/// Rank 0's standard output: lines that stay, and on a terminal one status line below them that is written over. Without a
/// terminal there are no escape codes and no status line.
class Console {
 public:
  explicit Console(bool quiet = false);
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  bool terminal() const { return terminal_; }
  void line(const std::string& text);
  /// Replaces the status line; nothing happens without a terminal.
  void status(const std::string& text);

 private:
  bool quiet_, terminal_, shown_ = false;
};

/// What a line of progress says.
struct Progress {
  std::int64_t step = 0, steps = 0;
  double loss = 0, rate = 0;
  double step_ms = 0;
  double exposed_share = 0;  ///< of the step spent waiting for communication
  double per_second = 0;     ///< samples or tokens
  const char* unit = "samples";
  double mfu = -1;  ///< share of peak; negative: unknown
  double seconds_left = -1;
};

/// "step 120/1000  loss 1.2345  rate 3.0e-04  12.3 ms  10.2k samples/s  31.4 % of peak  exposed 1.2 %  3m05s left"
std::string to_text(const Progress&);
/// "58s", "3m05s", "2h07m", "3d04h"
std::string duration_text(double seconds);
/// "987", "10.2k", "1.3M"
std::string count_text(double value);
/// "512 B", "1.5 MiB"
std::string bytes_text(double bytes);

}  // namespace lockstep::launch
