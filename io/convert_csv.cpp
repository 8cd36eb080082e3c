#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "io/convert.h"
#include "io/parts.h"
#include "io/plain_file.h"

namespace lockstep::io {

namespace {

using Texts = std::vector<std::string>;

std::string trimmed(const std::string& text) {
  const auto begin = text.find_first_not_of(" \t"), end = text.find_last_not_of(" \t");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

/// A whole field as a number, whatever the locale.
std::optional<double> number(const std::string& text) {
  const char *begin = text.data() + (text.starts_with('+')), *end = text.data() + text.size();
  double value = 0;
  const auto [at, problem] = std::from_chars(begin, end, value);
  if (begin == end || at != end || problem != std::errc{}) return {};
  return value;
}

/// Lines of CSV files (RFC 4180, but a quoted field ends on its line), one after another.
class Csv {
 public:
  Csv(const Texts& paths) : paths_(paths) { open(); }

  /// The next line that is not empty, cut into trimmed fields; false at the end of the current file.
  bool next(Texts& fields) {
    while (file_->line(line_)) {
      ++number_;
      if (number_ == 1 && line_.starts_with("\xEF\xBB\xBF")) line_.erase(0, 3);  // byte order mark
      if (trimmed(line_).empty()) continue;
      if (separator_ == 0) find_separator();
      cut(fields);
      return true;
    }
    return false;
  }
  bool next_file() {
    if (++index_ >= paths_.size()) return false;
    open();
    return true;
  }
  /// "data.csv line 12"
  std::string where() const { return file_->path() + " line " + std::to_string(number_); }
  const std::string& path() const { return file_->path(); }

 private:
  void open() {
    file_ = std::make_unique<PlainFile>(paths_[index_]);
    number_ = 0;
  }
  void find_separator() {
    std::size_t most = 0;
    separator_ = ',';
    for (char c : {',', ';', '\t'})
      if (std::size_t n = std::size_t(std::count(line_.begin(), line_.end(), c)); n > most) most = n, separator_ = c;
  }
  void cut(Texts& fields) {
    fields.clear();
    std::string field;
    bool quoted = false, was_quoted = false;
    for (std::size_t i = 0; i < line_.size(); ++i) {
      const char c = line_[i];
      if (quoted) {
        if (c != '"')
          field += c;
        else if (i + 1 < line_.size() && line_[i + 1] == '"')
          field += line_[++i];
        else
          quoted = false;
      } else if (c == '"' && trimmed(field).empty()) {
        quoted = was_quoted = true;
        field.clear();
      } else if (c == separator_) {
        fields.push_back(was_quoted ? field : trimmed(field));
        field.clear();
        was_quoted = false;
      } else if (!was_quoted) {
        field += c;
      }
    }
    require(Exit::bad_data, !quoted, "{}: a quoted field does not end", where());
    fields.push_back(was_quoted ? field : trimmed(field));
  }

  const Texts paths_;
  std::size_t index_ = 0;
  std::unique_ptr<PlainFile> file_;
  std::string line_;
  std::int64_t number_ = 0;
  char separator_ = 0;
};

/// Whether the first line names the columns: no field is a number, or some field is none where the next line has one.
bool is_header(const Texts& first, const Texts& second) {
  bool any_number = false, differs = false;
  for (std::size_t i = 0; i < first.size(); ++i) {
    any_number |= number(first[i]).has_value();
    differs |= !number(first[i]) && i < second.size() && number(second[i]);
  }
  return differs || !any_number;
}

std::size_t find_column(const Texts& names, const std::string& wanted, const std::string& path) {
  const auto at = std::find(names.begin(), names.end(), wanted);
  if (at != names.end()) return std::size_t(at - names.begin());
  const auto index = number(wanted);
  if (index && *index >= 0 && *index < double(names.size()) && *index == std::floor(*index)) return std::size_t(*index);
  std::string list;
  for (std::size_t i = 0; i < names.size() && i < 20; ++i) list += (i ? ", " : "") + names[i];
  throw Error(fmt::format("{}: there is no column '{}'; there are {} columns: {}", path, wanted, names.size(), list),
              Exit::usage);
}

/// The rows of all files as numbers and a target's text, one after another.
class Table {
 public:
  explicit Table(const CsvOptions& options) : options_(options), csv_(options.paths) {
    Texts second;
    require(Exit::bad_data, csv_.next(fields_), "{}: the file is empty", csv_.path());
    where_ = csv_.where();
    const bool more = csv_.next(second);
    header_ = is_header(fields_, second);
    names_ = fields_;
    if (!header_)
      for (std::size_t i = 0; i < names_.size(); ++i) names_[i] = std::to_string(i);
    target_ = options.target.empty() ? names_.size() - 1 : find_column(names_, options.target, csv_.path());
    left_out_.resize(names_.size(), false);
    for (const auto& name : options.ignore) left_out_[find_column(names_, name, csv_.path())] = true;
    left_out_[target_] = true;
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (!left_out_[i]) columns_.push_back(names_[i]);
    require(Exit::bad_data, !columns_.empty(), "{}: there is no column besides the target '{}'", csv_.path(), target());
    if (!header_) waiting_.emplace_back(fields_, where_);
    if (more) waiting_.emplace_back(second, csv_.where());
  }
  const Texts& columns() const { return columns_; }
  const std::string& target() const { return names_[target_]; }
  /// "data.csv line 12", of the row that next() gave.
  const std::string& where() const { return where_; }

  bool next(std::vector<float>& x, std::string& y) {
    if (!waiting_.empty()) {
      std::tie(fields_, where_) = std::move(waiting_.front());
      waiting_.erase(waiting_.begin());
    } else {
      while (!csv_.next(fields_)) {
        if (!csv_.next_file()) return false;
        if (!header_) continue;
        if (csv_.next(fields_))
          require(Exit::bad_data, fields_ == names_, "{}: its columns are not those of {}", csv_.path(), options_.paths[0]);
      }
      where_ = csv_.where();
    }
    require(Exit::bad_data, fields_.size() == names_.size(), "{}: {} fields, but the first line has {}", where_, fields_.size(),
            names_.size());
    x.clear();
    for (std::size_t i = 0; i < fields_.size(); ++i) {
      if (left_out_[i]) continue;
      const auto value = number(fields_[i]);
      require(Exit::bad_data, value && std::isfinite(*value) && std::fabs(*value) < 3.4e38,
              "{}: column '{}': {} is not a number{}", where_, names_[i],
              fields_[i].empty() ? "an empty field" : "'" + fields_[i] + "'",
              value ? " that can be used" : "; leave the column out with --ignore");
      x.push_back(float(*value));
    }
    y = fields_[target_];
    require(Exit::bad_data, !y.empty(), "{}: the target '{}' is empty", where_, target());
    return true;
  }

 private:
  const CsvOptions& options_;
  Csv csv_;
  Texts names_, fields_, columns_;
  std::size_t target_ = 0;
  std::vector<bool> left_out_;
  bool header_ = false;
  std::string where_;
  std::vector<std::pair<Texts, std::string>> waiting_;  // rows that were read to look for a header
};

/// What must be known before a row is written.
struct Survey {
  std::int64_t rows = 0;
  std::map<std::string, std::string> first_seen;  // classes: each target and where it was seen first
};

Survey survey(const CsvOptions& input, const ConvertOptions& options) {
  Table table(input);
  Survey seen;
  std::vector<float> x;
  std::string y;
  while (table.next(x, y)) {
    if (++seen.rows % 4096 == 0) tell(options, "reading rows", seen.rows, 0);
    if (input.regression) {
      const auto value = number(y);
      require(Exit::bad_data, value && std::isfinite(*value), "{}: the target '{}' is '{}', not a number", table.where(),
              table.target(), y);
      continue;
    }
    seen.first_seen.try_emplace(y, table.where());
    require(Exit::bad_data, seen.first_seen.size() <= 100000,
            "the target '{}' has more than 100000 different values: too many for classes; use --regression", table.target());
  }
  require(Exit::bad_data, seen.rows > 0, "{}: there are no rows", input.paths[0]);
  return seen;
}

/// Class numbers: whole numbers from 0 on stay as they are, anything else is numbered in order (numbers by size, words by
/// alphabet).
struct Classes {
  std::map<std::string, std::int32_t> number_of;
  Texts names;  // empty when the numbers are the names
};
Classes find_classes(const Survey& seen, const std::string& target) {
  bool all_numbers = true, all_whole = true;
  std::vector<std::pair<double, std::string>> sorted;
  for (const auto& [text, where] : seen.first_seen) {
    const auto value = number(text);
    all_numbers &= value.has_value();
    all_whole &= value && *value == std::floor(*value);
    sorted.emplace_back(value.value_or(0), text);
  }
  if (all_numbers) std::sort(sorted.begin(), sorted.end());
  if (all_numbers && !all_whole)
    for (const auto& [value, text] : sorted)
      require(Exit::bad_data, value == std::floor(value),
              "{}: the target '{}' is {}, no class; use --regression when it is a value", seen.first_seen.at(text), target, text);
  Classes classes;
  bool plain = all_numbers;
  for (const auto& [value, text] : sorted) {
    const auto index = std::int32_t(classes.number_of.size());
    plain &= text == std::to_string(index);
    classes.number_of[text] = index;
    classes.names.push_back(text);
  }
  if (plain) classes.names.clear();
  return classes;
}

}  // namespace

std::string write_csv(const CsvOptions& input, const ConvertOptions& options) {
  check_options(options);
  require(Exit::usage, !input.paths.empty(), "data csv: no file is given");
  const Survey seen = survey(input, options);
  Table table(input);
  const auto rows = seen.rows, columns = std::int64_t(table.columns().size());
  Classes classes;
  if (!input.regression) classes = find_classes(seen, table.target());
  const auto held_out = choose_rows(rows, options.validation);
  const std::int64_t validation_rows = std::count(held_out.begin(), held_out.end(), true);

  DataFiles files(options, file_bytes(rows * (columns + 1) * 4));
  std::string explained;
  files.write([&] {
    std::optional<PartWriter> xs[2], ys[2];
    for (int held = 0; held < 2; ++held) {
      const std::int64_t count = held ? validation_rows : rows - validation_rows;
      const std::string part = held ? "validation" : "train";
      if (count == 0) continue;
      xs[held].emplace(files, part + "/x", f32, Shape{columns}, count, options.deflate);
      ys[held].emplace(files, part + "/y", input.regression ? f32 : i32, input.regression ? Shape{1} : Shape{}, count,
                       options.deflate);
    }
    std::vector<double> mean(std::size_t(columns), 0.0), square(std::size_t(columns), 0.0);  // of training rows, by Welford's way
    std::vector<float> x;
    std::string y;
    double n = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      require(Exit::bad_data, table.next(x, y), "{}: the table shrank while it was read", input.paths[0]);
      const bool held = held_out[std::size_t(row)];
      xs[held]->add(x.data());
      if (input.regression) {
        const float value = float(number(y).value_or(0));
        ys[held]->add(&value);
      } else {
        const auto found = classes.number_of.find(y);
        require(Exit::bad_data, found != classes.number_of.end(), "{}: the table changed while it was read", table.where());
        ys[held]->add(&found->second);
      }
      if (row % 4096 == 0) tell(options, "writing", row, rows);
      if (held) continue;
      n += 1;
      for (std::size_t c = 0; c < x.size(); ++c) {
        const double off = double(x[c]) - mean[c];
        mean[c] += off / n;
        square[c] += off * (double(x[c]) - mean[c]);
      }
    }
    for (auto* writers : {xs, ys})
      for (int held = 0; held < 2; ++held)
        if (writers[held]) writers[held]->finish();
    for (auto& s : square) s = std::sqrt(s / n);
    for (const char* part : {"train/y", "validation/y"}) {
      if (input.regression) continue;
      if (classes.names.empty() || classes.names.size() > 4000)  // an attribute holds 64 KiB
        files.set(part, "classes", std::int64_t(classes.number_of.size()));
      else
        files.set(part, "classes", classes.names);
    }
    if (classes.names.size() > 4000) {  // a line each
      std::string lines;
      for (const auto& name : classes.names) lines += name + "\n";
      for (std::size_t shard = 0; shard < files.count(); ++shard) {
        const auto n = std::int64_t(lines.size());
        files.file(shard).create_rows("class_names", u8, {}, {.chunk = {n}, .rows = n}).append(n, lines.data());
      }
    }
    if (columns <= 2048) {  // an attribute holds 64 KiB
      files.set("train/x", "columns", table.columns());
      files.set("train/x", "mean", mean);
      files.set("train/x", "std", square);
    } else {
      for (std::size_t shard = 0; shard < files.count(); ++shard)
        for (const auto& [name, values] : {std::pair{"train/mean", &mean}, {"train/std", &square}}) {
          const std::vector<float> f(values->begin(), values->end());
          files.file(shard).create_dataset(name, hdf5::Element::f32, {columns}).write(hdf5::Element::f32, 0, columns, f.data());
        }
    }
    files.set("", "target", table.target());
    files.set_origin(input.paths, checksum_of(input.paths, options));
    explained = explain_chunk(xs[0]->chunk(), 4);
  });
  files.commit();
  return fmt::format("{}: {} rows for training, {} held out, {} columns, target '{}' ({})\n{}\n", files.names(),
                     rows - validation_rows, validation_rows, columns, table.target(),
                     input.regression ? std::string("values") : fmt::format("{} classes", classes.number_of.size()), explained);
}

}  // namespace lockstep::io
