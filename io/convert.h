#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace lockstep::io {

/// How far a conversion is. `total` is 0 when it is not known.
struct Progress {
  const char* what = "";  ///< "reading", "writing", …
  std::int64_t done = 0, total = 0;
};

/// What every conversion takes. Files are written beside the target and renamed when complete, each with its manifest beside it
/// (FILE.h5.manifest); Fletcher32 is on. Training rows are in the group `train`, held-out rows in `validation`: the names that
/// open_dataset() looks for first. Inputs are read as they come: they may be larger than memory. Every write_… returns a few
/// lines for the user: what was written. Errors: malformed input is bad_data with file and line or offset, a full disk is io with
/// the bytes needed and free; no half file is left, and a file that was there stays as it was.
struct ConvertOptions {
  std::string out = {};   ///< the HDF5 file; an existing one is replaced
  double validation = 0;  ///< share of rows held out, in [0, 1): the end of a text, rows chosen at random elsewhere
  std::string source = {}, licence = {};  ///< kept as attributes
  std::int64_t shards = 1;                ///< above 1: FILE-00000-of-00004.h5 and so on, equal shares of the rows in each
  int deflate = 0;                        ///< 1 to 9: compress
  /// Called every few milliseconds of work; what it throws ends the conversion as an error does.
  std::function<void(const Progress&)> progress = {};
};

/// Text files (plain or .gz), one after another: train/tokens and validation/tokens.
struct TextOptions {
  std::vector<std::string> paths = {};
  std::string tokenizer = {};  ///< empty: a token a byte (u8); else a folder with GPT-2's vocab.bpe and encoder.json
};
std::string write_text(const TextOptions&, const ConvertOptions&);

struct IdxOptions {
  std::string images = {}, labels = {};            ///< idx files as MNIST has them, plain or .gz
  std::string test_images = {}, test_labels = {};  ///< optional: become `validation` instead of a share of the training rows
  std::vector<std::string> classes = {};           ///< optional names
};
/// Images and labels: train/images (rows, height, width), train/labels, and the same in `validation`; `mean` and `std` of the
/// training images as attributes.
std::string write_idx(const IdxOptions&, const ConvertOptions&);

struct ImagesOptions {
  std::string folder = {};             ///< a folder of pictures for each class, or `train` and `validation` of such folders
  std::int64_t height = 0, width = 0;  ///< resized to cover this and cut at the centre; 0: as they are, all the same
  std::int64_t channels = 0;           ///< 1 (grey) or 3 (RGB); 0: grey when all pictures are
  bool skip_unreadable = false;        ///< leave damaged files out; all are then decoded twice
  std::uint64_t seed = 0;              ///< of the order of the rows
};
/// PNG and JPEG files below a folder for each class: train/images (rows, height, width[, 3]) u8 in an order drawn from the seed,
/// train/labels, and the same in `validation` (folder/validation, val, valid, dev or test, or a share). `classes` are the
/// folders' names, sorted; the attribute source_xxh3 is of the files' own checksums, in the order of their names.
std::string write_images(const ImagesOptions&, const ConvertOptions&);

struct CsvOptions {
  std::vector<std::string> paths = {};   ///< plain or .gz, the same columns in each
  std::string target = {};               ///< column by name, or by number from 0; empty: the last
  bool regression = false;               ///< the target is a value; otherwise a class (a whole number or a word)
  std::vector<std::string> ignore = {};  ///< columns left out (an id, a date)
};
/// A table: train/x (rows, columns) f32, train/y (i32 classes or f32), and the same in `validation`; attributes `columns`,
/// `classes`, and `mean` and `std` of each column. The separator (comma, semicolon, tab) and whether there is a header are found
/// from the first line. The files are read twice.
std::string write_csv(const CsvOptions&, const ConvertOptions&);

/// Arrays as numpy writes them (.npy, .npz), each a dataset of its name and type. With a share held out, or a name for each part,
/// rows go to the groups train and validation.
std::string write_npy(const std::vector<std::string>& paths, const ConvertOptions&);

/// The tree of an HDF5 file as text: shapes, types, chunks, filters, attributes, and what Lockstep would read from it.
std::string inspect_file(const std::string& path);
/// Reads everything (manifest, checksums, NaN, label range); returns a line when all is well, else throws (bad_data).
std::string verify_file(const std::string& path);

}  // namespace lockstep::io
