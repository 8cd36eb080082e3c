#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "io/advice.h"
#include "io/contents.h"
#include "io/convert.h"
#include "io/data_manifest.h"
#include "io/dataset.h"
#include "io/hdf5.h"
#include "io/output.h"

namespace lockstep::io {

namespace {

std::string attribute_text(const hdf5::File& file, const std::string& object, const std::string& name) {
  std::string text = name + " =";
  std::size_t shown = 0, all = 0;
  auto add = [&](const std::string& value) {
    ++all;
    if (shown < 12) text += (shown++ ? ", " : " ") + value;
  };
  if (const auto numbers = file.numbers(object, name)) {
    for (double v : *numbers) add(fmt::format("{:.6g}", v));
  } else if (const auto texts = file.texts(object, name)) {
    for (const auto& t : *texts) add(t.size() > 60 ? t.substr(0, 60) + "…" : t);
  } else {
    return name;
  }
  if (all > shown) text += fmt::format(" … ({} values)", all);
  return text;
}

/// What open_dataset() would read, without reading it: options for a length of rows that every stream has.
DatasetOptions as_training_would(const std::string& path, const std::vector<hdf5::Info>& there, const CheckedFiles& checked,
                                 bool scan) {
  DatasetOptions options{.paths = {path}, .checked = checked};
  options.length = 128;
  for (const auto& info : there)
    if (info.type == hdf5::Class::integer && info.shape.size() == 1 && info.shape[0] > 1)
      options.length = std::min(options.length, info.shape[0] - 1);
  for (const auto& info : there)  // (rows, length): rows as they are
    if (info.name.find("tokens") != std::string::npos || info.name.find("input_ids") != std::string::npos)
      if (info.shape.size() == 2) options.length = 0;
  options.memory_limit = scan ? std::size_t(1) << 28 : 0;
  options.scan = scan;
  return options;
}

}  // namespace

std::string inspect_file(const std::string& path) {
  const auto checked = validate_file(path);
  const auto file = open_checked(path, checked);
  const auto there = file.datasets(true);
  std::string text = fmt::format("{}  {}\n", path, size_text(std::int64_t(std::filesystem::file_size(path))));
  for (const auto& name : file.attributes("")) text += "  " + attribute_text(file, "", name) + "\n";
  std::size_t wide = 0;
  for (const auto& info : there) wide = std::max(wide, info.text().size());
  for (const auto& info : there) {
    text += fmt::format("  {:{}}   {}{}{}, {}\n", info.text(), wide, info.layout, info.filters.empty() ? "" : ", ", info.filters,
                        size_text(info.stored));
    for (const auto& name : file.attributes(info.name)) text += "      " + attribute_text(file, info.name, name) + "\n";
  }
  if (there.empty()) text += "  no datasets\n";
  try {
    auto group = solo_group();
    const auto opened = open_dataset(as_training_would(path, there, checked, false), *group);
    text += "Lockstep reads  " + opened.train->info().text + "\n";
    if (opened.validation) text += "validation      " + opened.validation->info().text + "\n";
  } catch (const Error& e) {
    text += std::string("Lockstep finds nothing to train on: ") + e.what() + "\n";
  }
  for (const auto& advice : advise_on_file(file)) text += "  * " + advice + "\n";
  return text;
}

std::string verify_file(const std::string& path) {
  const auto manifest = DataManifest::load(path);
  const std::int64_t pieces = manifest ? manifest->check_all() : 0;
  const auto checked = manifest ? CheckedFiles{} : validate_file(path);
  const auto file = open_checked(path, checked);
  const auto there = file.datasets();
  std::int64_t values = 0;
  std::vector<float> block;
  for (const auto& info : there) {
    if (!info.numeric() || count(info.shape) == 0) continue;
    const auto data = file.dataset(info.name);
    const std::int64_t run =
        std::clamp<std::int64_t>((std::int64_t(1) << 21) / std::max<std::int64_t>(1, data.width()), 1, data.rows());
    block.resize(std::size_t(run * data.width()));
    for (std::int64_t first = 0; first < data.rows(); first += run) {
      const std::int64_t n = std::min(run, data.rows() - first);
      data.read(hdf5::Element::f32, first, n, block.data());  // the library compares Fletcher32 sums where there are any
      for (std::int64_t i = 0; i < n * data.width(); ++i)
        require(Exit::bad_data, std::isfinite(block[std::size_t(i)]), "{}:/{}: row {} holds {}", path, info.name,
                first + i / data.width(), std::isnan(block[std::size_t(i)]) ? "NaN" : "an infinite value");
      values += n * data.width();
    }
  }
  auto group = solo_group();
  std::string note;
  try {
    open_dataset(as_training_would(path, there, checked, false), *group);
  } catch (const Error& e) {
    note = std::string("to train on it, more must be said: ") + e.what() + "\n";
  }
  if (note.empty()) open_dataset(as_training_would(path, there, checked, true), *group);  // labels in range
  return note + fmt::format("{}: {} datasets, {} values read, all finite; {}\n", path, there.size(), values,
                            manifest ? fmt::format("{} chunks are as the manifest says", pieces)
                                     : fmt::format("it has no manifest (`lockstep data manifest {}` writes one)", path));
}

}  // namespace lockstep::io
