// From the HDF5 File Format Specification, version 3.0, III.A.1 and .2 (B-trees) and VII (arrays of chunks).

#include "io/chunk_index.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace lockstep::io {

std::uint32_t lookup3(const unsigned char* bytes, std::size_t count) {
  using std::rotl;
  std::uint32_t a = 0xdeadbeef + std::uint32_t(count), b = a, c = a;
  auto add = [&](const unsigned char* from) {
    std::uint32_t words[3];
    std::memcpy(words, from, 12);
    a += words[0], b += words[1], c += words[2];
  };
  for (; count > 12; bytes += 12, count -= 12) {
    add(bytes);
    a = (a - c) ^ rotl(c, 4), c += b;
    b = (b - a) ^ rotl(a, 6), a += c;
    c = (c - b) ^ rotl(b, 8), b += a;
    a = (a - c) ^ rotl(c, 16), c += b;
    b = (b - a) ^ rotl(a, 19), a += c;
    c = (c - b) ^ rotl(b, 4), b += a;
  }
  if (count == 0) return c;
  unsigned char rest[12] = {};
  std::memcpy(rest, bytes, count);
  add(rest);
  c = (c ^ b) - rotl(b, 14);
  a = (a ^ c) - rotl(c, 11);
  b = (b ^ a) - rotl(a, 25);
  c = (c ^ b) - rotl(b, 16);
  a = (a ^ c) - rotl(c, 4);
  b = (b ^ a) - rotl(a, 14);
  return (c ^ b) - rotl(b, 24);
}

BlockReader::BlockReader(const FileBytes& file, std::uint64_t offset, std::size_t bytes, const char* what)
    : path_(file.path()), what_(what) {
  require(Exit::bad_data, offset <= file.size() && bytes <= file.size() - offset,  // before memory is taken for it
          "{}: {} lies at {} to {}, beyond the end of the file at {}; the file is damaged", path_, what, offset, offset + bytes,
          file.size());
  block_.resize(bytes);
  file.read(offset, block_.data(), bytes, what);
}

const unsigned char* BlockReader::take(std::size_t bytes) {
  require(Exit::bad_data, bytes <= left(), "{}: {} ends too early; the file is damaged", path_, what_);
  at_ += bytes;
  return block_.data() + at_ - bytes;
}

void BlockReader::check_sum() {
  bool good = block_.size() >= 4;
  if (good) {
    std::uint32_t stored;
    std::memcpy(&stored, block_.data() + block_.size() - 4, 4);
    good = stored == lookup3(block_.data(), block_.size() - 4);
    block_.resize(block_.size() - 4);
  }
  require(Exit::bad_data, good, "{}: the checksum of {} does not match; the file is damaged", path_, what_);
}

namespace {

/// Reads one index, whatever its kind, into a table of the chunks inside the dataset.
class IndexReader {
 public:
  IndexReader(const FileBytes& file, std::uint64_t base, const hdf5::Info& info, const ChunkIndex& index,
              const std::string& where)
      : file_(file), base_(base), index_(index), where_(where) {
    std::size_t axis = 0;
    for (std::size_t i = 0; i < info.shape.size(); ++i) {
      require(Exit::bad_data, index.chunk[i] > 0, "{}: chunks of no size; the file is damaged", where_);
      auto chunks = [&](std::int64_t n) { return n / index.chunk[i] + (n % index.chunk[i] != 0); };
      grid_.push_back(chunks(info.shape[i]));
      most_.push_back(chunks(std::max(info.limit[i], info.shape[i])));
      if (info.limit[i] < 0) axis = i;
      chunk_bytes_ *= std::uint64_t(index.chunk[i]);
    }
    chunk_bytes_ *= std::uint64_t(info.bytes);
    unlimited_ = axis;
    pieces_.resize(std::size_t(count(grid_)));
  }

  std::vector<Place> read() {
    if (index_.address == nowhere || pieces_.empty()) return std::move(pieces_);
    switch (index_.kind) {
      case ChunkIndex::Kind::tree: tree_node(index_.address, -1); break;
      case ChunkIndex::Kind::single: put(0, index_.address, index_.bytes ? index_.bytes : chunk_bytes_, index_.mask); break;
      case ChunkIndex::Kind::implicit:
        for (std::uint64_t i = 0; i < pieces_.size(); ++i)
          put(std::int64_t(i), index_.address + array_index(i) * chunk_bytes_, chunk_bytes_, 0);
        break;
      case ChunkIndex::Kind::fixed_array: fixed_array(); break;
      case ChunkIndex::Kind::extensible_array: extensible_array(); break;
      default: newer_tree(); break;
    }
    return std::move(pieces_);
  }

 private:
  [[noreturn]] void damaged(std::uint64_t address) const {
    throw Error(where_ + ": its chunk index is damaged at " + std::to_string(address), Exit::bad_data);
  }

  /// A block of the index. All of them together are no more than the file, or they lie across one another.
  BlockReader block_at(std::uint64_t address, std::uint64_t bytes) {
    read_ += bytes;
    if (bytes > file_.size() || read_ > file_.size()) damaged(address);
    return {file_, base_ + address, std::size_t(bytes), "a chunk index"};
  }

  /// Notes a chunk; -1: left behind when the dataset was made smaller.
  void put(std::int64_t index, std::uint64_t address, std::uint64_t bytes, std::uint64_t mask) {
    if (index < 0 || address == nowhere) return;
    const std::uint64_t size = file_.size();
    require(Exit::bad_data, address <= size && base_ + address <= size && bytes <= size - base_ - address && bytes < 1ull << 32,
            "{}: a chunk lies beyond the end of the file; the file is damaged", where_);
    Place& piece = pieces_[std::size_t(index)];
    require(Exit::bad_data, piece.bytes == 0, "{}: its chunk index has chunk {} twice; the file is damaged", where_, index);
    piece = {base_ + address, std::uint32_t(bytes), std::uint32_t(mask)};
  }

  /// Entries of the trees; each chunk inside has one, and damage must not make this long.
  void count_entries(std::uint64_t n) {
    entries_ += n;
    require(Exit::bad_data, entries_ <= 8 * pieces_.size() + 65536, "{}: its chunk index has no end; the file is damaged",
            where_);
  }

  // ---- version 1 B-tree: what HDF5 makes unless told otherwise

  void tree_node(std::uint64_t address, int level) {
    count_entries(1);
    BlockReader head = block_at(address, 24);
    const bool tree = head.text(4) == "TREE" && head.number(1) == 1;
    const int found = int(head.number(1));
    const auto entries = head.number(2);
    if (!tree || found >= 20 || (level >= 0 && found != level)) damaged(address);
    count_entries(entries);
    const std::size_t key = 8 + 8 * (grid_.size() + 1);
    BlockReader block = block_at(address + 24, entries * (key + 8));
    for (std::uint64_t i = 0; i < entries; ++i) {
      const auto bytes = block.number(4), mask = block.number(4);
      std::int64_t index = 0;
      for (std::size_t axis = 0; axis < grid_.size(); ++axis) {
        const auto at = block.number(8), place = at / std::uint64_t(index_.chunk[axis]);
        const bool inside = index >= 0 && at % std::uint64_t(index_.chunk[axis]) == 0 && place < std::uint64_t(grid_[axis]);
        index = inside ? index * grid_[axis] + std::int64_t(place) : -1;
      }
      block.skip(8);
      const auto child = block.number(8);
      if (found > 0)
        tree_node(child, found - 1);
      else
        put(index, child, bytes, mask);
    }
  }

  // ---- arrays: chunk i of the largest grid is element i, with the axis that may grow without end first

  /// Element of the array that belongs to chunk i of the grid.
  std::uint64_t array_index(std::uint64_t i) const {
    std::uint64_t index = 0, down = 1, at = 0;
    for (std::size_t axis = grid_.size(); axis-- > 0;) {
      const auto place = i % std::uint64_t(grid_[axis]);
      i /= std::uint64_t(grid_[axis]);
      if (axis == unlimited_) {
        at = place;
      } else {
        index += place * down;
        down *= std::uint64_t(most_[axis]);
      }
    }
    return index + at * down;
  }

  /// An array's elements arrive in blocks: their chunks are found by element, so all of them are asked for in that order.
  struct Wanted {
    std::uint64_t element;
    std::int64_t chunk;
  };
  void want_all() {
    for (std::uint64_t i = 0; i < pieces_.size(); ++i) wanted_.push_back({array_index(i), std::int64_t(i)});
    auto before = [](const Wanted& a, const Wanted& b) { return a.element < b.element; };
    if (!std::ranges::is_sorted(wanted_, before)) std::ranges::sort(wanted_, before);
  }
  bool wants(std::uint64_t first, std::uint64_t n) const { return next_ < wanted_.size() && wanted_[next_].element < first + n; }

  /// What an array says about its elements.
  struct Elements {
    bool filtered = false;
    int bytes = 0;
  };
  Elements elements_of(BlockReader& head, std::uint64_t address) const {
    const auto filtered = head.number(1);
    const int bytes = int(head.number(1));
    if (filtered > 1 || bytes < (filtered ? 13 : 8) || bytes > (filtered ? 20 : 8)) damaged(address);
    return {filtered == 1, bytes};
  }
  /// Elements [first, first + n) of the array, from a block.
  void take_elements(BlockReader& block, const Elements& elements, std::uint64_t first, std::uint64_t n) {
    for (std::uint64_t at = first; wants(first, n); ++next_, ++at) {
      block.skip(std::size_t((wanted_[next_].element - at) * std::uint64_t(elements.bytes)));
      at = wanted_[next_].element;
      const auto address = block.number(8);
      const auto bytes = elements.filtered ? block.number(elements.bytes - 12) : chunk_bytes_;
      put(wanted_[next_].chunk, address, bytes, elements.filtered ? block.number(4) : 0);
    }
  }
  /// Drops elements [first, first + n): none of their chunks was written.
  void skip_elements(std::uint64_t first, std::uint64_t n) {
    while (wants(first, n)) ++next_;
  }
  /// The begin of a block: a signature, version 0, the kind of elements, the address of the array's head.
  void check_begin(BlockReader& block, const char* signature, const Elements& elements, std::uint64_t address) const {
    const bool good = block.text(4) == signature && block.number(1) == 0 && block.number(1) == std::uint64_t(elements.filtered) &&
                      block.number(8) == index_.address;
    if (!good) damaged(address);
  }
  /// Elements of a block that is cut into pages of `page` elements, each with its checksum; `used` says which hold anything.
  template <class Used>
  void take_pages(std::uint64_t address, const Elements& elements, std::uint64_t first, std::uint64_t n, std::uint64_t page,
                  Used used) {
    for (std::uint64_t at = 0, i = 0; at < n; at += page, ++i) {
      const auto here = std::min(page, n - at), bytes = here * std::uint64_t(elements.bytes) + 4;
      if (used(i) && wants(first + at, here)) {
        BlockReader block = block_at(address, bytes);
        block.check_sum();
        take_elements(block, elements, first + at, here);
      } else {
        skip_elements(first + at, here);
      }
      address += bytes;
    }
  }

  void fixed_array() {
    BlockReader head = block_at(index_.address, 28);
    head.check_sum();
    if (head.text(4) != "FAHD" || head.number(1) != 0) damaged(index_.address);
    const Elements elements = elements_of(head, index_.address);
    const auto page_bits = head.number(1), n = head.number(8), address = head.number(8);
    want_all();
    if (page_bits > 31 || n > file_.size() || wanted_.back().element >= n) damaged(index_.address);
    if (address == nowhere) return;
    const std::uint64_t page = std::uint64_t(1) << page_bits;
    const bool paged = n > page;
    const std::uint64_t bits = paged ? ((n + page - 1) / page + 7) / 8 : 0;
    const std::uint64_t bytes = 14 + (paged ? bits : n * std::uint64_t(elements.bytes)) + 4;
    BlockReader block = block_at(address, bytes);
    block.check_sum();
    check_begin(block, "FADB", elements, address);
    if (!paged) return take_elements(block, elements, 0, n);
    const std::string used = block.text(std::size_t(bits));
    take_pages(address + bytes, elements, 0, n, page, [&](std::uint64_t i) { return bit(used, i); });
  }
  static bool bit(const std::string& bits, std::uint64_t i) {
    return (std::uint8_t(bits[std::size_t(i / 8)]) & (0x80 >> i % 8)) != 0;
  }

  /// An index block holds the first elements, then come data blocks, two sizes of them for each doubling: super block s has
  /// 2^(s / 2) of 2^((s + 1) / 2) * smallest elements. The first super blocks have no block of their own: the index block lists
  /// their data blocks.
  struct Extensible {
    Elements elements;
    std::uint64_t inside, smallest, page, offset_bytes;
  };
  void extensible_array() {
    BlockReader head = block_at(index_.address, 72);
    head.check_sum();
    if (head.text(4) != "EAHD" || head.number(1) != 0) damaged(index_.address);
    Extensible array{elements_of(head, index_.address), 0, 0, 0, 0};
    const auto bits = head.number(1);
    array.inside = head.number(1), array.smallest = head.number(1);
    const auto pointers = head.number(1), page_bits = head.number(1);
    head.skip(48);
    const auto address = head.number(8);
    const bool sane = bits >= 1 && bits <= 64 && std::has_single_bit(array.smallest) && std::has_single_bit(pointers) &&
                      page_bits <= 31 && bits + 1 > std::uint64_t(std::countr_zero(array.smallest));
    if (!sane) damaged(index_.address);
    array.page = std::uint64_t(1) << page_bits, array.offset_bytes = (bits + 7) / 8;
    want_all();
    if (address == nowhere) return;
    const std::uint64_t supers = 1 + bits - std::uint64_t(std::countr_zero(array.smallest)),
                        listed = std::min<std::uint64_t>(supers, 2 * std::uint64_t(std::countr_zero(pointers))),
                        datas = 2 * (pointers - 1);
    BlockReader block =
        block_at(address, 14 + array.inside * std::uint64_t(array.elements.bytes) + 8 * (datas + supers - listed) + 4);
    block.check_sum();
    check_begin(block, "EAIB", array.elements, address);
    const std::size_t behind = block.left() - std::size_t(array.inside * std::uint64_t(array.elements.bytes));
    take_elements(block, array.elements, 0, array.inside);
    block.skip(block.left() - behind);
    std::uint64_t first = array.inside;
    for (std::uint64_t s = 0; s < supers && next_ < wanted_.size(); ++s) {
      const std::uint64_t blocks = std::uint64_t(1) << s / 2, n = (std::uint64_t(1) << (s + 1) / 2) * array.smallest;
      if (s < listed) {
        for (std::uint64_t i = 0; i < blocks; ++i, first += n) data_block(array, block.number(8), first, n, {}, 0);
      } else {
        super_block(array, block.number(8), first, blocks, n);
        first += blocks * n;
      }
    }
  }
  void super_block(const Extensible& array, std::uint64_t address, std::uint64_t first, std::uint64_t blocks, std::uint64_t n) {
    if (address == nowhere || !wants(first, blocks * n)) return skip_elements(first, blocks * n);
    const std::uint64_t pages = n > array.page ? n / array.page : 0, bits = blocks * ((pages + 7) / 8);
    if (blocks > file_.size() || bits > file_.size()) damaged(address);
    BlockReader block = block_at(address, 14 + array.offset_bytes + bits + 8 * blocks + 4);
    block.check_sum();
    check_begin(block, "EASB", array.elements, address);
    block.skip(array.offset_bytes);  // which elements they are; not always true in files of the library
    const std::string used = block.text(std::size_t(bits));
    for (std::uint64_t i = 0; i < blocks; ++i, first += n) data_block(array, block.number(8), first, n, used, i * pages);
  }
  void data_block(const Extensible& array, std::uint64_t address, std::uint64_t first, std::uint64_t n, const std::string& used,
                  std::uint64_t first_bit) {
    if (address == nowhere || !wants(first, n)) return skip_elements(first, n);
    const bool paged = n > array.page;
    if (n > file_.size() || (paged && used.empty())) damaged(address);
    const std::uint64_t bytes = 14 + array.offset_bytes + (paged ? 0 : n * std::uint64_t(array.elements.bytes)) + 4;
    BlockReader block = block_at(address, bytes);
    block.check_sum();
    check_begin(block, "EADB", array.elements, address);
    block.skip(array.offset_bytes);
    if (!paged) return take_elements(block, array.elements, first, n);
    take_pages(address + bytes, array.elements, first, n, array.page, [&](std::uint64_t i) { return bit(used, first_bit + i); });
  }

  // ---- version 2 B-tree: datasets that may grow along several axes

  struct Level {
    std::uint64_t most, below;  // records of a node, and of all below it
    int pointer;                // bytes of a pointer to a child of this level
    int counts, all;            // bytes of its two numbers of records
  };
  static int width_of(std::uint64_t limit) { return limit == 0 ? 1 : (std::bit_width(limit) - 1) / 8 + 1; }
  void newer_tree() {
    BlockReader head = block_at(index_.address, 38);
    head.check_sum();
    if (head.text(4) != "BTHD" || head.number(1) != 0) damaged(index_.address);
    const auto type = head.number(1), node = head.number(4), record = head.number(2), depth = head.number(2);
    head.skip(2);
    const auto root = head.number(8), records = head.number(2);
    const std::uint64_t least = 8 + 8 * grid_.size() + (type == 11 ? 5 : 0);
    const bool sane = (type == 10 || type == 11) && record >= least && record <= least + (type == 11 ? 7 : 0) &&
                      node <= 1 << 20 && node > 10 + record && depth < 20;
    if (!sane) damaged(index_.address);
    record_ = record, filtered_ = type == 11;
    const std::uint64_t leaf = (node - 10) / record;
    levels_.push_back({leaf, leaf, 0, width_of(leaf), 0});
    for (std::uint64_t d = 1; d <= depth; ++d) {
      const Level& child = levels_.back();
      const int all = d > 1 ? width_of(child.below) : 0, pointer = 8 + levels_[0].counts + all;
      if (node <= 10 + std::uint64_t(pointer) + record) damaged(index_.address);
      const std::uint64_t most = (node - 10 - std::uint64_t(pointer)) / (record + std::uint64_t(pointer));
      const bool fits = child.below < (std::uint64_t(1) << 62) / (most + 1);
      levels_.push_back({most, fits ? (most + 1) * child.below + most : child.below, pointer, levels_[0].counts, all});
    }
    if (root != nowhere) newer_node(root, records, int(depth));
  }
  void newer_node(std::uint64_t address, std::uint64_t records, int depth) {
    const Level& level = levels_[std::size_t(depth)];
    if (records > level.most) damaged(address);
    count_entries(1 + records);
    const std::uint64_t pointers = depth > 0 ? (records + 1) * std::uint64_t(level.pointer) : 0;
    BlockReader block = block_at(address, 10 + records * record_ + pointers);
    block.check_sum();
    const bool good =
        block.text(4) == (depth > 0 ? "BTIN" : "BTLF") && block.number(1) == 0 && block.number(1) == (filtered_ ? 11u : 10u);
    if (!good) damaged(address);
    for (std::uint64_t i = 0; i < records; ++i) {
      const auto chunk = block.number(8);
      const auto bytes = filtered_ ? block.number(int(record_ - 12 - 8 * grid_.size())) : chunk_bytes_;
      const auto mask = filtered_ ? block.number(4) : 0;
      std::int64_t index = 0;
      for (std::size_t axis = 0; axis < grid_.size(); ++axis) {
        const auto place = block.number(8);
        index = index >= 0 && place < std::uint64_t(grid_[axis]) ? index * grid_[axis] + std::int64_t(place) : -1;
      }
      put(index, chunk, bytes, mask);
    }
    for (std::uint64_t i = 0; depth > 0 && i <= records; ++i) {
      const auto child = block.number(8), n = block.number(level.counts);
      block.skip(std::size_t(level.all));
      newer_node(child, n, depth - 1);
    }
  }

  const FileBytes& file_;
  const std::uint64_t base_;
  const ChunkIndex& index_;
  const std::string& where_;
  Shape grid_, most_;          // chunks along each axis: now, and as many as there may be
  std::size_t unlimited_ = 0;  // the axis that may grow without end
  std::uint64_t chunk_bytes_ = 1, entries_ = 0, read_ = 0;
  std::vector<Place> pieces_;
  std::vector<Wanted> wanted_;
  std::size_t next_ = 0;  // of wanted_
  std::uint64_t record_ = 0;
  bool filtered_ = false;
  std::vector<Level> levels_;
};

}  // namespace

std::vector<Place> read_chunk_index(const FileBytes& file, std::uint64_t base, const hdf5::Info& info, const ChunkIndex& index,
                                    const std::string& where) {
  long double total = 1;
  for (std::size_t i = 0; i < info.shape.size(); ++i)
    total *= (long double)((info.shape[i] + index.chunk[i] - 1) / std::max<std::int64_t>(1, index.chunk[i]));
  require(Exit::bad_data, total < 1e9L, "{}: {} chunks are too many", where, double(total));
  return IndexReader(file, base, info, index, where).read();
}

}  // namespace lockstep::io
