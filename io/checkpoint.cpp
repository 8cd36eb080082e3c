#include "io/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "core/checksum.h"
#include "io/agree.h"
#include "io/checkpoint_files.h"
#include "io/manifest.h"
#include "io/output.h"
#include "io/raw_file.h"
#include "kernels/memory.h"

namespace lockstep::io {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

constexpr std::int64_t read_bytes = 1 << 20;

void add_to(Checksum& sum, const RawFile& file, std::int64_t begin, std::int64_t end) {
  std::vector<char> piece(std::size_t(std::min(read_bytes, end - begin)));
  while (begin < end) {
    const auto n = std::min<std::int64_t>(end - begin, std::int64_t(piece.size()));
    file.read(begin, n, piece.data());
    sum.add(piece.data(), std::size_t(n));
    begin += n;
  }
}

/// One checkpoint's files, opened as they are needed.
class Reader {
 public:
  Reader(std::string path, const Manifest& manifest)
      : path_(std::move(path)), manifest_(manifest), files_(manifest.files.size()) {}

  const RawFile& file(std::int64_t which) {
    auto& file = files_[std::size_t(which)];
    if (!file) {
      const auto& stored = manifest_.files[std::size_t(which)];
      file = std::make_unique<RawFile>(path_ + "/" + stored.name, RawFile::Mode::read);
      require(Exit::bad_data, file->size() == stored.bytes, "{}: {} bytes, but {} were written", file->path(), file->size(),
              stored.bytes);
    }
    return *file;
  }

  /// Compares one block of a piece with its checksum.
  void check_block(const Manifest::Piece& piece, std::int64_t block) {
    const auto [begin, end] = block_range(piece, block);
    Checksum sum;
    add_to(sum, file(piece.file), piece.offset + begin, piece.offset + end);
    expect(sum.text(), piece, block);
  }
  void check_rest(std::int64_t which) {
    Checksum sum;
    for (const auto& gap : gaps(manifest_, which)) add_to(sum, file(which), gap.begin, gap.end);
    require(Exit::bad_data, sum.text() == manifest_.files[std::size_t(which)].rest_xxh3,
            "{}: the checksum of what lies between the tensors is wrong", file(which).path());
  }

  /// Elements [begin, begin + size) of a tensor, as they are stored, checked.
  void read(std::size_t tensor, std::int64_t begin, std::int64_t size, char* out) {
    const std::int64_t width = std::int64_t(size_of(manifest_.tensors[tensor].dtype));
    for (const auto& piece : manifest_.pieces) {
      if (piece.tensor != std::int64_t(tensor)) continue;
      const std::int64_t first = std::max(begin, piece.begin), last = std::min(begin + size, piece.begin + piece.size);
      if (first < last)
        read_piece(piece, (first - piece.begin) * width, (last - piece.begin) * width, out + (first - begin) * width);
    }
  }

 private:
  std::pair<std::int64_t, std::int64_t> block_range(const Manifest::Piece& piece, std::int64_t block) const {
    const std::int64_t begin = block * manifest_.block_bytes, bytes = manifest_.bytes_of(piece);
    return {begin, begin + std::min(manifest_.block_bytes, bytes - begin)};
  }
  /// Bytes [begin, end) of a piece: its blocks whole, since a checksum covers a whole one.
  void read_piece(const Manifest::Piece& piece, std::int64_t begin, std::int64_t end, char* out) {
    for (std::int64_t block = begin / manifest_.block_bytes; block <= (end - 1) / manifest_.block_bytes; ++block) {
      const auto [from, to] = block_range(piece, block);
      const bool inside = from >= begin && to <= end;
      if (!inside) part_.resize(std::size_t(to - from));
      char* at = inside ? out + (from - begin) : part_.data();
      file(piece.file).read(piece.offset + from, to - from, at);
      expect(checksum(at, std::size_t(to - from)), piece, block);
      const std::int64_t first = std::max(from, begin), last = std::min(to, end);
      if (!inside) std::memcpy(out + (first - begin), at + (first - from), std::size_t(last - first));
    }
  }
  void expect(const std::string& sum, const Manifest::Piece& piece, std::int64_t block) {
    const auto [begin, end] = block_range(piece, block);
    require(Exit::bad_data, sum == piece.xxh3[std::size_t(block)], "{}: the checksum of '{}' (offset {}, {} bytes) is wrong",
            file(piece.file).path(), manifest_.tensors[std::size_t(piece.tensor)].name, piece.offset + begin, end - begin);
  }

  std::string path_;
  const Manifest& manifest_;
  std::vector<std::unique_ptr<RawFile>> files_;
  std::vector<char> part_;
};

/// Compares a rank's share of a checkpoint's bytes with the manifest. Throws (bad_data) what is wrong.
void check_share(const Manifest& manifest, const std::string& path, int rank, int ranks) {
  Reader reader(path, manifest);
  for (std::size_t i = std::size_t(rank); i < manifest.files.size(); i += std::size_t(ranks)) reader.check_rest(std::int64_t(i));
  long double total = 1, seen = 0;
  for (const auto& t : manifest.tensors) total += (long double)t.bytes();
  for (const auto& piece : manifest.pieces)
    for (std::int64_t block = 0; block < manifest.blocks_of(piece); ++block) {
      if (int(seen / total * ranks) == rank) reader.check_block(piece, block);
      seen += (long double)std::min(manifest.block_bytes, manifest.bytes_of(piece) - block * manifest.block_bytes);
    }
}

/// The manifest of a checkpoint all of whose bytes are right; rank 0 reads it, every rank checks its share. Collective.
Manifest check_all(const std::string& path, Group& group) {
  const Manifest manifest = Manifest::parse(agree(group, [&] { return read_text(path + "/" + checkpoint_manifest_name); }), path);
  settle(group, [&] { check_share(manifest, path, group.rank(), group.size()); });
  return manifest;
}

/// The folder that holds step_<N> folders, given a run folder or itself.
std::string checkpoints_of(const std::string& path) {
  return fs::is_directory(path + "/checkpoints") ? path + "/checkpoints" : path;
}
bool is_checkpoint(const std::string& path) {
  return fs::exists(path + "/" + checkpoint_manifest_name) || step_of(fs::path(path).filename().string()) >= 0;
}

void require_same_model(const Manifest& manifest, const std::string& path, const std::vector<NamedView>& wanted, Match match) {
  std::map<std::string, const Manifest::Tensor*> stored;
  for (const auto& t : manifest.tensors) stored[t.name] = &t;
  const std::string other = path + " is a checkpoint of another model or optimizer: ";
  for (const auto& w : wanted) {
    const auto at = stored.find(w.name);
    require(Exit::bad_data, at != stored.end(), "{}it has no '{}' {}", other, w.name, to_text(w.shape));
    require(Exit::bad_data, at->second->shape == w.shape, "{}'{}' is {} there and {} here", other, w.name,
            to_text(at->second->shape), to_text(w.shape));
    require(w.begin >= 0 && w.begin <= count(w.shape) && w.view.size <= count(w.shape) - w.begin,
            "load_checkpoint: '{}' {}: elements {} to {} are wanted", w.name, to_text(w.shape), w.begin, w.begin + w.view.size);
    stored.erase(at);
  }
  for (const auto& t : manifest.tensors)
    require(Exit::bad_data, match == Match::subset || !stored.contains(t.name), "{}'{}' {} is there and not here", other, t.name,
            to_text(t.shape));
}

/// One tensor or a range of it into its view: through host memory where the view is on a GPU or of another type.
void load_tensor(Reader& reader, std::size_t tensor, DType stored, const NamedView& wanted, const Queue& queue) {
  const std::int64_t n = wanted.view.size;
  if (n == 0) return;
  const bool direct = !queue.on_gpu && stored == wanted.view.dtype;
  Memory staging, converted;
  View host{wanted.view.data, n, stored};
  if (!direct) host.data = (staging = host_memory(host.bytes())).get();
  reader.read(tensor, wanted.begin, n, static_cast<char*>(host.data));
  if (direct) return;
  if (stored != wanted.view.dtype) {
    converted = host_memory(wanted.view.bytes());
    const View to{converted.get(), n, wanted.view.dtype};
    kernels::cast(Queue{}, to, host);
    host = to;
  }
  kernels::copy(queue, wanted.view, host);
  kernels::synchronize(queue);
}

Manifest manifest_of(const FoundCheckpoint& found) {
  return Manifest::parse(read_text(found.path + "/" + checkpoint_manifest_name), found.path);
}

}  // namespace

std::optional<FoundCheckpoint> find_checkpoint(const std::string& folder, Group& group) {
  const auto steps = agree_on(group, [&] { return Json(steps_in(folder)); }).get<std::vector<std::int64_t>>();
  FoundCheckpoint found;
  std::string all = folder + ": every checkpoint is damaged";
  for (const auto step : steps) {
    found.path = step_path(folder, step);
    try {
      const Manifest manifest = check_all(found.path, group);
      found.step = manifest.step, found.state = manifest.state;
      return found;
    } catch (const Error& e) {  // the same on every rank
      found.warnings.push_back(std::string(e.what()) + "; this checkpoint is passed over");
      all += "; " + found.warnings.back();
    }
  }
  if (steps.empty()) return {};
  throw Error(all, Exit::bad_data);
}

FoundCheckpoint open_checkpoint(const std::string& path, Group& group) {
  const std::string one = agree(group, [&] {
    require(Exit::bad_data, fs::is_directory(path), "{}: there is no such folder", path);
    return is_checkpoint(path) ? "" : checkpoints_of(path);
  });
  if (one.empty()) {
    const Manifest manifest = check_all(path, group);
    return {path, manifest.step, manifest.state, {}};
  }
  auto found = find_checkpoint(one, group);
  require(Exit::bad_data, found.has_value(), "{}: there is no complete checkpoint", path);
  return *found;
}

void load_checkpoint(const FoundCheckpoint& found, const std::vector<NamedView>& wanted, Match match, const Queue& queue,
                     Group& group) {
  group.barrier();  // the views may be memory that ranks share: what others did to it before is done
  const std::string text = agree(group, [&] {
    std::string text = read_text(found.path + "/" + checkpoint_manifest_name);
    require_same_model(Manifest::parse(text, found.path), found.path, wanted, match);
    return text;
  });
  settle(group, [&] {
    const Manifest manifest = Manifest::parse(text, found.path);
    require_same_model(manifest, found.path, wanted, match);  // this rank's model too
    std::map<std::string, std::size_t> stored;
    for (std::size_t i = 0; i < manifest.tensors.size(); ++i) stored[manifest.tensors[i].name] = i;
    Reader reader(found.path, manifest);
    for (const auto& w : wanted) {
      const std::size_t at = stored.at(w.name);
      load_tensor(reader, at, manifest.tensors[at].dtype, w, queue);
    }
  });
}

std::vector<StoredTensor> list_checkpoint(const FoundCheckpoint& found) {
  std::vector<StoredTensor> all;
  for (const auto& t : manifest_of(found).tensors) all.push_back({t.name, t.shape, t.dtype});
  return all;
}

std::string verify_checkpoint(const std::string& path) {
  require(Exit::bad_data, fs::is_directory(path), "{}: there is no such folder", path);
  std::vector<std::string> paths;
  if (is_checkpoint(path))
    paths.push_back(path);
  else
    for (const auto step : steps_in(checkpoints_of(path))) paths.push_back(step_path(checkpoints_of(path), step));
  require(Exit::bad_data, !paths.empty(), "{}: there is no checkpoint", path);
  const auto group = solo_group();
  std::string report, damaged;
  for (const auto& each : paths) {
    try {
      const Manifest manifest = check_all(each, *group);
      std::int64_t bytes = 0;
      for (const auto& file : manifest.files) bytes += file.bytes;
      report += fmt::format("{}: {} tensors in {} files, {}, every checksum is right\n", each, manifest.tensors.size(),
                            manifest.files.size(), size_text(bytes));
    } catch (const Error& e) {
      damaged += (damaged.empty() ? "" : "; ") + std::string(e.what());
    }
  }
  require(Exit::bad_data, damaged.empty(), "{}", damaged);
  return report;
}

std::string inspect_checkpoint(const std::string& path) {
  const auto found = open_checkpoint(path, *solo_group());
  const Manifest manifest = manifest_of(found);
  std::string text;
  for (const auto& warning : found.warnings) text += "warning: " + warning + "\n";
  std::int64_t bytes = 0, values = 0;
  std::size_t wide = 0;
  for (const auto& t : manifest.tensors) bytes += t.bytes(), values += count(t.shape), wide = std::max(wide, t.name.size());
  text += fmt::format("{}: step {}, {} tensors, {} values, {}\n", found.path, manifest.step, manifest.tensors.size(), values,
                      size_text(bytes));
  text += "state " + Json::parse(manifest.state).dump() + "\n";
  for (const auto& f : manifest.files) text += fmt::format("  {}  {}\n", f.name, size_text(f.bytes));
  for (const auto& t : manifest.tensors)
    text += fmt::format("  {:{}}  {} {}  {}\n", t.name, wide, to_text(t.shape), name_of(t.dtype), size_text(t.bytes()));
  return text;
}

namespace {

/// A tensor of the checkpoint as f32; integers are exact up to 2^24.
std::vector<float> values_of(Reader& reader, std::size_t tensor, const Manifest::Tensor& stored) {
  std::vector<float> values(std::size_t(count(stored.shape)));
  std::vector<char> bytes(std::size_t(stored.bytes()));
  reader.read(tensor, 0, count(stored.shape), bytes.data());
  const View to{values.data(), std::int64_t(values.size()), DType::f32}, from{bytes.data(), to.size, stored.dtype};
  if (to.size > 0) kernels::cast(Queue{}, to, from);
  return values;
}

/// "3 of 12 values differ, by at most 0.5"; empty when none does. NaN equals NaN.
std::string compare(const std::vector<float>& a, const std::vector<float>& b) {
  std::size_t differing = 0;
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    ++differing;
    const double by = std::abs(double(a[i]) - double(b[i]));
    most = std::isnan(by) ? std::numeric_limits<double>::infinity() : std::max(most, by);
  }
  return differing == 0 ? "" : fmt::format("{} of {} values differ, by at most {:.3g}", differing, a.size(), most);
}

}  // namespace

Difference diff_checkpoints(const std::string& a, const std::string& b) {
  const auto group = solo_group();
  const FoundCheckpoint left = open_checkpoint(a, *group), right = open_checkpoint(b, *group);
  const Manifest first = manifest_of(left), second = manifest_of(right);
  Reader from_first(left.path, first), from_second(right.path, second);
  Difference difference;
  auto tell = [&](const std::string& what) {
    difference.same = false;
    difference.text += what + "\n";
  };
  std::map<std::string, std::size_t> others;
  for (std::size_t i = 0; i < second.tensors.size(); ++i) others[second.tensors[i].name] = i;
  for (std::size_t i = 0; i < first.tensors.size(); ++i) {
    const auto& t = first.tensors[i];
    const auto at = others.find(t.name);
    if (at == others.end()) {
      tell(fmt::format("{}: only in {}", t.name, left.path));
      continue;
    }
    const auto& other = second.tensors[at->second];
    if (t.shape != other.shape || t.dtype != other.dtype)
      tell(fmt::format("{}: {} {} and {} {}", t.name, to_text(t.shape), name_of(t.dtype), to_text(other.shape),
                       name_of(other.dtype)));
    else if (const auto what = compare(values_of(from_first, i, t), values_of(from_second, at->second, other)); !what.empty())
      tell(t.name + ": " + what);
    others.erase(at);
  }
  for (const auto& [name, index] : others) tell(fmt::format("{}: only in {}", name, right.path));
  if (difference.same)
    difference.text = fmt::format("{} and {}: {} equal tensors\n", left.path, right.path, first.tensors.size());
  return difference;
}

}  // namespace lockstep::io
