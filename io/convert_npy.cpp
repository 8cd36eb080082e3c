#include <fmt/format.h>
#include <zip.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <memory>
#include <set>

#include "io/convert.h"
#include "io/parts.h"
#include "io/places.h"

namespace lockstep::io {

namespace {

/// Bytes of an array as they come: a file, or a member of a .npz.
class Source {
 public:
  virtual ~Source() = default;
  /// Exactly `bytes`; throws (bad_data) with the name when there are fewer.
  virtual void read(void* out, std::size_t bytes) = 0;
  virtual bool at_end() = 0;
};

class FileSource : public Source {
 public:
  explicit FileSource(const std::string& path) : file_(path) {}
  void read(void* out, std::size_t bytes) override {
    file_.read(at_, out, bytes, "the array");
    at_ += bytes;
  }
  bool at_end() override { return at_ == file_.size(); }

 private:
  FileBytes file_;
  std::uint64_t at_ = 0;
};

class MemberSource : public Source {
 public:
  MemberSource(zip_t* archive, std::uint64_t index, std::string where)
      : where_(std::move(where)), file_(zip_fopen_index(archive, index, 0), zip_fclose) {
    require(Exit::bad_data, file_ != nullptr, "{}: cannot be read: {}", where_, zip_strerror(archive));
  }
  void read(void* out, std::size_t bytes) override {
    for (std::size_t done = 0; done < bytes;) {
      const auto n = zip_fread(file_.get(), static_cast<char*>(out) + done, bytes - done);
      require(Exit::bad_data, n >= 0, "{}: damaged: {}", where_, zip_file_strerror(file_.get()));
      require(Exit::bad_data, n > 0, "{}: the array ends {} bytes too early", where_, bytes - done);
      done += std::size_t(n);
    }
  }
  bool at_end() override {
    char more;
    const auto n = zip_fread(file_.get(), &more, 1);
    require(Exit::bad_data, n >= 0, "{}: damaged: {}", where_, zip_file_strerror(file_.get()));
    return n == 0;
  }

 private:
  std::string where_;
  std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> file_;
};

/// The text of a .npy header, word by word: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }
class Header {
 public:
  Header(std::string text, const std::string& where) : text_(std::move(text)), where_(where) {
    word("{");
    while (!accept("}")) {
      const std::string key = quoted();
      word(":");
      if (!seen_.insert(key).second) bad("'" + key + "' is there twice");
      if (key == "descr")
        type_ = accept("[") ? bad("arrays of records are not numbers") : quoted();
      else if (key == "fortran_order")
        fortran = accept("True") || (word("False"), false);
      else if (key == "shape")
        take_shape();
      else
        bad("the key '" + key + "' is not known");
      if (!accept(",")) {
        word("}");
        break;
      }
    }
    skip();
    if (at_ != text_.size()) bad("there is more after it");
    if (seen_.size() != 3) bad("'descr', 'fortran_order' and 'shape' are needed");
    take_type();
  }

  bool fortran = false;
  Shape shape;
  hdf5::Number number;

 private:
  std::string bad(const std::string& why) const {
    throw Error(where_ + ": the header of the array is not as numpy writes it: " + why, Exit::bad_data);
  }
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(const std::string& wanted) {
    skip();
    if (text_.compare(at_, wanted.size(), wanted) != 0) return false;
    at_ += wanted.size();
    return true;
  }
  void word(const std::string& wanted) {
    if (!accept(wanted)) bad("'" + wanted + "' is missing");
  }
  std::string quoted() {
    skip();
    const char quote = at_ < text_.size() ? text_[at_] : ' ';
    if (quote != '\'' && quote != '"') bad("a quote is missing");
    const auto end = text_.find(quote, at_ + 1);
    if (end == std::string::npos) bad("a quote does not end");
    const std::string value = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return value;
  }
  void take_shape() {
    word("(");
    long double total = 1;
    while (!accept(")")) {
      skip();
      std::int64_t n = 0;
      std::size_t digits = 0;
      for (; digits <= 16 && at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])); ++at_, ++digits)
        n = n * 10 + (text_[at_] - '0');
      if (digits == 0 || digits > 16) bad("a size of the shape is no number");
      shape.push_back(n);
      total *= (long double)n;
      if (!accept(",")) {
        word(")");
        break;
      }
    }
    if (shape.size() > 32 || total > 1e15L) bad("its shape is impossible");
  }
  void take_type() {
    const std::string kinds = "biuf";
    const bool form = type_.size() == 3 && (type_[0] == '<' || type_[0] == '>' || type_[0] == '|' || type_[0] == '=') &&
                      kinds.find(type_[1]) != std::string::npos && type_[2] >= '1' && type_[2] <= '8';
    const int bytes = form ? type_[2] - '0' : 0;
    const bool real = form && type_[1] == 'f';
    if (!form || (bytes & (bytes - 1)) != 0 || (real && bytes == 1) || (bytes > 1 && type_[0] == '|') ||
        (type_[1] == 'b' && bytes != 1))
      bad("the type '" + type_.substr(0, 20) + "' is none of bool, integers and reals up to 64 bits");
    number = {real ? hdf5::Class::real : hdf5::Class::integer, bytes, real || type_[1] == 'i', type_[0] == '>'};
  }

  std::string text_, type_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::set<std::string> seen_;
};

/// One array: its header is read, its values come in rows.
struct Array {
  std::string name, where;
  std::function<std::unique_ptr<Source>()> open;
  std::unique_ptr<Source> source;
  Shape shape;
  hdf5::Number number;
  bool fortran = false;
  std::int64_t rows() const { return shape[0]; }
  std::int64_t row_bytes() const { return count(shape) / std::max<std::int64_t>(1, shape[0]) * number.bytes; }
};

/// Opens an array anew and reads its header.
void open_array(Array& array) {
  array.source = array.open();
  unsigned char head[12] = {};
  array.source->read(head, 8);
  require(Exit::bad_data, std::string(reinterpret_cast<char*>(head), 6) == "\x93NUMPY", "{}: not an array of numpy", array.where);
  require(Exit::bad_data, head[6] >= 1 && head[6] <= 3 && head[7] == 0, "{}: version {}.{} of numpy's format is not known",
          array.where, head[6], head[7]);
  const int width = head[6] == 1 ? 2 : 4;
  array.source->read(head + 8, std::size_t(width));
  std::size_t bytes = 0;
  for (int i = width; i-- > 0;) bytes = bytes << 8 | head[8 + i];
  require(Exit::bad_data, bytes <= (1 << 16), "{}: a header of {} bytes", array.where, bytes);
  std::string text(bytes, ' ');
  array.source->read(text.data(), bytes);
  const Header header(text, array.where);
  array.shape = header.shape.empty() ? Shape{1} : header.shape;
  array.number = header.number;
  array.fortran = header.fortran && array.shape.size() > 1;
  require(Exit::bad_data, count(array.shape) > 0, "{}: the array {} is empty", array.where, to_text(array.shape));
  require(Exit::bad_data, array.row_bytes() <= (std::int64_t(1) << 30), "{}: one row of {} is too large", array.where,
          to_text(array.shape));
}

std::vector<Array> find_arrays(const std::vector<std::string>& paths) {
  std::vector<Array> arrays;
  for (const auto& path : paths) {
    const FileBytes file(path);
    char magic[4] = {};
    file.read(0, magic, std::min<std::uint64_t>(4, file.size()), "the beginning");
    const std::string stem = std::filesystem::path(path).stem().string();
    if (std::string(magic, 2) != "PK") {
      arrays.push_back({stem, path, [path] { return std::make_unique<FileSource>(path); }, nullptr, {}, {}, false});
      continue;
    }
    int problem = 0;
    std::shared_ptr<zip_t> archive(zip_open(path.c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &problem), [](zip_t* z) {
      if (z) zip_discard(z);
    });
    require(Exit::bad_data, archive != nullptr, "{}: not an archive of numpy, or damaged (zip error {})", path, problem);
    for (std::int64_t i = 0; i < zip_get_num_entries(archive.get(), 0); ++i) {
      const char* name = zip_get_name(archive.get(), std::uint64_t(i), 0);
      std::string member = name ? name : "";
      require(Exit::bad_data, member.ends_with(".npy") && member.size() > 4 && member.find("..") == std::string::npos,
              "{}: '{}' is not an array", path, member);
      const std::string where = path + ":" + member;
      member.resize(member.size() - 4);
      arrays.push_back({member,
                        where,
                        [archive, i, where] { return std::make_unique<MemberSource>(archive.get(), std::uint64_t(i), where); },
                        nullptr,
                        {},
                        {},
                        false});
    }
  }
  std::set<std::string> names;
  for (auto& array : arrays) {
    require(Exit::usage, names.insert(array.name).second, "data npy: two arrays are called '{}'", array.name);
    open_array(array);
  }
  require(Exit::usage, !arrays.empty(), "data npy: there is no array");
  return arrays;
}

/// Calls visit(rows, count) with the values in the order of rows, whatever the order in the file.
void each_block(Array& array, const std::function<void(const std::byte*, std::int64_t)>& visit) {
  const std::int64_t row = array.row_bytes(), rows = array.rows();
  if (!array.fortran) {
    const std::int64_t run = std::max<std::int64_t>(1, (1 << 20) / row);
    std::vector<std::byte> block(std::size_t(std::min(run, rows) * row));
    for (std::int64_t first = 0; first < rows; first += run) {
      const std::int64_t n = std::min(run, rows - first);
      array.source->read(block.data(), std::size_t(n * row));
      visit(block.data(), n);
    }
  } else {  // the first axis is the fastest: the whole array is needed for one row
    std::vector<std::byte> all;
    const std::int64_t total = rows * row;
    for (std::int64_t at = 0; at < total; at += 1 << 24) {
      const std::int64_t n = std::min<std::int64_t>(total - at, 1 << 24);
      all.resize(std::size_t(at + n));
      array.source->read(all.data() + at, std::size_t(n));
    }
    const auto bytes = std::size_t(array.number.bytes);
    std::vector<std::byte> one(static_cast<std::size_t>(row));
    for (std::int64_t r = 0; r < rows; ++r) {
      Shape at(array.shape.size(), 0);
      for (std::size_t i = 0; i < std::size_t(row) / bytes; ++i) {
        std::int64_t place = 0;
        for (std::size_t axis = at.size(); axis-- > 1;) place = place * array.shape[axis] + at[axis];
        std::copy_n(all.data() + std::size_t(place * rows + r) * bytes, bytes, one.data() + i * bytes);
        for (std::size_t axis = at.size(); axis-- > 1;) {
          if (++at[axis] < array.shape[axis]) break;
          at[axis] = 0;
        }
      }
      visit(one.data(), 1);
    }
  }
  require(Exit::bad_data, array.source->at_end(), "{}: there is more than the shape {} says", array.where, to_text(array.shape));
}

}  // namespace

std::string write_npy(const std::vector<std::string>& paths, const ConvertOptions& options) {
  check_options(options);
  require(Exit::usage, !paths.empty(), "data npy: no file is given");
  auto arrays = find_arrays(paths);
  const bool split = options.validation > 0;
  std::int64_t bytes = 0, done = 0;
  for (const auto& array : arrays) {
    bytes += array.rows() * array.row_bytes();
    require(Exit::usage, !split || array.rows() == arrays[0].rows(),
            "data npy: to hold rows out, all arrays need the same number of rows; {} has {}, {} has {}", arrays[0].where,
            arrays[0].rows(), array.where, array.rows());
  }
  const auto held_out = split ? choose_rows(arrays[0].rows(), options.validation) : std::vector<bool>();
  const std::int64_t held = std::count(held_out.begin(), held_out.end(), true);
  DataFiles files(options, file_bytes(bytes));
  std::string report;
  files.write([&] {
    for (auto& array : arrays) {
      const Shape row(array.shape.begin() + 1, array.shape.end());
      PartWriter train(files, split ? "train/" + array.name : array.name, array.number, row, array.rows() - held,
                       options.deflate);
      std::unique_ptr<PartWriter> validation;
      if (held > 0)
        validation = std::make_unique<PartWriter>(files, "validation/" + array.name, array.number, row, held, options.deflate);
      std::int64_t at = 0;
      each_block(array, [&](const std::byte* values, std::int64_t n) {
        for (std::int64_t i = 0; i < n && split; ++i)
          (held_out[std::size_t(at + i)] ? *validation : train).add(values + i * array.row_bytes());
        if (!split) train.add(values, n);
        at += n;
        done += n * array.row_bytes();
        tell(options, "writing", done, bytes);
      });
      train.finish();
      if (validation) validation->finish();
      report += fmt::format("{}: {} {}\n{}\n", files.names(), array.name, to_text(array.shape),
                            explain_chunk(train.chunk(), array.number.bytes));
    }
    files.set_origin(paths, checksum_of(paths, options));
  });
  files.commit();
  return report;
}

}  // namespace lockstep::io
