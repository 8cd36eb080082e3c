#include "io/safetensors.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/io/files.h"
#include "tests/support/devices.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

/// A file by hand: length, header, bytes.
std::string file_of(const std::string& header, const std::string& bytes) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += char(header.size() >> 8 * i & 255);
  return text + header + bytes;
}
template <class T>
std::string bytes_of(std::vector<T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

TEST(Safetensors, EveryByteOfAWrittenFileIsWhatTheFormatSays) {
  Folder folder;
  const auto w = random_values(6, 1);
  write_safetensors(folder / "x.safetensors",
                    {{"w", {2, 3}, [&] { return w; }},
                     {"b", {}, [] { return std::vector{0.5f}; }},
                     {"none", {0, 4}, [] { return std::vector<float>{}; }}},
                    {{"format", "pt"}});
  const std::string file = read_file(folder / "x.safetensors");
  std::uint64_t length;
  std::memcpy(&length, file.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  const auto header = nlohmann::json::parse(file.substr(8, length));
  EXPECT_EQ(header, nlohmann::json::parse(R"({"__metadata__": {"format": "pt"},
    "b": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, "none": {"dtype": "F32", "shape": [0, 4], "data_offsets": [4, 4]},
    "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [4, 28]}})"));
  EXPECT_EQ(file.substr(8 + length), bytes_of<float>({0.5f}) + bytes_of(w));
  const SafetensorsFile read(folder / "x.safetensors");
  EXPECT_EQ(read.header().metadata.at("format"), "pt");
  EXPECT_EQ(read.read(read.header().tensors.back()), w);
}

TEST(Safetensors, EveryNumericTypeBecomesF32) {
  Folder folder;
  auto read = [&](const std::string& dtype, const std::string& bytes, int n) {
    const auto size = std::to_string(bytes.size());
    write_file(folder / "x", file_of(R"({"x":{"dtype":")" + dtype + R"(","shape":[)" + std::to_string(n) +
                                         R"(],"data_offsets":[0,)" + size + "]}}  ",
                                     bytes));
    const SafetensorsFile file(folder / "x");
    return file.read(file.header().tensors[0]);
  };
  const std::vector<float> values = {1, -2, 0.5f};
  EXPECT_EQ(read("F32", bytes_of(values), 3), values);
  EXPECT_EQ(read("F64", bytes_of<double>({1, -2, 0.5}), 3), values);
  EXPECT_EQ(read("BF16", bytes_of<std::uint16_t>({0x3f80, 0xc000, 0x3f00}), 3), values);
  EXPECT_EQ(read("F16", bytes_of<std::uint16_t>({0x3c00, 0xc000, 0x3800}), 3), values);
  const auto special = read("F16", bytes_of<std::uint16_t>({0x0001, 0x7bff, 0xfc00, 0x7e00, 0x8000}), 5);
  EXPECT_EQ(special[0], 5.9604644775390625e-8f);
  EXPECT_EQ(special[1], 65504.f);
  EXPECT_EQ(special[2], -INFINITY);
  EXPECT_TRUE(std::isnan(special[3]) && std::signbit(special[4]));
  EXPECT_EQ(read("I64", bytes_of<std::int64_t>({7, -9}), 2), (std::vector<float>{7, -9}));
  EXPECT_EQ(read("U8", "\x01\xff", 2), (std::vector<float>{1, 255}));
  expect_error(Exit::bad_data, {"'x' is I8", "F32"}, [&] { read("I8", "ab", 2); });
}

TEST(Safetensors, BadFilesAreRefusedWithTheReason) {
  Folder folder;
  auto refused = [&](const std::string& file, const std::string& why) {
    write_file(folder / "x.safetensors", file);
    expect_error(Exit::bad_data, {"x.safetensors", why}, [&] { SafetensorsFile(folder / "x.safetensors"); });
  };
  auto tensor = [](const std::string& name, int begin, int end, const std::string& shape = "[1]") {
    return "\"" + name + R"(":{"dtype":"F32","shape":)" + shape + ",\"data_offsets\":[" + std::to_string(begin) + "," +
           std::to_string(end) + "]}";
  };
  const std::string four = "abcd", eight = "abcdefgh";
  write_file(folder / "x.safetensors", file_of("{" + tensor("a", 0, 4) + "}", four));
  SafetensorsFile good(folder / "x.safetensors");
  refused("", "too few");
  refused(std::string("\x10\0\0\0\0\0\0\0{}", 10), "16 bytes");
  refused(std::string(7, '\xff') + '\x7f' + "{}", "its header would have");
  refused(file_of("[" + tensor("a", 0, 4) + "]", four), "begin with {");
  refused(file_of(" {" + tensor("a", 0, 4) + "}", four), "begin with {");
  refused(file_of("{" + tensor("a", 0, 4), four), "not a good safetensors file");
  refused(file_of("{" + tensor("a", 0, 4) + "}x", four), "not a good safetensors file");
  refused(file_of("{" + tensor("a", 0, 4) + "}", eight), "bytes at its end belong to no tensor");
  refused(file_of("{" + tensor("a", 0, 4) + "}", "abc"), "missing: 1 bytes");
  refused(file_of("{" + tensor("a", 0, 4) + "," + tensor("b", 0, 4) + "}", four), "'b' overlaps");
  refused(file_of("{" + tensor("a", 0, 4) + "," + tensor("b", 8, 12) + "}", four + eight), "bytes before 'b'");
  refused(file_of("{" + tensor("a", 4, 8) + "}", eight), "bytes before 'a'");
  refused(file_of("{" + tensor("a", 0, 4) + "," + tensor("a", 4, 8) + "}", eight), "'a' is there twice");
  refused(file_of("{" + tensor("a", 0, 4, "[2]") + "}", four), "sizes that do not fit");
  refused(file_of("{" + tensor("a", 0, 4, "[-1]") + "}", four), "no whole number");
  refused(file_of("{" + tensor("a", 0, 4, "[4294967296,4294967296]") + "}", four), "impossible shape");
  refused(file_of("{" + tensor("a", 0, 0, "[4294967296,4294967296,0]") + "}", ""), "impossible shape");
  refused(file_of("{" + tensor("a", 4, 0) + "}", four), "sizes that do not fit");
  refused(file_of(R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", four), "unknown type 'F33'");
  refused(file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four), "'dtype' is there twice");
  refused(file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", four), "unknown key 'x'");
  refused(file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", four), "no pair");
  refused(file_of(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", four), "dtype");
  refused(file_of(R"({"a":7})", ""), "'a' is no tensor");
  refused(file_of(R"({"__metadata__":{"a":1}})", ""), "is no text");
  refused(file_of(R"({"__metadata__":[]})", ""), "no object");
  refused(file_of("{\"a\":" + std::string(100000, '['), four), "nested too deeply");
  expect_error(Exit::bad_data, {"nowhere"}, [&] { SafetensorsFile(folder / "nowhere"); });
}

TEST(Safetensors, MutatedFilesAreRefusedOrWhole) {
  Folder folder;
  write_safetensors(folder / "x.safetensors",
                    {{"w", {2, 3}, [] { return random_values(6, 1); }},
                     {"b",
                      {2},
                      [] {
                        return std::vector{1.f, 2.f};
                      }}},
                    {{"format", "pt"}});
  const std::string good = read_file(folder / "x.safetensors");
  std::mt19937 random(4);
  for (int trial = 0; trial < 1000; ++trial) {
    std::string bytes = good;
    for (int change = 1 + int(random() % 3); change > 0; --change)
      if (random() % 8 == 0)
        bytes.resize(random() % (bytes.size() + 1));
      else if (!bytes.empty())
        bytes[random() % bytes.size()] = char(random());
    write_file(folder / "x.safetensors", bytes);
    try {
      const SafetensorsFile file(folder / "x.safetensors");
      for (const auto& t : file.header().tensors)
        if (t.dtype == "F32") {
          EXPECT_EQ(std::int64_t(file.read(t).size()), count(t.shape));
        }
    } catch (const Error& e) {
      ASSERT_EQ(e.exit(), Exit::bad_data) << e.what();
    }
  }
}

}  // namespace
}  // namespace lockstep::io
