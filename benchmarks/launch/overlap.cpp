// Is communication hidden behind backward, and does the log say so truly?
//
//     mpirun -n 2 build/cpu/benchmarks/launch_overlap CONFIG.toml [--set SECTION.KEY=VALUE …] [--steps 300]
//
// Trains a configuration three ways, one step each in turn, so that all meet the same noise: overlapped, blocking (all buckets
// leave after backward) and stubbed (nothing travels). All ranks start a step together. Of each way the median of step times, and
//     cost                 = overlapped / stubbed: what communication adds to a step
//     hidden share (steps) = (blocking - overlapped) / (blocking - stubbed)
//     hidden share (log)   = hidden / (hidden + worked + exposed), as the table at the end of a run has it
// The last two are to agree. They are told with the 95 % interval of their medians over blocks of steps. One JSON object.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "io/loader.h"
#include "kernels/memory.h"
#include "launch/data.h"
#include "launch/models.h"
#include "launch/session.h"
#include "parallel/data_parallel.h"

using namespace lockstep;

namespace {

enum Way { overlapped, blocking, stubbed, ways };

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double median(std::vector<double> v) {
  std::ranges::sort(v);
  return v.empty() ? 0 : (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2;
}
/// The median over blocks, and the 95 % interval of a median by ranks (Conover, "Practical Nonparametric Statistics", 3.2).
nlohmann::ordered_json interval(std::vector<double> v) {
  std::ranges::sort(v);
  const double n = double(v.size());
  auto low = std::size_t(std::max(0.0, std::floor(n / 2 - 0.98 * std::sqrt(n)))),
       high = std::size_t(std::min(n - 1, std::ceil(n / 2 + 0.98 * std::sqrt(n))));
  return {{"median", median(v)}, {"low", v[low]}, {"high", v[high]}};
}

/// What each step took, in milliseconds.
struct Steps {
  std::array<std::vector<double>, ways> took;
  std::vector<double> hidden, worked, exposed;  // of overlapped steps
};

Steps train(launch::Session& session, launch::Config config, int rounds) {
  launch::resolve_size(config);
  auto data = io::open_dataset(launch::dataset_options(config), session.group());
  launch::resolve_model(config, data.train->info());
  ParameterSet parameters(session.device(), launch::to_dtype(config.train.precision));
  auto model = launch::build_model(config, parameters);
  parallel::DataParallel strategy(
      parameters, session.communicator(), session.group(),
      {.lanes = int(config.train.lanes),
       .reduction = config.train.reduction == "exact" ? parallel::Reduction::exact : parallel::Reduction::fast});
  auto optimizer = launch::build_optimizer(config, parameters, strategy.flat(), strategy.gradients());
  parameters.initialise(1);
  auto share = strategy.lanes();
  io::Loader loader(*data.train, session.device(),
                    {.lanes = int(config.train.lanes),
                     .first_lane = share.first,
                     .lane_count = share.count,
                     .rows_per_lane = config.train.rows_per_lane,
                     .seed = 1,
                     .dtype = launch::to_dtype(config.train.precision)});
  const Queue& queue = session.device().queue();
  const double weight = double(config.train.lanes * config.train.rows_per_lane) *
                        double(std::max<std::int64_t>(1, count(data.train->info().target)));
  Steps steps;
  for (int i = 0; i < ways * (rounds + 3); ++i) {
    const Way way = Way((i + i / ways) % ways);  // nobody always follows the same one
    strategy.communicate_as(way == overlapped, way != stubbed);
    kernels::synchronize(queue);
    session.group().barrier();
    double began = now();
    strategy.begin_step();
    for (int lane = 0; lane < share.count; ++lane) {
      io::Batch batch = loader.next_lane();
      Tape tape(session.device(), {.mode = Mode::train,
                                   .recording = true,
                                   .random = {1, std::uint64_t(i), std::uint32_t(share.first + lane), 0},
                                   .sink = &strategy});
      strategy.begin_lane(lane);
      Tensor loss = launch::batch_loss(tape, model->forward(tape, batch.inputs), batch, 0);
      tape.backward(loss, float(1 / weight));
    }
    strategy.finish_step();
    kernels::synchronize(queue);
    double took = now() - began;  // the optimizer is the same for all
    optimizer->step(float(config.optimizer.rate), float(config.optimizer.clip));
    if (i < 3 * ways) continue;
    steps.took[way].push_back(took * 1e3);
    if (way != overlapped) continue;
    double hidden = 0, worked = 0, exposed = 0;
    for (const auto& b : strategy.times()) hidden += b.hidden, worked += b.worked, exposed += b.exposed;
    steps.hidden.push_back(hidden), steps.worked.push_back(worked), steps.exposed.push_back(exposed);
  }
  return steps;
}

nlohmann::ordered_json summary(const Steps& s, int ranks, const std::string& config) {
  std::vector<double> by_steps, by_log, cost;
  const std::size_t count = s.hidden.size(), block = std::max<std::size_t>(1, count / 25);
  for (std::size_t at = 0; at + block <= count; at += block) {
    auto part = [&](const std::vector<double>& v) {
      return median({v.begin() + std::ptrdiff_t(at), v.begin() + std::ptrdiff_t(at + block)});
    };
    double o = part(s.took[overlapped]), b = part(s.took[blocking]), n = part(s.took[stubbed]);
    double h = part(s.hidden), all = h + part(s.worked) + part(s.exposed);
    cost.push_back(o / n);
    by_steps.push_back((b - o) / (b - n));
    by_log.push_back(all > 0 ? h / all : 0);
  }
  const double o = median(s.took[overlapped]), b = median(s.took[blocking]), n = median(s.took[stubbed]);
  const double h = median(s.hidden), w = median(s.worked), e = median(s.exposed);
  return {{"name", "overlap"},
          {"unit", "ms a step without its optimizer"},
          {"config", config},
          {"ranks", ranks},
          {"rounds", count},
          {"overlapped", o},
          {"blocking", b},
          {"stubbed", n},
          {"cost", interval(cost)},
          {"hidden_share_by_steps", (b - o) / (b - n)},
          {"hidden_share_by_log", h / (h + w + e)},
          {"by_steps_in_blocks", interval(by_steps)},
          {"by_log_in_blocks", interval(by_log)},
          {"hidden_ms", h},
          {"worked_ms", w},
          {"exposed_ms", e}};
}

}  // namespace

int main(int argc, char** argv) {
  std::string file;
  std::vector<std::string> assignments;
  int rounds = 300;
  CLI::App app("Is communication hidden behind backward, and does the log say so truly?");
  app.add_option("config", file)->required();
  app.add_option("--set", assignments)->allow_extra_args(false);
  app.add_option("--steps", rounds, "of each way");
  CLI11_PARSE(app, argc, argv);
  return launch::guarded([&] {
    launch::Config config = launch::read_config(file, assignments);
    launch::Session session({.device = config.run.device, .threads = int(config.train.threads.value_or(0))});
    auto result = summary(train(session, config, rounds), session.size(), file);
    result["transport"] = session.communicator().name();
    if (session.rank() == 0) fmt::print("{}\n", result.dump());
    return 0;
  });
}
