#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels/base/check.h"

namespace lockstep::fuzz {

/// Bytes as a file that exists in memory only.
class MemoryFile {
 public:
  explicit MemoryFile(const std::string& bytes) : descriptor_(memfd_create("input", MFD_CLOEXEC)) {
    if (descriptor_ < 0 || ::write(descriptor_, bytes.data(), bytes.size()) != ssize_t(bytes.size())) std::abort();
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

/// A file to write to, in memory where there is /dev/shm.
inline const std::string& output() {
  static const std::string path = [] {
    std::string folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm/lockstep-fuzz-XXXXXX" : "/tmp/lockstep-fuzz-XXXXXX";
    if (!mkdtemp(folder.data())) std::abort();
    static const std::string kept = folder;
    std::atexit([] {
      for (const char* name : {"/out.h5", "/out.h5.manifest"}) ::unlink((kept + name).c_str());
      ::rmdir(kept.c_str());
    });
    return folder + "/out.h5";
  }();
  return path;
}

/// Runs what may refuse its input: an Error for users is fine, anything else is a finding.
template <class Action>
void allow_refusal(Action&& action) {
  try {
    action();
  } catch (const Error& e) {
    if (e.exit() != Exit::bad_data && e.exit() != Exit::usage) {
      std::fprintf(stderr, "exit code %d: %s\n", int(e.exit()), e.what());
      std::abort();
    }
  }
}

/// A property that must hold.
inline void hold(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

}  // namespace lockstep::fuzz
