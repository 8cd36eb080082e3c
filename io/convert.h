#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::io {

/// What every conversion takes. Files are written beside the target and renamed when complete; Fletcher32 is on. Training rows
/// are in the group `train`, held-out rows in `validation`: the names that open_dataset() looks for first. Every write_… returns
/// a few lines for the user: what was written. Errors: malformed input is bad_data with file and line or offset, a full disk is
/// io with the bytes needed and free; no half file is left.
struct ConvertOptions {
  std::string out = {};   ///< the HDF5 file; an existing one is replaced
  double validation = 0;  ///< share of rows held out, in [0, 1): the end of a text, rows chosen at random elsewhere
  std::string source = {}, licence = {};  ///< kept as attributes
};

/// Text files (plain or .gz), one after another, as byte tokens: train/tokens and validation/tokens (u8).
std::string write_text(const std::vector<std::string>& paths, const ConvertOptions&);

struct IdxOptions {
  std::string images = {}, labels = {};            ///< idx files as MNIST has them, plain or .gz
  std::string test_images = {}, test_labels = {};  ///< optional: become `validation` instead of a share of the training rows
  std::vector<std::string> classes = {};           ///< optional names
};
/// Images and labels: train/images (rows, height, width), train/labels, and the same in `validation`; `mean` and `std` of the
/// training images as attributes.
std::string write_idx(const IdxOptions&, const ConvertOptions&);

struct CsvOptions {
  std::vector<std::string> paths = {};   ///< plain or .gz, the same columns in each
  std::string target = {};               ///< column by name, or by number from 0; empty: the last
  bool regression = false;               ///< the target is a value; otherwise a class (a whole number or a word)
  std::vector<std::string> ignore = {};  ///< columns left out (an id, a date)
};
/// A table: train/x (rows, columns) f32, train/y (i32 classes or f32), and the same in `validation`; attributes `columns`,
/// `classes`, and `mean` and `std` of each column. The separator (comma, semicolon, tab) and whether there is a header are found
/// from the first line.
std::string write_csv(const CsvOptions&, const ConvertOptions&);

/// The tree of an HDF5 file as text: shapes, types, chunks, filters, attributes, and what Lockstep would read from it.
std::string inspect_file(const std::string& path);
/// Reads everything (checksums, NaN, label range); returns a line when all is well, else throws (bad_data).
std::string verify_file(const std::string& path);

}  // namespace lockstep::io
