#include "io/plain_file.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "kernels/base/check.h"

namespace lockstep::io {

PlainFile::PlainFile(std::string path) : path_(std::move(path)) {
  require(Exit::bad_data, !std::filesystem::is_directory(path_), "{}: a folder, not a file", path_);
  errno = 0;
  file_ = gzopen(path_.c_str(), "rb");
  require(Exit::bad_data, file_ != nullptr, "{}: {}", path_, errno == ENOENT ? "no such file" : std::strerror(errno));
  gzbuffer(file_, 1 << 18);
}

PlainFile::~PlainFile() {
  gzclose(file_);
}

std::size_t PlainFile::read(void* out, std::size_t bytes) {
  std::size_t done = 0;
  while (done < bytes) {
    const int n = gzread(file_, static_cast<char*>(out) + done, unsigned(std::min<std::size_t>(bytes - done, 1u << 30)));
    if (n > 0) {
      done += std::size_t(n);
      offset_ += n;
      continue;
    }
    int code = Z_OK;
    const char* why = gzerror(file_, &code);
    if (code == Z_ERRNO) why = std::strerror(errno);
    require(Exit::bad_data, code == Z_OK || code == Z_STREAM_END, "{}: at offset {}: {}", path_, offset_,
            code == Z_BUF_ERROR ? "the gzip stream is cut off" : why);
    break;
  }
  return done;
}

void PlainFile::read_exactly(void* out, std::size_t bytes, const std::string& what) {
  const std::int64_t begin = offset_;
  const std::size_t n = read(out, bytes);
  require(Exit::bad_data, n == bytes, "{}: the file ends at offset {}, inside {}, which begins at {} and has {} bytes", path_,
          offset_, what, begin, bytes);
}

bool PlainFile::line(std::string& out) {
  out.clear();
  for (;;) {
    if (at_ == buffer_.size()) {
      buffer_.resize(1 << 16);
      buffer_.resize(read(buffer_.data(), buffer_.size()));
      at_ = 0;
      if (buffer_.empty()) return !out.empty();
    }
    const auto end = buffer_.find('\n', at_);
    out.append(buffer_, at_, (end == std::string::npos ? buffer_.size() : end) - at_);
    require(Exit::bad_data, out.size() < (std::size_t(1) << 30), "{}: a line is longer than 1 GiB", path_);
    at_ = end == std::string::npos ? buffer_.size() : end + 1;
    if (end == std::string::npos) continue;
    if (!out.empty() && out.back() == '\r') out.pop_back();
    return true;
  }
}

}  // namespace lockstep::io
