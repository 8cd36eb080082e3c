#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "core/checksum.h"
#include "tests/io/checkpoints.h"
#include "tests/io/thread_group.h"

namespace lockstep::test {

/// What became of mutated checkpoints.
struct Fuzzed {
  int refused = 0, loaded = 0;
  double slowest = 0;  ///< seconds
};

/// One change to a value somewhere in the manifest's JSON.
inline void edit(nlohmann::json& at, std::mt19937& random) {
  using nlohmann::json;
  while (at.is_structured() && !at.empty() && random() % 8 != 0) {
    auto step = at.begin();
    std::advance(step, long(random() % at.size()));
    json& next = *step;
    if (random() % 12 == 0) {  // gone, or there twice
      if (at.is_array() && random() % 2)
        at.push_back(next);
      else
        at.erase(step);
      return;
    }
    if (!next.is_structured() || random() % 8 == 0) {
      const std::int64_t n = next.is_number_integer() ? std::int64_t(next) : 7;
      const json values[] = {n + 1,
                             n - 1,
                             -n,
                             0,
                             n ^ (1ll << random() % 63),
                             std::numeric_limits<std::int64_t>::max(),
                             1e300,
                             "",
                             "../rank0.h5",
                             "rank1.h5",
                             "bf16",
                             "wte.weight",
                             json::array(),
                             json::object(),
                             nullptr,
                             at.is_array() ? at.front() : next};
      next = values[random() % std::size(values)];
      return;
    }
    edit(next, random);
    return;
  }
}

/// Loads `n` checkpoints of two ranks after bits were flipped, files cut, blocks moved, files swapped or taken away, or the
/// manifest was edited (its own checksum made right again half of the time). Each must be refused with a sentence, or load
/// exactly what was saved.
inline Fuzzed fuzz_checkpoints(int n, unsigned seed) {
  std::mt19937 random(seed);
  Folder folder;
  Device device;
  const auto group = solo_group();
  const Model model(device, 1);
  const auto expected = model.values();
  on_ranks(2, [&](Group& ranks) {
    io::save_checkpoint(folder.path, 1, model.views, R"({"seed":7,"list":[1,2]})", 0, device.queue(), ranks);
  });
  std::map<std::string, std::string> good;
  for (const char* name : {"rank0.h5", "rank1.h5", "checkpoint.h5", "manifest.json"})
    good[name] = read_file(folder / ("step_1/" + std::string(name)));
  Fuzzed fuzzed;
  for (int trial = 0; trial < n; ++trial) {
    auto files = good;
    for (int change = 1 + int(random() % 3); change > 0; --change) {
      auto which = files.begin();
      std::advance(which, long(random() % files.size()));
      std::string& bytes = which->second;
      if (bytes.empty()) continue;
      const std::size_t at = random() % bytes.size(), to = random() % bytes.size();
      switch (random() % 7) {
        case 0: bytes[at] = char(bytes[at] ^ (1 << random() % 8)); break;
        case 1: bytes.resize(at); break;
        case 2: bytes.append(1 + random() % 100, char(random())); break;
        case 3:
          std::copy_n(bytes.begin() + long(at), std::min(bytes.size() - std::max(at, to), std::size_t(64)),
                      bytes.begin() + long(to));
          break;
        case 4: std::swap(files["rank0.h5"], files["rank1.h5"]); break;
        case 5: bytes.clear(); break;
        default: {
          auto json = nlohmann::json::parse(files["manifest.json"], nullptr, false);
          if (!json.is_object()) break;
          edit(json, random);
          if (!json.is_object()) break;
          if (random() % 2) {
            json.erase("xxh3");
            const std::string sum = checksum(json.dump());
            json["xxh3"] = sum;
          }
          files["manifest.json"] = json.dump(1);
        }
      }
    }
    if (files == good) {  // nothing was changed after all
      --trial;
      continue;
    }
    for (const auto& [name, bytes] : files) write_file(folder / ("step_1/" + name), bytes);
    const auto started = std::chrono::steady_clock::now();
    try {
      const auto found = io::find_checkpoint(folder.path, *group);
      if (!found) throw Error("no checkpoint");
      Model loaded(device, 99);
      io::load_checkpoint(*found, loaded.views, io::Match::all, device.queue(), *group);
      EXPECT_EQ(loaded.values(), expected) << "trial " << trial << " of seed " << seed << " loaded wrong values\n"
                                           << files["manifest.json"];
      ++fuzzed.loaded;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::bad_data) << "trial " << trial << " of seed " << seed << ": " << e.what();
      EXPECT_NE(std::string(e.what()).find("step_1"), std::string::npos) << e.what();
      ++fuzzed.refused;
    }
    fuzzed.slowest = std::max(fuzzed.slowest, std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    if (testing::Test::HasFailure()) break;
  }
  return fuzzed;
}

}  // namespace lockstep::test
