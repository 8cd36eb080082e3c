#pragma once

#include "io/checkpoint.h"
#include "tests/io/files.h"
#include "tests/support/devices.h"

namespace lockstep::test {

/// A model's tensors on a device, filled from a seed.
struct Model {
  std::vector<io::NamedView> views;
  std::vector<Tensor> tensors;
  Device& device;
  explicit Model(Device& d, std::uint64_t seed, std::int64_t width = 5) : device(d) {
    add("wte.weight", {11, width}, DType::f32, seed);
    add("h.0.attn.c_attn.weight", {3 * width, width}, DType::f32, seed + 1);
    add("h.0.ln_1.bias", {width}, DType::f32, seed + 2);
    add("adamw.m/h.0.attn.c_attn.weight", {3 * width, width}, DType::f32, seed + 3);
    add("half", {4, 3}, DType::bf16, seed + 4);
    add("one", {}, DType::f32, seed + 5);
    add("nothing", {0, 7}, DType::f32, seed + 6);
    add("f16", {3, 2}, DType::f16, seed + 7);
  }
  void add(const std::string& name, const Shape& shape, DType dtype, std::uint64_t seed) {
    tensors.push_back(make_tensor(device, shape, random_values(count(shape), seed), dtype));
    views.push_back({name, shape, tensors.back().view()});
  }
  std::vector<std::vector<float>> values() const {
    std::vector<std::vector<float>> all;
    for (const auto& t : tensors) all.push_back(t.size() > 0 ? download(device.queue(), t) : std::vector<float>{});
    return all;
  }
};

/// A folder of checkpoints of that model.
struct Saved {
  Folder folder;
  Device device;
  std::unique_ptr<Group> group = solo_group();
  std::string save(std::int64_t step, std::uint64_t seed, int keep = 0, const std::string& state = R"({"seed":7})") {
    return io::save_checkpoint(folder.path, step, Model(device, seed).views, state, keep, device.queue(), *group);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path)) all.push_back(entry.path().filename().string());
    std::sort(all.begin(), all.end());
    return all;
  }
  /// Whether the newest good checkpoint holds the values of `seed`.
  void expect_newest(std::int64_t step, std::uint64_t seed, std::size_t warnings = 0) {
    const auto found = io::find_checkpoint(folder.path, *group);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, step);
    EXPECT_EQ(found->warnings.size(), warnings);
    Model loaded(device, 99);
    io::load_checkpoint(*found, loaded.views, io::Match::all, device.queue(), *group);
    EXPECT_EQ(loaded.values(), Model(device, seed).values());
  }
};

}  // namespace lockstep::test
