// Data, a model and a training loop of one's own, on any number of ranks:
//
//     custom                     one rank
//     mpirun -n 2 custom         two ranks, and the same weights to the last bit

#include <cmath>
#include <string>
#include <vector>

#include "core/flat.h"
#include "core/nn/layers.h"
#include "core/optim/adamw.h"
#include "core/optim/schedule.h"
#include "io/loader.h"
#include "kernels/memory.h"
#include "launch/session.h"
#include "parallel/data_parallel.h"

using namespace lockstep;

/// Points on three spiral arms; the class of a point is its arm. A row is computed from its number, so nothing is stored.
class Spirals final : public io::Dataset {
 public:
  Spirals(std::int64_t rows, std::uint64_t seed) : seed_(seed) {
    info_ = {.kind = io::DataKind::table, .rows = rows, .input = {2}, .classes = 3, .text = "three spirals"};
  }
  void read(std::span<const std::int64_t> rows, View inputs, View targets, const RandomKey*) const override {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      Random4 random = random_words({.seed = seed_}, std::uint64_t(rows[i]));
      int arm = int(random.x % 3);
      float radius = to_uniform(random.y), noise = to_uniform(random.z) - 0.5f;
      float angle = 2.0944f * float(arm) + 7 * radius + 0.5f * noise;
      inputs.as<float>()[2 * i] = radius * std::cos(angle);
      inputs.as<float>()[2 * i + 1] = radius * std::sin(angle);
      targets.as<std::int32_t>()[i] = arm;
    }
  }

 private:
  std::uint64_t seed_;
};

/// Residual blocks of a norm and two linear layers.
class Network {
 public:
  Network(ParameterSet& set, std::int64_t width, int blocks) : first_(set, "first", 2, width), last_(set, "last", width, 3) {
    for (int i = 0; i < blocks; ++i) {
      std::string path = "blocks." + std::to_string(i);
      blocks_.push_back(
          {{set, path + ".norm", width}, {set, path + ".up", width, 4 * width}, {set, path + ".down", 4 * width, width}});
    }
  }
  Tensor forward(Tape& tape, const Tensor& points) const {  // (batch, 2)
    Tensor x = first_(tape, points);                        // (batch, width)
    for (const Block& block : blocks_) {
      Tensor inner = block.up(tape, block.norm(tape, x), Unary::silu);  // (batch, 4 * width)
      x = ops::add(tape, x, block.down(tape, inner));                   // (batch, width)
    }
    return last_(tape, x);  // (batch, 3)
  }

 private:
  struct Block {
    nn::Norm norm;
    nn::Linear up, down;
  };
  nn::Linear first_, last_;
  std::vector<Block> blocks_;
};

void train(launch::Session& session) {
  const int lanes = 4, rows = 32, steps = 400;
  Device& device = session.device();

  ParameterSet parameters(device);
  Network network(parameters, 32, 2);
  parallel::DataParallel ranks(parameters, session.communicator(), session.group(),
                               {.lanes = lanes, .reduction = parallel::Reduction::exact});
  parameters.initialise(1);
  optim::AdamW optimizer(parameters, ranks.flat(), ranks.gradients(), {.decay = 0.01f});
  optim::Schedule schedule{.kind = optim::Schedule::Kind::cosine, .rate = 5e-3f, .steps = steps, .warmup = 20};

  Spirals points(8192, 1);
  auto [first, count] = ranks.lanes();
  io::Loader loader(points, device, {.lanes = lanes, .first_lane = first, .lane_count = count, .rows_per_lane = rows, .seed = 1});
  Tensor mean(device, {1});  // what backward begins with: gradients are those of a mean over the global batch
  kernels::fill(device.queue(), mean.view(), 1.f / (lanes * rows));
  for (int step = 0; step < steps; ++step) {
    double sum = 0;
    ranks.begin_step();
    for (int lane = 0; lane < count; ++lane) {
      ranks.begin_lane(lane);
      io::Batch batch = loader.next_lane();
      Tape tape(device, {.random = {.seed = 1, .step = std::uint64_t(step), .lane = std::uint32_t(first + lane)},
                         .sink = &ranks,
                         .upstream = mean});
      Tensor loss = ops::cross_entropy(tape, network.forward(tape, batch.inputs), batch.targets);  // a sum over rows
      tape.backward(loss);
      sum += download(device.queue(), loss)[0];
    }
    ranks.finish_step();
    optimizer.step(schedule.at(step), 1.f);
    if (step % 100 == 99)
      session.log("step " + std::to_string(step + 1) + "  loss " + std::to_string(session.group().sum(sum) / (lanes * rows)));
  }

  Spirals unseen(2048, 2);
  io::Pass pass(unseen, device, {.rank = session.rank(), .ranks = session.size()});
  std::int64_t right = 0;
  while (auto batch = pass.next()) {
    Tape tape(device, {.mode = Mode::evaluate, .recording = false});
    right += ops::count_correct(tape, network.forward(tape, batch->inputs), batch->targets);
  }
  session.log("accuracy " + std::to_string(100 * session.group().sum(double(right)) / double(unseen.rows())) + " %");
  session.log("weights " + hash_parameters(parameters));
}

int main(int argc, char** argv) {
  return launch::run(argc, argv, train, {.exact = true});
}
