#include "launch/data.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "launch/models.h"

namespace lockstep::launch {
namespace {

/// data.validation names a file of its own, not a part of each source.
bool other_file(const std::string& validation) {
  const std::string ending = std::filesystem::path(validation).extension();
  return ending == ".h5" || ending == ".hdf5" || ending == ".hdf";
}

}  // namespace

std::vector<std::string> data_files(const Config& c) {
  std::vector<std::string> paths = c.data.path;
  for (const auto& source : c.data.mixture) paths.insert(paths.end(), source.path.begin(), source.path.end());
  return io::expand_paths(paths);
}

RunData open_data(const Config& c, Group& group, const io::CheckedFiles& checked) {
  io::DatasetOptions options = dataset_options(c);
  options.checked = checked;
  if (c.data.mixture.empty()) {
    io::Datasets one = io::open_dataset(options, group);
    return {std::move(one.train), std::move(one.validation), {}};
  }
  std::vector<std::unique_ptr<io::Dataset>> train, validation;
  RunData data;
  for (const auto& source : c.data.mixture) {
    options.paths = source.path;
    options.inputs = source.inputs.empty() ? c.data.inputs : source.inputs;
    options.labels = source.labels.empty() ? c.data.labels : source.labels;
    options.mask = source.mask.empty() ? c.data.mask : source.mask;
    if (!train.empty() && other_file(c.data.validation)) options.validation = "none";  // it is there once
    io::Datasets one = io::open_dataset(options, group);
    data.mixture.push_back({one.train->rows(), source.weight});
    train.push_back(std::move(one.train));
    if (one.validation) validation.push_back(std::move(one.validation));
  }
  data.train = io::join_datasets(std::move(train));
  if (!validation.empty()) data.validation = io::join_datasets(std::move(validation));
  return data;
}

void resolve_order(Config& c, const RunData& data, Group& group) {
  const auto chunks = data.train->chunks();
  if (c.data.shuffle == "automatic") c.data.shuffle = name_of(io::choose_shuffle(chunks));
  if (c.data.shuffle == "window" && !c.data.window)
    c.data.window = io::choose_window(chunks, int(c.train.lanes), std::int64_t(c.data.memory_mib * (1 << 20)));
  const auto all = group.gather(fmt::format("{} rows, shuffle {}, window {}, chunks {}", data.train->rows(), c.data.shuffle,
                                            c.data.window.value_or(0), layout_text(c, *data.train)));
  for (std::size_t r = 1; r < all.size(); ++r)
    require(Exit::diverged, all[r] == all[0], "rank {} would read its data in another order than rank 0: {}; {}", r, all[r],
            all[0]);
}

io::LoaderOptions loader_options(const Config& c, const RunData& data) {
  using enum io::Tail;
  return {.lanes = int(c.train.lanes),
          .rows_per_lane = c.train.rows_per_lane,
          .seed = std::uint64_t(c.run.seed),
          .shuffle = c.data.shuffle == "none"     ? io::Shuffle::none
                     : c.data.shuffle == "window" ? io::Shuffle::window
                                                  : io::Shuffle::full,
          .tail = c.data.tail == "partial" ? partial
                  : c.data.tail == "drop"  ? drop
                                           : carry,
          .window = c.data.window.value_or(0),
          .mixture = data.mixture,
          .dtype = to_dtype(c.train.precision)};
}

std::string layout_text(const Config& c, const io::Dataset& train) {
  if (c.data.shuffle != "window") return "";
  std::string runs;
  for (const auto& run : train.chunks()) runs += fmt::format("{}/{} ", run.rows, run.chunk);
  return runs.size() <= 40 ? runs : fmt::format("{} runs of chunks, {:08x}", std::ranges::count(runs, ' '), hash_name(runs));
}

}  // namespace lockstep::launch
