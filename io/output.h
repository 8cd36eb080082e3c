#pragma once

#include <cstdint>
#include <string>

namespace lockstep::io {

/// A file that is written under another name beside its target and takes the target's place by one rename when it is complete.
class Output {
 public:
  /// Makes the folder when it is missing and asks the disk for `bytes` (Error io, with the bytes needed and free).
  Output(std::string target, std::int64_t bytes);
  /// Removes what was not committed.
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  const std::string& path() const { return temporary_; }
  /// Everything to disk, rename, the folder to disk.
  void commit();

 private:
  std::string target_, temporary_;
};

/// The Error of a failed write: names the path, errno, and when the disk is full the bytes needed and free.
[[noreturn]] void write_failed(const std::string& path, std::int64_t bytes, int problem);

/// Waits until a file's or folder's contents are on disk.
void sync_file(const std::string& path);
void sync_folder(const std::string& path);
/// The folder part of a path; "." when it has none.
std::string folder_of(const std::string& path);
/// Replaces a small text file by one rename, on disk when this returns.
void replace_text(const std::string& path, const std::string& text);
/// A whole file as text. Throws (bad_data) when it cannot be read.
std::string read_text(const std::string& path);
/// "1.5 GB"
std::string size_text(std::int64_t bytes);

}  // namespace lockstep::io
