#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/plan.h"

namespace lockstep::io {
namespace {

using hdf5::Element;

/// Calls visit(first row, rows, data) for the whole dataset in blocks of some megabytes.
template <class Visit>
void each_block(const Rows& rows, Visit visit_block) {
  Scratch scratch;
  const std::int64_t run = std::max<std::int64_t>(1, (std::int64_t(8) << 20) / std::max<std::int64_t>(1, rows.row_bytes()));
  for (std::int64_t first = 0; first < rows.count(); first += run) {
    const std::int64_t n = std::min(run, rows.count() - first);
    visit_block(first, n, rows.get(first, n, scratch).data);
  }
}

void require_finite(const Rows& rows) {
  each_block(rows, [&](std::int64_t first, std::int64_t n, const std::byte* data) {
    const auto* x = reinterpret_cast<const float*>(data);
    const std::int64_t values = n * rows.width();
    float total = 0;  // x * 0 is NaN for NaN and infinity alike
#pragma omp simd reduction(+ : total)
    for (std::int64_t i = 0; i < values; ++i) total += x[i] * 0.f;
    if (total == 0) return;
    for (std::int64_t i = 0; i < values; ++i)
      require(Exit::bad_data, std::isfinite(x[i]), "{}: row {}, value {} of {} is {}", rows.where(), first + i / rows.width(),
              i % rows.width(), rows.width(), std::isnan(x[i]) ? "NaN" : "infinite or beyond what f32 holds");
  });
}

/// Of values that are not `ignore`, and how many are.
struct Range {
  std::int64_t low = std::numeric_limits<std::int64_t>::max(), high = std::numeric_limits<std::int64_t>::min(), ignored = 0;
};
Range range_of(const Rows& rows, std::optional<std::int64_t> ignore) {
  Range range;
  each_block(rows, [&](std::int64_t first, std::int64_t n, const std::byte* data) {
    visit(rows.element(), data, [&]<class T>(const T* x) {
      bool skips = ignore.has_value();
      if constexpr (!std::is_same_v<T, float>) skips = skips && std::in_range<T>(*ignore);
      const T skipped = skips ? T(*ignore) : T(0);
      T low = std::numeric_limits<T>::max(), high = std::numeric_limits<T>::lowest();
      for (std::int64_t i = 0; i < n * rows.width(); ++i) {
        if constexpr (std::is_same_v<T, float>)
          require(Exit::bad_data, x[i] == std::floor(x[i]) && std::fabs(x[i]) < 2e9f,
                  "{}: label {} of row {} is no whole number; set data.regression = true when labels are values", rows.where(),
                  x[i], first + i / rows.width());
        const bool counts = !skips || x[i] != skipped;
        low = std::min(low, counts ? x[i] : low), high = std::max(high, counts ? x[i] : high);
        range.ignored += !counts;
      }
      if (low > high) return;  // all ignored
      range.low = std::min(range.low, std::int64_t(low)), range.high = std::max(range.high, std::int64_t(high));
    });
  });
  return range;
}

/// The first row that holds a value outside [0, classes) that is not `ignore`.
std::int64_t first_outside(const Rows& rows, std::int64_t classes, std::optional<std::int64_t> ignore) {
  std::int64_t found = -1;
  each_block(rows, [&](std::int64_t first, std::int64_t n, const std::byte* data) {
    visit(rows.element(), data, [&](const auto* x) {
      for (std::int64_t i = 0; i < n * rows.width() && found < 0; ++i)
        if ((x[i] < 0 || std::int64_t(x[i]) >= classes) && std::int64_t(x[i]) != ignore) found = first + i / rows.width();
    });
  });
  return found;
}

/// A mask holds whole numbers; one that says which tokens are padding has it at the end of rows.
void require_mask(const Rows& rows, bool stream) {
  const std::string& name = rows.where();
  const bool of_loss = name.find("loss", name.rfind('/')) != std::string::npos;
  each_block(rows, [&](std::int64_t first, std::int64_t n, const std::byte* data) {
    visit(rows.element(), data, [&]<class T>(const T* x) {
      for (std::int64_t r = 0; r < n; ++r, x += rows.width())
        for (std::int64_t i = 0; i < rows.width(); ++i) {
          if constexpr (std::is_same_v<T, float>)
            require(Exit::bad_data, x[i] == std::floor(x[i]),
                    "{}: row {} holds {}: a mask says whether a target counts (0 or 1), not how much", name, first + r, x[i]);
          require(Exit::bad_data, stream || of_loss || i == 0 || x[i - 1] != 0 || x[i] == 0,
                  "{}: row {} has zeros before ones: causal attention would see the padding on the left. Pad rows on the right "
                  "(ones before zeros); or, if the mask only says which targets count, call the dataset loss_mask",
                  name, first + r);
        }
    });
  });
}

/// All that the outcome of a scan depends on; nothing when that cannot be told.
std::string question(const Plan& plan, Sources& sources, bool thorough) {
  std::string text = "scan " + std::string(thorough ? "all" : "labels") + "\n";
  for (const auto& part : plan.parts)
    for (const std::string& name : {part.names.inputs, part.names.targets, part.names.mask}) {
      if (name.empty()) continue;
      const auto file = identity(sources.file(part.file)->dataset(name));
      if (!file) return "";
      text += *file;
    }
  auto rest = plan.to_json();
  for (const char* key : {"parts", "hold", "hold_targets", "from", "to", "scale", "shift", "crop_padding", "flip", "class_names"})
    rest.erase(key);  // change nothing
  return text + rest.dump() + "\n";
}

void look(Plan& plan, Sources& sources, bool thorough);

}  // namespace

void scan(Plan& plan, Sources& sources, bool thorough, const Memo& memo, double worth_seconds) {
  const std::string asked = question(plan, sources, thorough);
  if (const auto known = asked.empty() ? std::nullopt : memo.recall(asked)) {
    char* rest = nullptr;
    plan.info.classes = std::strtoll(known->c_str(), &rest, 10);
    plan.info.ignores = std::strtoll(rest, nullptr, 10) != 0;
    return;
  }
  const auto begin = std::chrono::steady_clock::now();
  look(plan, sources, thorough);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!asked.empty() && seconds >= worth_seconds)
    memo.keep(asked, format_text("{} {}", {plan.info.classes, int(plan.info.ignores)}));
}

namespace {

void look(Plan& plan, Sources& sources, bool thorough) {
  auto& info = plan.info;
  const bool tokens = info.kind == DataKind::tokens;
  struct Whole {
    std::shared_ptr<const Rows> rows;
    std::optional<std::int64_t> ignore;
  };
  std::vector<Whole> whole_numbers;
  const bool any_token = tokens && plan.inputs == Element::u8 && info.classes >= 256;  // none is out of range
  info.ignores = false;
  for (const auto& part : plan.parts) {
    auto inputs = sources.rows(part.file, part.names.inputs, plan.inputs, plan.hold);
    if (tokens && !any_token)
      whole_numbers.push_back({inputs, {}});
    else if (!tokens && thorough && plan.inputs == Element::f32)
      require_finite(*inputs);
    if (!part.names.mask.empty()) {
      info.ignores = true;
      if (thorough) require_mask(*sources.rows(part.file, part.names.mask, plan.mask, plan.hold_targets), plan.stream);
    }
    if (part.names.targets.empty()) {
      info.ignores |= tokens && plan.ignore >= 0;  // the tokens are the targets
      continue;
    }
    auto targets = sources.rows(part.file, part.names.targets, plan.targets, plan.hold_targets);
    if (info.target_dtype == DType::i32)
      whole_numbers.push_back({targets, plan.ignore});
    else if (thorough)
      require_finite(*targets);
  }
  if (info.classes > 0 && !thorough) {  // what labels could hold
    for (const auto& [rows, ignore] : whole_numbers)
      info.ignores |= ignore && (plan.targets != Element::u8 || (*ignore >= 0 && *ignore <= 255));
    return;
  }

  const char* what = tokens ? "token" : "label";
  std::int64_t high = 0;
  for (const auto& [rows, ignore] : whole_numbers) {
    const Range range = range_of(*rows, ignore);
    info.ignores |= range.ignored > 0;
    high = std::max(high, range.high);
    if (range.low >= 0 && (info.classes == 0 || range.high < info.classes)) continue;
    const std::int64_t bad = range.low < 0 ? range.low : range.high, limit = info.classes ? info.classes : std::int64_t(1) << 40;
    throw Error(format_text("{}: {} {} (first such row: {}) is outside 0 to {}{}",
                            {rows->where(), ignore ? "label" : what, bad, first_outside(*rows, limit, ignore),
                             (info.classes ? info.classes : high + 1) - 1,
                             ignore ? format_text("; if it marks what is not to be learned, set data.ignore = {}", {bad}) : ""}),
                Exit::bad_data);
  }
  if (info.classes == 0 && !whole_numbers.empty()) info.classes = high + 1;
}

}  // namespace

}  // namespace lockstep::io
