#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "io/convert.h"
#include "io/parts.h"
#include "io/plain_file.h"

namespace lockstep::io {

using hdf5::Element;

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

struct Table {
  Texts columns;  // of x
  std::string target;
  std::vector<float> x;  // rows x columns
  Texts targets;         // as text
  std::map<std::string, std::string> first_seen;
};

Table read_table(const CsvOptions& options) {
  Csv csv(options.paths);
  Table table;
  Texts names, fields, first, second;
  require(Exit::bad_data, csv.next(first), "{}: the file is empty", csv.path());
  const std::string first_where = csv.where();
  const bool more = csv.next(second);
  const bool header = is_header(first, second);
  names = first;
  if (!header)
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = std::to_string(i);

  const std::size_t target = options.target.empty() ? names.size() - 1 : find_column(names, options.target, csv.path());
  std::vector<bool> ignored(names.size(), false);
  for (const auto& name : options.ignore) ignored[find_column(names, name, csv.path())] = true;
  for (std::size_t i = 0; i < names.size(); ++i)
    if (i != target && !ignored[i]) table.columns.push_back(names[i]);
  table.target = names[target];
  require(Exit::bad_data, !table.columns.empty(), "{}: there is no column besides the target '{}'", csv.path(), table.target);

  auto add = [&](const Texts& row, const std::string& where) {
    require(Exit::bad_data, row.size() == names.size(), "{}: {} fields, but the first line has {}", where, row.size(),
            names.size());
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i == target || ignored[i]) continue;
      const auto value = number(row[i]);
      require(Exit::bad_data, value && std::isfinite(*value) && std::fabs(*value) < 3.4e38,
              "{}: column '{}': {} is not a number{}", where, names[i], row[i].empty() ? "an empty field" : "'" + row[i] + "'",
              value ? " that can be used" : "; leave the column out with --ignore");
      table.x.push_back(float(*value));
    }
    require(Exit::bad_data, !row[target].empty(), "{}: the target '{}' is empty", where, table.target);
    table.first_seen.try_emplace(row[target], where);
    table.targets.push_back(row[target]);
  };
  if (!header) add(first, first_where);
  if (more) add(second, csv.where());
  do {
    while (csv.next(fields)) add(fields, csv.where());
    if (!csv.next_file()) break;
    if (header && csv.next(fields))
      require(Exit::bad_data, fields == names, "{}: its columns are not those of {}", csv.path(), options.paths[0]);
  } while (true);
  require(Exit::bad_data, !table.targets.empty(), "{}: there are no rows", options.paths[0]);
  return table;
}

/// Class numbers: whole numbers from 0 on stay as they are, anything else is numbered in order (numbers by size, words by
/// alphabet).
struct Classes {
  std::map<std::string, std::int32_t> number_of;
  Texts names;  // empty when the numbers are the names
};
Classes find_classes(const Table& table) {
  bool all_numbers = true, all_whole = true;
  std::vector<std::pair<double, std::string>> sorted;
  for (const auto& [text, where] : table.first_seen) {
    const auto value = number(text);
    all_numbers &= value.has_value();
    all_whole &= value && *value == std::floor(*value);
    sorted.emplace_back(value.value_or(0), text);
  }
  if (all_numbers) std::sort(sorted.begin(), sorted.end());
  if (all_numbers && !all_whole)
    for (const auto& [value, text] : sorted)
      require(Exit::bad_data, value == std::floor(value),
              "{}: the target '{}' is {}, no class; use --regression when it is a value", table.first_seen.at(text), table.target,
              text);
  require(Exit::bad_data, sorted.size() <= 100000,
          "the target '{}' has {} different values: too many for classes; use --regression", table.target, sorted.size());
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
  const Table table = read_table(input);
  const auto rows = std::int64_t(table.targets.size()), columns = std::int64_t(table.columns.size());
  Classes classes;
  if (!input.regression) classes = find_classes(table);
  const auto held_out = choose_rows(rows, options.validation);
  const std::int64_t validation_rows = std::count(held_out.begin(), held_out.end(), true);

  std::vector<double> mean(std::size_t(columns), 0.0), deviation(std::size_t(columns), 0.0);
  const double n = double(rows - validation_rows);
  auto each_training_value = [&](auto visit) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; !held_out[std::size_t(r)] && c < columns; ++c)
        visit(std::size_t(c), double(table.x[std::size_t(r * columns + c)]));
  };
  each_training_value([&](std::size_t c, double v) { mean[c] += v / n; });
  each_training_value([&](std::size_t c, double v) { deviation[c] += (v - mean[c]) * (v - mean[c]) / n; });
  for (auto& d : deviation) d = std::sqrt(d);

  const std::int64_t bytes = file_bytes(rows * (columns + 1) * 4);
  Output output(options.out, bytes);
  writing(output, options.out, bytes, [&](hdf5::File& file) {
    auto write_part = [&](const std::string& part, bool held, std::int64_t count) {
      PartWriter x(create_part(file, part + "/x", Element::f32, {count, columns}), Element::f32);
      const Element element = input.regression ? Element::f32 : Element::i32;
      PartWriter y(create_part(file, part + "/y", element, input.regression ? Shape{count, 1} : Shape{count}), element);
      for (std::int64_t r = 0; r < rows; ++r) {
        if (held_out[std::size_t(r)] != held) continue;
        x.add(&table.x[std::size_t(r * columns)]);
        const std::string& text = table.targets[std::size_t(r)];
        if (input.regression) {
          const auto value = number(text);
          require(Exit::bad_data, value && std::isfinite(*value), "{}: the target '{}' is '{}', not a number",
                  table.first_seen.at(text), table.target, text);
          const float target = float(*value);
          y.add(&target);
        } else {
          y.add(&classes.number_of.at(text));
        }
      }
      x.finish(), y.finish();
      if (input.regression) return;
      if (classes.names.empty())
        file.set(part + "/y", "classes", std::int64_t(classes.number_of.size()));
      else
        file.set(part + "/y", "classes", classes.names);
    };
    write_part("train", false, rows - validation_rows);
    if (validation_rows > 0) write_part("validation", true, validation_rows);
    if (columns <= 2048) {  // an attribute holds 64 KiB
      file.set("train/x", "columns", table.columns);
      file.set("train/x", "mean", mean);
      file.set("train/x", "std", deviation);
    } else {
      auto wide = [&](const char* name, const std::vector<double>& values) {
        const std::vector<float> f(values.begin(), values.end());
        file.create_dataset(std::string("train/") + name, Element::f32, {columns}).write(Element::f32, 0, columns, f.data());
      };
      wide("mean", mean), wide("std", deviation);
    }
    file.set("", "target", table.target);
    set_origin(file, options);
  });
  output.commit();
  return fmt::format("{}: {} rows for training, {} held out, {} columns, target '{}' ({})\n", options.out, rows - validation_rows,
                     validation_rows, columns, table.target,
                     input.regression ? std::string("values") : fmt::format("{} classes", classes.number_of.size()));
}

}  // namespace lockstep::io
