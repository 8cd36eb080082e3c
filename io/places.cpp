#include "io/places.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace lockstep::io {

FileBytes::FileBytes(std::string path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  require(Exit::bad_data, descriptor_ >= 0, "{}: {}", path_, errno == ENOENT ? "no such file" : std::strerror(errno));
  struct stat status {};
  const bool known = fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  if (!known) ::close(descriptor_);
  require(Exit::bad_data, known, "{}: not a file", path_);
  size_ = std::uint64_t(status.st_size);
}

FileBytes::~FileBytes() {
  ::close(descriptor_);
}

void FileBytes::read(std::uint64_t offset, void* out, std::size_t bytes, const char* what) const {
  require(Exit::bad_data, offset <= size_ && bytes <= size_ - offset,
          "{}: {} lies at {} to {}, beyond the end of the file at {}; the file is damaged", path_, what, offset, offset + bytes,
          size_);
  for (std::size_t done = 0; done < bytes;) {
    const auto n = ::pread(descriptor_, static_cast<char*>(out) + done, bytes - done, off_t(offset + done));
    if (n < 0 && errno == EINTR) continue;
    require(Exit::io, n >= 0, "{}: reading {} bytes at {}: {}", path_, bytes, offset, std::strerror(errno));
    require(Exit::bad_data, n > 0, "{}: the file became shorter while it was read", path_);
    done += std::size_t(n);
  }
}

namespace {

constexpr std::uint64_t nowhere = ~std::uint64_t(0);

/// Little-endian numbers from a block, never beyond its end.
class Reader {
 public:
  Reader(const FileBytes& file, std::uint64_t offset, std::size_t bytes, const char* what)
      : path_(file.path()), what_(what), block_(bytes) {
    file.read(offset, block_.data(), bytes, what);
  }
  std::uint64_t number(int bytes) {
    std::uint64_t value = 0;
    const unsigned char* from = take(std::size_t(bytes));
    for (int i = bytes; i-- > 0;) value = value << 8 | from[i];
    return value;
  }
  std::string text(std::size_t bytes) { return {reinterpret_cast<const char*>(take(bytes)), bytes}; }
  void skip(std::size_t bytes) { take(bytes); }
  std::size_t left() const { return block_.size() - at_; }

 private:
  const unsigned char* take(std::size_t bytes) {
    require(Exit::bad_data, bytes <= left(), "{}: {} ends too early; the file is damaged", path_, what_);
    at_ += bytes;
    return block_.data() + at_ - bytes;
  }
  const std::string& path_;
  const char* what_;
  std::vector<unsigned char> block_;
  std::size_t at_ = 0;
};

/// Bytes before the first byte of HDF5 (a user block).
std::uint64_t base_address(const FileBytes& file) {
  for (std::uint64_t at = 0; at + 48 <= file.size(); at = at ? 2 * at : 512) {
    Reader block(file, at, 48, "the superblock");
    if (block.text(8) != "\x89HDF\r\n\x1a\n") continue;
    const auto version = block.number(1);
    require(Exit::bad_data, version <= 3, "{}: a superblock of version {} is not known", file.path(), version);
    block.skip(version < 2 ? 4 : 0);
    const auto offsets = block.number(1), lengths = block.number(1);
    require(Exit::bad_data, offsets == 8 && lengths == 8, "{}: offsets of {} and lengths of {} bytes are not known, only of 8",
            file.path(), offsets, lengths);
    block.skip(version == 0 ? 9 : version == 1 ? 13 : 1);
    const auto base = block.number(8);
    require(Exit::bad_data, base <= at, "{}: the superblock's base address {} is impossible", file.path(), base);
    return base;
  }
  throw Error(file.path() + ": not an HDF5 file", Exit::bad_data);
}

/// The data layout message of an object header.
struct Layout {
  int kind = -1;  // 0 compact, 1 contiguous, 2 chunks
  std::uint64_t address = 0, bytes = 0;
  Shape chunk;
};

void take_layout(Reader block, const std::string& where, Layout& layout) {
  const auto version = block.number(1);
  require(Exit::bad_data, version == 3 || version == 4, "{}: a layout of version {} is not known", where, version);
  layout.kind = int(block.number(1));
  if (layout.kind == 0) return;
  require(Exit::bad_data, layout.kind == 1 || (layout.kind == 2 && version == 3),
          "{}: its chunks have an index that is not known (made with libver = \"latest\") or it is virtual; `lockstep data "
          "rechunk` writes a file that has a plain one",
          where);
  if (layout.kind == 1) {
    layout.address = block.number(8);
    layout.bytes = block.number(8);
    return;
  }
  const auto axes = block.number(1);
  require(Exit::bad_data, axes >= 2 && axes <= 33, "{}: chunks of {} axes", where, axes);
  layout.address = block.number(8);
  for (std::uint64_t i = 0; i + 1 < axes; ++i) layout.chunk.push_back(std::int64_t(block.number(4)));
}

/// Goes through the messages of an object header of version 1 or 2 with its continuations.
Layout find_layout(const FileBytes& file, std::uint64_t base, std::uint64_t address, const std::string& where) {
  struct Part {
    std::uint64_t offset, bytes;
  };
  std::vector<Part> parts;
  Reader start(file, base + address, 16, "an object header");
  const bool newer = start.text(4) == "OHDR";
  int message_head = 8;
  if (!newer) {
    Reader old(file, base + address, 16, "an object header");
    require(Exit::bad_data, old.number(1) == 1, "{}: its object header is damaged", where);
    old.skip(7);
    parts.push_back({base + address + 16, old.number(4)});
  } else {
    require(Exit::bad_data, start.number(1) == 2, "{}: its object header is of an unknown version", where);
    const auto flags = start.number(1);
    const std::uint64_t before = 6 + (flags & 0x20 ? 16 : 0) + (flags & 0x10 ? 4 : 0);
    const int width = 1 << (flags & 3);
    message_head = flags & 4 ? 6 : 4;
    Reader size(file, base + address + before, std::size_t(width), "an object header");
    parts.push_back({base + address + before + std::uint64_t(width), size.number(width)});
  }
  Layout layout;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    require(Exit::bad_data, i < 1000 && parts[i].bytes < (1u << 24), "{}: its object header has no end; the file is damaged",
            where);
    Reader block(file, parts[i].offset, std::size_t(parts[i].bytes), "an object header");
    while (block.left() >= std::size_t(message_head)) {
      const auto type = block.number(newer ? 1 : 2), size = block.number(2);
      block.skip(std::size_t(message_head - (newer ? 3 : 4)));
      const std::uint64_t at = parts[i].offset + parts[i].bytes - block.left();
      block.skip(std::size_t(size));
      if (type == 0x0008) take_layout(Reader(file, at, std::size_t(size), "a data layout"), where, layout);
      if (type != 0x0010) continue;
      Reader next(file, at, 16, "a continuation");
      const auto offset = base + next.number(8), bytes = next.number(8);
      require(Exit::bad_data, bytes >= 8, "{}: its object header is damaged", where);
      parts.push_back(newer ? Part{offset + 4, bytes - 8} : Part{offset, bytes});  // "OCHK" and a checksum around it
    }
  }
  require(Exit::bad_data, layout.kind >= 0, "{}: its object header names no layout; the file is damaged", where);
  return layout;
}

/// Reads the B-tree of a chunked dataset, node by node.
class ChunkTree {
 public:
  ChunkTree(const FileBytes& file, std::uint64_t base, const Shape& shape, const Shape& chunk, std::string where)
      : file_(file), base_(base), chunk_(chunk), where_(std::move(where)) {
    long double total = 1;
    for (std::size_t i = 0; i < shape.size(); ++i) {
      require(Exit::bad_data, chunk[i] > 0, "{}: chunks of no size; the file is damaged", where_);
      grid_.push_back((shape[i] + chunk[i] - 1) / chunk[i]);
      total *= (long double)grid_.back();
    }
    require(Exit::bad_data, total < 1e9L, "{}: {} chunks are too many", where_, double(total));
    pieces_.resize(std::size_t(count(grid_)));
  }
  std::vector<Place> read(std::uint64_t root) {
    if (root != nowhere && !pieces_.empty()) node(root, -1);
    return std::move(pieces_);
  }

 private:
  void node(std::uint64_t address, int level) {
    // No more nodes than chunks on each of at most 20 levels: damage cannot make this long.
    require(Exit::bad_data, ++nodes_ <= 2 * pieces_.size() + 64, "{}: its chunk index has no end; the file is damaged", where_);
    Reader head(file_, base_ + address, 24, "a chunk index");
    const bool tree = head.text(4) == "TREE" && head.number(1) == 1;
    const int found = int(head.number(1));
    const auto entries = head.number(2);
    require(Exit::bad_data, tree && found < 20 && (level < 0 || found == level), "{}: its chunk index is damaged at {}", where_,
            address);
    const std::size_t key = 8 + 8 * (grid_.size() + 1);
    Reader block(file_, base_ + address + 24, std::size_t(entries) * (key + 8), "a chunk index");
    for (std::uint64_t i = 0; i < entries; ++i) {
      const auto bytes = block.number(4), mask = block.number(4);
      std::int64_t index = 0;
      bool inside = true;
      for (std::size_t axis = 0; axis < grid_.size(); ++axis) {
        const auto at = block.number(8), place = at / std::uint64_t(chunk_[axis]);
        inside = inside && at % std::uint64_t(chunk_[axis]) == 0 && place < std::uint64_t(grid_[axis]);
        index = inside ? index * grid_[axis] + std::int64_t(place) : 0;
      }
      block.skip(8);
      const auto child = block.number(8);
      if (found > 0) {
        node(child, found - 1);
        continue;
      }
      require(Exit::bad_data, child <= file_.size() && bytes <= file_.size(),
              "{}: a chunk lies beyond the end of the file; the file is damaged", where_);
      if (!inside) continue;  // left behind when the dataset was made smaller
      Place& piece = pieces_[std::size_t(index)];
      require(Exit::bad_data, piece.bytes == 0, "{}: its chunk index has chunk {} twice; the file is damaged", where_, index);
      piece = {base_ + child, std::uint32_t(bytes), std::uint32_t(mask)};
    }
  }

  const FileBytes& file_;
  std::uint64_t base_;
  Shape chunk_, grid_;
  std::string where_;
  std::vector<Place> pieces_;
  std::size_t nodes_ = 0;
};

}  // namespace

Places find_places(const FileBytes& file, const hdf5::Data& data) {
  const auto& info = data.info();
  const std::string where = file.path() + ":/" + info.name;
  require(Exit::bad_data, info.layout != "external" && info.layout != "virtual", "{}: its values lie in other files ({})", where,
          info.layout);
  const std::uint64_t base = base_address(file);
  const Layout layout = find_layout(file, base, std::uint64_t(data.header()), where);
  Places places;
  if (layout.kind == 2) {
    require(Exit::bad_data, layout.chunk.size() == info.shape.size(), "{}: its chunks have {} axes, not {}", where,
            layout.chunk.size(), info.shape.size());
    places.chunk = layout.chunk;
    places.pieces = ChunkTree(file, base, info.shape, layout.chunk, where).read(layout.address);
  }
  if (layout.kind != 1) return places;
  const std::int64_t row = std::max<std::int64_t>(1, data.width() * info.bytes);
  places.block = row > (std::int64_t(4) << 20) ? std::int64_t(1) << 20 : row * std::max<std::int64_t>(1, (1 << 16) / row);
  if (layout.address == nowhere) return places;
  for (std::uint64_t at = 0; at < layout.bytes; at += std::uint64_t(places.block))
    places.pieces.push_back(
        {base + layout.address + at, std::uint32_t(std::min(layout.bytes - at, std::uint64_t(places.block))), 0});
  return places;
}

}  // namespace lockstep::io
