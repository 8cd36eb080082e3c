#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <memory>

#include "io/convert.h"
#include "io/image_writer.h"
#include "io/parts.h"
#include "io/plain_file.h"

namespace lockstep::io {

using hdf5::Element;

namespace {

/// One idx file (the format of MNIST): zero, zero, type, number of axes, sizes as big-endian 32-bit integers, values.
class Idx {
 public:
  explicit Idx(const std::string& path) : file_(path) {
    unsigned char magic[4];
    file_.read_exactly(magic, 4, "the idx header");
    type_ = magic[2];
    require(Exit::bad_data, magic[0] == 0 && magic[1] == 0 && bytes() > 0 && magic[3] >= 1 && magic[3] <= 8,
            "{}: at offset 0: not an idx file (its first bytes are {} {} {} {})", path, magic[0], magic[1], magic[2], magic[3]);
    long double total = bytes();
    for (int axis = 0; axis < magic[3]; ++axis) {
      unsigned char size[4];
      file_.read_exactly(size, 4, "the idx header");
      shape_.push_back(std::int64_t(size[0]) << 24 | size[1] << 16 | size[2] << 8 | size[3]);
      total *= (long double)shape_.back();
    }
    require(Exit::bad_data, total > 0 && total < 1e15L, "{}: at offset 4: the shape {} is impossible", path, to_text(shape_));
  }
  const std::string& path() const { return file_.path(); }
  const Shape& shape() const { return shape_; }
  Element element() const { return type_ == 0x08 ? Element::u8 : type_ >= 0x0D ? Element::f32 : Element::i32; }
  const hdf5::Number& number() const { return type_ == 0x08 ? u8 : type_ >= 0x0D ? f32 : i32; }
  bool whole() const { return type_ < 0x0D; }
  std::int64_t width() const { return count(shape_) / shape_[0]; }

  /// The next rows as element().
  void read(std::int64_t rows, void* out) {
    const std::int64_t n = rows * width();
    raw_.resize(std::size_t(n * bytes()));
    file_.read_exactly(raw_.data(), raw_.size(), "the values of shape " + to_text(shape_));
    for (std::int64_t i = 0; i < n; ++i) {
      std::uint64_t bits = 0;
      for (int b = 0; b < bytes(); ++b) bits = bits << 8 | raw_[std::size_t(i * bytes() + b)];
      switch (type_) {
        case 0x08: static_cast<std::uint8_t*>(out)[i] = std::uint8_t(bits); break;
        case 0x09: static_cast<std::int32_t*>(out)[i] = std::int8_t(bits); break;
        case 0x0B: static_cast<std::int32_t*>(out)[i] = std::int16_t(bits); break;
        case 0x0C: static_cast<std::int32_t*>(out)[i] = std::int32_t(bits); break;
        case 0x0D: static_cast<float*>(out)[i] = std::bit_cast<float>(std::uint32_t(bits)); break;
        default: static_cast<float*>(out)[i] = float(std::bit_cast<double>(bits)); break;
      }
    }
  }
  void end() {
    const std::int64_t at = file_.offset();
    char more;
    const bool ended = file_.read(&more, 1) == 0;
    require(Exit::bad_data, ended, "{}: at offset {}: there is more than the shape {} says", path(), at, to_text(shape_));
  }

 private:
  int bytes() const {
    return type_ == 0x08 || type_ == 0x09 ? 1 : type_ == 0x0B ? 2 : type_ == 0x0C || type_ == 0x0D ? 4 : type_ == 0x0E ? 8 : 0;
  }
  PlainFile file_;
  Shape shape_;
  int type_ = 0;
  std::vector<unsigned char> raw_;
};

std::vector<std::int32_t> read_labels(const std::string& path, std::int64_t rows, const std::string& images) {
  Idx idx(path);
  require(Exit::bad_data, idx.whole() && idx.shape().size() == 1, "{}: labels are whole numbers along one axis, not {}", path,
          to_text(idx.shape()));
  require(Exit::bad_data, idx.shape()[0] == rows, "{}: {} labels for the {} images of {}", path, idx.shape()[0], rows, images);
  std::vector<std::int32_t> labels;
  std::vector<std::uint8_t> bytes;
  for (std::int64_t first = 0; first < rows; first += 1 << 20) {  // what the header says is not allocated before it is there
    const std::int64_t n = std::min<std::int64_t>(rows - first, 1 << 20);
    labels.resize(std::size_t(first + n));
    if (idx.element() == Element::u8) {
      bytes.resize(std::size_t(n));
      idx.read(n, bytes.data());
      std::copy(bytes.begin(), bytes.end(), labels.begin() + first);
    } else {
      idx.read(n, labels.data() + first);
    }
  }
  idx.end();
  for (std::size_t i = 0; i < labels.size(); ++i)
    require(Exit::bad_data, labels[i] >= 0, "{}: label {} of row {} is negative", path, labels[i], i);
  return labels;
}

/// Images with their labels, and which of them are held out.
struct Source {
  std::unique_ptr<Idx> images;
  std::vector<std::int32_t> labels;
  std::vector<bool> held_out;
};

Source open_source(const std::string& images, const std::string& labels) {
  Source source{std::make_unique<Idx>(images), {}, {}};
  const Shape& shape = source.images->shape();
  require(Exit::bad_data, shape.size() == 3 || shape.size() == 4,
          "{}: images have the axes (rows, height, width) or (rows, height, width, channels), not {}", images, to_text(shape));
  require(Exit::bad_data, source.images->width() <= (1 << 28), "{}: one image of {} is too large", images, to_text(shape));
  source.labels = read_labels(labels, shape[0], images);
  return source;
}

std::vector<Source> open_sources(const IdxOptions& input, double share) {
  std::vector<Source> sources;
  sources.push_back(open_source(input.images, input.labels));
  sources[0].held_out = choose_rows(sources[0].images->shape()[0], share);
  if (input.test_images.empty()) return sources;
  sources.push_back(open_source(input.test_images, input.test_labels));
  const Idx &train = *sources[0].images, &test = *sources[1].images;
  require(Exit::bad_data,
          Shape(train.shape().begin() + 1, train.shape().end()) == Shape(test.shape().begin() + 1, test.shape().end()) &&
              train.element() == test.element(),
          "{}: test images {} do not match training images {}", input.test_images, to_text(test.shape()), to_text(train.shape()));
  sources[1].held_out.assign(sources[1].labels.size(), true);
  return sources;
}

}  // namespace

std::string write_idx(const IdxOptions& input, const ConvertOptions& options) {
  check_options(options);
  require(Exit::usage, input.test_images.empty() == input.test_labels.empty(),
          "data idx: test images and test labels come together");
  require(Exit::usage, input.test_images.empty() || options.validation == 0,
          "data idx: either test files or a share of the training rows is held out");

  const auto sources = open_sources(input, options.validation);
  const Idx& first = *sources[0].images;
  const Element element = first.element();
  std::int64_t part_rows[2] = {0, 0}, classes = 0;  // for training, held out
  for (const auto& source : sources)
    for (std::size_t i = 0; i < source.labels.size(); ++i) {
      ++part_rows[source.held_out[i]];
      classes = std::max<std::int64_t>(classes, source.labels[i] + std::int64_t(1));
    }
  require(Exit::bad_data, input.classes.empty() || classes <= std::int64_t(input.classes.size()), "{}: {} classes but {} names",
          input.labels, classes, input.classes.size());
  if (!input.classes.empty()) classes = std::int64_t(input.classes.size());

  const std::int64_t row_bytes = first.width() * std::int64_t(size_of(element));
  DataFiles files(options, file_bytes((part_rows[0] + part_rows[1]) * (row_bytes + 4)));
  std::string report;
  files.write([&] {
    ImageWriter writer(files, first.number(), element, Shape(first.shape().begin() + 1, first.shape().end()), part_rows,
                       options.deflate);
    std::vector<std::byte> image(static_cast<std::size_t>(row_bytes));
    std::int64_t done = 0;
    for (const auto& source : sources) {
      for (std::size_t i = 0; i < source.labels.size(); ++i) {
        source.images->read(1, image.data());
        writer.add(source.held_out[i], image.data(), source.labels[i]);
        if (++done % 1000 == 0) tell(options, "writing", done, part_rows[0] + part_rows[1]);
      }
      source.images->end();
    }
    writer.finish(classes, input.classes);
    std::vector<std::string> inputs = {input.images, input.labels};
    if (!input.test_images.empty()) inputs.insert(inputs.end(), {input.test_images, input.test_labels});
    files.set_origin(inputs, checksum_of(inputs, options));
    report = writer.report();
  });
  files.commit();
  return report;
}

}  // namespace lockstep::io
