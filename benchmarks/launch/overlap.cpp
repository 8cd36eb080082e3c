// Is communication hidden behind backward, and does the log say so truly?
//
//     mpirun -n 2 build/cpu/benchmarks/launch_overlap CONFIG.toml [--set SECTION.KEY=VALUE …] [--steps 300]
//
// Trains a configuration three ways, one step each in turn, so that all meet the same noise: overlapped, blocking (all buckets
// leave after backward) and stubbed (nothing travels). All ranks start a step together, and it ends with the last of them. Of
// each way the median of step times, and
//     cost                 = overlapped / stubbed: what communication adds to a step
//     hidden share (steps) = (blocking - overlapped) / (blocking - stubbed)
//     hidden share (log)   = hidden / (hidden + worked + exposed), as the table at the end of a run has it
// The last two are to agree. One JSON object, shares with their 95 % intervals.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "io/loader.h"
#include "kernels/memory.h"
#include "launch/buckets.h"
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
/// A ratio of medians over rounds, with the 95 % interval of 2000 resamplings of rounds (Efron, "Bootstrap methods", 1979).
nlohmann::ordered_json ratio(const std::vector<double>& above, const std::vector<double>& below) {
  std::mt19937 random(1);
  std::uniform_int_distribution<std::size_t> any(0, above.size() - 1);
  std::vector<double> drawn, a(above.size()), b(above.size());
  for (int k = 0; k < 2000; ++k) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      std::size_t j = any(random);
      a[i] = above[j], b[i] = below[j];
    }
    drawn.push_back(median(a) / median(b));
  }
  std::ranges::sort(drawn);
  return {{"value", median(above) / median(below)}, {"low", drawn[50]}, {"high", drawn[1949]}};
}

/// The longest of all ranks, step by step: what the job waits for, whichever rank was held up.
void take_longest(std::vector<double>& took, Group& group) {
  std::string bytes(took.size() * sizeof(double), '\0');
  std::memcpy(bytes.data(), took.data(), bytes.size());
  for (const std::string& theirs : group.gather(bytes))
    for (std::size_t i = 0; i < took.size(); ++i) {
      double other;
      std::memcpy(&other, theirs.data() + i * sizeof other, sizeof other);
      took[i] = std::max(took[i], other);
    }
}

/// What each step took, in milliseconds.
struct Steps {
  std::array<std::vector<double>, ways> took;
  std::vector<double> hidden, worked, exposed;  // of overlapped steps
  std::string buckets;
};

Steps train(launch::Session& session, launch::Config config, int rounds) {
  launch::resolve_size(config);
  auto data = io::open_dataset(launch::dataset_options(config), session.group());
  launch::resolve_model(config, data.train->info());
  ParameterSet parameters(session.device(), launch::to_dtype(config.train.precision));
  auto model = launch::build_model(config, parameters);
  const launch::Buckets buckets = launch::choose_buckets(config.train, parameters, session);
  parallel::DataParallel strategy(
      parameters, session.communicator(), session.group(),
      {.lanes = int(config.train.lanes),
       .reduction = config.train.reduction == "exact" ? parallel::Reduction::exact : parallel::Reduction::fast,
       .buckets = buckets.sizes});
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
  steps.buckets = buckets.text;
  const int settling = parallel::DataParallel::settling_steps;
  for (int i = 0; i < settling + ways * (rounds + 3); ++i) {
    const Way way = Way((i + i / ways) % ways);  // nobody always follows the same one
    if (i >= settling) strategy.communicate_as(way == overlapped, way != stubbed);
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
    if (i < settling + 3 * ways) continue;
    steps.took[way].push_back(took * 1e3);
    if (way != overlapped) continue;
    double hidden = 0, worked = 0, exposed = 0;
    for (const auto& b : strategy.times()) hidden += b.hidden, worked += b.worked, exposed += b.exposed;
    steps.hidden.push_back(hidden), steps.worked.push_back(worked), steps.exposed.push_back(exposed);
  }
  for (auto& took : steps.took) take_longest(took, session.group());
  return steps;
}

nlohmann::ordered_json summary(const Steps& s, int ranks, const std::string& config) {
  // Differences within a round: what drifts from round to round is in none of them.
  std::vector<double> saved, spent, all;
  for (std::size_t i = 0; i < s.hidden.size(); ++i) {
    saved.push_back(s.took[blocking][i] - s.took[overlapped][i]);
    spent.push_back(s.took[blocking][i] - s.took[stubbed][i]);
    all.push_back(s.hidden[i] + s.worked[i] + s.exposed[i]);
  }
  const double o = median(s.took[overlapped]), b = median(s.took[blocking]), n = median(s.took[stubbed]);
  return {{"name", "overlap"},
          {"unit", "ms a step without its optimizer"},
          {"config", config},
          {"ranks", ranks},
          {"rounds", saved.size()},
          {"overlapped", o},
          {"blocking", b},
          {"stubbed", n},
          {"cost", ratio(s.took[overlapped], s.took[stubbed])},
          {"hidden_share_by_steps", ratio(saved, spent)},
          {"hidden_share_by_log", ratio(s.hidden, all)},
          {"hidden_ms", median(s.hidden)},
          {"worked_ms", median(s.worked)},
          {"exposed_ms", median(s.exposed)},
          {"buckets", s.buckets}};
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
