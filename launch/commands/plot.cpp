#include <CLI/CLI.hpp>
#include <filesystem>

#include "kernels/base/check.h"
#include "launch/commands/commands.h"
#include "launch/commands/python.h"
#include "launch/plot_script.h"

namespace lockstep::launch {
namespace {

struct Options {
  std::string out;
  std::vector<std::string> runs;
};

/// The script is part of the program: no file to be found at run time.
int plot_command(const Options& options) {
  for (const std::string& run : options.runs)
    require(Exit::bad_data, std::filesystem::exists(run + "/metrics.jsonl"), "{} is no run: it has no metrics.jsonl", run);
  std::string python = plotting_python();
  require(Exit::usage, !python.empty(), "plot needs python3 with matplotlib: apt install python3-matplotlib");
  std::vector<std::string> words = {python, "-c", plot_script, options.out.empty() ? options.runs[0] : options.out};
  words.insert(words.end(), options.runs.begin(), options.runs.end());
  return run_and_wait(words);
}

}  // namespace

void add_plot(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plot", "Pictures of loss, throughput and overlap");
  command->add_option("runs", options->runs, "run folders; several are drawn into one picture")->required()->type_name("RUN");
  command->add_option("-o,--out", options->out, "folder for loss.png and throughput.png; the first run when absent")
      ->type_name("FOLDER");
  command->footer("overlap.png lands in each run. Needs python3 with matplotlib.\n\nExample:\n  lockstep plot runs/bible-gpt");
  command->callback([options, &action] { action = [options] { return plot_command(*options); }; });
}

}  // namespace lockstep::launch
