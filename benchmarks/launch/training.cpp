// Lockstep's side of benchmarks/cpu_vs_peers.py and gpu/vs_peers.py: trains the model that FOLDER/case.json describes on the
// batches that lie there, some steps at a time, when it is its turn (benchmarks/peers/turns.py says how turns are taken).
//
//     [mpirun -n 2] launch_training FOLDER

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/nn/convnet.h"
#include "core/nn/gpt.h"
#include "core/nn/resnet.h"
#include "core/optim/adamw.h"
#include "core/optim/sgd.h"
#include "kernels/memory.h"
#include "launch/buckets.h"
#include "launch/models.h"
#include "launch/session.h"
#include "launch/update.h"
#include "parallel/data_parallel.h"

using namespace lockstep;
using nlohmann::json;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

json read_json(const std::string& path) {
  std::ifstream file(path);
  require(bool(file), "cannot read {}", path);
  return json::parse(file);
}

/// Appears whole or not at all.
void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path + ".new", std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
  std::filesystem::rename(path + ".new", path);
}

std::unique_ptr<nn::Model> make_model(ParameterSet& set, const json& c) {
  std::string kind = c["model"];
  if (kind == "gpt")
    return std::make_unique<nn::Gpt>(set, nn::Gpt::Options{.vocabulary = c["vocabulary"],
                                                           .length = c["positions"],
                                                           .layers = c["layers"],
                                                           .width = c["width"],
                                                           .heads = c["heads"]});
  if (kind == "convnet") return std::make_unique<nn::ConvNet>(set, nn::ConvNet::Options{});
  if (kind == "resnet50") return std::make_unique<nn::ResNet>(set, nn::ResNet::Options{});
  require(Exit::usage, kind == "resnet18", "unknown model {}", kind);
  return std::make_unique<nn::ResNet>(
      set, nn::ResNet::Options{.depth = 18, .height = 32, .width = 32, .channels = 3, .classes = 10, .small_stem = true});
}

std::unique_ptr<optim::Optimizer> make_optimizer(ParameterSet& set, const json& c, const Flat& flat, View gradients) {
  if (c["optimizer"] == "sgd")
    return std::make_unique<optim::Sgd>(set, flat, gradients, optim::Sgd::Options{.momentum = 0.9f, .decay = c["decay"]});
  return std::make_unique<optim::AdamW>(set, flat, gradients, optim::AdamW::Options{.decay = c["decay"]});
}

/// This rank's rows of every batch.
template <class T>
std::vector<Tensor> read_batches(Device& device, const std::string& path, Shape row, std::int64_t rows, std::int64_t batches,
                                 int rank, int ranks) {
  std::ifstream file(path, std::ios::binary);
  std::int64_t size = rows * count(row);
  row.insert(row.begin(), rows);
  std::vector<Tensor> tensors;
  for (std::int64_t b = 0; b < batches; ++b) {
    std::vector<T> values(std::size_t(size), T{});
    file.seekg((b * ranks + rank) * size * std::int64_t(sizeof(T)));
    file.read(reinterpret_cast<char*>(values.data()), size * std::int64_t(sizeof(T)));
    require(bool(file), "{} is too short", path);
    tensors.emplace_back(device, row, std::is_same_v<T, float> ? DType::f32 : DType::i32);
    upload(device.queue(), tensors.back(), values);
  }
  return tensors;
}

/// The initial weights, for the peers: names, shapes and decay in weights.json, values in weights.bin.
void write_weights(const Device& device, const ParameterSet& set, const std::string& folder) {
  json list = json::array();
  std::string bytes;
  for (auto& p : set.all()) {
    auto values = download(device.queue(), p->master);
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    list.push_back({{"name", p->name}, {"shape", p->value.shape()}, {"decay", p->decay}});
  }
  write(folder + "/weights.bin", bytes);
  write(folder + "/weights.json", list.dump());
}

std::int64_t peak_bytes(Device& device) {
  if (device.kind() == DeviceKind::cuda) return std::int64_t(device.arena().peak_bytes());
  std::ifstream status("/proc/self/status");  // getrusage would count what the parent process held
  for (std::string word; status >> word;)
    if (std::int64_t kibibytes = 0; word == "VmHWM:" && status >> kibibytes) return kibibytes * 1024;
  return 0;
}

void train(launch::Session& session, const std::string& folder, const json& c) {
  Device& device = session.device();
  std::int64_t before = peak_bytes(device), rows = c["rows"], batches = c["batches"];
  const Queue& queue = device.queue();
  const DType type = launch::to_dtype(c.value("precision", "f32"));
  ParameterSet set(device, type);
  auto model = make_model(set, c);
  launch::Config::Train settings;
  if (c.contains("middle_bucket_mib")) settings.middle_bucket_mib = c["middle_bucket_mib"].get<double>();
  const launch::Buckets buckets = launch::choose_buckets(settings, set, session);
  parallel::DataParallel strategy(set, session.communicator(), session.group(), {.buckets = buckets.sizes});
  auto [optimizer, how] = launch::choose_update(c.value("update", "auto"), session, strategy,
                                                [&] { return make_optimizer(set, c, strategy.flat(), strategy.gradients()); });
  set.initialise(1);
  if (session.rank() == 0) write_weights(device, set, folder);

  bool tokens = c["model"] == "gpt";
  Shape input = c["input"].get<Shape>(), target = tokens ? input : Shape{};
  auto inputs =
      tokens ? read_batches<std::int32_t>(device, folder + "/inputs.bin", input, rows, batches, session.rank(), session.size())
             : read_batches<float>(device, folder + "/inputs.bin", input, rows, batches, session.rank(), session.size());
  auto targets =
      read_batches<std::int32_t>(device, folder + "/targets.bin", target, rows, batches, session.rank(), session.size());
  float weight = float(targets[0].size());
  for (Tensor& x : inputs)
    if (!tokens && type != DType::f32) {
      Tensor rounded(device, x.shape(), type);
      kernels::cast(queue, rounded.view(), x.view());
      x = rounded;
    }

  std::int64_t step = 0;
  std::ifstream orders(folder + "/orders.lockstep." + std::to_string(session.rank()));
  for (int steps = 0; orders >> steps;) {
    std::vector<double> losses, times;
    std::vector<Tensor> kept;  // a GPU's are read when all steps are done: it need not wait for the host
    session.group().barrier();
    double began = now();
    for (int i = 0; i < steps; ++i, ++step) {
      double begun = now();
      strategy.begin_step();
      strategy.begin_lane(0);
      Tape tape(device, {.sink = &strategy});
      auto b = std::size_t(step % batches);
      Tensor loss = ops::cross_entropy(tape, model->forward(tape, inputs[b]), targets[b]);
      tape.backward(loss, 1 / (weight * float(session.size())));
      strategy.finish_step();
      optimizer->step(c["rate"], c["clip"]);
      if (device.kind() == DeviceKind::cuda) {
        kept.push_back(loss);
        continue;
      }
      losses.push_back(download(queue, loss)[0] / weight);
      times.push_back(now() - begun);
    }
    if (!kept.empty()) {
      kernels::synchronize(queue);
      times.assign(kept.size(), (now() - began) / double(kept.size()));
      for (const Tensor& loss : kept) losses.push_back(download(queue, loss)[0] / weight);
    }
    json result = {{"losses", losses},
                   {"seconds", times},
                   {"peak_bytes", peak_bytes(device)},
                   {"bytes_before", before},
                   {"threads", session.threads()},
                   {"placement", session.placement()},
                   {"flops", model->flops_per_row() * double(rows) * session.size()},
                   {"update", how},
                   {"buckets", buckets.text},
                   {"parameters", set.count_elements()}};
    if (session.rank() == 0) std::ofstream(folder + "/answers") << result.dump() << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  return launch::guarded([&] {
    require(Exit::usage, argc == 2, "usage: {} FOLDER", argv[0]);
    json c = read_json(std::string(argv[1]) + "/case.json");
    launch::Session session({.device = c.value("device", "cpu")});
    train(session, argv[1], c);
    return 0;
  });
}
