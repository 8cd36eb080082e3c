#pragma once

#include <cstdint>
#include <string>

namespace lockstep::io {

/// Appends to metrics.jsonl, one JSON object a line, written at once. Used by one rank. A failing write (disk full) never stops
/// training: the line is lost, and trouble() says so once.
class MetricsFile {
 public:
  /// Appends to `path`. `resume_step` >= 0: lines of steps beyond it, "end" events and a torn last line are dropped first; the
  /// file is replaced by one rename.
  explicit MetricsFile(std::string path, std::int64_t resume_step = -1);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  /// One JSON object, without a line end.
  void write(const std::string& object);
  /// The first failure as a sentence, once; empty when there is nothing new to tell.
  std::string trouble();

 private:
  std::string path_, trouble_;
  int file_ = -1;
  bool told_ = false, torn_ = false;
};

}  // namespace lockstep::io
