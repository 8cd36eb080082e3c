#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "io/dataset.h"
#include "launch/commands/commands.h"
#include "launch/data.h"
#include "launch/evaluation.h"
#include "launch/trained.h"

namespace lockstep::launch {
namespace {

struct Options {
  std::string run, data, device = "auto";
  std::int64_t batches = 0;
  bool train = false;
};

int evaluate_command(const Options& options) {
  Config config = read_run_config(options.run);
  if (!options.data.empty()) config.data.path = {options.data}, config.data.mixture.clear(), config.data.validation = "none";
  io::CheckedFiles checked;
  if (first_process())
    for (const std::string& path : data_files(config)) checked.merge(io::validate_file(path));
  Session session({.device = options.device, .alone = true});
  Trained trained(session, options.run, config);
  RunData data = open_data(config, session.group(), checked);
  bool held_out = data.validation && !options.train;
  const io::Dataset& dataset = held_out ? *data.validation : *data.train;
  resolve_model(config, dataset.info());
  Evaluation e = evaluate(session, trained.model(), dataset,
                          {.rows_per_batch = config.model.kind == "gpt" ? config.train.rows_per_lane : 64,
                           .batches = options.batches,
                           .dtype = to_dtype(config.train.precision)});
  session.log(fmt::format("{}\n{}\n{}  ({} rows)", trained.checkpoint(), dataset.info().text, to_text(e), e.rows));
  return 0;
}

}  // namespace

void add_evaluate(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("evaluate", "Loss and accuracy of a trained run on held-out rows");
  command->add_option("run", options->run, "run folder; its newest good checkpoint is used")->required()->type_name("RUN");
  command->add_option("--data", options->data, "another HDF5 file, all of it")->type_name("FILE");
  command->add_flag("--train", options->train, "the training rows instead of the held-out ones");
  command->add_option("--batches", options->batches, "stop after this many batches; 0: all")->type_name("N");
  command->add_option("--device", options->device, "auto, cpu or cuda")->type_name("DEVICE");
  command->footer("Example:\n  lockstep evaluate runs/fashion-convnet");
  command->callback([options, &action] { action = [options] { return evaluate_command(*options); }; });
}

}  // namespace lockstep::launch
