#include "io/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/hdf5.h"
#include "io/output.h"
#include "io/parts.h"
#include "io/plain_file.h"

namespace lockstep::io {

using hdf5::Element;

// ---- text

std::string write_text(const std::vector<std::string>& paths, const ConvertOptions& options) {
  check_options(options);
  require(Exit::usage, !paths.empty(), "data text: no file is given");
  std::vector<char> block(std::size_t(4) << 20);
  auto each_block = [&](auto visit_block) {
    for (const auto& path : paths) {
      PlainFile file(path);
      while (std::size_t n = file.read(block.data(), block.size())) visit_block(block.data(), std::int64_t(n));
    }
  };
  std::int64_t total = 0;
  each_block([&](const char*, std::int64_t n) { total += n; });
  require(Exit::bad_data, total > 0, "{}: the text is empty", paths[0]);
  const std::int64_t training = total - std::llround(options.validation * double(total));

  Output output(options.out, file_bytes(total));
  writing(output, options.out, file_bytes(total), [&](hdf5::File& file) {
    const Shape chunk = {std::int64_t(1) << 18};
    std::vector<hdf5::Data> parts;
    parts.push_back(create_part(file, "train/tokens", Element::u8, {training}));
    if (training < total) parts.push_back(create_part(file, "validation/tokens", Element::u8, {total - training}));
    std::int64_t at = 0;
    each_block([&](const char* data, std::int64_t n) {
      require(Exit::bad_data, at + n <= total, "{}: the text grew while it was read", paths[0]);
      const std::int64_t first = std::clamp<std::int64_t>(training - at, 0, n);  // of these bytes, for training
      parts[0].write(Element::u8, at, first, data);
      if (first < n) parts[1].write(Element::u8, at + first - training, n - first, data + first);
      at += n;
    });
    require(Exit::bad_data, at == total, "{}: the text shrank while it was read", paths[0]);
    file.set("", "vocabulary", std::int64_t(256));
    file.set("", "encoding", "one token a byte");
    set_origin(file, options);
  });
  output.commit();
  return fmt::format("{}: train/tokens {} bytes{}\n", options.out, training,
                     training < total ? fmt::format(", validation/tokens {} bytes", total - training) : "");
}

// ---- idx

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

struct Moments {
  std::vector<double> sum, square;
  std::int64_t pixels = 0;  // of one channel
  template <class T>
  void add(const T* values, std::int64_t n) {
    const auto channels = std::int64_t(sum.size());
    for (std::int64_t i = 0; i < n; i += channels)
      for (std::int64_t c = 0; c < channels; ++c) {
        const double v = double(values[i + c]);
        sum[std::size_t(c)] += v, square[std::size_t(c)] += v * v;
      }
    pixels += n / channels;
  }
};

}  // namespace

std::string write_idx(const IdxOptions& input, const ConvertOptions& options) {
  check_options(options);
  const bool own_test = !input.test_images.empty();
  require(Exit::usage, own_test == !input.test_labels.empty(), "data idx: test images and test labels come together");
  require(Exit::usage, !own_test || options.validation == 0,
          "data idx: either test files or a share of the training rows is held out");

  auto open_images = [](const std::string& path) {
    auto idx = std::make_unique<Idx>(path);
    require(Exit::bad_data, idx->shape().size() == 3 || idx->shape().size() == 4,
            "{}: images have the axes (rows, height, width) or (rows, height, width, channels), not {}", path,
            to_text(idx->shape()));
    return idx;
  };
  auto images = open_images(input.images);
  auto labels = read_labels(input.labels, images->shape()[0], input.images);
  std::unique_ptr<Idx> test;
  std::vector<std::int32_t> test_labels;
  if (own_test) {
    test = open_images(input.test_images);
    require(Exit::bad_data,
            std::equal(test->shape().begin() + 1, test->shape().end(), images->shape().begin() + 1, images->shape().end()) &&
                test->element() == images->element(),
            "{}: test images {} do not match training images {}", input.test_images, to_text(test->shape()),
            to_text(images->shape()));
    test_labels = read_labels(input.test_labels, test->shape()[0], input.test_images);
  }
  std::int64_t classes = *std::max_element(labels.begin(), labels.end()) + std::int64_t(1);
  if (own_test) classes = std::max<std::int64_t>(classes, *std::max_element(test_labels.begin(), test_labels.end()) + 1);
  require(Exit::bad_data, input.classes.empty() || classes <= std::int64_t(input.classes.size()), "{}: {} classes but {} names",
          input.labels, classes, input.classes.size());

  const Element element = images->element();
  const std::int64_t rows = images->shape()[0], row_bytes = images->width() * std::int64_t(size_of(element));
  const auto held_out = choose_rows(rows, options.validation);
  const std::int64_t bytes = file_bytes((rows + (test ? test->shape()[0] : 0)) * (row_bytes + 4));
  Moments moments;
  const std::size_t channels = images->shape().size() == 4 ? std::size_t(images->shape()[3]) : 1;
  moments.sum.assign(channels, 0), moments.square.assign(channels, 0);
  std::string report;

  Output output(options.out, bytes);
  writing(output, options.out, bytes, [&](hdf5::File& file) {
    auto part_shape = [&](std::int64_t n) {
      Shape shape = images->shape();
      shape[0] = n;
      return shape;
    };
    auto finish = [&](const std::string& part, const std::vector<std::int32_t>& y) {
      auto data = create_part(file, part + "/labels", Element::i32, {std::int64_t(y.size())});
      data.write(Element::i32, 0, std::int64_t(y.size()), y.data());
      if (input.classes.empty())
        file.set(part + "/labels", "classes", classes);
      else
        file.set(part + "/labels", "classes", input.classes);
      report +=
          fmt::format("{}: {}/images {}, {} classes\n", options.out, part, to_text(part_shape(std::int64_t(y.size()))), classes);
    };
    auto copy_rows = [&](Idx& from, const std::vector<bool>& chosen, bool value, PartWriter* yes, PartWriter* no) {
      std::vector<std::byte> row(std::size_t(row_bytes), std::byte{});
      for (std::int64_t i = 0; i < from.shape()[0]; ++i) {
        from.read(1, row.data());
        const bool held = !chosen.empty() && chosen[std::size_t(i)] == value;
        if (!held && no) {
          if (element == Element::u8)
            moments.add(reinterpret_cast<const std::uint8_t*>(row.data()), from.width());
          else if (element == Element::i32)
            moments.add(reinterpret_cast<const std::int32_t*>(row.data()), from.width());
          else
            moments.add(reinterpret_cast<const float*>(row.data()), from.width());
        }
        (held || !no ? yes : no)->add(row.data());
      }
      from.end();
    };
    const auto validation_rows = std::count(held_out.begin(), held_out.end(), true);
    {
      PartWriter train(create_part(file, "train/images", element, part_shape(rows - validation_rows)), element);
      std::optional<PartWriter> validation;
      if (validation_rows > 0)
        validation.emplace(create_part(file, "validation/images", element, part_shape(validation_rows)), element);
      copy_rows(*images, held_out, true, validation ? &*validation : nullptr, &train);
      train.finish();
      if (validation) validation->finish();
    }
    std::vector<std::int32_t> train_labels;
    for (std::size_t i = 0; i < labels.size(); ++i) (held_out[i] ? test_labels : train_labels).push_back(labels[i]);
    finish("train", train_labels);
    if (test) {
      PartWriter validation(create_part(file, "validation/images", element, test->shape()), element);
      copy_rows(*test, {}, true, &validation, nullptr);
      validation.finish();
    }
    if (!test_labels.empty()) finish("validation", test_labels);

    const double white = element == Element::u8 ? 255 : 1;
    std::vector<double> mean, deviation;
    for (std::size_t c = 0; c < channels; ++c) {
      mean.push_back(moments.sum[c] / double(moments.pixels) / white);
      deviation.push_back(
          std::sqrt(std::max(0.0, moments.square[c] / double(moments.pixels) / (white * white) - mean[c] * mean[c])));
    }
    file.set("train/images", "mean", mean);
    file.set("train/images", "std", deviation);
    set_origin(file, options);
  });
  output.commit();
  return report;
}

}  // namespace lockstep::io
