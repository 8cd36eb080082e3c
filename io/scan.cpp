#include <cmath>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>

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

struct Range {
  std::int64_t low = std::numeric_limits<std::int64_t>::max(), high = std::numeric_limits<std::int64_t>::min();
};
Range range_of(const Rows& rows) {
  Range range;
  each_block(rows, [&](std::int64_t first, std::int64_t n, const std::byte* data) {
    visit(rows.element(), data, [&]<class T>(const T* x) {
      T low = x[0], high = x[0];
      for (std::int64_t i = 0; i < n * rows.width(); ++i) {
        if constexpr (std::is_same_v<T, float>)
          require(Exit::bad_data, x[i] == std::floor(x[i]) && std::fabs(x[i]) < 2e9f,
                  "{}: label {} of row {} is no whole number; set data.regression = true when labels are values", rows.where(),
                  x[i], first + i / rows.width());
        low = std::min(low, x[i]), high = std::max(high, x[i]);
      }
      range.low = std::min(range.low, std::int64_t(low)), range.high = std::max(range.high, std::int64_t(high));
    });
  });
  return range;
}

/// The first row that holds a value outside [0, classes).
std::int64_t first_outside(const Rows& rows, std::int64_t classes) {
  std::int64_t found = -1;
  each_block(rows, [&](std::int64_t first, std::int64_t n, const std::byte* data) {
    visit(rows.element(), data, [&](const auto* x) {
      for (std::int64_t i = 0; i < n * rows.width() && found < 0; ++i)
        if (x[i] < 0 || std::int64_t(x[i]) >= classes) found = first + i / rows.width();
    });
  });
  return found;
}

/// All that the outcome of a scan depends on; nothing when that cannot be told.
std::string question(const Plan& plan, Sources& sources, bool thorough) {
  std::string text = "scan " + std::string(thorough ? "all" : "labels") + "\n";
  for (const auto& part : plan.parts)
    for (const std::string& name : {part.names.inputs, part.names.targets}) {
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
    plan.info.classes = std::strtoll(known->c_str(), nullptr, 10);
    return;
  }
  const auto begin = std::chrono::steady_clock::now();
  look(plan, sources, thorough);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!asked.empty() && seconds >= worth_seconds) memo.keep(asked, std::to_string(plan.info.classes));
}

namespace {

void look(Plan& plan, Sources& sources, bool thorough) {
  auto& info = plan.info;
  const bool tokens = info.kind == DataKind::tokens;
  std::vector<std::shared_ptr<const Rows>> whole_numbers;
  for (const auto& part : plan.parts) {
    auto inputs = sources.rows(part.file, part.names.inputs, plan.inputs, plan.hold);
    if (tokens)
      whole_numbers.push_back(inputs);
    else if (thorough && plan.inputs == Element::f32)
      require_finite(*inputs);
    if (part.names.targets.empty()) continue;
    auto targets = sources.rows(part.file, part.names.targets, plan.targets, plan.hold_targets);
    if (info.target_dtype == DType::i32)
      whole_numbers.push_back(targets);
    else if (thorough)
      require_finite(*targets);
  }
  if (info.classes > 0 && (!thorough || (tokens && plan.inputs == Element::u8 && info.classes >= 256))) return;

  const char* what = tokens ? "token" : "label";
  std::int64_t high = 0;
  for (const auto& rows : whole_numbers) {
    const Range range = range_of(*rows);
    high = std::max(high, range.high);
    if (range.low >= 0 && (info.classes == 0 || range.high < info.classes)) continue;
    const std::int64_t bad = range.low < 0 ? range.low : range.high, limit = info.classes ? info.classes : std::int64_t(1) << 40;
    throw Error(
        format_text("{}: {} {} (first such row: {}) is outside 0 to {}",
                    {rows->where(), what, bad, first_outside(*rows, limit), (info.classes ? info.classes : high + 1) - 1}),
        Exit::bad_data);
  }
  if (info.classes == 0 && !whole_numbers.empty()) info.classes = high + 1;
}

}  // namespace

}  // namespace lockstep::io
