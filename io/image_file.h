#pragma once

// Private to io/: pictures in files, as 8-bit pixels.

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::io {

/// Rows from the top, (height, width, channels); grey or red, green, blue.
struct Image {
  std::int64_t height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> pixels = {};
};

/// The bytes of a file, at most `most` of its beginning. Throws (bad_data) when it cannot be read.
std::vector<std::uint8_t> read_bytes(const std::string& path, std::uint64_t most = UINT64_MAX);

/// Size of a PNG or JPEG file, and 1 (grey) or 3 channels; no pixels. Errors as in decode_image.
Image image_header(const std::string& path);

/// PNG or JPEG (told by the first bytes) as `channels` 1 or 3; 0: as the file has them. 16 bits are rounded to 8, transparency is
/// dropped, colours become grey by Rec. 601, an orientation in the EXIF data is not applied. Errors, for damage too that the
/// libraries would read over: bad_data with the path, as is a picture above 2^28 pixels.
Image decode_image(const std::vector<std::uint8_t>& bytes, const std::string& path, std::int64_t channels);

/// Resized, sides in proportion, until it covers (height, width), and cut out at the centre. Weights are a triangle over the
/// source pixels below each new one (bilinear when enlarging; every source pixel counts when reducing).
Image cover(const Image&, std::int64_t height, std::int64_t width);

}  // namespace lockstep::io
