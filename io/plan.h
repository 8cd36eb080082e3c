#pragma once

// Private to io/: what rank 0 found in the files, for all ranks.

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "io/dataset.h"
#include "io/memo.h"
#include "io/names.h"
#include "io/rows.h"

namespace lockstep::io {

/// Everything that opening the training or the validation rows needs, found by rank 0 and sent to the others as JSON: no rank
/// looks for itself.
struct Plan {
  struct Part {
    std::string file;
    Names names;
  };
  std::vector<Part> parts;                                                  ///< their rows follow one another
  DatasetInfo info;                                                         ///< rows are counted when opened
  hdf5::Element inputs = hdf5::Element::f32, targets = hdf5::Element::i32;  ///< as held in memory
  hdf5::Element mask = hdf5::Element::u8;
  bool hold = true, hold_targets = true;  ///< small enough to be read into memory; hold_targets: the mask, too
  bool stream = false;                    ///< tokens along one axis, cut into windows; otherwise the first axis is rows
  bool next = true;                       ///< tokens: the target of a place is what stands in the next one
  std::int64_t ignore = ignored_target;   ///< targets of this value are not counted
  bool channels_first = false;
  std::int64_t crop_padding = 0;  ///< training only, as is the next
  bool flip = false;
  /// This plan's share of the rows, [from, to): of each part's tokens in their order, or of all rows (large data: of all chunks)
  /// in an order drawn once and for all, since files are often sorted by class.
  double from = 0, to = 1;
  std::string note;                 ///< what became of a cache that ranks share; not sent
  std::string documents;            ///< streams: where documents begin
  std::vector<float> scale, shift;  ///< inputs become x * scale + shift; one, or one a channel or column

  nlohmann::json to_json() const;
  static Plan from_json(const nlohmann::json&);
};

/// Open datasets, shared by a training and a validation part of the same file.
class Sources {
 public:
  Sources(std::size_t cache_bytes, CheckedFiles checked)
      : engine_(std::make_shared<Engine>(cache_bytes)), checked_(std::move(checked)) {}
  const std::shared_ptr<Engine>& engine() const { return engine_; }
  std::shared_ptr<const hdf5::File> file(const std::string& path);
  std::shared_ptr<const DataManifest> manifest(const std::string& path);  ///< none: the file has none
  std::shared_ptr<Rows> rows(const std::string& path, const std::string& name, hdf5::Element, bool hold);

 private:
  std::shared_ptr<Engine> engine_;
  CheckedFiles checked_;
  std::map<std::string, std::shared_ptr<const hdf5::File>> files_;
  std::map<std::string, std::shared_ptr<const DataManifest>> manifests_;
  std::map<std::string, std::shared_ptr<Rows>> rows_;
};

/// A plan for rank 0's eyes; `training`, when given, is the plan whose normalisation and classes a validation part shares.
Plan make_plan(const DatasetOptions&, const std::vector<Plan::Part>&, Sources&, const Plan* training);
/// Looks at every value that can be wrong: NaN and infinity in inputs and regression targets, labels and tokens out of range,
/// padding on the left. Sets info.ignores, and info.classes when it is not known yet; without `thorough` that is all it does.
/// What it found is remembered by `memo` for files that do not change, where looking took `worth_seconds` or more.
void scan(Plan&, Sources&, bool thorough, const Memo& memo, double worth_seconds);

std::unique_ptr<Dataset> open_plan(const Plan&, Sources&);

}  // namespace lockstep::io
