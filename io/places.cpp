#include "io/places.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "io/chunk_index.h"

namespace lockstep::io {

namespace {
std::optional<FileState> state_of(int descriptor) {
  struct stat s {};
  if (fstat(descriptor, &s) != 0 || !S_ISREG(s.st_mode)) return {};
  return FileState{s.st_dev, s.st_ino, s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec};
}
}  // namespace

FileBytes::FileBytes(const std::string& path) : FileBytes(::open(path.c_str(), O_RDONLY | O_CLOEXEC), path) {}

FileBytes::FileBytes(int descriptor, std::string path) : path_(std::move(path)), descriptor_(descriptor) {
  require(Exit::bad_data, descriptor_ >= 0, "{}: {}", path_, errno == ENOENT ? "no such file" : std::strerror(errno));
  const auto state = state_of(descriptor_);
  if (!state) ::close(descriptor_);
  require(Exit::bad_data, state.has_value(), "{}: not a file", path_);
  state_ = *state;
}

bool FileBytes::changed() const {
  return state_of(descriptor_) != state_;
}

FileBytes::~FileBytes() {
  ::close(descriptor_);
}

void FileBytes::read(std::uint64_t offset, void* out, std::size_t bytes, const char* what) const {
  require(Exit::bad_data, offset <= size() && bytes <= size() - offset,
          "{}: {} lies at {} to {}, beyond the end of the file at {}; the file is damaged", path_, what, offset, offset + bytes,
          size());
  for (std::size_t done = 0; done < bytes;) {
    const auto n = ::pread(descriptor_, static_cast<char*>(out) + done, bytes - done, off_t(offset + done));
    if (n < 0 && errno == EINTR) continue;
    require(Exit::io, n >= 0, "{}: reading {} bytes at {}: {}", path_, bytes, offset, std::strerror(errno));
    require(Exit::bad_data, n > 0, "{}: the file became shorter while it was read", path_);
    done += std::size_t(n);
  }
}

namespace {

/// Bytes before the first byte of HDF5 (a user block).
struct Base {
  std::uint64_t address = 0;
  std::string unknown = {};
};
Base base_address(const FileBytes& file) {
  for (std::uint64_t at = 0; at + 48 <= file.size(); at = at ? 2 * at : 512) {
    BlockReader block(file, at, 48, "the superblock");
    if (block.text(8) != "\x89HDF\r\n\x1a\n") continue;
    const auto version = block.number(1);
    if (version > 3) return {0, fmt::format("a superblock of version {}", version)};
    block.skip(version < 2 ? 4 : 0);
    const auto offsets = block.number(1), lengths = block.number(1);
    if (offsets != 8 || lengths != 8) return {0, fmt::format("offsets of {} and lengths of {} bytes", offsets, lengths)};
    block.skip(version == 0 ? 9 : version == 1 ? 13 : 1);
    const auto base = block.number(8);
    require(Exit::bad_data, base <= at, "{}: the superblock's base address {} is impossible", file.path(), base);
    return {base};
  }
  throw Error(file.path() + ": not an HDF5 file", Exit::bad_data);
}

/// The data layout message of an object header.
struct Layout {
  int kind = -1;  // 0 compact, 1 contiguous, 2 chunks
  std::uint64_t address = 0, bytes = 0;
  ChunkIndex index = {};
  std::string unknown = {};  // what is written in a way that is not known here
};

void take_layout(BlockReader block, const std::string& where, Layout& layout) {
  const auto version = block.number(1);
  layout.kind = int(block.number(1));
  if (version < 3 || version > 4 || layout.kind > 2) {
    layout.unknown = fmt::format("a layout of version {} and kind {}", version, layout.kind);
    return;
  }
  if (layout.kind == 0) return;
  if (layout.kind == 1) {
    layout.address = block.number(8);
    layout.bytes = block.number(8);
    return;
  }
  auto& index = layout.index;
  const auto flags = version == 4 ? block.number(1) : 0, axes = block.number(1);
  require(Exit::bad_data, axes >= 2 && axes <= 33, "{}: chunks of {} axes", where, axes);
  if (version == 3) index.address = block.number(8);
  const auto width = version == 4 ? block.number(1) : 4;
  require(Exit::bad_data, width >= 1 && width <= 8, "{}: chunks whose sizes have {} bytes", where, width);
  for (std::uint64_t i = 0; i + 1 < axes; ++i) {
    const auto size = block.number(int(width));
    require(Exit::bad_data, size >= 1 && size < 1ull << 32, "{}: chunks of {} along axis {}; the file is damaged", where, size,
            i);
    index.chunk.push_back(std::int64_t(size));
  }
  block.skip(std::size_t(width));  // bytes of a value
  if (version == 3) return;
  const auto kind = block.number(1);
  if (kind < 1 || kind > 5) {
    layout.unknown = fmt::format("an index of kind {}", kind);
    return;
  }
  constexpr ChunkIndex::Kind kinds[] = {ChunkIndex::Kind::single, ChunkIndex::Kind::implicit, ChunkIndex::Kind::fixed_array,
                                        ChunkIndex::Kind::extensible_array, ChunkIndex::Kind::newer_tree};
  constexpr std::size_t settings[] = {0, 0, 1, 5, 6};  // bytes, repeated in the index itself
  index.kind = kinds[kind - 1];
  block.skip(settings[kind - 1]);
  if (kind == 1 && (flags & 2)) index.bytes = block.number(8), index.mask = std::uint32_t(block.number(4));
  index.address = block.number(8);
}

/// Goes through the messages of an object header of version 1 or 2 with its continuations.
Layout find_layout(const FileBytes& file, std::uint64_t base, std::uint64_t address, const std::string& where) {
  struct Part {
    std::uint64_t offset, bytes;
  };
  std::vector<Part> parts;
  BlockReader start(file, base + address, 16, "an object header");
  const bool newer = start.text(4) == "OHDR";
  int message_head = 8;
  if (!newer) {
    BlockReader old(file, base + address, 16, "an object header");
    require(Exit::bad_data, old.number(1) == 1, "{}: its object header is damaged", where);
    old.skip(7);
    parts.push_back({base + address + 16, old.number(4)});
  } else {
    require(Exit::bad_data, start.number(1) == 2, "{}: its object header is of an unknown version", where);
    const auto flags = start.number(1);
    const std::uint64_t before = 6 + (flags & 0x20 ? 16 : 0) + (flags & 0x10 ? 4 : 0);
    const int width = 1 << (flags & 3);
    message_head = flags & 4 ? 6 : 4;
    BlockReader size(file, base + address + before, std::size_t(width), "an object header");
    parts.push_back({base + address + before + std::uint64_t(width), size.number(width)});
  }
  Layout layout;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    require(Exit::bad_data, i < 1000 && parts[i].bytes < (1u << 24), "{}: its object header has no end; the file is damaged",
            where);
    BlockReader block(file, parts[i].offset, std::size_t(parts[i].bytes), "an object header");
    while (block.left() >= std::size_t(message_head)) {
      const auto type = block.number(newer ? 1 : 2), size = block.number(2);
      block.skip(std::size_t(message_head - (newer ? 3 : 4)));
      const std::uint64_t at = parts[i].offset + parts[i].bytes - block.left();
      block.skip(std::size_t(size));
      if (type == 0x0008) take_layout(BlockReader(file, at, std::size_t(size), "a data layout"), where, layout);
      if (type != 0x0010) continue;
      BlockReader next(file, at, 16, "a continuation");
      const auto offset = base + next.number(8), bytes = next.number(8);
      require(Exit::bad_data, bytes >= 8, "{}: its object header is damaged", where);
      parts.push_back(newer ? Part{offset + 4, bytes - 8} : Part{offset, bytes});  // "OCHK" and a checksum around it
    }
  }
  require(Exit::bad_data, layout.kind >= 0, "{}: its object header names no layout; the file is damaged", where);
  return layout;
}

}  // namespace

Places find_places(const FileBytes& file, const hdf5::Data& data) {
  const auto& info = data.info();
  const std::string where = file.path() + ":/" + info.name;
  Places places;
  auto unknown = [&](const std::string& why) {
    places.unknown = where + ": where its values lie can only be found by the HDF5 library: " + why;
    return places;
  };
  if (info.layout == "external" || info.layout == "virtual") return unknown("they lie in other files (" + info.layout + ")");
  const auto base = base_address(file);
  if (!base.unknown.empty()) return unknown(base.unknown);
  const Layout layout = find_layout(file, base.address, std::uint64_t(data.header()), where);
  if (!layout.unknown.empty()) return unknown(layout.unknown);
  if (layout.kind == 2) {
    require(Exit::bad_data, layout.index.chunk.size() == info.shape.size(), "{}: its chunks have {} axes, not {}", where,
            layout.index.chunk.size(), info.shape.size());
    places.chunk = layout.index.chunk;
    places.pieces = read_chunk_index(file, base.address, info, layout.index, where);
  }
  if (layout.kind != 1) return places;
  const std::int64_t row = std::max<std::int64_t>(1, data.width() * info.bytes);
  places.block = row > (std::int64_t(4) << 20) ? std::int64_t(1) << 20 : row * std::max<std::int64_t>(1, (1 << 16) / row);
  if (layout.address == nowhere) return places;
  for (std::uint64_t at = 0; at < layout.bytes; at += std::uint64_t(places.block))
    places.pieces.push_back(
        {base.address + layout.address + at, std::uint32_t(std::min(layout.bytes - at, std::uint64_t(places.block))), 0});
  return places;
}

}  // namespace lockstep::io
