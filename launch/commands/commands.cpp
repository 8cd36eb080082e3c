#include "launch/commands/commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "kernels/base/check.h"
#include "launch/config.h"
#include "launch/session.h"
#include "launch/version.h"

namespace lockstep::launch {
namespace {

/// The innermost command that was named, for "see … --help".
const CLI::App& innermost(const CLI::App& app) {
  for (const CLI::App* sub : app.get_subcommands()) return innermost(*sub);
  return app;
}

std::string full_name(const CLI::App& app) {
  return app.get_parent() ? full_name(*app.get_parent()) + " " + app.get_name() : app.get_name();
}

/// What is wrong, in a sentence; for "trian" with the nearest command.
std::string complaint(const CLI::ParseError& error, const CLI::App& app, int argc, char** argv) {
  const CLI::App& at = innermost(app);
  std::vector<std::string> names;
  for (const CLI::App* sub : at.get_subcommands([](const CLI::App*) { return true; })) names.push_back(sub->get_name());
  int depth = at.get_parent() ? 2 : 1;
  if (names.empty() || argc <= depth || argv[depth][0] == '-') {
    std::string text = error.what();
    return text.ends_with(".") ? text : text + ".";
  }
  std::string near = nearest(argv[depth], names);
  return fmt::format("There is no command {}{}", argv[depth], near.empty() ? "." : fmt::format("; did you mean {}?", near));
}

}  // namespace

int run_program(int argc, char** argv) {
  CLI::App app("Trains neural networks on many devices in lockstep.", "lockstep");
  app.footer("Example:\n  mpirun -n 2 lockstep train examples/fashion/convnet.toml\n\nlockstep COMMAND --help tells more.");
  app.set_version_flag("--version", [] { return version_text(); });
  app.require_subcommand(1);
  app.fallthrough(false);
  app.get_formatter()->column_width(36);
  Action action;
  for (auto add : {add_train, add_evaluate, add_sample, add_data, add_checkpoint, add_plot, add_doctor}) add(app, action);
  return guarded([&] {
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
      throw Error(fmt::format("{} See `{} --help`.", complaint(error, app, argc, argv), full_name(innermost(app))), Exit::usage);
    }
    return action();
  });
}

}  // namespace lockstep::launch
