#include "io/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace lockstep::io {

using hdf5::Element;
using hdf5::Info;
using Json = nlohmann::json;

Json Plan::to_json() const {
  Json j;
  for (const auto& part : parts) j["parts"].push_back({part.file, part.names.inputs, part.names.targets, part.names.mask});
  j["kind"] = int(info.kind), j["input"] = info.input, j["target"] = info.target, j["target_dtype"] = int(info.target_dtype);
  j["classes"] = info.classes, j["class_names"] = info.class_names;
  j["inputs"] = int(inputs), j["targets"] = int(targets), j["hold"] = hold, j["hold_targets"] = hold_targets;
  j["stream"] = stream, j["channels_first"] = channels_first, j["from"] = from, j["to"] = to;
  j["scale"] = scale, j["shift"] = shift, j["crop_padding"] = crop_padding, j["flip"] = flip;
  j["documents"] = documents, j["mask"] = int(mask), j["next"] = next, j["ignore"] = ignore;
  return j;
}

Plan Plan::from_json(const Json& j) {
  Plan p;
  for (const auto& part : j["parts"]) p.parts.push_back({part[0], {part[1], part[2], part[3]}});
  p.info.kind = DataKind(j["kind"].get<int>()), p.info.input = j["input"].get<Shape>(), p.info.target = j["target"].get<Shape>();
  p.info.target_dtype = DType(j["target_dtype"].get<int>()), p.info.classes = j["classes"];
  p.info.class_names = j["class_names"].get<std::vector<std::string>>();
  p.inputs = Element(j["inputs"].get<int>()), p.targets = Element(j["targets"].get<int>());
  p.hold = j["hold"], p.hold_targets = j["hold_targets"], p.stream = j["stream"], p.channels_first = j["channels_first"];
  p.from = j["from"], p.to = j["to"], p.crop_padding = j["crop_padding"], p.flip = j["flip"], p.documents = j["documents"];
  p.mask = Element(j["mask"].get<int>()), p.next = j["next"], p.ignore = j["ignore"];
  p.scale = j["scale"].get<std::vector<float>>(), p.shift = j["shift"].get<std::vector<float>>();
  return p;
}

namespace {

/// An attribute of a dataset, of its groups, or of the file: the nearest.
template <class Get>
auto nearest(const hdf5::File& file, std::string object, const std::string& attribute, Get get)
    -> decltype(get(file, object, attribute)) {
  for (;; object = object.substr(0, object.find('/') == std::string::npos ? 0 : object.rfind('/'))) {
    if (auto found = get(file, object, attribute)) return found;
    if (object.empty()) return {};
  }
}
std::optional<std::vector<double>> numbers(const hdf5::File& file, const std::string& object, const std::string& attribute) {
  return nearest(file, object, attribute, [](const auto& f, const auto& o, const auto& a) { return f.numbers(o, a); });
}
std::optional<std::vector<std::string>> texts(const hdf5::File& file, const std::string& object, const std::string& attribute) {
  return nearest(file, object, attribute, [](const auto& f, const auto& o, const auto& a) { return f.texts(o, a); });
}

DataKind kind_of(const Info& in, const DatasetOptions& options, const std::string& where) {
  const std::size_t axes = in.shape.size();
  DataKind kind = options.kind;
  auto slash = in.name.rfind('/');
  const std::string leaf = slash == std::string::npos ? in.name : in.name.substr(slash + 1);
  const bool token_name = leaf.starts_with("tokens") || leaf.starts_with("input_ids");
  if (kind == DataKind::automatic)
    kind = in.type == hdf5::Class::integer && (axes == 1 || (axes == 2 && token_name)) ? DataKind::tokens
           : axes <= 2                                                                 ? DataKind::table
                                                                                       : DataKind::images;
  const bool fits = kind == DataKind::tokens   ? in.type == hdf5::Class::integer && (axes == 1 || axes == 2)
                    : kind == DataKind::images ? axes == 3 || axes == 4
                                               : axes >= 1;
  require(Exit::bad_data, fits, "{} {} {} cannot be {}", where, to_text(in.shape), in.type_text,
          kind == DataKind::tokens   ? "tokens: they are integers along one axis, or (rows, length)"
          : kind == DataKind::images ? "images: they are (rows, height, width) or (rows, height, width, channels)"
                                     : "a table: that has an axis of rows");
  return kind;
}

/// mean and std of the inputs: from the configuration, from attributes, or from datasets of that name beside the inputs.
std::vector<double> statistic(const hdf5::File& file, const std::string& inputs, const std::string& name,
                              const std::vector<float>& given) {
  if (!given.empty()) return {given.begin(), given.end()};
  if (auto found = numbers(file, inputs, name)) return *found;
  const auto slash = inputs.rfind('/');
  const std::string beside = (slash == std::string::npos ? "" : inputs.substr(0, slash + 1)) + name;
  if (!file.has_dataset(beside)) return {};
  const auto data = file.dataset(beside);
  if (!data.info().numeric() || data.rows() * data.width() > (1 << 24)) return {};
  std::vector<float> values(std::size_t(data.rows() * data.width()), 0.f);
  data.read(Element::f32, 0, data.rows(), values.data());
  return {values.begin(), values.end()};
}

void set_normalisation(Plan& plan, const Info& in, const DatasetOptions& options, const hdf5::File& file,
                       const std::string& where) {
  const std::int64_t channels = plan.info.kind == DataKind::images ? plan.info.input[2] : plan.info.input[0];
  // Pixels of 8 and 16 bits count as shares of white.
  const bool pixels = plan.info.kind == DataKind::images && in.type == hdf5::Class::integer && !in.is_signed && in.bytes <= 2;
  const double white = !pixels ? 1 : in.bytes == 1 ? 255 : 65535;
  auto mean = statistic(file, in.name, "mean", options.mean), deviation = statistic(file, in.name, "std", options.deviation);
  for (const auto* values : {&mean, &deviation})
    require(Exit::bad_data, values->size() <= 1 || std::int64_t(values->size()) == channels,
            "{}: {} has {} values for {} channels or columns", where, values == &mean ? "mean" : "std", values->size(), channels);
  // A mean above 1 can only be in units of the stored pixels.
  const bool stored_units = pixels && std::any_of(mean.begin(), mean.end(), [](double m) { return m > 1; });
  const std::size_t n = std::max<std::size_t>({1, mean.size(), deviation.size()});
  for (std::size_t i = 0; i < n; ++i) {
    double m = mean.empty() ? 0 : mean[mean.size() == 1 ? 0 : i],
           d = deviation.empty() ? 1 : deviation[deviation.size() == 1 ? 0 : i];
    require(Exit::bad_data, std::isfinite(m) && std::isfinite(d) && d >= 0, "{}: mean {} and std {} cannot normalise", where, m,
            d);
    if (d == 0) d = 1;  // a constant column
    if (stored_units) m /= white, d /= white;
    plan.scale.push_back(float(1 / (white * d)));
    plan.shift.push_back(float(-m / d));
  }
}

/// How numbers that should be whole are held.
Element whole_element(const Info& t) {
  return t.type != hdf5::Class::integer ? Element::f32 : t.bytes == 1 && !t.is_signed ? Element::u8 : Element::i32;
}

void set_targets(Plan& plan, const Info& t, const DatasetOptions& options, const std::string& where) {
  require(Exit::bad_data, t.numeric() && (t.shape.size() == 1 || t.shape.size() == 2),
          "{} {} {} cannot be labels: they are numbers, one a row, or (rows, outputs)", where, to_text(t.shape), t.type_text);
  const std::int64_t outputs = t.shape.size() == 2 ? t.shape[1] : 1;
  const bool whole = t.type == hdf5::Class::integer;
  const bool classes =
      !options.regression && outputs == 1 && (whole || options.classes > 0 || plan.info.kind == DataKind::images);
  require(Exit::bad_data, classes || options.regression || !whole,
          "{} {} {}: labels are one whole number a row; set data.regression = true when they are values", where, to_text(t.shape),
          t.type_text);
  plan.info.target_dtype = classes ? DType::i32 : DType::f32;
  plan.info.target = classes ? Shape{} : Shape{outputs};
  plan.targets = classes ? whole_element(t) : Element::f32;
  plan.hold_targets = t.shape[0] * outputs * std::int64_t(hdf5::size_of(plan.targets)) <= std::int64_t(options.memory_limit);
}

/// Whether the labels of tokens are those tokens, so that the target of a place is the label of the next one (Hugging Face's
/// models shift them so), or the tokens that follow, already in their places.
bool labels_want_shift(const Plan& plan, const Plan::Part& part, Sources& sources) {
  const auto tokens = sources.rows(part.file, part.names.inputs, plan.inputs, false);
  const auto labels = sources.rows(part.file, part.names.targets, plan.targets, false);
  const std::int64_t width = tokens->width(), run = std::max<std::int64_t>(1, 65536 / width);
  std::int64_t counted = 0, same = 0, followed = 0, next = 0;
  Scratch scratch, label_scratch;
  for (std::int64_t first = 0; first < tokens->count() && counted < 4096; first += run) {
    const std::int64_t rows = std::min(run, tokens->count() - first), n = rows * width, row = plan.stream ? n : width;
    const auto x = tokens->get(first, rows, scratch), y = labels->get(first, rows, label_scratch);
    visit(plan.inputs, x.data, [&](const auto* token) {
      visit(plan.targets, y.data, [&](const auto* label) {
        for (std::int64_t i = 0; i < n; ++i) {
          const auto value = std::int64_t(label[i]);
          if (value == plan.ignore) continue;
          ++counted, same += value == std::int64_t(token[i]);
          if ((i + 1) % row != 0) ++followed, next += value == std::int64_t(token[i + 1]);
        }
      });
    });
  }
  require(Exit::bad_data, counted > 0, "{}: every label is {} (data.ignore): there is nothing to learn", labels->where(),
          plan.ignore);
  require(
      Exit::usage, same == counted || next == followed,
      "{} repeat neither the tokens of their places nor the next ones: set data.shift = \"yes\" when the target of a token is "
      "the label of the next place (as in Hugging Face's models), or \"no\" when it is the label of its own",
      labels->where());
  return same == counted;
}

/// Labels or a mask of tokens have their shape.
void require_beside(const Plan& plan, const Names& names, const Info& in, const hdf5::File& file, const std::string& where) {
  const Names& first = plan.parts[0].names;
  auto check = [&](const std::string& name, bool wanted, Element element, const char* what, const char* key) {
    require(Exit::bad_data, name.empty() != wanted, "{}: its tokens have {} {}, unlike those of {}:/{} ({})", where,
            wanted ? "no" : "a dataset of", what, plan.parts[0].file, first.inputs, key);
    if (!wanted) return;
    const auto data = file.dataset(name);
    data.check_sources();
    const Info& t = data.info();
    require(
        Exit::bad_data, t.numeric() && t.shape == in.shape && whole_element(t) == element,
        "{}:/{} {} {} cannot be the {} of tokens {} (shape and type, the same in all files): name another with {}, or \"none\"",
        file.path(), t.name, to_text(t.shape), t.type_text, what, to_text(in.shape), key);
  };
  check(names.targets, !first.targets.empty(), plan.targets, "labels", "data.labels");
  check(names.mask, !first.mask.empty(), plan.mask, "mask", "data.mask");
}

/// Which of the datasets beside tokens say what their targets are.
void set_token_targets(Plan& plan, const Info& in, const DatasetOptions& options, Sources& sources, const std::string& where,
                       const Plan* training) {
  const auto& part = plan.parts[0];
  const auto file = sources.file(part.file);
  // What was found unasked in another shape belongs to something else.
  if (options.labels.empty() && !part.names.targets.empty() && file->dataset(part.names.targets).info().shape != in.shape)
    for (auto& each : plan.parts) each.names.targets.clear();
  const bool labels = !part.names.targets.empty(), mask = !part.names.mask.empty();
  if (labels) plan.targets = whole_element(file->dataset(part.names.targets).info());
  if (mask) plan.mask = whole_element(file->dataset(part.names.mask).info());
  require_beside(plan, part.names, in, *file, where);
  require(Exit::usage, labels || !options.shift, "{} has no labels that data.shift could move: name them with data.labels",
          where);
  if (labels) plan.next = training ? training->next : options.shift ? *options.shift : labels_want_shift(plan, part, sources);
  const std::int64_t each =
      (labels ? std::int64_t(hdf5::size_of(plan.targets)) : 0) + (mask ? std::int64_t(hdf5::size_of(plan.mask)) : 0);
  plan.hold_targets = count(in.shape) * each <= std::int64_t(options.memory_limit);
}

void set_classes(Plan& plan, const hdf5::File& file, const Names& names, const DatasetOptions& options) {
  auto& info = plan.info;
  info.classes = options.classes;
  if (info.kind == DataKind::tokens) {
    if (info.classes == 0)
      if (auto given = numbers(file, names.inputs, "vocabulary"); given && given->size() == 1)
        info.classes = std::int64_t((*given)[0]);
    if (info.classes == 0 && plan.inputs == Element::u8) info.classes = 256;
    return;
  }
  if (info.target_dtype != DType::i32 || names.targets.empty()) return;
  if (auto words = texts(file, names.targets, "classes"); words && words->size() > 1) info.class_names = *words;
  if (info.classes == 0) info.classes = std::int64_t(info.class_names.size());
  if (info.classes == 0)
    if (auto given = numbers(file, names.targets, "classes"); given && given->size() == 1)
      info.classes = std::int64_t((*given)[0]);
}

}  // namespace

Plan make_plan(const DatasetOptions& options, const std::vector<Plan::Part>& parts, Sources& sources, const Plan* training) {
  Plan plan;
  plan.parts = parts;
  plan.channels_first = options.channels_first;
  plan.ignore = options.ignore;
  auto& info = plan.info;
  std::int64_t bytes = 0;
  Info first;
  for (auto& part : plan.parts) {
    const auto file = sources.file(part.file);
    const auto inputs = file->dataset(part.names.inputs);
    inputs.check_sources();
    const Info in = inputs.info();
    const std::string where = part.file + ":/" + in.name;
    require(Exit::bad_data, in.numeric() && !in.shape.empty(),
            "{} {} {} cannot be inputs: numbers with an axis of rows are needed", where, to_text(in.shape), in.type_text);
    const std::int64_t values = count(in.shape);
    require(Exit::bad_data, values > 0, "{} has no rows: its shape is {}", where, to_text(in.shape));
    if (&part == &plan.parts[0]) {
      first = in;
      info.kind = kind_of(in, options, where);
      if (info.kind == DataKind::tokens) {
        plan.stream = in.shape.size() == 1;
        require(Exit::usage, options.length > 0 || !plan.stream, "{} is a stream of tokens: the length of a row is missing",
                where);
        plan.inputs = in.is_signed || in.bytes > 2 ? Element::i32 : in.bytes == 1 ? Element::u8 : Element::u16;
        set_token_targets(plan, in, options, sources, where, training);
        const std::int64_t longest = plan.stream ? options.length : in.shape[1] - plan.next;
        require(Exit::bad_data, longest >= 1 && options.length <= longest, "{} {}: its rows give at most {} tokens, not {}",
                where, to_text(in.shape), longest, options.length);
        info.input = info.target = {options.length > 0 ? options.length : longest};
      } else {
        // A mask that was found unasked belongs to something else.
        require(Exit::usage, options.mask.empty() || options.mask == "none",
                "{}: data.mask is for tokens, not {}; labels that are not to be counted are marked by a value (data.ignore)",
                where, name_of(info.kind));
        require(Exit::usage, !options.shift, "{}: data.shift is for tokens with labels, not {}", where, name_of(info.kind));
        for (auto& each : plan.parts) each.names.mask.clear();
        plan.inputs = in.type == hdf5::Class::integer && !in.is_signed && in.bytes == 1 ? Element::u8 : Element::f32;
        if (info.kind == DataKind::table) {
          info.input = {values / in.shape[0]};
        } else {
          const std::int64_t c = in.shape.size() == 3 ? 1 : options.channels_first ? in.shape[1] : in.shape[3];
          const bool shifted = in.shape.size() == 4 && options.channels_first;
          info.input = {in.shape[shifted ? 2 : 1], in.shape[shifted ? 3 : 2], c};
          require(Exit::bad_data, shifted || in.shape.size() == 3 || in.shape[1] > 4 || in.shape[3] <= 4,
                  "{} {} looks like (rows, channels, height, width): set data.channels_first = true", where, to_text(in.shape));
        }
        set_normalisation(plan, in, options, *file, where);
      }
    } else {
      const bool same = std::equal(in.shape.begin() + 1, in.shape.end(), first.shape.begin() + 1, first.shape.end());
      require(Exit::bad_data, same && in.type == first.type && in.bytes == first.bytes && in.is_signed == first.is_signed,
              "{} {} {} does not match the first file, which has {}", where, to_text(in.shape), in.type_text, first.text());
    }
    bytes += values * std::int64_t(hdf5::size_of(plan.inputs));
    if (info.kind == DataKind::tokens) {
      require_beside(plan, part.names, in, *file, where);
      if (plan.stream && in.shape[0] < options.length + plan.next)
        throw Error(
            fmt::format("{} has {} tokens, fewer than one row of {} and the one after it", where, in.shape[0], options.length),
            Exit::bad_data);
    } else if (!part.names.targets.empty()) {
      const auto targets = file->dataset(part.names.targets);
      targets.check_sources();
      const Info t = targets.info();
      if (&part == &plan.parts[0]) set_targets(plan, t, options, part.file + ":/" + t.name);
      require(Exit::bad_data, t.numeric() && !t.shape.empty() && t.shape[0] == in.shape[0], "{} has {} rows but {} has {}", where,
              in.shape[0], t.text(), t.shape.empty() ? 1 : t.shape[0]);
      require(Exit::bad_data, count(t.shape) / t.shape[0] == count(info.target), "{} has {} values a row, the first file {}",
              t.text(), count(t.shape) / t.shape[0], count(info.target));
    } else {
      info.target = {0};  // no labels wanted
      info.target_dtype = DType::f32;
    }
    if (&part == &plan.parts[0]) set_classes(plan, *file, part.names, options);
  }
  plan.hold = bytes <= std::int64_t(options.memory_limit);
  plan.documents = options.documents;
  require(Exit::usage, plan.documents.empty() || plan.stream, "{}: data.documents is for streams of tokens, not {} {}",
          parts[0].file, name_of(info.kind), first.text());
  plan.crop_padding = options.crop_padding, plan.flip = options.flip;
  require(Exit::usage, info.kind == DataKind::images || (plan.crop_padding == 0 && !plan.flip),
          "{}: data.crop_padding and data.flip are for images, not {}", parts[0].file, name_of(info.kind));
  require(Exit::usage, plan.crop_padding >= 0, "data.crop_padding = {} is negative", plan.crop_padding);
  if (training) {
    const auto& model = training->info;
    require(Exit::bad_data,
            info.kind == model.kind && info.input == model.input && info.target == model.target &&
                info.target_dtype == model.target_dtype && (plan.inputs == training->inputs || model.kind != DataKind::images),
            "{}: validation rows of {} {} do not match training rows of {} {}", parts[0].file, name_of(info.kind),
            to_text(info.input), name_of(model.kind), to_text(model.input));
    if (info.kind == DataKind::tokens)
      require(Exit::bad_data, plan.parts[0].names.targets.empty() == training->parts[0].names.targets.empty(),
              "{}: validation rows have {}labels and training rows have {}: name them with data.labels (or \"none\")",
              parts[0].file, plan.parts[0].names.targets.empty() ? "no " : "",
              plan.parts[0].names.targets.empty() ? "some" : "none");
    plan.scale = training->scale, plan.shift = training->shift;
    info.classes = model.classes, info.class_names = model.class_names;
  }
  return plan;
}

}  // namespace lockstep::io
