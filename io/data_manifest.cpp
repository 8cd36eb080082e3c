#include "io/data_manifest.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/checksum.h"
#include "io/output.h"

namespace lockstep::io {

namespace {

using Json = nlohmann::json;

constexpr char magic[] = "LSDATA01";
struct Gap {
  std::uint64_t offset, bytes;
};
struct Head {
  char magic[8];
  std::uint64_t high, low;  // of all that follows them
  std::uint64_t file_bytes, json_bytes, gap_bytes, piece_bytes;
};
constexpr std::size_t hashed_from = 24;
static_assert(sizeof(Head) == 56 && sizeof(Gap) == 16 && sizeof(DataManifest::Piece) == 32);

/// Hash of the bytes that are in no piece, in the order of the file.
Digest hash_gaps(const FileBytes& file, std::span<const Gap> gaps) {
  Checksum sum;
  std::vector<char> block(std::size_t(1) << 16);
  for (const auto& gap : gaps)
    for (std::uint64_t done = 0; done < gap.bytes;) {
      const auto n = std::min<std::uint64_t>(block.size(), gap.bytes - done);
      file.read(gap.offset + done, block.data(), n, "the file's own part");
      sum.add(block.data(), n);
      done += n;
    }
  return sum.digest();
}

/// What lies between the pieces. Throws when pieces overlap.
std::vector<Gap> find_gaps(const FileBytes& file, const std::vector<DataManifest::Piece>& pieces) {
  std::vector<Gap> used;
  for (const auto& piece : pieces)
    if (piece.bytes > 0) used.push_back({piece.offset, piece.bytes});
  auto before = [](const Gap& a, const Gap& b) { return a.offset < b.offset; };
  if (!std::is_sorted(used.begin(), used.end(), before)) std::sort(used.begin(), used.end(), before);
  std::vector<Gap> gaps;
  std::uint64_t at = 0;
  for (const auto& piece : used) {
    require(Exit::bad_data, piece.offset >= at, "{}: two chunks lie at {}; the file is damaged", file.path(), piece.offset);
    if (piece.offset > at) gaps.push_back({at, piece.offset - at});
    at = piece.offset + piece.bytes;
  }
  if (file.size() > at) gaps.push_back({at, file.size() - at});
  return gaps;
}

[[noreturn]] void damaged(const std::string& path) {
  throw Error(path +
                  ": the manifest is damaged; if the data file is good (`lockstep data verify` after moving the manifest "
                  "away says so), write another with `lockstep data manifest`",
              Exit::bad_data);
}

}  // namespace

std::string DataManifest::path_of(const std::string& data_path) {
  return data_path + ".manifest";
}

const DataManifest::Dataset* DataManifest::find(std::string_view name) const {
  while (name.starts_with('/')) name.remove_prefix(1);
  for (const auto& dataset : datasets_)
    if (dataset.name == name) return &dataset;
  return nullptr;
}

std::span<const DataManifest::Piece> DataManifest::pieces(const Dataset& dataset) const {
  return {pieces_.data() + dataset.first, std::size_t(dataset.count)};
}

void DataManifest::check(const Dataset& dataset, std::int64_t index, std::span<const std::byte> stored) const {
  require(index >= 0 && index < dataset.count, "{}:/{}: there is no piece {}", path_, dataset.name, index);
  const Piece& piece = pieces_[std::size_t(dataset.first + index)];
  const auto hash = digest(stored.data(), stored.size());
  require(Exit::bad_data, stored.size() == piece.bytes && hash == Digest{piece.high, piece.low},
          "{}:/{}: {} {}, {} bytes at {}, is not what was written; the file is damaged", path_, dataset.name,
          dataset.chunk.empty() ? "block" : "chunk", index, stored.size(), piece.offset);
}

std::int64_t DataManifest::check_all() const {
  const FileBytes file(path_);
  std::vector<std::byte> stored;
  std::int64_t checked = 0;
  for (const auto& dataset : datasets_)
    for (std::int64_t i = 0; i < dataset.count; ++i) {
      const Piece& piece = pieces(dataset)[std::size_t(i)];
      if (piece.bytes == 0) continue;
      stored.resize(piece.bytes);
      file.read(piece.offset, stored.data(), stored.size(), "a piece");
      check(dataset, i, stored);
      ++checked;
    }
  return checked;
}

std::optional<DataManifest> DataManifest::load(const std::string& data_path) {
  const std::string path = path_of(data_path);
  if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT) return {};
  const FileBytes stored(path);
  Head head;
  if (stored.size() < sizeof head) damaged(path);
  std::vector<char> text(stored.size());
  stored.read(0, text.data(), text.size(), "the manifest");
  std::memcpy(&head, text.data(), sizeof head);
  if (std::memcmp(head.magic, magic, 8) != 0) damaged(path);
  const auto hash = digest(text.data() + hashed_from, text.size() - hashed_from);
  if (hash != Digest{head.high, head.low}) damaged(path);
  // What follows was written by write_manifest; sizes are checked all the same.
  std::uint64_t left = text.size() - sizeof head;
  for (std::uint64_t part : {head.json_bytes, head.gap_bytes, head.piece_bytes}) {
    if (part > left) damaged(path);
    left -= part;
  }
  if (left != 0 || head.gap_bytes % sizeof(Gap) != 0 || head.piece_bytes % sizeof(Piece) != 0) damaged(path);

  DataManifest manifest;
  manifest.path_ = data_path;
  const char* at = text.data() + sizeof head;
  const auto json = Json::parse(at, at + head.json_bytes, nullptr, false);
  at += head.json_bytes;
  std::vector<Gap> gaps(head.gap_bytes / sizeof(Gap));
  if (!gaps.empty()) std::memcpy(gaps.data(), at, head.gap_bytes);
  at += head.gap_bytes;
  manifest.pieces_.resize(head.piece_bytes / sizeof(Piece));
  if (!manifest.pieces_.empty()) std::memcpy(manifest.pieces_.data(), at, head.piece_bytes);

  const FileBytes file(data_path);
  auto changed = [&](const char* what) {
    throw Error(
        data_path + ": " + what +
            " what its manifest says: it was changed or damaged since. If the change was meant, `lockstep data manifest " +
            data_path + "` writes another",
        Exit::bad_data);
  };
  if (file.size() != head.file_bytes) changed("its size is not");
  std::uint64_t own_high = 0, own_low = 0;
  std::int64_t first = 0;
  try {
    own_high = json.at("own")[0], own_low = json.at("own")[1];
    for (const auto& one : json.at("datasets")) {
      Dataset dataset{one.at("name"), one.at("shape"), one.at("chunk"), one.at("block"), first, one.at("pieces")};
      if (dataset.count < 0 || dataset.count > std::int64_t(manifest.pieces_.size()) - first) damaged(path);
      first += dataset.count;
      manifest.datasets_.push_back(std::move(dataset));
    }
  } catch (const Json::exception&) {
    damaged(path);
  }
  if (first != std::int64_t(manifest.pieces_.size())) damaged(path);
  for (const auto& piece : manifest.pieces_)
    if (piece.offset > file.size() || piece.bytes > file.size() - piece.offset) damaged(path);
  const auto own = hash_gaps(file, gaps);
  if (own.high != own_high || own.low != own_low) changed("its structures and attributes are not");
  return manifest;
}

void write_manifest(const std::string& data_path, const std::string& out) {
  const FileBytes file(data_path);
  DataManifest manifest;
  auto datasets = Json::array();
  {
    const auto library = hdf5::File::open(data_path);
    std::vector<char> block;
    for (const auto& info : library.datasets()) {
      const auto places = find_places(file, library.dataset(info.name));
      require(Exit::bad_data, places.unknown.empty(), "{}", places.unknown);
      for (const auto& place : places.pieces) {
        block.resize(place.bytes);
        file.read(place.offset, block.data(), block.size(), "a chunk");
        const auto hash = digest(block.data(), block.size());
        manifest.pieces_.push_back({place.offset, place.bytes, place.filter_mask, hash.high, hash.low});
      }
      datasets.push_back({{"name", info.name},
                          {"shape", info.shape},
                          {"chunk", places.chunk},
                          {"block", places.block},
                          {"type", info.type_text},
                          {"pieces", places.pieces.size()}});
    }
  }
  const auto gaps = find_gaps(file, manifest.pieces_);
  const auto own = hash_gaps(file, gaps);
  const std::string json = Json{{"datasets", datasets}, {"own", {own.high, own.low}}}.dump();

  Head head{{}, 0, 0, file.size(), json.size(), gaps.size() * sizeof(Gap), manifest.pieces_.size() * sizeof(DataManifest::Piece)};
  std::memcpy(head.magic, magic, 8);
  std::string text(reinterpret_cast<const char*>(&head), sizeof head);
  text += json;
  text.append(reinterpret_cast<const char*>(gaps.data()), head.gap_bytes);
  text.append(reinterpret_cast<const char*>(manifest.pieces_.data()), head.piece_bytes);
  const auto hash = digest(text.data() + hashed_from, text.size() - hashed_from);
  head.high = hash.high, head.low = hash.low;
  std::memcpy(text.data(), &head, sizeof head);
  replace_text(out, text);
}

}  // namespace lockstep::io
