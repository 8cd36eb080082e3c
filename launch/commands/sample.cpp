#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "io/dataset.h"
#include "io/tokenizer.h"
#include "launch/commands/commands.h"
#include "launch/trained.h"

namespace lockstep::launch {
namespace {

struct Options {
  std::string run, prompt = "\n", device = "auto", tokenizer;
  std::int64_t length = 400, top_k = 0;
  double temperature = 0.8;
  std::uint64_t seed = 1;
};

/// Draws from softmax(logits / temperature) over the k largest logits. Temperature 0 takes the largest.
std::int32_t draw(const std::vector<float>& logits, const Options& options, float uniform) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto larger = [&](std::int32_t a, std::int32_t b) { return logits[std::size_t(a)] > logits[std::size_t(b)]; };
  std::size_t k = options.top_k > 0 ? std::min(std::size_t(options.top_k), order.size()) : order.size();
  if (options.temperature == 0) k = 1;
  std::partial_sort(order.begin(), order.begin() + std::ptrdiff_t(k), order.end(), larger);
  std::vector<double> upto(k);
  double sum = 0;
  for (std::size_t i = 0; i < k; ++i) {
    double above = double(logits[std::size_t(order[i])]) - double(logits[std::size_t(order[0])]);
    upto[i] = sum += k == 1 ? 1 : std::exp(above / options.temperature);
  }
  auto at = std::upper_bound(upto.begin(), upto.end(), double(uniform) * sum) - upto.begin();
  return order[std::min(std::size_t(at), k - 1)];
}

/// What the run's data were made with: a folder that was given, or as the first data file says. Bytes need no file.
io::Tokenizer tokenizer_of(const Options& options, const Config& config) {
  if (!options.tokenizer.empty()) return io::Tokenizer::read(options.tokenizer);
  if (*config.model.vocabulary <= 256) return io::Tokenizer::bytes();
  try {
    return io::Tokenizer::of_data(io::expand_paths(config.data.path).at(0));
  } catch (const Error& e) {
    throw Error(std::string(e.what()) + "; give the folder of the tokenizer with --tokenizer", e.exit());
  }
}

int sample_command(const Options& options) {
  Config config = read_run_config(options.run);
  require(Exit::usage, config.model.kind == "gpt", "{} is a run of model.kind = {}; only a gpt writes text", options.run,
          config.model.kind);
  require(Exit::usage, !options.prompt.empty(), "--prompt: at least one character is needed to begin with");
  Session session({.device = options.device, .alone = true});
  require(Exit::usage, session.size() == 1, "sample runs on one rank: start it without mpirun");
  Device& device = session.device();
  Trained trained(session, options.run, config);
  const io::Tokenizer tokenizer = tokenizer_of(options, config);
  std::vector<std::int32_t> tokens = tokenizer.encode(options.prompt);
  for (const auto token : tokens)
    require(Exit::usage, token < *config.model.vocabulary, "--prompt: the model knows tokens below {}, and {} is not one",
            *config.model.vocabulary, token);
  std::fputs(options.prompt.c_str(), stdout);
  const std::int64_t context = *config.model.length, vocabulary = *config.model.vocabulary;
  for (std::int64_t i = 0; i < options.length; ++i) {
    std::int64_t length = std::min(std::int64_t(tokens.size()), context);
    Tensor inputs(device, {1, length}, DType::i32);
    upload(device.queue(), inputs, std::vector<std::int32_t>(tokens.end() - length, tokens.end()));
    Tape tape(device, {.mode = Mode::evaluate, .recording = false});
    Tensor logits = trained.model().forward(tape, inputs);
    RandomKey key{options.seed, std::uint64_t(i), 0, hash_name("sample")};
    tokens.push_back(draw(download(device.queue(), logits.view().slice((length - 1) * vocabulary, vocabulary)), options,
                          to_uniform(random_word(key, 0))));
    const std::string text = tokens.back() < tokenizer.vocabulary() ? tokenizer.decode(tokens.back()) : "?";
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  std::fputs("\n", stdout);
  return 0;
}

}  // namespace

void add_sample(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("sample", "Let a trained GPT write");
  command->add_option("run", options->run, "run folder; its newest good checkpoint is used")->required()->type_name("RUN");
  command->add_option("--prompt", options->prompt, "text to go on from")->type_name("TEXT");
  command->add_option("--length", options->length, "tokens to write (400); of bytes: characters")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--temperature", options->temperature, "0: the likeliest; 1: as learned (0.8)")
      ->type_name("T")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--top-k", options->top_k, "draw among the k likeliest only; 0: all")
      ->type_name("K")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--seed", options->seed, "the same seed writes the same text")->type_name("N");
  command->add_option("--tokenizer", options->tokenizer, "folder with vocab.bpe and encoder.json; as the data say when absent")
      ->type_name("FOLDER");
  command->add_option("--device", options->device, "auto, cpu or cuda")->type_name("DEVICE");
  command->footer("Example:\n  lockstep sample runs/bible-gpt --prompt \"And God said\" --length 300");
  command->callback([options, &action] { action = [options] { return sample_command(*options); }; });
}

}  // namespace lockstep::launch
