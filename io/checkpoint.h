#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/group.h"
#include "core/tensor.h"

namespace lockstep::io {

/// A tensor under a name: a master weight "h.0.attn.c_attn.weight", a buffer, or optimizer state
/// "adamw.m/h.0.attn.c_attn.weight".
struct NamedView {
  std::string name;
  Shape shape;
  View view;  ///< host or device memory; the same values on every rank
};

/// Writes `folder`/step_<step>/ (checkpoint.h5, which h5py reads by name, and manifest.json with offsets, sizes and XXH3-128 of
/// every byte) and returns its path. It becomes visible by one rename after everything is on disk; then `folder`/latest names it,
/// and older ones beyond `keep` go (0: keep all). `state` is a JSON object: position, seed, lanes, choices, whatever a resumed
/// run needs. Collective: rank 0 writes, every rank throws the same Error when that fails: Exit::io, with the bytes needed and
/// free when the disk is full; what was half written is removed and older checkpoints are untouched. Waits for the queue.
std::string save_checkpoint(const std::string& folder, std::int64_t step, const std::vector<NamedView>&, const std::string& state,
                            int keep, const Queue&, Group&);

struct FoundCheckpoint {
  std::string path;  ///< folder of the checkpoint
  std::int64_t step = 0;
  std::string state;                  ///< JSON, as it was saved
  std::vector<std::string> warnings;  ///< newer ones that are damaged, a sentence each
};
/// The newest checkpoint of a run whose checksums are all right, on every rank the same. Collective; rank 0 looks. None when the
/// folder is missing or holds no complete checkpoint; when every one is damaged: Error (bad_data) that names them.
std::optional<FoundCheckpoint> find_checkpoint(const std::string& folder, Group&);
/// One given checkpoint folder, or the newest good one of a run folder (with or without /checkpoints). Error when there is none.
FoundCheckpoint open_checkpoint(const std::string& path, Group&);

/// Which tensors of the checkpoint load_checkpoint wants.
enum class Match : std::uint8_t {
  all,     ///< exactly those given, neither more nor fewer: resume
  subset,  ///< those given; the checkpoint may hold more (evaluation needs no optimizer state)
};
/// Fills the views (host or device memory) from a checkpoint and checks what it reads; values are converted when the view's type
/// differs (f32 <-> bf16). Collective; every rank reads. A checkpoint of another model: Error (bad_data) naming the first
/// difference.
void load_checkpoint(const FoundCheckpoint&, const std::vector<NamedView>&, Match, const Queue&, Group&);

/// Checks every byte of one checkpoint folder, or of all in a run folder: a line each. Throws (bad_data) when one is damaged.
std::string verify_checkpoint(const std::string& path);
/// What a checkpoint holds, as text: step, state, tensors with shapes, types, sizes and checksums.
std::string inspect_checkpoint(const std::string& path);

}  // namespace lockstep::io
