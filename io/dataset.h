#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/group.h"
#include "core/tensor.h"
#include "io/batch.h"
#include "kernels/base/random.h"

namespace lockstep::io {

/// What one row is: a window of a token stream, an image with its label, or a row of numbers with its target.
enum class DataKind : std::uint8_t { automatic, tokens, images, table };
const char* name_of(DataKind);

/// What a model and a loader need to know about a dataset. Shapes are of one row.
struct DatasetInfo {
  DataKind kind = DataKind::table;
  std::int64_t rows = 0;
  Shape input = {};                           ///< (length), (height, width, channels) or (columns)
  Shape target = {};                          ///< (length); () for one class label; (outputs) for regression
  DType target_dtype = DType::i32;            ///< i32: tokens and class labels; f32: regression
  std::int64_t classes = 0;                   ///< number of classes; tokens: the vocabulary; 0: regression
  std::vector<std::string> class_names = {};  ///< when the file names them
  bool ignores = false;                       ///< some targets may be `ignored_target`, so that weights are known only once read
  std::string text = {};                      ///< one line: "60000 images 28 x 28 x 1, 10 classes, fashion.h5:/train/images"
};

/// Neighbouring rows of a dataset that are stored in chunks of one size: chunk k of the run is rows [first + k * chunk,
/// first + (k + 1) * chunk), the last one shorter where `chunk` does not divide `rows`.
struct ChunkRun {
  std::int64_t first = 0, rows = 0;
  std::int64_t chunk = 1;      ///< rows of one chunk
  std::int64_t row_bytes = 1;  ///< of one row as it is kept in memory once its chunk is decoded
};

/// Rows that can be read in any order.
class Dataset {
 public:
  virtual ~Dataset() = default;
  const DatasetInfo& info() const { return info_; }
  std::int64_t rows() const { return info_.rows; }
  /// Writes row rows[i] to place i of `inputs` (tokens: i32; else floats, normalised) and `targets` (info().target_dtype;
  /// those that are not counted: ignored_target), which are host memory. May be called from several threads. Throws Error
  /// (bad_data, io) naming the file and the dataset. With `draws` (its site is not used) images are cropped and mirrored as the
  /// configuration asks, place i of the lane by element i.
  virtual void read(std::span<const std::int64_t> rows, View inputs, View targets, const RandomKey* draws = nullptr) const = 0;
  /// These rows will be read soon: what takes long is begun meanwhile. Returns at once and never fails.
  virtual void expect(std::span<const std::int64_t> rows) const { (void)rows; }
  /// How the rows are stored, for an order that reads each chunk once an epoch: runs that follow one another and cover all rows.
  /// Empty: any row costs the same (data held in memory). Storage without chunks gives blocks worth one read. A chunk that is cut
  /// by the first or last row of the dataset is a run of its own. The same on every rank.
  virtual std::vector<ChunkRun> chunks() const { return {}; }

 protected:
  DatasetInfo info_;
};

/// What validate_file() learned of files without a manifest, by path, so that the library need not be asked again.
struct CheckedFile;
using CheckedFiles = std::map<std::string, std::shared_ptr<const CheckedFile>>;

/// [data] of a configuration.
struct DatasetOptions {
  std::vector<std::string> paths = {};   ///< files or globs; their rows follow one another
  std::string inputs = {}, labels = {};  ///< names inside the file ("train/images"); empty: found among common names
  std::string mask = {};                 ///< tokens: a dataset of their shape whose zeros are not counted; "none"; empty: found
  std::int64_t ignore = ignored_target;  ///< class labels and tokens of this value are no targets that count
  std::optional<bool> shift = {};  ///< tokens with labels: a token's target is the label of the next place (true), or of its
                                   ///< own; absent: seen from the labels, which repeat the one or the other
  /// "": the file's own validation part if it has one; "none"; a fraction ("0.1"); a group or dataset of the file ("test",
  /// "val/images"); or another file.
  std::string validation = {};
  DataKind kind = DataKind::automatic;  ///< automatic: one axis of integers is tokens, two axes a table, more are images
  std::int64_t length = 0;              ///< tokens of a row; needed for token streams
  std::int64_t classes = 0;             ///< 0: the file's attribute, or the largest label + 1. Tokens: vocabulary
  bool regression = false;              ///< targets are values even where they could be classes
  bool channels_first = false;          ///< images are (rows, channels, height, width)
  std::int64_t crop_padding = 0;        ///< training images: pixels added on each side, of which a random piece is cut out
  bool flip = false;                    ///< training images: half of them mirrored, left to right
  std::vector<float> mean = {}, deviation = {};  ///< of inputs (u8 images: after division by 255), one or one a channel or
                                                 ///< column; empty: the file's attributes `mean` and `std`, or 0 and 1
  std::size_t memory_limit = 1u << 30;  ///< bytes: datasets up to this size stay in memory once read; of larger ones, as much
                                        ///< of what was decoded last
  bool node_cache = false;              ///< the ranks of a machine share one copy in memory, of any size that is free
  std::string notes = {};               ///< folder that remembers which files were looked through, so that it is done once
  double notes_after = 0.02;            ///< seconds that looking through must take to be remembered
  std::string documents = {};           ///< token streams: a dataset of offsets where documents begin; no row crosses them
  CheckedFiles checked = {};            ///< what validate_file() returned; used by rank 0
  bool scan = true;                     ///< look for NaN and labels out of range before training starts
};

struct Datasets {
  std::unique_ptr<Dataset> train, validation;  ///< validation may be absent
  std::string note = {};                       ///< what became of node_cache, in a sentence; empty when it was not asked for
};
/// Opens the files of a configuration. Collective: rank 0 finds the datasets and scans them, every rank opens what it found; what
/// is wrong is the same Error on every rank. Exit::bad_data: missing, damaged or unfit file, NaN, label out of range; a name that
/// is not there is answered with the datasets that are, and their shapes.
Datasets open_dataset(const DatasetOptions&, Group&);

/// Opens the file in a child process with limits on time and memory and reads through it (everything up to 256 MiB, else all
/// metadata and the first and last rows), so that a damaged file which crashes the HDF5 library ends in an Error (bad_data) here.
/// The child tells what it found, for DatasetOptions::checked: texts, which the library reads least safely, are read by it alone.
/// Call it before MPI starts. Globs are expanded.
CheckedFiles validate_file(const std::string& path);

/// Files that a list of paths and globs means, sorted within a glob. Throws (bad_data) when one matches nothing.
std::vector<std::string> expand_paths(const std::vector<std::string>& paths);

/// Random rows, for benchmarks and tests: contents are decided by (seed, row).
struct SyntheticOptions {
  DataKind kind = DataKind::images;
  std::int64_t rows = 1024;
  Shape input = {28, 28, 1};  ///< (length) for tokens
  std::int64_t classes = 10;  ///< vocabulary for tokens; 0 (table): regression on `outputs` values
  std::int64_t outputs = 1;
  std::uint64_t seed = 1;
};
std::unique_ptr<Dataset> synthetic_dataset(const SyntheticOptions&);

}  // namespace lockstep::io
