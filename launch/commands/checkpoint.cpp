#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "io/checkpoint.h"
#include "launch/commands/commands.h"
#include "launch/gpt2.h"

namespace lockstep::launch {
namespace {

struct Options {
  std::string path, other, out;
  std::int64_t heads = 0;
};

int tell(const std::string& text, int code = 0) {
  fmt::print("{}{}", text, text.ends_with("\n") ? "" : "\n");
  return code;
}

}  // namespace

void add_checkpoint(CLI::App& app, Action& action) {
  auto o = std::make_shared<Options>();
  CLI::App* checkpoint = app.add_subcommand("checkpoint", "Show, check and compare checkpoints; safetensors in and out");
  checkpoint->require_subcommand(1);
  checkpoint->footer("Example:\n  lockstep checkpoint verify runs/bible-gpt");
  const std::string place = "run folder, or one checkpoint's folder";
  auto add = [&](const std::string& name, const char* text, const char* example, std::function<int()> run) {
    CLI::App* command = checkpoint->add_subcommand(name, text);
    command->footer(fmt::format("Example:\n  lockstep checkpoint {} {}", name, example));
    command->callback([run = std::move(run), &action] { action = run; });
    return command;
  };
  auto path = [&](CLI::App* command, const char* name, std::string& to, const std::string& text, const char* type) {
    command->add_option(name, to, text)->required()->type_name(type);
  };

  auto* inspect = add("inspect", "What a checkpoint holds: step, state, files, tensors", "runs/bible-gpt",
                      [o] { return tell(io::inspect_checkpoint(o->path)); });
  path(inspect, "path", o->path, place, "PATH");
  auto* verify = add("verify", "Check every byte against the checksums", "runs/bible-gpt",
                     [o] { return tell(io::verify_checkpoint(o->path)); });
  path(verify, "path", o->path, place, "PATH");

  auto* diff = add("diff", "What differs between two checkpoints; exit code 1 when anything does",
                   "runs/a runs/b/checkpoints/step_500", [o] {
                     const auto difference = io::diff_checkpoints(o->path, o->other);
                     return tell(difference.text, difference.same ? 0 : 1);
                   });
  path(diff, "a", o->path, place, "A");
  path(diff, "b", o->other, place, "B");

  auto* out = add("export", "Write the weights as safetensors; a gpt with Hugging Face's names for GPT-2",
                  "runs/bible-gpt -o bible-gpt/", [o] { return tell(export_weights(o->path, o->out)); });
  path(out, "path", o->path, place, "PATH");
  path(out, "-o,--out", o->out, "FILE.safetensors, or a folder for model.safetensors and config.json", "OUT");

  auto* in = add("import", "Make a run of a GPT-2 in safetensors, to train from (model.weights), evaluate and sample",
                 "gpt2/model.safetensors -o runs/gpt2", [o] { return tell(import_weights(o->path, o->out, o->heads)); });
  path(in, "path", o->path, "FILE.safetensors, or the folder of model.safetensors and config.json", "FILE");
  path(in, "-o,--out", o->out, "run folder to make", "RUN");
  in->add_option("--heads", o->heads, "attention heads, when there is no config.json (width / 64)")->type_name("N");
}

}  // namespace lockstep::launch
