#pragma once

// Private to io/: plain positioned reads and writes that are complete or throw.

#include <cstdint>
#include <string>

namespace lockstep::io {

class RawFile {
 public:
  enum class Mode : std::uint8_t {
    read,    ///< failures are bad_data
    create,  ///< a new file for writing; failures are io, with the bytes needed and free when the disk is full
    memory,  ///< a new file in memory, gone with the last who has it open. Its path() opens it again; the one given is for errors
  };
  RawFile(std::string path, Mode);
  ~RawFile();
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  std::int64_t size() const;
  void read(std::int64_t at, std::int64_t bytes, void* out) const;

  /// Asks the disk for all the bytes that will be written, so that a full one is met before anything is.
  void reserve(std::int64_t bytes);
  void write(std::int64_t at, std::int64_t bytes, const void* from);
  /// The first `bytes` of the file straight from memory aligned to direct_alignment, where the file system can: the processor
  /// copies nothing, and nothing takes the place of others' pages in the cache.
  void write_directly(std::int64_t bytes, const void* from);
  static constexpr std::int64_t direct_alignment = 4096;
  /// Lets the disk begin with these bytes at once, so that sync() finds little left to do. A hint.
  void start_writing_out(std::int64_t at, std::int64_t bytes) const;
  /// Waits until everything is on disk.
  void sync() const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int file_;
  std::int64_t needed_ = 0;
};

/// A new file of these bytes, on disk when this returns (its name is when the folder is synced).
void write_synced(const std::string& path, const std::string& bytes);

}  // namespace lockstep::io
