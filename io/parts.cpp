#include "io/parts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "core/checksum.h"
#include "io/data_manifest.h"
#include "io/places.h"
#include "io/stream.h"

namespace lockstep::io {

namespace fs = std::filesystem;

void check_options(const ConvertOptions& options) {
  require(Exit::usage, !options.out.empty(), "data: the output file is missing (-o FILE.h5)");
  require(Exit::usage, options.validation >= 0 && options.validation < 1, "data: the share held out is {}, not in [0, 1)",
          options.validation);
  require(Exit::usage, options.shards >= 1 && options.shards <= 99999, "data: {} shards; 1 to 99999 are possible",
          options.shards);
  require(Exit::usage, options.deflate >= 0 && options.deflate <= 9,
          "data: compression {}; 1 (fast) to 9 are possible, 0 is none", options.deflate);
}

std::int64_t file_bytes(std::int64_t values) {
  return values + values / 1000 + (1 << 17);
}

std::vector<bool> choose_rows(std::int64_t rows, double share) {
  std::vector<bool> chosen(std::size_t(rows), false);
  const std::int64_t n = std::llround(share * double(rows));
  require(Exit::usage, n < rows, "data: holding out {} of {} rows leaves none for training", n, rows);
  const Permutation order(rows, 0x686f6c64206f7574, 0);
  for (std::int64_t i = 0; i < n; ++i) chosen[std::size_t(order(i))] = true;
  return chosen;
}

void tell(const ConvertOptions& options, const char* what, std::int64_t done, std::int64_t total) {
  if (options.progress) options.progress({what, done, total});
}

Shape choose_chunk(const Shape& row, int bytes, std::int64_t rows) {
  constexpr std::int64_t wanted = 1 << 18, most = 1 << 24;
  Shape chunk = row;
  while (count(chunk) * bytes > most) {
    auto longest = std::max_element(chunk.begin(), chunk.end());
    *longest = (*longest + 1) / 2;
  }
  for (auto& n : chunk) n = std::max<std::int64_t>(1, n);
  std::int64_t at_once = std::max<std::int64_t>(1, wanted / std::max<std::int64_t>(1, count(chunk) * bytes));
  if (rows >= 0) at_once = std::clamp<std::int64_t>(at_once, 1, std::max<std::int64_t>(1, rows));
  chunk.insert(chunk.begin(), at_once);
  return chunk;
}

std::string explain_chunk(const Shape& chunk, int bytes) {
  return fmt::format("chunks of {} {}{} ({}): read whole at full speed, and a row in random order costs little more than itself",
                     chunk[0], chunk.size() == 1 ? "value" : "row", chunk[0] == 1 ? "" : "s", size_text(count(chunk) * bytes));
}

std::string checksum_of(const std::vector<std::string>& paths, const ConvertOptions& options) {
  Checksum sum;
  std::vector<char> block(std::size_t(4) << 20);
  for (const auto& path : paths) {
    const FileBytes file(path);
    for (std::uint64_t at = 0; at < file.size();) {
      const auto n = std::min<std::uint64_t>(block.size(), file.size() - at);
      file.read(at, block.data(), n, "the text");
      sum.add(block.data(), n);
      at += n;
      tell(options, "reading", std::int64_t(at), std::int64_t(file.size()));
    }
  }
  return sum.text();
}

// ---- files

namespace {

/// "fashion-00001-of-00004.h5"
std::string shard_name(const std::string& out, std::int64_t shard, std::int64_t shards) {
  if (shards == 1) return out;
  const fs::path path(out);
  return (path.parent_path() / fmt::format("{}-{:05}-of-{:05}{}", path.stem().string(), shard, shards, path.extension().string()))
      .string();
}

bool all_digits(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

/// Removes FILE.tmp.<pid> of a process that is gone: no such process here, nobody holds its lock, and ten minutes old.
void remove_left_over(const std::string& target) {
  const fs::path path(target);
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder_of(target), ignored)) {
    const std::string name = entry.path().filename().string(), begin = path.filename().string() + ".tmp.";
    if (!name.starts_with(begin)) continue;
    const std::string pid = name.substr(begin.size(), name.find('.', begin.size()) - begin.size());
    if (!all_digits(pid) || pid.size() > 9 || kill(std::stoi(pid), 0) == 0 || errno != ESRCH) continue;
    const auto changed = fs::last_write_time(entry.path(), ignored);
    if (ignored || fs::file_time_type::clock::now() - changed < std::chrono::minutes(10)) continue;
    const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;
    if (flock(file, LOCK_EX | LOCK_NB) == 0) ::unlink(entry.path().c_str());
    ::close(file);
  }
}

/// Shards of another number under the same name would be read together with these.
void refuse_other_shards(const std::string& out, std::int64_t shards) {
  const std::string begin = fs::path(out).stem().string() + "-", ending = fs::path(out).extension().string();
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder_of(out), ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.size() != begin.size() + 14 + ending.size() || !name.starts_with(begin) || !name.ends_with(ending)) continue;
    const std::string middle = name.substr(begin.size(), 14);
    if (!all_digits(middle.substr(0, 5)) || middle.substr(5, 4) != "-of-" || !all_digits(middle.substr(9))) continue;
    require(
        Exit::usage, std::stoll(middle.substr(9)) == shards,
        "{}: there are shards of an earlier conversion ({}), which would be read together with the new ones; remove them first",
        out, name);
  }
}

}  // namespace

DataFiles::DataFiles(const ConvertOptions& options, std::int64_t bytes) : options_(options), bytes_(bytes) {
  if (options.shards > 1) refuse_other_shards(options.out, options.shards);
  for (std::int64_t shard = 0; shard < options.shards; ++shard) {
    targets_.push_back(shard_name(options.out, shard, options.shards));
    remove_left_over(targets_.back());
    outputs_.push_back(std::make_unique<Output>(targets_.back(), shard == 0 ? bytes : 1));
  }
  write([&] {
    for (const auto& output : outputs_) files_.push_back(hdf5::File::create(output->path()));
  });
}

DataFiles::~DataFiles() {
  for (const auto& manifest : manifests_) ::unlink(manifest.c_str());
}

void DataFiles::write(const std::function<void()>& fill) {
  try {
    fill();
  } catch (const Error& e) {
    const std::string text = e.what();
    if (e.exit() != Exit::io) throw;
    for (int problem : {ENOSPC, EFBIG, EDQUOT})
      if (text.find(std::strerror(problem)) != std::string::npos) write_failed(targets_[0], bytes_, problem);
    throw;
  }
}

void DataFiles::set_origin(const std::vector<std::string>& inputs, const std::string& checksum) {
  if (!options_.source.empty()) set("", "source", options_.source);
  if (!options_.licence.empty()) set("", "licence", options_.licence);
  std::vector<std::string> names;
  for (const auto& input : inputs)
    if (names.size() < 100) names.push_back(fs::path(input).filename().string());
  set("", "source_files", names);
  set("", "source_xxh3", checksum);
  set("", "made by", std::string("lockstep data"));
}

void DataFiles::close() {
  for (auto& file : files_) file.close();
  files_.clear();
}

void DataFiles::commit() {
  write([&] {
    close();
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      tell(options_, "checksums", std::int64_t(i), std::int64_t(outputs_.size()));
      manifests_.push_back(outputs_[i]->path() + ".manifest");
      write_manifest(outputs_[i]->path(), manifests_.back());
    }
  });
  // Until the new manifest has its name there is none: a kill in between leaves no file that contradicts its manifest.
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const std::string manifest = DataManifest::path_of(targets_[i]);
    if (::unlink(manifest.c_str()) != 0 && errno != ENOENT) write_failed(manifest, bytes_, errno);
    outputs_[i]->commit();
    if (::rename(manifests_[i].c_str(), manifest.c_str()) != 0) write_failed(manifest, bytes_, errno);
    sync_folder(folder_of(manifest));
  }
  manifests_.clear();
}

std::string DataFiles::names() const {
  return targets_.size() == 1 ? targets_[0] : fmt::format("{} and {} more", targets_[0], targets_.size() - 1);
}

// ---- rows

PartWriter::PartWriter(DataFiles& files, std::string name, const hdf5::Number& number, Shape row, std::int64_t rows, int deflate)
    : files_(&files),
      name_(std::move(name)),
      number_(number),
      row_(std::move(row)),
      rows_(rows),
      deflate_(deflate),
      row_bytes_(std::size_t(count(row_) * number.bytes)) {
  require(Exit::usage, rows < 0 || rows >= std::int64_t(files.count()), "data: {} shards, but only {} rows for '{}'",
          files.count(), rows, name_);
  chunk_ =
      choose_chunk(row_, number.bytes, rows < 0 ? -1 : (rows + std::int64_t(files.count()) - 1) / std::int64_t(files.count()));
}

std::int64_t PartWriter::end_of(std::size_t shard) const {
  const auto n = std::int64_t(files_->count());
  return rows_ / n * std::int64_t(shard + 1) + rows_ % n * std::int64_t(shard + 1) / n;
}

void PartWriter::add(const void* rows, std::int64_t count) {
  const auto* from = static_cast<const std::byte*>(rows);
  while (count > 0) {
    std::int64_t n = count;
    if (rows_ >= 0) {
      while (written_ == end_of(shard_) && shard_ + 1 < files_->count()) next_shard();
      n = std::min(count, end_of(shard_) - written_);
      require(n > 0, "data: more than {} rows for '{}'", rows_, name_);
    }
    pending_.insert(pending_.end(), from, from + std::size_t(n) * row_bytes_);
    from += std::size_t(n) * row_bytes_;
    written_ += n;
    count -= n;
    if (pending_.size() >= (std::size_t(4) << 20)) flush(false);
  }
}

void PartWriter::flush(bool all) {
  // Whole chunks, so that none is compressed twice.
  std::int64_t rows = std::int64_t(pending_.size() / std::max<std::size_t>(1, row_bytes_));
  if (!all) rows = std::max(rows / chunk_[0] * chunk_[0], std::min(rows, chunk_[0]));
  if (!data_) {
    // Small parts of unknown size: a chunk is no larger than the part.
    Shape chunk = chunk_;
    if (rows_ < 0 && all) chunk[0] = std::clamp<std::int64_t>(rows, 1, chunk[0]);
    std::int64_t fixed = rows_ < 0 ? -1 : end_of(shard_) - (shard_ > 0 ? end_of(shard_ - 1) : 0);
    if (fixed >= 0) chunk[0] = std::clamp<std::int64_t>(chunk[0], 1, std::max<std::int64_t>(1, fixed));
    data_ = std::make_unique<hdf5::Data>(
        files_->file(shard_).create_rows(name_, number_, row_, {.chunk = chunk, .rows = fixed, .deflate = deflate_}));
  }
  data_->append(rows, pending_.data());
  pending_.erase(pending_.begin(), pending_.begin() + std::ptrdiff_t(std::size_t(rows) * row_bytes_));
}

void PartWriter::next_shard() {
  flush(true);
  data_.reset();
  ++shard_;
}

void PartWriter::finish() {
  require(rows_ < 0 || written_ == rows_, "data: {} of {} rows were written to '{}'", written_, rows_, name_);
  flush(true);
  data_.reset();
}

}  // namespace lockstep::io
