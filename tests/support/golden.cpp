#include "tests/support/golden.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/devices.h"
#include "tests/support/places.h"

namespace lockstep::test {
namespace {

template <class T>
std::vector<float> widen(const char* data, std::size_t bytes) {
  std::vector<float> values(bytes / sizeof(T));
  for (std::size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, data + i * sizeof(T), sizeof(T));
    values[i] = float(value);
  }
  return values;
}

std::vector<float> decode(const std::string& dtype, const char* data, std::size_t bytes) {
  if (dtype == "F32") return widen<float>(data, bytes);
  if (dtype == "BF16") return widen<bf16>(data, bytes);
  require(dtype == "I32", "golden file: unknown type {}", dtype);
  return widen<std::int32_t>(data, bytes);
}

}  // namespace

const GoldenTensor& GoldenCase::operator[](const std::string& tensor) const {
  auto found = tensors.find(tensor);
  require(found != tensors.end(), "golden case {} has no tensor {}", name, tensor);
  return found->second;
}

const std::string& GoldenCase::text(const std::string& attribute) const {
  auto found = attributes.find(attribute);
  require(found != attributes.end(), "golden case {} has no attribute {}", name, attribute);
  return found->second;
}

double GoldenCase::number(const std::string& attribute) const {
  return std::stod(text(attribute));
}
double GoldenCase::number(const std::string& attribute, double otherwise) const {
  return attributes.contains(attribute) ? number(attribute) : otherwise;
}

Tensor GoldenCase::load(Device& device, const std::string& tensor, DType dtype) const {
  const GoldenTensor& t = (*this)[tensor];
  return make_tensor(device, t.shape, t.values, dtype);
}

Tensor GoldenCase::load_integers(Device& device, const std::string& tensor) const {
  const GoldenTensor& t = (*this)[tensor];
  return make_indices(device, t.shape, t.integers());
}

std::vector<GoldenCase> read_golden(const std::string& name) {
  std::string path = place("LOCKSTEP_SOURCE", LOCKSTEP_SOURCE_DIR) + "/tests/golden/" + name + ".safetensors";
  std::ifstream file(path, std::ios::binary);
  require(bool(file), "cannot read {}: run tests/golden/make.py", path);
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  std::uint64_t header_size = 0;
  require(bytes.size() >= 8, "{} is too short", path);
  std::memcpy(&header_size, bytes.data(), 8);
  require(bytes.size() - 8 >= header_size, "{} is too short", path);
  auto header = nlohmann::ordered_json::parse(bytes.begin() + 8, bytes.begin() + 8 + std::ptrdiff_t(header_size));
  const char* data = bytes.data() + 8 + header_size;

  std::vector<GoldenCase> cases;
  std::map<std::string, std::size_t> position;
  auto case_of = [&](const std::string& key) -> GoldenCase& {
    std::string prefix = key.substr(0, key.find('/'));
    auto [at, is_new] = position.try_emplace(prefix, cases.size());
    if (is_new) cases.push_back({prefix, {}, {}});
    return cases[at->second];
  };
  for (auto& [key, value] : header.at("__metadata__").items())
    case_of(key).attributes[key.substr(key.find('/') + 1)] = value.get<std::string>();
  for (auto& [key, value] : header.items()) {
    if (key == "__metadata__") continue;
    std::size_t begin = value.at("data_offsets").at(0), end = value.at("data_offsets").at(1);
    require(begin <= end && end <= bytes.size() - 8 - header_size, "{}: {} lies outside the file", path, key);
    case_of(key).tensors[key.substr(key.find('/') + 1)] = {value.at("shape").get<Shape>(),
                                                           decode(value.at("dtype"), data + begin, end - begin)};
  }
  require(!cases.empty(), "{} has no cases", path);
  return cases;
}

}  // namespace lockstep::test
