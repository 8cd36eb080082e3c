// How fast are rows read? One process a measurement, driven by reading.py; prints one line of JSON. All rows go through
// io::Dataset::read in batches of 64 with 64 MiB of cache, the way a run whose data does not fit its memory reads them.
//
//   io_reading compare FILE PLAIN OFFSET sequential|shuffled ROUNDS   rows of FILE and, in turn, a loop of pread over the same
//                                                                     number of equal rows at OFFSET of PLAIN (GB/s)
//   io_reading cores FILE ROUNDS                                      the same rows with one core and with two, in turn (rows/s)
//   io_reading batches FILE shuffled|window SECONDS                   rows/s
//   io_reading consume FILE GB/s SECONDS                              share of the time that a step of this rate, which uses no
//   core,
//                                                                     waits for batches of 64 stored rows of 150,528 bytes
//   io_reading open FILE                                              milliseconds until the first batch can be asked for; notes
//   in FILE.notes

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/group.h"
#include "io/dataset.h"
#include "io/loader.h"
#include "kernels/base/check.h"

namespace {

using namespace lockstep;
using Order = std::vector<std::int64_t>;
constexpr std::int64_t batch = 64;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::unique_ptr<io::Dataset> open(const std::string& path) {
  auto group = solo_group();
  return std::move(
      io::open_dataset({.paths = {path}, .labels = "none", .validation = "none", .memory_limit = 0, .scan = false}, *group)
          .train);
}

Order make_order(std::int64_t rows, const std::string& kind, std::int64_t chunk = 16) {
  Order order(static_cast<std::size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(5);
  if (kind == "shuffled") std::shuffle(order.begin(), order.end(), random);
  if (kind != "window") return order;
  // Chunks in random order, rows mixed within windows of 16 chunks.
  std::vector<std::int64_t> chunks((order.size() + std::size_t(chunk) - 1) / std::size_t(chunk));
  std::iota(chunks.begin(), chunks.end(), 0);
  std::shuffle(chunks.begin(), chunks.end(), random);
  order.clear();
  for (auto c : chunks)
    for (std::int64_t i = c * chunk; i < std::min(rows, (c + 1) * chunk); ++i) order.push_back(i);
  for (std::size_t begin = 0; begin < order.size(); begin += std::size_t(16 * chunk))
    std::shuffle(order.begin() + std::ptrdiff_t(begin),
                 order.begin() + std::ptrdiff_t(std::min(order.size(), begin + std::size_t(16 * chunk))), random);
  return order;
}

/// Reads rows in batches until `stop` says so; returns how many.
class Reader {
 public:
  explicit Reader(const io::Dataset& data) : data_(data), width_(count(data.info().input)), out_(std::size_t(batch * width_)) {}
  std::int64_t run(const Order& order, const std::function<bool()>& stop) {
    std::int64_t done = 0;
    for (std::size_t at = 0; at < order.size() && !stop(); at += std::size_t(batch)) {
      const auto rows = std::span(order).subspan(at, std::min<std::size_t>(std::size_t(batch), order.size() - at));
      data_.read(rows, {out_.data(), std::int64_t(rows.size()) * width_, DType::f32}, {});
      done += std::int64_t(rows.size());
    }
    return done;
  }

 private:
  const io::Dataset& data_;
  std::int64_t width_;
  std::vector<float> out_;
};

const auto never = [] { return false; };

void use_cores(int n) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int i = 0; i < n; ++i) CPU_SET(i, &set);
  require(sched_setaffinity(0, sizeof set, &set) == 0, "cores cannot be chosen");
}

nlohmann::json compare(const std::string& file, const std::string& plain, std::int64_t offset, const std::string& kind,
                       int rounds) {
  const auto data = open(file);
  const std::int64_t row = 150528;  // bytes
  const Order order = make_order(data->rows(), kind);
  const double bytes = double(data->rows() * row);
  const int descriptor = ::open(plain.c_str(), O_RDONLY | O_CLOEXEC);
  require(descriptor >= 0, "{}: not there", plain);
  std::vector<char> out(std::size_t(batch * row));
  Reader reader(*data);
  nlohmann::json result = {{"ours", nlohmann::json::array()}, {"peer", nlohmann::json::array()}};
  for (int round = -1; round < rounds; ++round) {  // the first is not counted
    double begin = now();
    reader.run(order, never);
    const double ours = now() - begin;
    begin = now();
    for (std::size_t i = 0; i < order.size(); ++i)
      require(pread(descriptor, out.data() + i % std::size_t(batch) * row, std::size_t(row), offset + order[i] * row) == row,
              "pread");
    const double theirs = now() - begin;
    if (round < 0) continue;
    result["ours"].push_back(bytes / ours / 1e9), result["peer"].push_back(bytes / theirs / 1e9);
  }
  close(descriptor);
  return result;
}

nlohmann::json cores(const std::string& file, int rounds) {
  nlohmann::json result = {{"ours", nlohmann::json::array()}, {"peer", nlohmann::json::array()}};
  for (int round = -1; round < rounds; ++round)
    for (int n : {1, 2}) {
      use_cores(n);
      const auto data = open(file);  // its threads begin with these cores
      Reader reader(*data);
      const Order order = make_order(data->rows(), "sequential");
      const double begin = now();
      const auto rows = reader.run(order, never);
      if (round >= 0) result[n == 2 ? "ours" : "peer"].push_back(double(rows) / (now() - begin));
    }
  return result;
}

/// Steps at a fixed rate: each takes its batch and then sleeps until its time is over.
nlohmann::json consume(const std::string& file, double rate, double seconds) {
  const auto data = open(file);
  Device device;
  io::Loader loader(*data, device, {.rows_per_lane = batch, .shuffle = io::Shuffle::window, .window = 256});
  loader.next_lane();  // training begins when the first batch is there
  const double step = double(batch * 150528) / rate / 1e9, begin = now(), before = loader.exposed_seconds();
  std::int64_t steps = 0;
  for (; now() - begin < seconds; ++steps) {
    loader.next_lane();
    std::this_thread::sleep_for(std::chrono::duration<double>(step));
  }
  const double exposed = loader.exposed_seconds() - before, all = now() - begin;
  return {{"exposed_share", exposed / all}, {"GB/s", double(steps * batch * 150528) / all / 1e9}};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> a(argv + 1, argv + argc);
    nlohmann::json result;
    if (a.size() == 6 && a[0] == "compare") {
      result = compare(a[1], a[2], std::stoll(a[3]), a[4], std::stoi(a[5]));
    } else if (a.size() == 3 && a[0] == "cores") {
      result = cores(a[1], std::stoi(a[2]));
    } else if (a.size() == 4 && a[0] == "batches") {
      const auto data = open(a[1]);
      Reader reader(*data);
      const double begin = now(), end = begin + std::stod(a[3]);
      const auto rows = reader.run(make_order(data->rows(), a[2]), [&] { return now() > end; });
      result = {{"rows_per_s", double(rows) / (now() - begin)}};
    } else if (a.size() == 4 && a[0] == "consume") {
      result = consume(a[1], std::stod(a[2]), std::stod(a[3]));
    } else if (a.size() == 2 && a[0] == "open") {
      auto group = solo_group();
      const double begin = now();
      const auto data = io::open_dataset({.paths = {a[1]}, .validation = "none", .notes = a[1] + ".notes"}, *group);
      result = {{"ms", 1e3 * (now() - begin)}, {"rows", data.train->rows()}};
    } else {
      throw Error("usage: see the head of reading.cpp", Exit::usage);
    }
    std::cout << result.dump() << std::endl;
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    return int(error.exit());
  }
}
