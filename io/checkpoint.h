#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/downloads.h"
#include "core/group.h"
#include "core/tensor.h"

namespace lockstep::io {

/// A tensor under a name: a master weight "h.0.attn.c_attn.weight", a buffer, or optimizer state
/// "adamw.m/h.0.attn.c_attn.weight".
struct NamedView {
  std::string name;
  Shape shape;             ///< of the whole tensor
  View view;               ///< host or device memory
  std::int64_t begin = 0;  ///< the view is elements [begin, begin + view.size) of the tensor, in row-major order
};

struct CheckpointOptions {
  int keep = 0;                 ///< how many of the newest stay; 0: all
  std::int64_t keep_every = 0;  ///< those whose step this divides stay too; 0: none
  bool asynchronous = false;    ///< begin() copies, a thread writes
};

/// Writes the checkpoints of a run as `folder`/step_<N>/. Every rank writes to its own rank<k>.h5 (contiguous datasets) the
/// parts of tensors that it alone holds, and an equal share of the bytes that all hold; rank 0 adds checkpoint.h5, whose virtual
/// datasets show whole tensors under their names, and manifest.json with the place of every piece and XXH3-128 of every byte. A
/// checkpoint becomes visible by one rename after everything is on disk; then `folder`/latest names it, and older ones go
/// (asynchronous: when the next one is begun, somebody waits, or the writer ends). One that failed leaves nothing behind, and
/// older ones untouched. All calls are collective and made by the thread that owns the group.
class CheckpointWriter {
 public:
  /// A tensor is whole on every rank, with the same values, or the ranks' views of it are parts that make it up. Views stay where
  /// they are. Asynchronous: takes memory for this rank's share, which `downloads` fill from a GPU. Waits for the other ranks.
  CheckpointWriter(std::string folder, std::vector<NamedView> views, CheckpointOptions options, const Queue& queue, Group& group)
      : CheckpointWriter(std::move(folder), std::move(views), options, queue, group,
                         options.asynchronous ? open_downloads(queue) : nullptr) {}
  CheckpointWriter(std::string folder, std::vector<NamedView>, CheckpointOptions, const Queue&, Group&,
                   std::unique_ptr<Downloads> downloads);
  /// Waits for the thread; what is not agreed by then is no checkpoint.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Starts a checkpoint when none is under way. Asynchronous: returns when this rank's share is copied, of a GPU when that has
  /// begun (hold_queue), and poll() or wait() tell the outcome; otherwise returns when it is on disk, and the next call tells the
  /// outcome. `state` is a JSON object: position, seed, lanes, choices, whatever a resumed run needs. Waits for the queue.
  void begin(std::int64_t step, const std::string& state);
  /// Before work that changes what is saved: the queue's work from here on waits for the copy that begin() started. Of use
  /// asynchronously on a GPU; on a CPU there is nothing to wait for. May be captured, and is then part of every replay.
  void hold_queue();
  bool under_way() const;

  struct Outcome {
    std::int64_t step = 0;
    std::string path;      ///< of the checkpoint
    std::string problem;   ///< empty: it is there; else why not, the same on every rank
    Exit exit = Exit::io;  ///< of the problem; Exit::io names the bytes needed and free when the disk is full
    double copied = 0;     ///< seconds that begin() took
    double written = 0;    ///< seconds from begin() to the end
  };
  /// The outcome once all ranks are done: ask once a step, at the cost of one small agreement while a checkpoint is under way and
  /// of nothing otherwise. Does not wait for the disk.
  std::optional<Outcome> poll();
  /// Waits for what is under way, if anything is.
  std::optional<Outcome> wait();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Writes one checkpoint and returns its path; waits. Throws the same Error on every rank when that fails.
std::string save_checkpoint(const std::string& folder, std::int64_t step, const std::vector<NamedView>&, const std::string& state,
                            int keep, const Queue&, Group&);

struct FoundCheckpoint {
  std::string path;  ///< folder of the checkpoint
  std::int64_t step = 0;
  std::string state;                  ///< JSON, as it was saved
  std::vector<std::string> warnings;  ///< newer ones that are damaged, a sentence each
};
/// The newest checkpoint of a run whose checksums are all right, on every rank the same. Collective: rank 0 lists, every rank
/// reads its share of the bytes. None when the folder is missing or holds no checkpoint; when every one is damaged: Error
/// (bad_data) that names them.
std::optional<FoundCheckpoint> find_checkpoint(const std::string& folder, Group&);
/// One given checkpoint folder, or the newest good one of a run folder (with or without /checkpoints). Error when there is none.
FoundCheckpoint open_checkpoint(const std::string& path, Group&);

/// Which tensors of the checkpoint load_checkpoint wants.
enum class Match : std::uint8_t {
  all,     ///< exactly those given, neither more nor fewer: resume
  subset,  ///< those given; the checkpoint may hold more (evaluation needs no optimizer state)
};
/// Fills the views (host or device memory, also memory that ranks share; whole tensors or ranges of them) from a checkpoint
/// written by any number of ranks, and checks what it reads; values are converted when the view's type differs (f32 <-> bf16,
/// f16). Collective; every rank reads. A checkpoint of another model: Error (bad_data) naming the first difference.
void load_checkpoint(const FoundCheckpoint&, const std::vector<NamedView>&, Match, const Queue&, Group&);

/// Name, shape and type of a tensor that a checkpoint holds.
struct StoredTensor {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
};
std::vector<StoredTensor> list_checkpoint(const FoundCheckpoint&);

/// Checks every byte of one checkpoint folder, or of all in a run folder: a line each. Throws (bad_data) when one is damaged.
std::string verify_checkpoint(const std::string& path);
/// What a checkpoint holds, as text: step, state, files, tensors with shapes, types and sizes.
std::string inspect_checkpoint(const std::string& path);
/// What differs between two checkpoints, as text: tensors that only one has, other shapes or types, and of values how many and by
/// how much. `same`: nothing does.
struct Difference {
  bool same = true;
  std::string text;
};
Difference diff_checkpoints(const std::string& a, const std::string& b);

}  // namespace lockstep::io
