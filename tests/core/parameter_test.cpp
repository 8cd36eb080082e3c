#include "core/parameter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/flat.h"
#include "core/nn/gpt.h"
#include "core/nn/resnet.h"
#include "kernels/memory.h"
#include "tests/support/devices.h"
#include "tests/support/model.h"

namespace lockstep {
namespace {

TEST(Parameters, CountsAreThoseOfThePublishedModels) {
  Device device;
  auto gpt = [&](const char* size) {
    ParameterSet set(device);
    nn::Gpt model(set, nn::Gpt::size(size));
    return set.count_elements();
  };
  EXPECT_EQ(gpt("124M"), 124439808);
  EXPECT_EQ(gpt("350M"), 354823168);
  EXPECT_EQ(gpt("774M"), 774030080);
  EXPECT_EQ(gpt("1558M"), 1557611200);
  EXPECT_THROW(gpt("125M"), Error);
  auto resnet = [&](int depth) {
    ParameterSet set(device);
    nn::ResNet model(set, {.depth = depth});
    return set.count_elements();
  };
  EXPECT_EQ(resnet(18), 11689512);
  EXPECT_EQ(resnet(50), 25557032);
}

TEST(Parameters, InitialValuesDependOnNameAndElementAlone) {
  Device device;
  auto values = [&](bool other_first, const char* name) {
    ParameterSet set(device);
    if (other_first) set.add("other", {3, 3}, Initial::normal(0, 1));
    set.add(name, {10, 10}, Initial::normal(0, 1));
    test::Placed placed(set, 42);
    return download(device.queue(), set.find(name).value);
  };
  EXPECT_EQ(values(false, "w"), values(true, "w"));
  EXPECT_NE(values(false, "w"), values(false, "v"));
}

TEST(Parameters, InitialValuesHaveTheirDistribution) {
  Device device;
  ParameterSet set(device);
  Tensor n = set.add("n", {200, 200}, Initial::normal(1, 2)), u = set.add("u", {200, 200}, Initial::kaiming_uniform(100));
  test::Placed placed(set);
  auto moments = [&](const Tensor& x) {
    double sum = 0, square = 0;
    for (float v : download(device.queue(), x)) sum += v, square += double(v) * v;
    double mean = sum / double(x.size());
    return std::pair(mean, std::sqrt(square / double(x.size()) - mean * mean));
  };
  auto [mean, deviation] = moments(n);
  EXPECT_NEAR(mean, 1, 0.04);
  EXPECT_NEAR(deviation, 2, 0.04);
  for (float v : download(device.queue(), u)) EXPECT_LE(std::abs(v), 0.1f);  // PyTorch: ±1 / sqrt(fan_in)
  EXPECT_NEAR(moments(u).second, 0.1 / std::sqrt(3.0), 0.001);
}

TEST(Parameters, NamesAreUniqueAndSuggested) {
  Device device;
  ParameterSet set(device);
  set.add("h.0.attn.c_attn.weight", {2}, Initial::constant(0));
  EXPECT_THROW(set.add("h.0.attn.c_attn.weight", {2}, Initial::constant(0)), Error);
  try {
    set.find("h.0.attn.c_atn.weight");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("did you mean \"h.0.attn.c_attn.weight\""), std::string::npos) << e.what();
  }
}

TEST(Flat, HashSeesEveryWeightAndBufferInNameOrderWhateverTheLayout) {
  Device device;
  auto hash = [&](bool swapped, float change) {
    ParameterSet set(device);
    auto a = [&] { set.add("a", {5}, Initial::normal(0, 1)); };
    auto b = [&] { set.buffer("b", {3}, 1 + change, 0.1f); };
    if (swapped)
      b(), a();
    else
      a(), b();
    test::Placed placed(set);
    return hash_parameters(set);
  };
  EXPECT_EQ(hash(false, 0), hash(true, 0));
  EXPECT_NE(hash(false, 0), hash(false, 1));
  EXPECT_EQ(hash(false, 0).size(), 32u);
}

// What ranks compare: it sees every element of what they hold, with the buffers wherever those lie, and nothing else.
TEST(Flat, FingerprintSeesEveryWeightAndBuffer) {
  for (auto& device : test::devices())
    for (DType dtype : {DType::f32, DType::bf16})
      for (bool masters : {true, false}) {
        auto of = [&](std::uint64_t seed, const char* changed, std::int64_t element, bool weights = true) {
          ParameterSet set(*device, dtype, masters);
          set.add("w", {77, 3}, Initial::normal(0, 1));
          set.buffer("s", {3}, 2, 0.1f);
          set.add("v", {200}, Initial::uniform(-1, 1));
          set.buffer("u", {5}, 2, 0.1f);
          test::Placed placed(set, seed);
          if (*changed) kernels::fill(device->queue(), set.find(changed).master.slice(element, 1), 7);
          return fingerprint(*device, placed.flat, weights);
        };
        std::set<std::string> all = {of(1, "", 0), of(2, "", 0)};
        int made = 2;
        for (auto [name, size] : {std::pair{"w", 231}, {"v", 200}, {"s", 3}, {"u", 5}})
          for (int element : {0, size / 2, size - 1}) {
            all.insert(of(1, name, element));
            ++made;
          }
        EXPECT_EQ(int(all.size()), made) << name_of(dtype) << " masters " << masters;
        EXPECT_EQ(of(1, "", 0), of(1, "", 0));
        EXPECT_EQ(of(1, "", 0, false), of(2, "", 0, false)) << "weights are not buffers";
        EXPECT_NE(of(1, "u", 4, false), of(1, "", 0, false));
        EXPECT_EQ(of(1, "v", 4, false), of(1, "", 0, false));
      }
}

TEST(Flat, WeightsOf16BitsAreRoundedMasters) {
  Device device;
  for (DType dtype : {DType::bf16, DType::f16}) {
    ParameterSet set(device, dtype);
    set.add("w", {7, 3}, Initial::normal(0, 1));
    set.buffer("s", {3}, 1.00001f, 0.1f);
    test::Placed placed(set);
    auto masters = download(device.queue(), set.find("w").master), weights = download(device.queue(), set.find("w").value);
    for (std::size_t i = 0; i < masters.size(); ++i) EXPECT_EQ(weights[i], test::rounded(dtype, masters[i]));
    EXPECT_EQ(download(device.queue(), set.find("s").value)[0], 1.00001f);
  }
}

// Weights of 16 bits that are all there is; buffers keep f32, in memory of their own.
TEST(Flat, WeightsWithoutMasters) {
  Device device;
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    ParameterSet set(device, dtype, false), mastered(device, dtype);
    for (ParameterSet* s : {&set, &mastered}) {
      s->add("w", {7, 3}, Initial::normal(0, 1));
      s->buffer("s", {3}, 1.00001f, 0.1f);
      s->add("v", {200}, Initial::uniform(-1, 1));
      s->buffer("u", {5}, 2.00001f, 0.1f);
    }
    test::Placed placed(set), other(mastered);
    EXPECT_EQ(placed.flat.masters.data, placed.flat.weights.data);
    EXPECT_EQ(placed.flat.masters.dtype, dtype);
    for (const char* name : {"w", "v"}) {
      auto &p = set.find(name), &m = mastered.find(name);
      EXPECT_EQ(p.master.data, p.value.view().data);
      EXPECT_EQ(download(device.queue(), p.value), download(device.queue(), m.value)) << name << " begins alike";
    }
    for (auto [name, value] : {std::pair{"s", 1.00001f}, {"u", 2.00001f}}) {
      auto& p = set.find(name);
      EXPECT_EQ(p.master.dtype, DType::f32);
      EXPECT_EQ(download(device.queue(), p.value), std::vector<float>(std::size_t(p.value.size()), value));
    }
    EXPECT_EQ(hash_parameters(set) == hash_parameters(mastered), dtype == DType::f32) << "of what is stored";
  }
}

}  // namespace
}  // namespace lockstep
