#include "io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "io/output.h"
#include "io/raw_file.h"

namespace lockstep::io {

using Json = nlohmann::json;

namespace {

constexpr std::int64_t longest_header = 100'000'000;

void need(bool ok, const std::string& what) {
  if (!ok) throw std::runtime_error(what);
}

/// Bits of one value.
int width_of(const std::string& dtype) {
  for (auto [name, width] : {std::pair{"F64", 64},
                             {"I64", 64},
                             {"U64", 64},
                             {"F32", 32},
                             {"I32", 32},
                             {"U32", 32},
                             {"F16", 16},
                             {"BF16", 16},
                             {"I16", 16},
                             {"U16", 16},
                             {"I8", 8},
                             {"U8", 8},
                             {"BOOL", 8},
                             {"F8_E4M3", 8},
                             {"F8_E5M2", 8}})
    if (dtype == name) return width;
  throw std::runtime_error("unknown type '" + dtype + "'");
}

std::int64_t whole(const Json& value, const std::string& what) {
  need(value.is_number_unsigned() && value <= std::uint64_t(std::numeric_limits<std::int64_t>::max()),
       what + " is no whole number");
  return value;
}

/// JSON whose objects name no key twice and which is no deeper than a header is.
Json parse_strictly(std::string_view text) {
  std::vector<std::set<std::string>> seen;
  return Json::parse(text, [&](int depth, Json::parse_event_t event, Json& value) {
    need(depth <= 4, "it is nested too deeply");
    if (event == Json::parse_event_t::object_start) seen.emplace_back();
    if (event == Json::parse_event_t::object_end) seen.pop_back();
    if (event == Json::parse_event_t::key) {
      const std::string key = value.get<std::string>();
      need(seen.back().insert(key).second, fmt::format("'{}' is there twice", key));
    }
    return true;
  });
}

SafetensorsHeader::Entry entry_of(const std::string& name, const Json& value) {
  need(value.is_object(), "'" + name + "' is no tensor");
  for (const auto& [key, ignored] : value.items())
    need(key == "dtype" || key == "shape" || key == "data_offsets", "'" + name + "' has the unknown key '" + key + "'");
  SafetensorsHeader::Entry entry{name, value.at("dtype"), {}, 0, 0};
  long double bits = width_of(entry.dtype);
  need(value.at("shape").is_array(), "the shape of '" + name + "' is no list");
  for (const auto& d : value.at("shape")) {
    bits *= (long double)entry.shape.emplace_back(whole(d, "the shape of '" + name + "'"));
    need(bits < 7e19L, "'" + name + "' has an impossible shape");  // also before a later 0
  }
  const auto& offsets = value.at("data_offsets");
  need(offsets.is_array() && offsets.size() == 2, "the offsets of '" + name + "' are no pair");
  entry.begin = whole(offsets[0], "an offset of '" + name + "'"), entry.end = whole(offsets[1], "an offset of '" + name + "'");
  need(entry.begin <= entry.end && bits == 8 * (long double)(entry.end - entry.begin),
       "'" + name + "' has sizes that do not fit each other");
  return entry;
}

template <class T>
void convert(const std::vector<char>& bytes, std::vector<float>& out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T one;
    std::memcpy(&one, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = float(one);
  }
}

}  // namespace

SafetensorsHeader SafetensorsHeader::parse(std::string_view text, std::int64_t data_bytes, const std::string& where) {
  try {
    need(text.starts_with('{'), "its header does not begin with {");
    const Json body = parse_strictly(text);
    SafetensorsHeader header;
    for (const auto& [name, value] : body.items()) {
      if (name == "__metadata__") {
        need(value.is_object(), "its metadata is no object");
        for (const auto& [key, word] : value.items()) {
          need(word.is_string(), "its metadata '" + key + "' is no text");
          header.metadata[key] = word;
        }
      } else {
        header.tensors.push_back(entry_of(name, value));
      }
    }
    std::sort(header.tensors.begin(), header.tensors.end(),
              [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    std::int64_t at = 0;
    for (const auto& t : header.tensors) {
      need(t.begin >= at, "'" + t.name + "' overlaps the tensor before it");
      need(t.begin == at, "bytes before '" + t.name + "' belong to no tensor");
      at = t.end;
    }
    need(at <= data_bytes, "its last tensors are missing: " + std::to_string(at - data_bytes) + " bytes");
    need(at == data_bytes, "bytes at its end belong to no tensor");
    return header;
  } catch (const std::exception& e) {
    std::string why = e.what();
    if (auto mark = why.find("] "); why.starts_with("[json") && mark != std::string::npos) why = why.substr(mark + 2);
    throw Error(where + ": not a good safetensors file: " + why, Exit::bad_data);
  }
}

SafetensorsFile::SafetensorsFile(std::string path) : path_(std::move(path)) {
  const RawFile file(path_, RawFile::Mode::read);
  std::array<unsigned char, 8> raw{};
  const std::int64_t size = file.size();
  require(Exit::bad_data, size >= 10, "{}: not a safetensors file: {} bytes are too few", path_, size);
  file.read(0, 8, raw.data());
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | raw[std::size_t(i)];
  require(Exit::bad_data, length <= std::uint64_t(longest_header) && std::int64_t(length) <= size - 8,
          "{}: not a good safetensors file: its header would have {} bytes", path_, length);
  std::string text(length, '\0');
  file.read(8, std::int64_t(length), text.data());
  data_ = 8 + std::int64_t(length);
  header_ = SafetensorsHeader::parse(text, size - data_, path_);
}

std::vector<float> SafetensorsFile::read(const SafetensorsHeader::Entry& entry) const {
  std::vector<char> bytes(std::size_t(entry.end - entry.begin));
  RawFile(path_, RawFile::Mode::read).read(data_ + entry.begin, entry.end - entry.begin, bytes.data());
  std::vector<float> out(std::size_t(count(entry.shape)));
  if (entry.dtype == "F32") {
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  } else if (entry.dtype == "BF16") {
    convert<bf16>(bytes, out);
  } else if (entry.dtype == "F16") {
    convert<f16>(bytes, out);
  } else if (entry.dtype == "F64") {
    convert<double>(bytes, out);
  } else if (entry.dtype == "I64") {
    convert<std::int64_t>(bytes, out);
  } else if (entry.dtype == "I32") {
    convert<std::int32_t>(bytes, out);
  } else if (entry.dtype == "U8" || entry.dtype == "BOOL") {
    convert<std::uint8_t>(bytes, out);
  } else {
    throw Error(path_ + ": '" + entry.name + "' is " + entry.dtype + "; F32, F16, BF16, F64, I64, I32, U8 and BOOL can be read",
                Exit::bad_data);
  }
  return out;
}

void write_safetensors(const std::string& path, std::vector<SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](auto& a, auto& b) { return a.name < b.name; });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t bytes = 0;
  for (const auto& t : tensors) {
    const std::int64_t begin = bytes;
    bytes += 4 * count(t.shape);
    header[t.name] = {{"dtype", "F32"}, {"shape", t.shape}, {"data_offsets", {begin, bytes}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the tensors are aligned
  require(Exit::usage, std::int64_t(text.size()) <= longest_header, "{}: {} tensors are too many for one safetensors file", path,
          tensors.size());
  std::string length;
  for (int i = 0; i < 8; ++i) length += char(text.size() >> 8 * i & 255);

  Output output(path, 8 + std::int64_t(text.size()) + bytes);
  {
    RawFile file(output.path(), RawFile::Mode::create);
    file.reserve(8 + std::int64_t(text.size()) + bytes);
    file.write(0, 8, length.data());
    file.write(8, std::int64_t(text.size()), text.data());
    std::int64_t at = 8 + std::int64_t(text.size());
    for (const auto& t : tensors) {
      const auto values = t.values();
      require(std::int64_t(values.size()) == count(t.shape), "write_safetensors: '{}' {} has {} values", t.name, to_text(t.shape),
              values.size());
      file.write(at, 4 * std::int64_t(values.size()), values.data());
      at += 4 * std::int64_t(values.size());
    }
  }
  output.commit();
}

}  // namespace lockstep::io
