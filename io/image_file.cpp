#include "io/image_file.h"

#include <png.h>

#include <csetjmp>
#include <cstdio>  // before jpeglib.h, which needs FILE
#include <cstring>

#include <jpeglib.h>
// after jpeglib.h
#include <jerror.h>

#include <algorithm>
#include <cmath>
#include <new>

#include "io/places.h"
#include "kernels/base/check.h"

namespace lockstep::io {
namespace {

constexpr std::int64_t most_pixels = 1 << 28;
constexpr int most_scans = 500;  // of a progressive JPEG: more are made to keep readers busy

// Both libraries report errors by leaving through longjmp, which must not pass over a destructor: between setjmp and the calls
// below it there is nothing but their own C frames. open() and read() return false, and message() says why.

class Png {
 public:
  Png(const std::uint8_t* bytes, std::size_t size) : bytes_(bytes), left_(size) {}
  ~Png() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Png(const Png&) = delete;
  Png& operator=(const Png&) = delete;

  bool open() {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, failed, ignored);
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) return false;
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_chunk_malloc_max(png_, 64 << 20);
    png_set_read_fn(png_, this, take);
    png_read_info(png_, info_);
    height_ = png_get_image_height(png_, info_), width_ = png_get_image_width(png_, info_);
    channels_ = png_get_color_type(png_, info_) & PNG_COLOR_MASK_COLOR ? 3 : 1;
    return true;
  }
  bool read(std::uint8_t* out) {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_expand(png_);
    png_set_scale_16(png_);
    png_set_strip_alpha(png_);
    const int passes = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    const std::size_t row = png_get_rowbytes(png_, info_);
    if (row != std::size_t(width_ * channels_)) png_error(png_, "its rows have an unexpected size");
    for (int pass = 0; pass < passes; ++pass)
      for (std::int64_t y = 0; y < height_; ++y) png_read_row(png_, out + std::size_t(y) * row, nullptr);
    png_read_end(png_, nullptr);
    return true;
  }
  std::int64_t height() const { return height_; }
  std::int64_t width() const { return width_; }
  int channels() const { return channels_; }  ///< 1 or 3
  const char* message() const { return message_; }

 private:
  static void failed(png_structp png, png_const_charp text) {
    auto* self = static_cast<Png*>(png_get_error_ptr(png));
    std::snprintf(self->message_, sizeof self->message_, "%s", text);
    png_longjmp(png, 1);
  }
  static void ignored(png_structp, png_const_charp) {}
  static void take(png_structp png, png_bytep out, std::size_t size) {
    auto* self = static_cast<Png*>(png_get_io_ptr(png));
    if (size > self->left_) png_error(png, "the file ends too early");
    std::memcpy(out, self->bytes_, size);
    self->bytes_ += size, self->left_ -= size;
  }

  const std::uint8_t* bytes_;
  std::size_t left_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::int64_t height_ = 0, width_ = 0;
  int channels_ = 0;
  char message_[200] = "out of memory";
};

class Jpeg {
 public:
  Jpeg(const std::uint8_t* bytes, std::size_t size) : bytes_(bytes), size_(size) {}
  ~Jpeg() { jpeg_destroy_decompress(&jpeg_); }
  Jpeg(const Jpeg&) = delete;
  Jpeg& operator=(const Jpeg&) = delete;

  bool open() {
    jpeg_.err = jpeg_std_error(&errors_);
    errors_.error_exit = failed;
    errors_.emit_message = warned;
    errors_.output_message = [](j_common_ptr) {};
    jpeg_.client_data = this;
    if (setjmp(back_)) return false;
    jpeg_create_decompress(&jpeg_);
    progress_.progress_monitor = watch;
    jpeg_.progress = &progress_;
    jpeg_mem_src(&jpeg_, bytes_, size_);
    jpeg_read_header(&jpeg_, TRUE);
    switch (jpeg_.jpeg_color_space) {
      case JCS_GRAYSCALE: jpeg_.out_color_space = JCS_GRAYSCALE, channels_ = 1; break;
      case JCS_CMYK:
      case JCS_YCCK: jpeg_.out_color_space = JCS_CMYK, channels_ = 4; break;
      default: jpeg_.out_color_space = JCS_RGB, channels_ = 3; break;
    }
    return true;
  }
  bool read(std::uint8_t* out) {
    if (setjmp(back_)) return false;
    jpeg_start_decompress(&jpeg_);
    if (jpeg_.output_components != channels_) leave("its colours have an unexpected size");
    const std::size_t row = std::size_t(jpeg_.output_width) * std::size_t(channels_);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW line = out + jpeg_.output_scanline * row;
      jpeg_read_scanlines(&jpeg_, &line, 1);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }
  std::int64_t height() const { return jpeg_.image_height; }
  std::int64_t width() const { return jpeg_.image_width; }
  int channels() const { return channels_; }  ///< 1, 3, or 4: cyan, magenta, yellow, black
  const char* message() const { return message_; }

 private:
  [[noreturn]] void leave(const char* text) {
    std::snprintf(message_, sizeof message_, "%s", text);
    std::longjmp(back_, 1);
  }
  static void failed(j_common_ptr common) {
    char text[JMSG_LENGTH_MAX];
    common->err->format_message(common, text);
    static_cast<Jpeg*>(common->client_data)->leave(text);
  }
  /// The library makes up pixels where data is missing; only what leaves them as they are is passed over.
  static void warned(j_common_ptr common, int level) {
    if (level >= 0) return;
    switch (common->err->msg_code) {
      case JWRN_EXTRANEOUS_DATA:
      case JWRN_JFIF_MAJOR:
      case JWRN_ADOBE_XFORM:
      case JWRN_TOO_MUCH_DATA: return;
      default: failed(common);
    }
  }
  static void watch(j_common_ptr common) {
    auto* self = static_cast<Jpeg*>(common->client_data);
    if (self->jpeg_.input_scan_number > most_scans) self->leave("it has too many scans");
  }

  const std::uint8_t* bytes_;
  std::size_t size_;
  jpeg_decompress_struct jpeg_ = {};
  jpeg_error_mgr errors_ = {};
  jpeg_progress_mgr progress_ = {};
  int channels_ = 0;
  std::jmp_buf back_;
  char message_[JMSG_LENGTH_MAX] = "";
};

/// Calls visit(decoder) with the one for these bytes, its header read.
template <class Visit>
auto with_decoder(const std::vector<std::uint8_t>& bytes, const std::string& path, Visit visit) {
  auto open = [&](auto& decoder) {
    require(Exit::bad_data, decoder.open(), "{}: {}", path, decoder.message());
    require(Exit::bad_data, decoder.height() > 0 && decoder.width() > 0 && decoder.height() <= most_pixels / decoder.width(),
            "{}: {} x {} pixels are too many for one picture", path, decoder.height(), decoder.width());
    return visit(decoder);
  };
  const std::uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'}, jpeg[3] = {0xFF, 0xD8, 0xFF};
  if (bytes.size() >= 8 && std::equal(png, png + 8, bytes.begin())) {
    Png decoder(bytes.data(), bytes.size());
    return open(decoder);
  }
  require(Exit::bad_data, bytes.size() >= 3 && std::equal(jpeg, jpeg + 3, bytes.begin()), "{}: neither PNG nor JPEG{}", path,
          bytes.empty() ? ": the file is empty" : "");
  Jpeg decoder(bytes.data(), bytes.size());
  return open(decoder);
}

std::uint8_t grey_of(const std::uint8_t* rgb) {
  return std::uint8_t((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 32768u) >> 16);
}

/// What lies under one new pixel of an axis.
struct Tap {
  std::int64_t first = 0;
  std::vector<float> weights = {};
};

/// `size` new pixels, the first at `offset`, of an axis of `from` pixels that was resized to `to`.
std::vector<Tap> make_taps(std::int64_t from, std::int64_t to, std::int64_t offset, std::int64_t size) {
  std::vector<Tap> taps(static_cast<std::size_t>(size));
  const double scale = double(from) / double(to), reach = std::max(1.0, scale);
  for (std::int64_t i = 0; i < size; ++i) {
    const double centre = (double(i + offset) + 0.5) * scale;
    Tap& tap = taps[std::size_t(i)];
    tap.first = std::max<std::int64_t>(0, std::int64_t(centre - reach + 0.5));
    const std::int64_t end = std::min(from, std::int64_t(centre + reach + 0.5));
    double sum = 0;
    for (std::int64_t x = tap.first; x < end; ++x) {
      const double w = std::max(0.0, 1 - std::abs(double(x) + 0.5 - centre) / reach);
      tap.weights.push_back(float(w)), sum += w;
    }
    for (float& w : tap.weights) w = float(w / sum);
  }
  return taps;
}

}  // namespace

std::vector<std::uint8_t> read_bytes(const std::string& path, std::uint64_t most) {
  const FileBytes file(path);
  std::vector<std::uint8_t> bytes(std::size_t(std::min(most, file.size())));
  file.read(0, bytes.data(), bytes.size(), "the picture");
  return bytes;
}

Image image_header(const std::string& path) {
  constexpr std::uint64_t usual = 1 << 16;
  auto header = [&](std::uint64_t most, std::size_t& there) {
    const auto bytes = read_bytes(path, most);
    there = bytes.size();
    return with_decoder(bytes, path, [](auto& d) { return Image{d.height(), d.width(), d.channels() == 1 ? 1 : 3}; });
  };
  std::size_t there = 0;
  try {
    return header(usual, there);
  } catch (const Error&) {
    if (there < usual) throw;
  }
  return header(UINT64_MAX, there);  // a thumbnail or colour profile comes first
}

Image decode_image(const std::vector<std::uint8_t>& bytes, const std::string& path, std::int64_t channels) {
  Image image;
  std::int64_t stored = 0;
  std::vector<std::uint8_t> raw;
  with_decoder(bytes, path, [&](auto& decoder) {
    image.height = decoder.height(), image.width = decoder.width(), stored = decoder.channels();
    raw.resize(std::size_t(image.height * image.width * stored));
    require(Exit::bad_data, decoder.read(raw.data()), "{}: {}", path, decoder.message());
  });
  image.channels = channels > 0 ? channels : stored == 1 ? 1 : 3;
  if (stored == image.channels) {
    image.pixels = std::move(raw);
    return image;
  }
  const auto pixels = std::size_t(image.height * image.width), n = std::size_t(image.channels);
  image.pixels.resize(pixels * n);
  for (std::size_t i = 0; i < pixels; ++i) {
    const std::uint8_t* from = raw.data() + i * std::size_t(stored);
    std::uint8_t rgb[3] = {from[0], from[0], from[0]};
    if (stored >= 3) std::copy(from, from + 3, rgb);
    if (stored == 4)  // all that write CMYK write it inverted: 255 is no ink
      for (auto& v : rgb) v = std::uint8_t((v * from[3] + 127) / 255);
    if (n == 1)
      image.pixels[i] = stored == 1 ? from[0] : grey_of(rgb);
    else
      std::copy(rgb, rgb + 3, image.pixels.data() + i * 3);
  }
  return image;
}

Image cover(const Image& image, std::int64_t height, std::int64_t width) {
  if (image.height == height && image.width == width) return image;
  const double scale = std::max(double(height) / double(image.height), double(width) / double(image.width));
  const std::int64_t tall = std::max(height, std::lround(double(image.height) * scale)),
                     wide = std::max(width, std::lround(double(image.width) * scale));
  const auto rows = make_taps(image.height, tall, (tall - height) / 2, height);
  const auto columns = make_taps(image.width, wide, (wide - width) / 2, width);
  const std::int64_t n = image.channels, top = rows.front().first,
                     bottom = rows.back().first + std::int64_t(rows.back().weights.size());

  std::vector<float> narrow(std::size_t((bottom - top) * width * n));  // the rows that are needed, at their new width
  float* out = narrow.data();
  for (std::int64_t y = top; y < bottom; ++y)
    for (const Tap& tap : columns)
      for (std::int64_t c = 0; c < n; ++c) {
        const std::uint8_t* from = image.pixels.data() + (y * image.width + tap.first) * n + c;
        float sum = 0;
        for (std::size_t k = 0; k < tap.weights.size(); ++k) sum += tap.weights[k] * float(from[std::int64_t(k) * n]);
        *out++ = sum;
      }

  Image result{height, width, n, std::vector<std::uint8_t>(std::size_t(height * width * n))};
  const std::int64_t line = width * n;
  std::vector<float> sums(static_cast<std::size_t>(line));
  for (std::int64_t y = 0; y < height; ++y) {
    const Tap& tap = rows[std::size_t(y)];
    std::fill(sums.begin(), sums.end(), 0.f);
    for (std::size_t k = 0; k < tap.weights.size(); ++k) {
      const float* from = narrow.data() + (tap.first - top + std::int64_t(k)) * line;
      for (std::int64_t i = 0; i < line; ++i) sums[std::size_t(i)] += tap.weights[k] * from[i];
    }
    for (std::int64_t i = 0; i < line; ++i)
      result.pixels[std::size_t(y * line + i)] = std::uint8_t(std::clamp(sums[std::size_t(i)] + 0.5f, 0.f, 255.f));
  }
  return result;
}

}  // namespace lockstep::io
