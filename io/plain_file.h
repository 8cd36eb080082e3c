#pragma once

#include <cstdint>
#include <string>

struct gzFile_s;

namespace lockstep::io {

/// Reads a file from its beginning, plain or gzip (told by its first bytes). Errors, a truncated gzip stream among them, are
/// bad_data and name the file and the offset.
class PlainFile {
 public:
  explicit PlainFile(std::string path);
  ~PlainFile();
  PlainFile(const PlainFile&) = delete;
  PlainFile& operator=(const PlainFile&) = delete;

  /// Up to `bytes` bytes; fewer only at the end.
  std::size_t read(void* out, std::size_t bytes);
  /// Exactly `bytes` bytes; `what` is named when the file ends before.
  void read_exactly(void* out, std::size_t bytes, const std::string& what);
  /// The next line without its end; false after the last.
  bool line(std::string& out);
  std::int64_t offset() const { return offset_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  gzFile_s* file_;
  std::int64_t offset_ = 0;  // of the plain bytes
  std::string buffer_;       // of line()
  std::size_t at_ = 0;
};

}  // namespace lockstep::io
