#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>

#include "tests/support/places.h"

namespace lockstep::test {

struct Ran {
  int code = 0;      ///< exit code; 128 + signal for a killed program
  std::string text;  ///< standard output and standard error
  double seconds = 0;
  bool says(const std::string& words) const { return text.find(words) != std::string::npos; }
};

/// The built program for a shell, also inside single quotes; its path may hold spaces.
inline const std::string program = "\"" + place("LOCKSTEP_PROGRAM", LOCKSTEP_PROGRAM) + "\"";

/// Runs the built program in a folder of its own, alone and under mpirun.
class ProgramTest : public testing::Test {
 protected:
  void SetUp() override {
    auto name = "lockstep_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + "_XXXXXX";
    std::string pattern = testing::TempDir() + "/" + name;
    ASSERT_TRUE(mkdtemp(pattern.data()));
    folder_ = pattern;
  }
  void TearDown() override {
    if (!HasFailure()) std::filesystem::remove_all(folder_);
  }

  Ran shell(const std::string& command) const {
    auto started = std::chrono::steady_clock::now();
    std::string out = path("output.txt");
    int status = std::system(("cd '" + folder_ + "' && { " + command + "; } > '" + out + "' 2>&1 < /dev/null").c_str());
    Ran ran{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read(out), 0};
    ran.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return ran;
  }
  Ran lockstep(const std::string& arguments) const { return shell("timeout 120 " + program + " " + arguments); }
  Ran ranks(int n, const std::string& arguments) const {
    return shell("timeout 120 mpirun -n " + std::to_string(n) + " " + program + " " + arguments);
  }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  static std::string read(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path(name), std::ios::binary) << text; }

  /// Lines of a run's metrics.
  std::vector<nlohmann::json> metrics(const std::string& run) const {
    std::ifstream in(path("runs/" + run + "/metrics.jsonl"));
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  /// Losses by step, as they were written.
  std::map<int, std::string> losses(const std::string& run) const {
    std::map<int, std::string> all;
    for (const auto& line : metrics(run))
      if (line.contains("train/loss")) all[line["step"]] = line["train/loss"].dump();
    return all;
  }
  /// The loss scale of every step that wrote one.
  std::vector<double> loss_scales(const std::string& run) const {
    std::vector<double> all;
    for (const auto& line : metrics(run))
      if (line.contains("train/loss_scale")) all.push_back(line["train/loss_scale"]);
    return all;
  }
  std::string hash(const std::string& run) const {
    auto lines = metrics(run);
    return lines.empty() || !lines.back().contains("weights_xxh3") ? "none" : std::string(lines.back()["weights_xxh3"]);
  }

  /// table.h5: 200 rows of 3 numbers and a class that depends on them.
  void make_table() const {
    std::mt19937 generator(1);
    std::ostringstream csv;
    csv << "a,b,c,label\n";
    for (int i = 0; i < 200; ++i) {
      double x[3];
      for (double& v : x) v = double(generator()) / 2147483648.0 - 1;
      csv << x[0] << "," << x[1] << "," << x[2] << "," << (x[0] * x[1] + x[2] / 2 > 0 ? "yes" : "no") << "\n";
    }
    write("table.csv", csv.str());
    Ran ran = lockstep("data csv table.csv -o table.h5 --validation 0.2");
    ASSERT_EQ(ran.code, 0) << ran.text;
  }
  /// text.h5: a stream of 20,000 bytes.
  void make_text() const {
    std::mt19937 generator(2);
    std::string text;
    const char* words[] = {"alpha ", "beta ", "gamma ", "delta ", "epsilon "};
    while (text.size() < 20000) text += words[generator() % 5];
    write("text.txt", text);
    Ran ran = lockstep("data text text.txt -o text.h5 --validation 0.1");
    ASSERT_EQ(ran.code, 0) << ran.text;
  }
  /// images.h5: 64 images of 12 x 12 with a bright half that is their class.
  void make_images() const {
    std::mt19937 generator(3);
    auto number = [](std::string& to, unsigned value) {
      for (int shift : {24, 16, 8, 0}) to += char(value >> shift);
    };
    std::string images, labels;
    number(images, 0x803), number(images, 64), number(images, 12), number(images, 12);
    number(labels, 0x801), number(labels, 64);
    for (int i = 0; i < 64; ++i) {
      int label = int(generator() % 2);
      labels += char(label);
      for (int p = 0; p < 144; ++p) images += char((p / 72 == label ? 128 : 0) + int(generator() % 100));
    }
    write("images.idx", images);
    write("labels.idx", labels);
    Ran ran = lockstep("data idx --images images.idx --labels labels.idx -o images.h5 --validation 0.25");
    ASSERT_EQ(ran.code, 0) << ran.text;
  }

  std::string folder_;
};

inline const char* const mlp_toml = R"([data]
path = "table.h5"
[model]
kind = "mlp"
hidden = [16]
dropout = 0.1
[train]
steps = 20
lanes = 4
rows_per_lane = 4
reduction = "exact"
[optimizer]
rate = 1e-2
clip = 1.0
[log]
every = 5
)";

inline const char* const gpt_toml = R"([data]
path = "text.h5"
[model]
kind = "gpt"
layers = 2
width = 32
heads = 2
length = 16
dropout = 0.1
[train]
steps = 12
lanes = 4
rows_per_lane = 2
reduction = "exact"
head_bucket_mib = 0.01
middle_bucket_mib = 0.05
tail_bucket_mib = 0.01
[optimizer]
rate = 1e-2
clip = 1.0
[schedule]
kind = "cosine"
warmup = 4
[checkpoint]
every = 4
[log]
every = 3
evaluate_every = 6
)";

}  // namespace lockstep::test
