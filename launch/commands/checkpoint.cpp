#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "io/checkpoint.h"
#include "launch/commands/commands.h"

namespace lockstep::launch {

void add_checkpoint(CLI::App& app, Action& action) {
  auto path = std::make_shared<std::string>();
  CLI::App* checkpoint = app.add_subcommand("checkpoint", "Show and check checkpoints");
  checkpoint->require_subcommand(1);
  checkpoint->footer("Example:\n  lockstep checkpoint verify runs/bible-gpt");
  auto add = [&](const char* name, const char* text, std::string (*what)(const std::string&)) {
    CLI::App* command = checkpoint->add_subcommand(name, text);
    command->add_option("path", *path, "run folder, or one checkpoint's folder")->required()->type_name("PATH");
    command->footer(fmt::format("Example:\n  lockstep checkpoint {} runs/bible-gpt", name));
    command->callback([path, what, &action] {
      action = [path, what] {
        std::string told = what(*path);
        fmt::print("{}{}", told, told.ends_with("\n") ? "" : "\n");
        return 0;
      };
    });
  };
  add("inspect", "What a checkpoint holds: step, state, tensors", io::inspect_checkpoint);
  add("verify", "Check every byte against the checksums", io::verify_checkpoint);
}

}  // namespace lockstep::launch
