#include "io/checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "io/agree.h"
#include "io/checksum.h"
#include "io/hdf5.h"
#include "io/manifest.h"
#include "io/output.h"
#include "kernels/memory.h"

namespace lockstep::io {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

constexpr std::int64_t piece_bytes = 16 << 20;
const char* const data_name = "checkpoint.h5";
const char* const manifest_name = "manifest.json";

/// An open file whose positioned reads and writes are complete or throw.
class RawFile {
 public:
  RawFile(std::string path, int flags) : path_(std::move(path)), file_(::open(path_.c_str(), flags | O_CLOEXEC)) {
    require(flags == O_RDONLY ? Exit::bad_data : Exit::io, file_ >= 0, "{}: {}", path_, std::strerror(errno));
  }
  ~RawFile() { ::close(file_); }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  std::int64_t size() const {
    struct stat status {};
    return fstat(file_, &status) == 0 ? std::int64_t(status.st_size) : -1;
  }
  void read(std::int64_t at, std::int64_t bytes, void* out) const {
    for (std::int64_t done = 0; done < bytes;) {
      const auto n = ::pread(file_, static_cast<char*>(out) + done, std::size_t(bytes - done), at + done);
      if (n < 0 && errno == EINTR) continue;
      require(Exit::bad_data, n != 0, "{}: the file ends at {}, {} bytes are missing", path_, at + done, bytes - done);
      require(Exit::io, n > 0, "{}: {}", path_, std::strerror(errno));
      done += n;
    }
  }
  void write(std::int64_t at, std::int64_t bytes, const void* from, std::int64_t needed) const {
    for (std::int64_t done = 0; done < bytes;) {
      const auto n = ::pwrite(file_, static_cast<const char*>(from) + done, std::size_t(bytes - done), at + done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) write_failed(path_, needed, n < 0 ? errno : ENOSPC);
      done += n;
    }
  }
  void add_to(Checksum& sum, std::int64_t begin, std::int64_t end) const {
    std::vector<char> piece(std::size_t(std::min<std::int64_t>(1 << 20, end - begin)));
    for (; begin < end; begin += std::int64_t(piece.size())) {
      const auto n = std::min<std::int64_t>(end - begin, std::int64_t(piece.size()));
      read(begin, n, piece.data());
      sum.add(piece.data(), std::size_t(n));
    }
  }

 private:
  std::string path_;
  int file_;
};

std::string rest_checksum(const RawFile& file, const Manifest& manifest, const Manifest::File& which) {
  Checksum sum;
  for (const auto& gap : gaps(manifest, which)) file.add_to(sum, gap.begin, gap.end);
  return sum.text();
}

hdf5::Element element_of(DType d) {
  switch (d) {
    case DType::f32: return hdf5::Element::f32;
    case DType::bf16: return hdf5::Element::u16;  // HDF5 has no bfloat16: the bits, and an attribute
    case DType::i32: return hdf5::Element::i32;
    default: return hdf5::Element::u8;
  }
}

/// Step of a checkpoint folder's name "step_<N>", -1 for anything else.
std::int64_t step_of(const std::string& name) {
  if (!name.starts_with("step_") || name.size() > 23 || name.size() == 5) return -1;
  if (name.find_first_not_of("0123456789", 5) != std::string::npos) return -1;
  return std::stoll(name.substr(5));
}

/// Steps that are there, newest first.
std::vector<std::int64_t> steps_in(const std::string& folder) {
  std::vector<std::int64_t> steps;
  std::error_code ignored;
  for (fs::directory_iterator at(folder, ignored), end; !ignored && at != end; at.increment(ignored))
    if (const auto step = step_of(at->path().filename().string()); step >= 0) steps.push_back(step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::string step_path(const std::string& folder, std::int64_t step) {
  return folder + "/step_" + std::to_string(step);
}

/// Takes a folder away so that it is never seen half deleted.
void remove_folder(const std::string& path) {
  std::error_code ignored;
  const std::string gone = fmt::format("{}.tmp.{}", path, getpid());
  fs::rename(path, gone, ignored);
  fs::remove_all(ignored ? path : gone, ignored);
}

/// A folder that is removed unless it got its name.
struct TemporaryFolder {
  std::string path;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path.empty()) fs::remove_all(path, ignored);
  }
};

/// Writes the tensors: HDF5 lays the file out, the bytes are written in place without it.
Manifest write_data(const std::string& folder, std::int64_t step, const std::vector<NamedView>& tensors, const std::string& state,
                    const Queue& queue) {
  Manifest manifest;
  manifest.step = step;
  manifest.state = state;
  const std::string path = folder + "/" + data_name;
  std::int64_t needed = 1 << 16;
  for (const auto& t : tensors) needed += std::int64_t(t.view.bytes()) + 2048 + 4 * std::int64_t(t.name.size());
  check_space(path, needed);
  try {
    auto file = hdf5::File::create(path);
    for (const auto& t : tensors) {
      const auto data = file.create_dataset(t.name, element_of(t.view.dtype), t.shape, {.reserve = true});
      if (t.view.dtype == DType::bf16) file.set(t.name, "dtype", "bf16");
      manifest.tensors.push_back({t.name, t.shape, t.view.dtype, data_name, t.view.size > 0 ? data.offset() : 0, ""});
    }
    file.set("", "step", step);
    if (state.size() < 60000) file.set("", "state", state);  // an attribute holds 64 KiB; the manifest has it in any case
    file.close();
  } catch (const Error& e) {
    for (int problem : {ENOSPC, EFBIG, EDQUOT})
      if (std::string(e.what()).find(std::strerror(problem)) != std::string::npos) write_failed(path, needed, problem);
    throw;
  }

  const RawFile file(path, O_RDWR);
  Memory staging;
  if (queue.on_gpu) staging = host_memory(piece_bytes);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const View view = tensors[i].view;
    const std::int64_t run = piece_bytes / std::int64_t(size_of(view.dtype));
    Checksum sum;
    for (std::int64_t first = 0; first < view.size; first += run) {
      View piece = view.slice(first, std::min(run, view.size - first));
      if (queue.on_gpu) {
        const View host{staging.get(), piece.size, piece.dtype};
        kernels::copy(queue, host, piece);
        kernels::synchronize(queue);
        piece = host;
      }
      sum.add(piece.data, piece.bytes());
      file.write(manifest.tensors[i].offset + first * std::int64_t(size_of(view.dtype)), std::int64_t(piece.bytes()), piece.data,
                 needed);
    }
    manifest.tensors[i].xxh3 = sum.text();
  }
  manifest.files.push_back({data_name, file.size(), ""});
  manifest.files[0].rest_xxh3 = rest_checksum(file, manifest, manifest.files[0]);
  sync_file(path);
  return manifest;
}

/// Gives the finished folder its name; one of that name (a damaged one that was passed over) makes room.
void publish(TemporaryFolder& from, const std::string& to) {
  if (::rename(from.path.c_str(), to.c_str()) == 0) {
    from.path.clear();
    return;
  }
  if (errno != ENOTEMPTY && errno != EEXIST) write_failed(to, 0, errno);
  if (::renameat2(AT_FDCWD, from.path.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0)
    return;  // the old one is removed as temporary
  remove_folder(to);
  if (::rename(from.path.c_str(), to.c_str()) != 0) write_failed(to, 0, errno);
  from.path.clear();
}

/// Removes what is older than the newest `keep`, the one just written among them, and what interrupted writers left.
void prune(const std::string& folder, std::int64_t written, int keep) {
  int kept = 1;
  for (const auto step : steps_in(folder))
    if (step < written && keep > 0 && ++kept > keep) remove_folder(step_path(folder, step));
}

void remove_leftovers(const std::string& folder) {
  std::error_code ignored;
  std::vector<fs::path> old;
  for (fs::directory_iterator at(folder, ignored), end; !ignored && at != end; at.increment(ignored)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with("latest.tmp.") || (name.starts_with("step_") && name.find(".tmp.") != std::string::npos))
      old.push_back(at->path());
  }
  for (const auto& path : old) fs::remove_all(path, ignored);
}

/// Reads a checkpoint's manifest and compares every byte with it. Throws (bad_data) what is wrong.
Manifest check_all(const std::string& path) {
  const Manifest manifest = Manifest::parse(read_text(path + "/" + manifest_name), path);
  for (const auto& which : manifest.files) {
    const RawFile file(path + "/" + which.name, O_RDONLY);
    require(Exit::bad_data, file.size() == which.bytes, "{}/{}: {} bytes, but {} were written", path, which.name, file.size(),
            which.bytes);
    for (const auto& t : manifest.tensors) {
      if (t.file != which.name) continue;
      Checksum sum;
      file.add_to(sum, t.offset, t.offset + t.bytes());
      require(Exit::bad_data, sum.text() == t.xxh3, "{}/{}: the checksum of '{}' (offset {}, {} bytes) is wrong", path,
              which.name, t.name, t.offset, t.bytes());
    }
    require(Exit::bad_data, rest_checksum(file, manifest, which) == which.rest_xxh3,
            "{}/{}: the checksum of what lies between the tensors is wrong", path, which.name);
  }
  return manifest;
}

/// Rank 0's part of find_checkpoint: JSON, or null.
Json find_newest(const std::string& folder) {
  Json warnings = Json::array();
  const auto steps = steps_in(folder);
  for (const auto step : steps) {
    const std::string path = step_path(folder, step);
    try {
      const Manifest manifest = check_all(path);
      return {{"path", path}, {"step", manifest.step}, {"state", manifest.state}, {"warnings", warnings}};
    } catch (const Error& e) {
      warnings.push_back(std::string(e.what()) + "; this checkpoint is passed over");
    }
  }
  if (steps.empty()) return nullptr;
  std::string all = folder + ": every checkpoint is damaged";
  for (const auto& warning : warnings) all += "; " + warning.get<std::string>();
  throw Error(all, Exit::bad_data);
}

FoundCheckpoint as_found(const Json& j) {
  return {j["path"], j["step"], j["state"], j["warnings"].get<std::vector<std::string>>()};
}

/// The folder that holds step_<N> folders, given a run folder or itself.
std::string checkpoints_of(const std::string& path) {
  return fs::is_directory(path + "/checkpoints") ? path + "/checkpoints" : path;
}
bool is_checkpoint(const std::string& path) {
  return fs::exists(path + "/" + manifest_name) || step_of(fs::path(path).filename().string()) >= 0;
}

void require_same_model(const Manifest& manifest, const std::string& path, const std::vector<NamedView>& wanted, Match match) {
  std::map<std::string, const Manifest::Stored*> stored;
  for (const auto& t : manifest.tensors) stored[t.name] = &t;
  const std::string other = path + " is a checkpoint of another model or optimizer: ";
  for (const auto& w : wanted) {
    const auto at = stored.find(w.name);
    require(Exit::bad_data, at != stored.end(), "{}it has no '{}' {}", other, w.name, to_text(w.shape));
    require(Exit::bad_data, at->second->shape == w.shape, "{}'{}' is {} there and {} here", other, w.name,
            to_text(at->second->shape), to_text(w.shape));
    stored.erase(at);
  }
  for (const auto& t : manifest.tensors)
    require(Exit::bad_data, match == Match::subset || !stored.contains(t.name), "{}'{}' {} is there and not here", other, t.name,
            to_text(t.shape));
}

/// One tensor into its view: through host memory where the view is on a GPU or of another type.
void load_tensor(const RawFile& file, const Manifest::Stored& stored, const NamedView& wanted, const std::string& where,
                 const Queue& queue) {
  const std::int64_t n = count(stored.shape), bytes = stored.bytes();
  const bool direct = !queue.on_gpu && stored.dtype == wanted.view.dtype;
  Memory staging, converted;
  View host{wanted.view.data, n, stored.dtype};
  if (!direct) host.data = (staging = host_memory(std::size_t(bytes))).get();
  Checksum sum;
  for (std::int64_t at = 0; at < bytes; at += piece_bytes) {
    const std::int64_t m = std::min(piece_bytes, bytes - at);
    file.read(stored.offset + at, m, static_cast<char*>(host.data) + at);
    sum.add(static_cast<char*>(host.data) + at, std::size_t(m));
  }
  require(Exit::bad_data, sum.text() == stored.xxh3, "{}: the checksum of '{}' is wrong", where, stored.name);
  if (direct || n == 0) return;
  if (stored.dtype != wanted.view.dtype) {
    converted = host_memory(wanted.view.bytes());
    const View to{converted.get(), n, wanted.view.dtype};
    kernels::cast(Queue{}, to, host);
    host = to;
  }
  kernels::copy(queue, wanted.view, host);
  kernels::synchronize(queue);
}

}  // namespace

std::string save_checkpoint(const std::string& folder, std::int64_t step, const std::vector<NamedView>& tensors,
                            const std::string& state, int keep, const Queue& queue, Group& group) {
  kernels::synchronize(queue);
  return agree(group, [&] {
    std::set<std::string> names;
    for (const auto& t : tensors) {
      require(names.insert(t.name).second, "save_checkpoint: two tensors are called '{}'", t.name);
      require(count(t.shape) == t.view.size, "save_checkpoint: '{}' {} has {} elements", t.name, to_text(t.shape), t.view.size);
    }
    std::error_code problem;
    fs::create_directories(folder, problem);
    if (problem) write_failed(folder, 0, problem.value());
    remove_leftovers(folder);
    const std::string path = step_path(folder, step);
    TemporaryFolder temporary{fmt::format("{}.tmp.{}", path, getpid())};
    if (::mkdir(temporary.path.c_str(), 0777) != 0) write_failed(temporary.path, 0, errno);

    const Manifest manifest = write_data(temporary.path, step, tensors, state, queue);
    replace_text(temporary.path + "/" + manifest_name, manifest.to_json());  // last: a folder without it is incomplete
    sync_folder(temporary.path);
    publish(temporary, path);
    sync_folder(folder);
    replace_text(folder + "/latest", "step_" + std::to_string(step) + "\n");
    prune(folder, step, keep);
    return path;
  });
}

std::optional<FoundCheckpoint> find_checkpoint(const std::string& folder, Group& group) {
  const Json found = agree_on(group, [&] { return find_newest(folder); });
  if (found.is_null()) return {};
  return as_found(found);
}

FoundCheckpoint open_checkpoint(const std::string& path, Group& group) {
  return as_found(agree_on(group, [&] {
    require(Exit::bad_data, fs::is_directory(path), "{}: there is no such folder", path);
    if (is_checkpoint(path)) {
      const Manifest manifest = check_all(path);
      return Json{{"path", path}, {"step", manifest.step}, {"state", manifest.state}, {"warnings", Json::array()}};
    }
    const Json found = find_newest(checkpoints_of(path));
    require(Exit::bad_data, !found.is_null(), "{}: there is no complete checkpoint", path);
    return found;
  }));
}

void load_checkpoint(const FoundCheckpoint& found, const std::vector<NamedView>& wanted, Match match, const Queue& queue,
                     Group& group) {
  const std::string text = agree(group, [&] {
    std::string text = read_text(found.path + "/" + manifest_name);
    require_same_model(Manifest::parse(text, found.path), found.path, wanted, match);
    return text;
  });
  settle(group, [&] {
    const Manifest manifest = Manifest::parse(text, found.path);
    require_same_model(manifest, found.path, wanted, match);  // this rank's model too
    std::map<std::string, const Manifest::Stored*> stored;
    for (const auto& t : manifest.tensors) stored[t.name] = &t;
    std::map<std::string, std::unique_ptr<RawFile>> files;
    for (const auto& w : wanted) {
      const auto& t = *stored.at(w.name);
      auto& file = files[t.file];
      if (!file) file = std::make_unique<RawFile>(found.path + "/" + t.file, O_RDONLY);
      load_tensor(*file, t, w, found.path + "/" + t.file, queue);
    }
  });
}

std::string verify_checkpoint(const std::string& path) {
  require(Exit::bad_data, fs::is_directory(path), "{}: there is no such folder", path);
  std::vector<std::string> paths;
  if (is_checkpoint(path))
    paths.push_back(path);
  else
    for (const auto step : steps_in(checkpoints_of(path))) paths.push_back(step_path(checkpoints_of(path), step));
  require(Exit::bad_data, !paths.empty(), "{}: there is no checkpoint", path);
  std::string report, damaged;
  for (const auto& each : paths) {
    try {
      const Manifest manifest = check_all(each);
      std::int64_t bytes = 0;
      for (const auto& file : manifest.files) bytes += file.bytes;
      report += fmt::format("{}: {} tensors, {}, every checksum is right\n", each, manifest.tensors.size(), size_text(bytes));
    } catch (const Error& e) {
      damaged += (damaged.empty() ? "" : "; ") + std::string(e.what());
    }
  }
  require(Exit::bad_data, damaged.empty(), "{}", damaged);
  return report;
}

std::string inspect_checkpoint(const std::string& path) {
  auto group = solo_group();
  const auto found = open_checkpoint(path, *group);
  const Manifest manifest = Manifest::parse(read_text(found.path + "/" + manifest_name), found.path);
  std::string text;
  for (const auto& warning : found.warnings) text += "warning: " + warning + "\n";
  std::int64_t bytes = 0, values = 0;
  std::size_t wide = 0;
  for (const auto& t : manifest.tensors) bytes += t.bytes(), values += count(t.shape), wide = std::max(wide, t.name.size());
  text += fmt::format("{}: step {}, {} tensors, {} values, {}\n", found.path, manifest.step, manifest.tensors.size(), values,
                      size_text(bytes));
  text += "state " + Json::parse(manifest.state).dump() + "\n";
  for (const auto& t : manifest.tensors)
    text +=
        fmt::format("  {:{}}  {} {}  {}  {}\n", t.name, wide, to_text(t.shape), name_of(t.dtype), size_text(t.bytes()), t.xxh3);
  return text;
}

}  // namespace lockstep::io
