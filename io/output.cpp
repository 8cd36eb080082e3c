#include "io/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "kernels/base/check.h"

namespace lockstep::io {

namespace fs = std::filesystem;

std::string size_text(std::int64_t bytes) {
  double value = double(bytes);
  const char* units[] = {"bytes", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (value >= 1000 && unit < 4) value /= 1000, ++unit;
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.3g} {}", value, units[unit]);
}

std::string folder_of(const std::string& path) {
  auto folder = fs::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

void write_failed(const std::string& path, std::int64_t bytes, int problem) {
  if (problem == ENOSPC || problem == EDQUOT || problem == EFBIG) {
    struct statvfs disk {};
    const bool known = statvfs(folder_of(path).c_str(), &disk) == 0;
    const char* limit = problem == ENOSPC   ? "the disk is full"
                        : problem == EDQUOT ? "the disk quota is used up"
                                            : "the file size limit is reached";
    throw Error(fmt::format("{}: {}: {} are needed ({} bytes), {} are free", path, limit, size_text(bytes), bytes,
                            known ? size_text(std::int64_t(disk.f_bavail) * std::int64_t(disk.f_frsize)) : "an unknown number"),
                Exit::io);
  }
  throw Error(fmt::format("{}: cannot be written: {}", path, std::strerror(problem)), Exit::io);
}

namespace {
/// Throws when a file of `bytes` at `path` would not fit, in the name of its target; leaves nothing there.
void check_space(const std::string& path, std::int64_t bytes, const std::string& target) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) write_failed(target, bytes, errno);
  int problem = fallocate(file, 0, 0, std::max<std::int64_t>(1, bytes)) == 0 ? 0 : errno;
  if (problem == EOPNOTSUPP || problem == ENOSYS) {  // ask instead
    struct statvfs disk {};
    const bool known = fstatvfs(file, &disk) == 0;
    problem = known && std::int64_t(disk.f_bavail) * std::int64_t(disk.f_frsize) < bytes ? ENOSPC : 0;
  }
  ::close(file);
  ::unlink(path.c_str());
  if (problem) write_failed(target, bytes, problem);
}

void sync(const std::string& path, int flags) {
  const int file = ::open(path.c_str(), flags | O_CLOEXEC);
  if (file < 0) write_failed(path, 0, errno);
  const int problem = fsync(file) == 0 ? 0 : errno;
  ::close(file);
  if (problem && problem != EINVAL) write_failed(path, 0, problem);  // EINVAL: a file system that has nothing to sync
}
}  // namespace

void sync_file(const std::string& path) {
  sync(path, O_RDONLY);
}
void sync_folder(const std::string& path) {
  sync(path, O_RDONLY | O_DIRECTORY);
}

Output::Output(std::string target, std::int64_t bytes)
    : target_(std::move(target)), temporary_(fmt::format("{}.tmp.{}", target_, getpid())) {
  std::error_code problem;
  fs::create_directories(folder_of(target_), problem);
  if (problem) write_failed(folder_of(target_), bytes, problem.value());
  check_space(temporary_, bytes, target_);
}

Output::~Output() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void Output::commit() {
  sync_file(temporary_);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) write_failed(target_, 0, errno);
  temporary_.clear();
  sync_folder(folder_of(target_));
}

void replace_text(const std::string& path, const std::string& text) {
  const std::string temporary = fmt::format("{}.tmp.{}", path, getpid());
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) write_failed(temporary, std::int64_t(text.size()), errno);
  int problem = 0;
  for (std::size_t done = 0; done < text.size() && !problem;) {
    const auto n = ::write(file, text.data() + done, text.size() - done);
    if (n >= 0)
      done += std::size_t(n);
    else if (errno != EINTR)
      problem = errno;
  }
  if (!problem && fsync(file) != 0) problem = errno;
  if (::close(file) != 0 && !problem) problem = errno;
  if (!problem && ::rename(temporary.c_str(), path.c_str()) != 0) problem = errno;
  if (problem) {
    ::unlink(temporary.c_str());
    write_failed(path, std::int64_t(text.size()), problem);
  }
  sync_folder(folder_of(path));
}

std::string read_text(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(Exit::bad_data, file >= 0, "{}: {}", path, std::strerror(errno));
  std::string text;
  char block[1 << 16];
  for (;;) {
    const auto n = ::read(file, block, sizeof block);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int problem = errno;
      ::close(file);
      require(Exit::bad_data, n == 0, "{}: {}", path, std::strerror(problem));
      return text;
    }
    text.append(block, std::size_t(n));
  }
}

}  // namespace lockstep::io
