#pragma once

#include <cstdint>
#include <string>

namespace lockstep::launch {

/// Writes the weights of a run's or a checkpoint's newest good checkpoint as safetensors: one FILE.safetensors, or a folder with
/// model.safetensors and, for a gpt, the config.json that Hugging Face's AutoModelForCausalLM reads. A gpt gets GPT-2's names,
/// whose Conv1D weights are (in, out); other models keep theirs. Returns a sentence about what was written.
std::string export_weights(const std::string& run, const std::string& out);

/// Makes a run folder of a GPT-2 in safetensors with Hugging Face's names: a file, or a folder with model.safetensors. `heads` 0:
/// from config.json beside the file, else width / 64 as in all published sizes. Returns a sentence about what was read. Throws
/// (bad_data) naming the tensor that does not fit, (usage) when `out` is there already.
std::string import_weights(const std::string& from, const std::string& out, std::int64_t heads);

}  // namespace lockstep::launch
