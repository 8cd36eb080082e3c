#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "io/plan.h"
#include "io/stream.h"

namespace lockstep::io {
namespace {

using hdf5::Element;

constexpr std::uint64_t split_seed = 0x6c6f636b73746570;  // which rows are held out never depends on a run's seed

/// Rows of HDF5 datasets, in memory or read in runs.
class Hdf5Dataset final : public Dataset {
 public:
  Hdf5Dataset(const Plan& plan, Sources& sources) : plan_(plan) {
    info_ = plan.info;
    std::int64_t all = 0;
    for (const auto& part : plan.parts) {
      Part p;
      p.inputs = sources.rows(part.file, part.names.inputs, plan.inputs, plan.hold);
      if (!part.names.targets.empty()) p.targets = sources.rows(part.file, part.names.targets, plan.targets, plan.hold_targets);
      if (plan.stream) {
        auto edge = [&](double share) { return std::int64_t(std::llround(share * double(p.inputs->count()))); };
        p.begin = edge(plan.from);
        p.rows = std::max<std::int64_t>(0, (edge(plan.to) - p.begin - 1) / length());
      } else {
        p.rows = p.inputs->count();
      }
      p.first = all;
      all += p.rows;
      parts_.push_back(std::move(p));
    }
    info_.rows = all;
    if (!plan.stream && (plan.from > 0 || plan.to < 1)) {
      split_.emplace(all, split_seed, 0);
      first_ = std::llround(plan.from * double(all));
      info_.rows = std::llround(plan.to * double(all)) - first_;
    }
    prepare_pattern();
    describe();
  }

  void read(std::span<const std::int64_t> rows, View inputs, View targets) const override {
    // Sorted by place in the file, so that neighbours are read as one run.
    struct Wanted {
      int part;
      std::int64_t unit;  // first row of the file, or first token
      std::size_t place;
    };
    std::vector<Wanted> wanted;
    wanted.reserve(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      require(rows[i] >= 0 && rows[i] < info_.rows, "dataset: row {} of {}", rows[i], info_.rows);
      auto [part, unit] = locate(rows[i]);
      wanted.push_back({part, unit, i});
    }
    std::sort(wanted.begin(), wanted.end(),
              [](auto& a, auto& b) { return a.part != b.part ? a.part < b.part : a.unit < b.unit; });

    std::vector<std::byte> scratch, target_scratch;
    const std::int64_t units = plan_.stream ? length() + 1 : 1;  // of the file's first axis, for one row
    for (std::size_t begin = 0, end; begin < wanted.size(); begin = end) {
      const Part& part = parts_[std::size_t(wanted[begin].part)];
      const std::int64_t first = wanted[begin].unit, most = std::max<std::int64_t>(units, run_bytes / part.inputs->row_bytes());
      std::int64_t last = first + units;
      for (end = begin + 1; end < wanted.size() && wanted[end].part == wanted[begin].part && wanted[end].unit <= last &&
                            wanted[end].unit + units - first <= most;
           ++end)
        last = wanted[end].unit + units;
      const auto* data = static_cast<const std::byte*>(part.inputs->get(first, last - first, scratch));
      for (std::size_t i = begin; i < end; ++i)
        fill_inputs(inputs, targets, wanted[i].place, data + (wanted[i].unit - first) * part.inputs->row_bytes());
      if (!part.targets) continue;
      const auto* labels = static_cast<const std::byte*>(part.targets->get(first, last - first, target_scratch));
      for (std::size_t i = begin; i < end; ++i)
        fill_targets(targets, wanted[i].place, labels + (wanted[i].unit - first) * part.targets->row_bytes());
    }
  }

 private:
  struct Part {
    std::shared_ptr<const Rows> inputs, targets;
    std::int64_t first = 0, rows = 0;  // among all rows
    std::int64_t begin = 0;            // first token of this dataset's share
  };
  static constexpr std::int64_t run_bytes = 16 << 20;

  std::int64_t length() const { return info_.input[0]; }

  std::pair<int, std::int64_t> locate(std::int64_t row) const {
    if (split_) row = (*split_)(first_ + row);
    auto after = std::upper_bound(parts_.begin(), parts_.end(), row, [](std::int64_t r, const Part& p) { return r < p.first; });
    const Part& part = *(after - 1);
    row -= part.first;
    return {int(after - parts_.begin()) - 1, plan_.stream ? part.begin + row * length() : row};
  }

  void describe() {
    std::string size;
    for (auto d : info_.input) size += (size.empty() ? "" : " x ") + std::to_string(d);
    const char* what = info_.kind == DataKind::tokens ? "rows of" : info_.kind == DataKind::images ? "images" : "rows of";
    const char* unit = info_.kind == DataKind::tokens ? " tokens" : info_.kind == DataKind::images ? "" : " columns";
    info_.text = fmt::format("{} {} {}{}", info_.rows, what, size, unit);
    if (info_.kind == DataKind::tokens)
      info_.text += fmt::format(" of a vocabulary of {}", info_.classes);
    else if (info_.classes > 0)
      info_.text += fmt::format(", {} classes", info_.classes);
    info_.text += ", " + parts_[0].inputs->where();
    if (parts_.size() > 1) info_.text += fmt::format(" and {} more", parts_.size() - 1);
    if (plan_.hold) info_.text += ", in memory";
  }

  /// The per-channel factors repeated to a block that vectorises; a whole number of channels.
  void prepare_pattern() {
    std::size_t channels = plan_.scale.size();
    if (channels == 0) return;
    const std::size_t width = channels >= 64 ? channels : channels * (64 / channels);
    for (std::size_t i = 0; i < width; ++i) {
      scale_.push_back(plan_.scale[i % channels]);
      shift_.push_back(plan_.shift[i % channels]);
    }
  }

  void fill_inputs(View inputs, View targets, std::size_t place, const std::byte* data) const {
    if (info_.kind == DataKind::tokens) {
      const std::int64_t n = length();
      auto* in = inputs.as<std::int32_t>() + std::int64_t(place) * n;
      auto* out = targets.as<std::int32_t>() + std::int64_t(place) * n;
      visit(plan_.inputs, data, [&](const auto* tokens) {
        for (std::int64_t i = 0; i < n; ++i) in[i] = std::int32_t(tokens[i]);
        for (std::int64_t i = 0; i < n; ++i) out[i] = std::int32_t(tokens[i + 1]);
      });
      return;
    }
    const std::int64_t n = count(info_.input);
    visit(plan_.inputs, data, [&](const auto* x) {
      visit_float(inputs.dtype, [&]<class T>() { normalise(inputs.as<T>() + std::int64_t(place) * n, x, n); });
    });
  }

  template <class T, class X>
  void normalise(T* y, const X* x, std::int64_t n) const {
    const float *scale = scale_.data(), *shift = shift_.data();
    if (plan_.channels_first) {
      const std::int64_t channels = info_.input[2], pixels = n / channels;
      const bool each = plan_.scale.size() > 1;
      for (std::int64_t c = 0; c < channels; ++c)
        for (std::int64_t i = 0; i < pixels; ++i)
          y[i * channels + c] = T(float(x[c * pixels + i]) * scale[each ? c : 0] + shift[each ? c : 0]);
      return;
    }
    const std::int64_t width = std::int64_t(scale_.size());
    for (std::int64_t begin = 0; begin < n; begin += width) {
      const std::int64_t m = std::min(width, n - begin);
#pragma omp simd
      for (std::int64_t i = 0; i < m; ++i) y[begin + i] = T(float(x[begin + i]) * scale[i] + shift[i]);
    }
  }

  void fill_targets(View targets, std::size_t place, const std::byte* data) const {
    const std::int64_t n = count(info_.target);
    visit(plan_.targets, data, [&](const auto* t) {
      if (info_.target_dtype == DType::i32)
        targets.as<std::int32_t>()[place] = std::int32_t(t[0]);
      else
        for (std::int64_t i = 0; i < n; ++i) targets.as<float>()[std::int64_t(place) * n + i] = float(t[i]);
    });
  }

  Plan plan_;
  std::vector<Part> parts_;
  std::optional<Permutation> split_;
  std::int64_t first_ = 0;
  std::vector<float> scale_, shift_;
};

}  // namespace

std::unique_ptr<Dataset> open_plan(const Plan& plan, Sources& sources) {
  return std::make_unique<Hdf5Dataset>(plan, sources);
}

std::shared_ptr<const hdf5::File> Sources::file(const std::string& path) {
  auto& file = files_[path];
  if (!file) file = std::make_shared<hdf5::File>(hdf5::File::open(path));
  return file;
}

std::shared_ptr<const Rows> Sources::rows(const std::string& path, const std::string& name, Element element, bool hold) {
  auto& rows = rows_[path + ":/" + name];
  if (!rows) rows = std::make_shared<Rows>(file(path), name, element, hold);
  return rows;
}

}  // namespace lockstep::io
