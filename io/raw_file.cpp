#include "io/raw_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "io/output.h"
#include "kernels/base/check.h"

namespace lockstep::io {

RawFile::RawFile(std::string path, Mode mode) : path_(std::move(path)) {
  if (mode == Mode::memory) {
    file_ = ::memfd_create("lockstep", MFD_CLOEXEC);
    if (file_ < 0) write_failed(path_, 0, errno);
    path_ = "/proc/self/fd/" + std::to_string(file_);
    return;
  }
  file_ = ::open(path_.c_str(), (mode == Mode::read ? O_RDONLY : O_RDWR | O_CREAT | O_EXCL) | O_CLOEXEC, 0666);
  if (file_ < 0 && mode == Mode::create) write_failed(path_, 0, errno);
  require(Exit::bad_data, file_ >= 0, "{}: {}", path_, std::strerror(errno));
}
RawFile::~RawFile() {
  ::close(file_);
}

std::int64_t RawFile::size() const {
  struct stat status {};
  return fstat(file_, &status) == 0 && S_ISREG(status.st_mode) ? std::int64_t(status.st_size) : -1;
}

void RawFile::read(std::int64_t at, std::int64_t bytes, void* out) const {
  for (std::int64_t done = 0; done < bytes;) {
    const auto n = ::pread(file_, static_cast<char*>(out) + done, std::size_t(bytes - done), at + done);
    if (n < 0 && errno == EINTR) continue;
    require(Exit::bad_data, n != 0, "{}: the file ends at {}, {} bytes are missing", path_, at + done, bytes - done);
    require(Exit::io, n > 0, "{}: {}", path_, std::strerror(errno));
    done += n;
  }
}

void RawFile::reserve(std::int64_t bytes) {
  needed_ = bytes;
  if (bytes == 0 || fallocate(file_, 0, 0, bytes) == 0) return;
  int problem = errno;
  if (problem == EOPNOTSUPP || problem == ENOSYS || problem == EINTR) {  // ask instead
    struct statvfs disk {};
    const bool known = fstatvfs(file_, &disk) == 0;
    problem = known && std::int64_t(disk.f_bavail) * std::int64_t(disk.f_frsize) < bytes ? ENOSPC : 0;
  }
  if (problem) write_failed(path_, needed_, problem);
}

void RawFile::write(std::int64_t at, std::int64_t bytes, const void* from) {
  needed_ = std::max(needed_, at + bytes);
  for (std::int64_t done = 0; done < bytes;) {
    const auto n = ::pwrite(file_, static_cast<const char*>(from) + done, std::size_t(bytes - done), at + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) write_failed(path_, needed_, n < 0 ? errno : ENOSPC);
    done += n;
  }
}

void RawFile::write_directly(std::int64_t bytes, const void* from) {
  needed_ = std::max(needed_, bytes);
  constexpr std::int64_t most = 32 << 20;  // of one call
  const std::int64_t whole = bytes / direct_alignment * direct_alignment;
  std::int64_t done = 0;
  const int flags = fcntl(file_, F_GETFL);
  if (flags >= 0 && fcntl(file_, F_SETFL, flags | O_DIRECT) == 0) {
    while (done < whole && done % direct_alignment == 0) {
      const auto n = ::pwrite(file_, static_cast<const char*>(from) + done, std::size_t(std::min(most, whole - done)), done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EINVAL) break;  // not this file system, or not at this alignment
      if (n <= 0) write_failed(path_, needed_, n < 0 ? errno : ENOSPC);
      done += n;
    }
    fcntl(file_, F_SETFL, flags);
  }
  write(done, bytes - done, static_cast<const char*>(from) + done);
}

void RawFile::start_writing_out(std::int64_t at, std::int64_t bytes) const {
  ::sync_file_range(file_, at, bytes, SYNC_FILE_RANGE_WRITE);
}

void RawFile::sync() const {
  while (fsync(file_) != 0)
    if (errno != EINTR) write_failed(path_, needed_, errno);
}

void write_synced(const std::string& path, const std::string& bytes) {
  RawFile file(path, RawFile::Mode::create);
  file.write(0, std::int64_t(bytes.size()), bytes.data());
  file.sync();
}

}  // namespace lockstep::io
