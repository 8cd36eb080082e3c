#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "io/dataset.h"
#include "launch/commands/commands.h"
#include "launch/data.h"
#include "launch/session.h"
#include "launch/trainer.h"

namespace lockstep::launch {
namespace {

struct Options {
  std::string file;
  std::vector<std::string> assignments;
  bool resume = false, print = false;
};

/// A damaged file is met here, where one process ends with one sentence, and not inside of a library under MPI.
io::CheckedFiles validate_data(const Config& config) {
  io::CheckedFiles checked;
  for (const std::string& path : data_files(config)) checked.merge(io::validate_file(path));
  if (std::filesystem::is_regular_file(config.data.validation)) checked.merge(io::validate_file(config.data.validation));
  return checked;
}

int train_command(const Options& options) {
  Config config = read_config(options.file, options.assignments);
  if (options.print) {
    std::fputs(print_config(config, true).c_str(), stdout);
    return 0;
  }
  const io::CheckedFiles checked = first_process() ? validate_data(config) : io::CheckedFiles{};
  Session session({.device = config.run.device,
                   .threads = int(config.train.threads.value_or(0)),
                   .exact = config.train.reduction == "exact"});
  return int(train(session, config, options.resume, checked));
}

}  // namespace

void add_train(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Train as a configuration says");
  command->add_option("config", options->file, "TOML file")->required()->type_name("CONFIG.toml");
  command->add_option("--set", options->assignments, "change one key; may be given several times")
      ->type_name("SECTION.KEY=VALUE")
      ->allow_extra_args(false);
  command->add_flag("--resume", options->resume, "go on from the newest complete checkpoint of the run, if there is one");
  command->add_flag("--print-config", options->print, "show every key with its value and meaning, and stop");
  command->footer(
      "Under mpirun or srun every rank runs the same line. Results land in runs/NAME/.\n\nExamples:\n"
      "  lockstep train examples/fashion/convnet.toml\n"
      "  mpirun -n 4 lockstep train examples/bible/gpt.toml --set train.steps=500 --set train.lanes=4\n\n"
      "Exit codes: 0 done, 64 configuration, 65 bad data or checkpoint, 74 disk, 75 saved after a signal,\n"
      "86 a rank was lost, 87 loss or gradient not finite, 88 ranks disagree.");
  command->callback([options, &action] { action = [options] { return train_command(*options); }; });
}

}  // namespace lockstep::launch
