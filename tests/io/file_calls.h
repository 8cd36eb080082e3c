#pragma once

// The C library's file calls as this program's own: every call below the watched folder is recorded, and any one of them can be
// made to fail. Included by one source of a test program; the linker prefers a program's own functions to those of libraries.

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace lockstep::test {

/// One call that changed something, or made a change durable.
struct FileCall {
  enum class Kind { create, write, resize, sync_file, make_folder, sync_folder, rename, exchange, unlink, remove_folder } kind;
  std::string path, to = {};  ///< below the watched folder: "/step_1.tmp.7/rank0.h5"
  int file = -1;              ///< which created file, for create, write, resize and sync_file
  std::int64_t at = 0;        ///< of a write; size of a resize
  std::string bytes = {};
};

/// What is watched. One at a time.
class FileCalls {
 public:
  static FileCalls& instance() {
    static FileCalls one;
    return one;
  }
  void watch(const std::string& folder) {
    std::lock_guard hold(mutex_);
    folder_ = folder, calls_.clear(), files_.clear(), created_ = 0, counted_ = 0, fail_at_ = -1;
  }
  /// The n-th call that can fail, counted from 0, ends with this errno, and so do all that follow when `stays`.
  void fail(int n, int problem, bool stays) {
    std::lock_guard hold(mutex_);
    counted_ = 0, fail_at_ = n, problem_ = problem, stays_ = stays;
  }
  /// Calls that could have failed since fail().
  int counted() const { return counted_; }
  std::size_t recorded() {
    std::lock_guard hold(mutex_);
    return calls_.size();
  }
  std::vector<FileCall> stop() {
    std::lock_guard hold(mutex_);
    folder_.clear();
    return std::move(calls_);
  }

  // ---- for the calls themselves
  std::mutex& mutex() { return mutex_; }
  /// The path below the watched folder, or "" for any other.
  std::string below(const std::string& path) const {
    return !folder_.empty() && path.starts_with(folder_ + "/") ? path.substr(folder_.size()) : path == folder_ ? "/" : "";
  }
  /// Whether this call must fail; sets errno.
  bool fails() {
    const int n = counted_++;
    if (fail_at_ < 0 || n < fail_at_ || (n > fail_at_ && !stays_)) return false;
    errno = problem_;
    return true;
  }
  void add(FileCall call) { calls_.push_back(std::move(call)); }
  int create(int descriptor) {
    files_[descriptor] = created_;
    return created_++;
  }
  /// The created file that a descriptor writes to, or -1.
  int file(int descriptor) const {
    const auto at = files_.find(descriptor);
    return at == files_.end() ? -1 : at->second;
  }
  void forget(int descriptor) { files_.erase(descriptor); }

 private:
  std::mutex mutex_;
  std::string folder_;
  std::vector<FileCall> calls_;
  std::map<int, int> files_;
  int created_ = 0, counted_ = 0, fail_at_ = -1, problem_ = 0;
  bool stays_ = false;
};

namespace file_calls {

template <class Function>
Function* original(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}
inline std::string path_of(int descriptor) {
  char target[PATH_MAX];
  const auto n = readlink(("/proc/self/fd/" + std::to_string(descriptor)).c_str(), target, sizeof target);
  return n > 0 ? std::string(target, std::size_t(n)) : "";
}
inline std::string path_at(int folder, const char* name) {
  return folder == AT_FDCWD || name[0] == '/' ? std::string(name) : path_of(folder) + "/" + name;
}

/// Runs a call on `path` under the lock; records it with `record(result)` when it is watched and succeeded.
template <class Call, class Record>
auto watched(const std::string& path, Call call, Record record) -> decltype(call()) {
  auto& calls = FileCalls::instance();
  std::lock_guard hold(calls.mutex());
  const std::string below = calls.below(path);
  if (below.empty()) return call();
  if (calls.fails()) return -1;
  const auto result = call();
  const int problem = errno;
  if (result >= 0) record(calls, below, result);
  errno = problem;
  return result;
}

inline int open_any(const std::string& path, int flags, const std::function<int()>& call) {
  if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) == 0) return call();
  struct stat status {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  return watched(path, call, [&](FileCalls& calls, const std::string& below, int descriptor) {
    if (!exists || (flags & O_TRUNC)) calls.add({FileCall::Kind::create, below, "", calls.create(descriptor)});
  });
}
inline int rename_any(const std::string& from, const std::string& to, unsigned flags, const std::function<int()>& call) {
  return watched(from, call, [&](FileCalls& calls, const std::string& below, int) {
    calls.add({flags & RENAME_EXCHANGE ? FileCall::Kind::exchange : FileCall::Kind::rename, below, calls.below(to)});
  });
}
inline ssize_t write_any(int descriptor, const void* from, std::int64_t at, const std::function<ssize_t()>& call) {
  auto& calls = FileCalls::instance();
  if (std::lock_guard hold(calls.mutex()); calls.file(descriptor) < 0) return call();
  return watched(path_of(descriptor), call, [&](FileCalls& calls, const std::string& below, ssize_t n) {
    const std::int64_t place = at >= 0 ? at : lseek(descriptor, 0, SEEK_CUR) - n;
    calls.add({FileCall::Kind::write, below, "", calls.file(descriptor), place,
               std::string(static_cast<const char*>(from), std::size_t(n))});
  });
}
inline int resize_any(int descriptor, std::int64_t size, const std::function<int()>& call) {
  return watched(path_of(descriptor), call, [&](FileCalls& calls, const std::string& below, int) {
    calls.add({FileCall::Kind::resize, below, "", calls.file(descriptor), size});
  });
}

}  // namespace file_calls
}  // namespace lockstep::test

extern "C" {

inline mode_t lockstep_mode(int flags, va_list list) {
  return flags & (O_CREAT | O_TMPFILE) ? mode_t(va_arg(list, unsigned)) : 0;
}
#define LOCKSTEP_OPEN(name)                                                                            \
  int name(const char* path, int flags, ...) {                                                         \
    va_list list;                                                                                      \
    va_start(list, flags);                                                                             \
    const mode_t mode = lockstep_mode(flags, list);                                                    \
    va_end(list);                                                                                      \
    static auto* next = lockstep::test::file_calls::original<int(const char*, int, ...)>(#name);       \
    return lockstep::test::file_calls::open_any(path, flags, [&] { return next(path, flags, mode); }); \
  }
LOCKSTEP_OPEN(open)
LOCKSTEP_OPEN(open64)
#undef LOCKSTEP_OPEN

int close(int descriptor) {
  static auto* next = lockstep::test::file_calls::original<int(int)>("close");
  auto& calls = lockstep::test::FileCalls::instance();
  std::lock_guard hold(calls.mutex());
  calls.forget(descriptor);
  return next(descriptor);
}
ssize_t write(int descriptor, const void* from, size_t bytes) {
  static auto* next = lockstep::test::file_calls::original<ssize_t(int, const void*, size_t)>("write");
  return lockstep::test::file_calls::write_any(descriptor, from, -1, [&] { return next(descriptor, from, bytes); });
}
ssize_t pwrite(int descriptor, const void* from, size_t bytes, off_t at) {
  static auto* next = lockstep::test::file_calls::original<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  return lockstep::test::file_calls::write_any(descriptor, from, at, [&] { return next(descriptor, from, bytes, at); });
}
ssize_t pwrite64(int descriptor, const void* from, size_t bytes, off64_t at) {
  static auto* next = lockstep::test::file_calls::original<ssize_t(int, const void*, size_t, off64_t)>("pwrite64");
  return lockstep::test::file_calls::write_any(descriptor, from, at, [&] { return next(descriptor, from, bytes, at); });
}
int fallocate(int descriptor, int mode, off_t at, off_t bytes) {
  static auto* next = lockstep::test::file_calls::original<int(int, int, off_t, off_t)>("fallocate");
  return lockstep::test::file_calls::resize_any(descriptor, at + bytes, [&] { return next(descriptor, mode, at, bytes); });
}
int ftruncate(int descriptor, off_t size) {
  static auto* next = lockstep::test::file_calls::original<int(int, off_t)>("ftruncate");
  return lockstep::test::file_calls::resize_any(descriptor, size, [&] { return next(descriptor, size); });
}
int ftruncate64(int descriptor, off64_t size) {
  static auto* next = lockstep::test::file_calls::original<int(int, off64_t)>("ftruncate64");
  return lockstep::test::file_calls::resize_any(descriptor, size, [&] { return next(descriptor, size); });
}
int fsync(int descriptor) {
  using namespace lockstep::test;
  static auto* next = file_calls::original<int(int)>("fsync");
  return file_calls::watched(
      file_calls::path_of(descriptor), [&] { return next(descriptor); },
      [&](FileCalls& calls, const std::string& below, int) {
        struct stat status {};
        fstat(descriptor, &status);
        calls.add({S_ISDIR(status.st_mode) ? FileCall::Kind::sync_folder : FileCall::Kind::sync_file, below, "",
                   calls.file(descriptor)});
      });
}
int mkdir(const char* path, mode_t mode) {
  using namespace lockstep::test;
  static auto* next = file_calls::original<int(const char*, mode_t)>("mkdir");
  return file_calls::watched(
      path, [&] { return next(path, mode); },
      [&](FileCalls& calls, const std::string& below, int) {
        calls.add({FileCall::Kind::make_folder, below});
      });
}
int rename(const char* from, const char* to) {
  static auto* next = lockstep::test::file_calls::original<int(const char*, const char*)>("rename");
  return lockstep::test::file_calls::rename_any(from, to, 0, [&] { return next(from, to); });
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
  using namespace lockstep::test::file_calls;
  static auto* next = original<int(int, const char*, int, const char*, unsigned)>("renameat2");
  return rename_any(path_at(from_folder, from), path_at(to_folder, to), flags,
                    [&] { return next(from_folder, from, to_folder, to, flags); });
}
int unlink(const char* path) {
  using namespace lockstep::test;
  static auto* next = file_calls::original<int(const char*)>("unlink");
  return file_calls::watched(
      path, [&] { return next(path); },
      [&](FileCalls& calls, const std::string& below, int) {
        calls.add({FileCall::Kind::unlink, below});
      });
}
int rmdir(const char* path) {
  using namespace lockstep::test;
  static auto* next = file_calls::original<int(const char*)>("rmdir");
  return file_calls::watched(
      path, [&] { return next(path); },
      [&](FileCalls& calls, const std::string& below, int) {
        calls.add({FileCall::Kind::remove_folder, below});
      });
}
int remove(const char* path) {
  struct stat status {};
  if (lstat(path, &status) != 0) return -1;
  return S_ISDIR(status.st_mode) ? rmdir(path) : unlink(path);
}
int unlinkat(int folder, const char* name, int flags) {
  using namespace lockstep::test;
  static auto* next = file_calls::original<int(int, const char*, int)>("unlinkat");
  return file_calls::watched(
      file_calls::path_at(folder, name), [&] { return next(folder, name, flags); },
      [&](FileCalls& calls, const std::string& below, int) {
        calls.add({flags & AT_REMOVEDIR ? FileCall::Kind::remove_folder : FileCall::Kind::unlink, below});
      });
}

}  // extern "C"
