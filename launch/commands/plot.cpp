#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>

#include "kernels/base/check.h"
#include "launch/commands/commands.h"
#include "launch/plot_script.h"

extern char** environ;

namespace lockstep::launch {
namespace {

struct Options {
  std::string out;
  std::vector<std::string> runs;
};

/// The script is part of the program: no file to be found at run time.
int plot_command(const Options& options) {
  std::vector<std::string> words = {"python3", "-c", plot_script, options.out.empty() ? options.runs[0] : options.out};
  words.insert(words.end(), options.runs.begin(), options.runs.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  int failed = posix_spawnp(&child, "python3", nullptr, nullptr, arguments.data(), environ);
  require(Exit::usage, failed == 0, "plot needs python3 with matplotlib (apt install python3-matplotlib): {}",
          std::strerror(failed));
  int status = 0;
  while (waitpid(child, &status, 0) < 0) require(Exit::internal, errno == EINTR, "plot: {}", std::strerror(errno));
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  return code == 1 ? int(Exit::usage) : code;
}

}  // namespace

void add_plot(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plot", "Pictures of loss, throughput and overlap");
  command->add_option("runs", options->runs, "run folders; several are drawn into one picture")->required()->type_name("RUN…");
  command->add_option("-o,--out", options->out, "folder for loss.png and throughput.png; the first run when absent")
      ->type_name("FOLDER");
  command->footer("overlap.png lands in each run. Needs python3 with matplotlib.\n\nExample:\n  lockstep plot runs/bible-gpt");
  command->callback([options, &action] { action = [options] { return plot_command(*options); }; });
}

}  // namespace lockstep::launch
