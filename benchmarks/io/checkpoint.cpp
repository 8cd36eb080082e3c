// How fast is a checkpoint written, beside a plain fsynced write of the same bytes? In turn, into the same folder.

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/device.h"
#include "io/checkpoint.h"
#include "kernels/base/check.h"

namespace {

using namespace lockstep;

double seconds_of(const std::function<void()>& work) {
  const auto started = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

void write_plainly(const std::string& path, const std::vector<float>& values) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  require(file >= 0, "{} cannot be written", path);
  const char* bytes = reinterpret_cast<const char*>(values.data());
  const std::size_t total = values.size() * sizeof(float);
  for (std::size_t at = 0; at < total;) {
    const auto n = ::pwrite(file, bytes + at, std::min<std::size_t>(4 << 20, total - at), off_t(at));
    require(n > 0, "{}: a write failed", path);
    at += std::size_t(n);
  }
  require(::fsync(file) == 0 && ::close(file) == 0, "{}: fsync failed", path);
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder = ".";
  int rounds = 9, tensors = 60;
  double mib = 256;
  CLI::App app("Checkpoints beside a plain fsynced write of the same bytes");
  app.add_option("--folder", folder, "where to write");
  app.add_option("--rounds", rounds);
  app.add_option("--mib", mib, "size of a checkpoint");
  app.add_option("--tensors", tensors);
  CLI11_PARSE(app, argc, argv);

  Device device;
  const auto group = solo_group();
  std::vector<float> values(std::size_t(mib * (1 << 20) / 4) / std::size_t(tensors) * std::size_t(tensors));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = float(i % 1000) * 0.001f;
  const auto each = std::int64_t(values.size()) / tensors;
  std::vector<io::NamedView> views;
  for (int i = 0; i < tensors; ++i)
    views.push_back({"tensor." + std::to_string(i), {each}, {values.data() + i * each, each, DType::f32}});
  const std::string place = folder + "/checkpoint-benchmark";
  io::CheckpointWriter writer(place, views, {.keep = 1}, device.queue(), *group);

  std::vector<double> ours, plain, ratios;
  for (int round = -1; round < rounds; ++round) {  // the first one is not counted
    const double a = seconds_of([&] {
      writer.begin(round + 2, "{}");
      const auto ended = writer.wait();
      require(ended->problem.empty(), "{}", ended->problem);
    });
    const double b = seconds_of([&] { write_plainly(place + "/plain", values); });
    std::filesystem::remove(place + "/plain");
    if (round < 0) continue;
    ours.push_back(a), plain.push_back(b), ratios.push_back(b / a);
  }
  std::filesystem::remove_all(place);
  for (auto* all : {&ours, &plain, &ratios}) std::sort(all->begin(), all->end());
  const auto middle = std::size_t(rounds / 2);
  const double megabytes = double(values.size()) * 4e-6;
  fmt::print("{}\n", nlohmann::ordered_json({{"name", "checkpoint write"},
                                             {"unit", "MB/s"},
                                             {"ours", megabytes / ours[middle]},
                                             {"peer", megabytes / plain[middle]},
                                             {"peer_name", "plain write and fsync of the same bytes"},
                                             {"ratio", ratios[middle]},
                                             {"ratio_low", ratios.front()},
                                             {"ratio_high", ratios.back()},
                                             {"rounds", rounds},
                                             {"bytes", values.size() * 4}})
                         .dump());
}
