#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace lockstep::io {

/// The header of a .safetensors file: 8 bytes of length, JSON, then the tensors' bytes without holes. From the format's page at
/// https://github.com/huggingface/safetensors.
struct SafetensorsHeader {
  struct Entry {
    std::string name;
    std::string dtype;  ///< "F32", "BF16", "F16", "F64", "I64", …
    Shape shape;
    std::int64_t begin = 0, end = 0;  ///< bytes, counted from the end of the header
  };
  std::vector<Entry> tensors;  ///< in order of their bytes
  std::map<std::string, std::string> metadata;

  /// Throws (bad_data) beginning with `where` unless the text is a header for exactly `data_bytes` bytes: no key is there twice,
  /// no type is unknown, sizes fit shapes, no two tensors overlap and every byte belongs to one.
  static SafetensorsHeader parse(std::string_view text, std::int64_t data_bytes, const std::string& where);
};

/// A .safetensors file, read with plain reads; it may come from anywhere.
class SafetensorsFile {
 public:
  /// Throws (bad_data) for a file that is none, with what is wrong. Headers may have 100 MB, as the format's own reader allows.
  explicit SafetensorsFile(std::string path);
  const SafetensorsHeader& header() const { return header_; }
  /// The values, converted to f32; tensors of any size, one at a time.
  std::vector<float> read(const SafetensorsHeader::Entry&) const;

 private:
  std::string path_;
  std::int64_t data_ = 0;  // where the tensors' bytes begin
  SafetensorsHeader header_;
};

/// A tensor to be written: its values are asked for when their turn comes.
struct SafetensorsTensor {
  std::string name;
  Shape shape;
  std::function<std::vector<float>()> values;
};
/// Writes f32 tensors in name order; the file appears whole or not at all.
void write_safetensors(const std::string& path, std::vector<SafetensorsTensor>,
                       const std::map<std::string, std::string>& metadata);

}  // namespace lockstep::io
