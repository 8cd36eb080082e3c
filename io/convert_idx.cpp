#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <optional>

#include "io/convert.h"
#include "io/parts.h"
#include "io/plain_file.h"
#include "io/rows.h"

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
  std::vector<std::int32_t> labels(std::size_t(rows), 0);
  if (idx.element() == Element::u8) {
    std::vector<std::uint8_t> bytes(labels.size());
    idx.read(rows, bytes.data());
    labels.assign(bytes.begin(), bytes.end());
  } else {
    idx.read(rows, labels.data());
  }
  idx.end();
  for (std::size_t i = 0; i < labels.size(); ++i)
    require(Exit::bad_data, labels[i] >= 0, "{}: label {} of row {} is negative", path, labels[i], i);
  return labels;
}

/// Sums of one channel after another.
struct Moments {
  std::vector<double> sum, square;
  std::int64_t pixels = 0;
  explicit Moments(std::int64_t channels) : sum(std::size_t(channels), 0.0), square(std::size_t(channels), 0.0) {}

  void add(Element element, const void* image, std::int64_t values) {
    const auto channels = std::int64_t(sum.size());
    visit(element, image, [&](const auto* x) {
      for (std::int64_t i = 0; i < values; ++i) {
        const double v = double(x[i]);
        sum[std::size_t(i % channels)] += v, square[std::size_t(i % channels)] += v * v;
      }
    });
    pixels += values / channels;
  }
  /// Mean and deviation of each channel, in units of `white`.
  std::pair<std::vector<double>, std::vector<double>> result(double white) const {
    std::vector<double> mean, deviation;
    for (std::size_t c = 0; c < sum.size(); ++c) {
      mean.push_back(sum[c] / double(pixels) / white);
      deviation.push_back(std::sqrt(std::max(0.0, square[c] / double(pixels) / (white * white) - mean[c] * mean[c])));
    }
    return {mean, deviation};
  }
};

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
  const std::int64_t bytes = file_bytes((part_rows[0] + part_rows[1]) * (row_bytes + 4));
  std::string report;
  Output output(options.out, bytes);
  writing(output, options.out, bytes, [&](hdf5::File& file) {
    const char* const names[2] = {"train", "validation"};
    std::optional<PartWriter> images[2], labels[2];
    for (int part = 0; part < 2; ++part) {
      if (part_rows[part] == 0) continue;
      Shape shape = first.shape();
      shape[0] = part_rows[part];
      const std::string name = names[part];
      images[part].emplace(create_part(file, name + "/images", element, shape), element);
      labels[part].emplace(create_part(file, name + "/labels", Element::i32, {part_rows[part]}), Element::i32);
      if (input.classes.empty())
        file.set(name + "/labels", "classes", classes);
      else
        file.set(name + "/labels", "classes", input.classes);
      report += fmt::format("{}: {}/images {}, {} classes\n", options.out, name, to_text(shape), classes);
    }
    Moments moments(first.shape().size() == 4 ? first.shape()[3] : 1);
    std::vector<std::byte> image(static_cast<std::size_t>(row_bytes));
    for (const auto& source : sources) {
      for (std::size_t i = 0; i < source.labels.size(); ++i) {
        const bool held = source.held_out[i];
        source.images->read(1, image.data());
        images[held]->add(image.data());
        labels[held]->add(&source.labels[i]);
        if (!held) moments.add(element, image.data(), first.width());
      }
      source.images->end();
    }
    for (auto* writers : {images, labels})
      for (int part = 0; part < 2; ++part)
        if (writers[part]) writers[part]->finish();
    const auto [mean, deviation] = moments.result(element == Element::u8 ? 255 : 1);
    file.set("train/images", "mean", mean);
    file.set("train/images", "std", deviation);
    set_origin(file, options);
  });
  output.commit();
  return report;
}

}  // namespace lockstep::io
