#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "io/contents.h"
#include "io/plan.h"
#include "io/stream.h"

namespace lockstep::io {
namespace {

using hdf5::Element;

// Which rows are held out depends on the file and the share alone, not on a run's seed, its memory or a manifest.
constexpr std::uint64_t split_seed = 0x6c6f636b73746570;
constexpr std::int64_t split_rows_below = 256 << 20, split_chunks_from = 64;

/// Rows of HDF5 datasets, in memory or read in runs.
class Hdf5Dataset final : public Dataset {
 public:
  Hdf5Dataset(const Plan& plan, Sources& sources) : plan_(plan), engine_(sources.engine()) {
    info_ = plan.info;
    std::int64_t all = 0;
    for (const auto& part : plan.parts) {
      Part p;
      p.inputs = sources.rows(part.file, part.names.inputs, plan.inputs, plan.hold);
      if (!part.names.targets.empty()) p.targets = sources.rows(part.file, part.names.targets, plan.targets, plan.hold_targets);
      if (!part.names.mask.empty()) p.mask = sources.rows(part.file, part.names.mask, plan.mask, plan.hold_targets);
      if (plan.stream) {
        auto edge = [&](double share) { return std::int64_t(std::llround(share * double(p.inputs->count()))); };
        p.begin = edge(plan.from);
        p.rows = std::max<std::int64_t>(0, (edge(plan.to) - p.begin - plan.next) / length());
        if (!plan.documents.empty()) cut_documents(p, *sources.file(part.file), edge(plan.to));
      } else {
        p.rows = p.inputs->count();
      }
      p.first = all;
      all += p.rows;
      parts_.push_back(std::move(p));
    }
    info_.rows = all;
    if (!plan.stream && (plan.from > 0 || plan.to < 1)) {
      first_ = std::llround(plan.from * double(all));
      info_.rows = std::llround(plan.to * double(all)) - first_;
      split(all, plan.from > 0 ? first_ : info_.rows, plan.from > 0);
    }
    prepare_pattern();
    describe();
  }

  ~Hdf5Dataset() override { engine_->pool.forget(); }

  void read(std::span<const std::int64_t> rows, View inputs, View targets, const RandomKey* draws) const override {
    // Sorted by place in the file, so that neighbours are read as one run.
    std::vector<Wanted> wanted;
    wanted.reserve(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      require(rows[i] >= 0 && rows[i] < info_.rows, "dataset: row {} of {}", rows[i], info_.rows);
      auto [part, unit] = locate(rows[i]);
      wanted.push_back({part, unit, i});
    }
    std::ranges::sort(wanted, [](auto& a, auto& b) { return a.part != b.part ? a.part < b.part : a.unit < b.unit; });

    // Pieces for one thread each: some hundred kilobytes, and what lies in one band.
    const Job job{wanted, inputs, targets, augments_ ? draws : nullptr,
                  plain_ && inputs.dtype == DType::f32 && !(augments_ && draws)};
    std::vector<std::size_t> pieces = {0};
    std::int64_t bytes = 0;
    for (std::size_t i = 1; i < wanted.size(); ++i) {
      const Rows& from = *parts_[std::size_t(wanted[i].part)].inputs;
      bytes += units() * from.row_bytes();
      const bool same_band = !from.direct() && !from.kept() && wanted[i].part == wanted[i - 1].part &&
                             wanted[i].unit / from.band_rows() == wanted[i - 1].unit / from.band_rows();
      if (bytes >= piece_bytes && !same_band) pieces.push_back(i), bytes = 0;
    }
    pieces.push_back(wanted.size());
    engine_->pool.each(std::int64_t(pieces.size()) - 1,
                       [&](std::int64_t i) { read_piece(job, pieces[std::size_t(i)], pieces[std::size_t(i) + 1]); });
  }

  void expect(std::span<const std::int64_t> rows) const override {
    for (std::int64_t row : rows) {
      auto [index, unit] = locate(row);
      const Part& part = parts_[std::size_t(index)];
      part.inputs->expect(unit, units());
      for (const auto* beside : {part.targets.get(), part.mask.get()})
        if (beside) beside->expect(unit, units());
    }
  }

  std::vector<ChunkRun> chunks() const override {
    std::vector<ChunkRun> runs;
    if (split_) return runs;  // its rows lie anywhere
    for (const Part& part : parts_)
      if (part.inputs->kept() || part.rows == 0) return {};
    if (!spans_.empty()) return split_runs_;
    for (const Part& part : parts_) {
      const std::int64_t step = plan_.stream ? length() : 1, row = units() * part.inputs->row_bytes();
      const std::int64_t stored = part.inputs->run_rows();
      const std::int64_t chunk = std::max<std::int64_t>(1, stored / step);
      std::int64_t done = 0;
      if (!part.starts.empty()) {  // rows by the chunk that they begin in
        auto chunk_of = [&](std::int64_t i) { return part.starts[std::size_t(i)] / stored; };
        for (std::int64_t end; done < part.rows; done = end) {
          for (end = done + 1; end < part.rows && chunk_of(end) == chunk_of(done);) ++end;
          runs.push_back({part.first + done, end - done, end - done, row});
        }
        continue;
      }
      if (part.begin % stored != 0)  // up to the next chunk
        done = std::min(part.rows, (stored - part.begin % stored + step - 1) / step),
        runs.push_back({part.first, done, done, row});
      if (part.rows > done) runs.push_back({part.first + done, part.rows - done, chunk, row});
    }
    return runs;
  }

 private:
  struct Part {
    std::shared_ptr<const Rows> inputs, targets, mask;
    std::int64_t first = 0, rows = 0;  // among all rows
    std::int64_t begin = 0;            // first token of this dataset's share
    std::vector<std::int64_t> starts;  // with documents: the first token of each row
  };
  struct Wanted {
    int part;
    std::int64_t unit;  // first row of the file, or first token
    std::size_t place;
  };
  struct Job {
    std::span<const Wanted> wanted;
    View inputs, targets;
    const RandomKey* draws;
    bool copies;  // inputs are given as they are stored
  };
  static constexpr std::int64_t piece_bytes = 256 << 10;

  std::int64_t length() const { return info_.input[0]; }
  std::int64_t units() const { return plan_.stream ? length() + plan_.next : 1; }  // of the file's first axis, for one row

  void read_piece(const Job& job, std::size_t begin, std::size_t stop) const {
    thread_local Scratch scratch, target_scratch, mask_scratch;
    for (std::size_t end; begin < stop; begin = end) {
      const auto wanted = job.wanted.subspan(begin, stop - begin);
      const Part& part = parts_[std::size_t(wanted[0].part)];
      const std::int64_t row = part.inputs->row_bytes(), most = std::max<std::int64_t>(units(), piece_bytes / row);
      const std::int64_t first = wanted[0].unit;
      std::int64_t last = first + units();
      std::size_t n = 1;
      auto joins = [&](const Wanted& next) {
        const bool near = next.part == wanted[0].part && next.unit <= last && next.unit + units() - first <= most;
        if (!near || part.inputs->direct() || part.inputs->kept()) return near;
        return (next.unit + units() - 1) / part.inputs->band_rows() == first / part.inputs->band_rows();
      };
      auto follows = [&](const Wanted& next) { return !job.copies || next.place == wanted[n - 1].place + 1; };
      for (; n < wanted.size() && joins(wanted[n]) && follows(wanted[n]); ++n) last = wanted[n].unit + units();
      end = begin + n;
      if (job.copies && part.inputs->direct()) {
        part.inputs->copy(first, last - first, static_cast<std::byte*>(job.inputs.data) + std::int64_t(wanted[0].place) * row);
      } else {
        const auto block = part.inputs->get(first, last - first, scratch);
        for (const auto& w : wanted.first(n)) fill_inputs(job, w.place, block.data + (w.unit - first) * row);
      }
      if (part.targets) {
        const auto block = part.targets->get(first, last - first, target_scratch);
        for (const auto& w : wanted.first(n))
          fill_targets(job.targets, w.place, block.data + (w.unit - first) * part.targets->row_bytes());
      }
      if (part.mask) {
        const auto block = part.mask->get(first, last - first, mask_scratch);
        for (const auto& w : wanted.first(n))
          mask_targets(job.targets, w.place, block.data + (w.unit - first) * part.mask->row_bytes());
      }
    }
  }

  /// Draws which of all rows are on this plan's side of a split: before `edge`, or from there on. Rows one by one where they are
  /// few, since files are often sorted by class; of large data whole chunks, so that both sides are still read chunk by chunk.
  /// One chunk is cut, for the sides have exactly the sizes that were asked for.
  void split(std::int64_t all, std::int64_t edge, bool behind) {
    struct Chunk {
      std::int64_t first, rows, unit, row_bytes, before = 0;  // before: its rows before the edge
    };
    std::vector<Chunk> chunks;
    std::int64_t bytes = 0;
    for (const Part& part : parts_) {
      const std::int64_t unit = part.inputs->run_rows(), row = part.inputs->row_bytes();
      for (std::int64_t at = 0; at < part.rows; at += unit)
        chunks.push_back({part.first + at, std::min(unit, part.rows - at), unit, row});
      bytes += part.rows * row;
    }
    const auto n = std::int64_t(chunks.size());
    if (bytes <= split_rows_below || double(std::min(edge, all - edge)) * double(n) < double(split_chunks_from) * double(all)) {
      split_.emplace(all, split_seed, 0);
      return;
    }
    const Permutation drawn(n, split_seed, 1);
    for (std::int64_t i = 0, left = edge; i < n && left > 0; ++i) {
      Chunk& chunk = chunks[std::size_t(drawn(i))];
      chunk.before = std::min(chunk.rows, left);
      left -= chunk.before;
    }
    std::int64_t done = 0;
    for (const Chunk& chunk : chunks) {
      const std::int64_t rows = behind ? chunk.rows - chunk.before : chunk.before;
      const std::int64_t first = behind ? chunk.first + chunk.before : chunk.first;
      if (rows == 0) continue;
      if (spans_.empty() || spans_.back().row + done - spans_.back().first != first) spans_.push_back({done, first});
      const bool follows = !split_runs_.empty() && split_runs_.back().chunk == chunk.unit &&
                           split_runs_.back().rows % chunk.unit == 0 && split_runs_.back().row_bytes == chunk.row_bytes;
      if (follows)
        split_runs_.back().rows += rows;
      else
        split_runs_.push_back({done, rows, chunk.unit, chunk.row_bytes});
      done += rows;
    }
  }

  std::pair<int, std::int64_t> locate(std::int64_t row) const {
    if (split_) row = (*split_)(first_ + row);
    if (!spans_.empty()) {
      const auto after = std::ranges::upper_bound(spans_, row, {}, &Span::first);
      row += (after - 1)->row - (after - 1)->first;
    }
    auto after = std::upper_bound(parts_.begin(), parts_.end(), row, [](std::int64_t r, const Part& p) { return r < p.first; });
    const Part& part = *(after - 1);
    row -= part.first;
    const int index = int(after - parts_.begin()) - 1;
    if (!part.starts.empty()) return {index, part.starts[std::size_t(row)]};
    return {index, plan_.stream ? part.begin + row * length() : row};
  }

  /// Rows of a part that lie inside one document each. The last row of a document ends with it, so it may repeat some tokens of
  /// the one before; documents that are shorter than a row and its next token give none.
  void cut_documents(Part& part, const hdf5::File& file, std::int64_t stop) {
    const std::string& name = plan_.documents;
    require(Exit::bad_data, file.has_dataset(name), "{}: there is no dataset '{}' (data.documents)", file.path(), name);
    const auto data = file.dataset(name);
    require(Exit::bad_data, data.info().type == hdf5::Class::integer && data.info().shape.size() == 1,
            "{}: {} cannot be where documents begin (data.documents): whole numbers along one axis are needed", file.path(),
            data.info().text());
    std::vector<std::int64_t> edges(std::size_t(data.rows()), 0);
    data.read(Element::i64, 0, data.rows(), edges.data());
    const std::int64_t tokens = part.inputs->count();
    if (edges.empty() || edges[0] != 0) edges.insert(edges.begin(), 0);
    if (edges.back() != tokens) edges.push_back(tokens);
    for (std::size_t i = 1; i < edges.size(); ++i)
      require(Exit::bad_data, edges[i - 1] <= edges[i] && edges[i] <= tokens,
              "{}: '{}' does not rise from 0 to the {} tokens: document {} begins at {} and the next at {}", file.path(), name,
              tokens, i - 1, edges[i - 1], edges[i]);
    for (std::size_t i = 1; i < edges.size(); ++i) {
      const std::int64_t begin = edges[i - 1], end = edges[i];
      if (begin < part.begin || end > stop || begin == end) continue;  // documents belong to one side of a split
      ++documents_;
      if (end - begin < units())
        ++short_;
      else
        for (std::int64_t at = begin; at < end - plan_.next; at += length()) part.starts.push_back(std::min(at, end - units()));
    }
    part.rows = std::int64_t(part.starts.size());
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
    if (info_.kind == DataKind::tokens) {
      const Names& names = plan_.parts[0].names;
      if (!names.targets.empty())
        info_.text += fmt::format(", targets from {}{}", names.targets, plan_.next ? " (those of the next place)" : "");
      if (!names.mask.empty()) info_.text += fmt::format(", counted where {} is not 0", names.mask);
    }
    if (info_.ignores && !plan_.parts[0].names.targets.empty())
      info_.text += fmt::format(", labels of {} not counted", plan_.ignore);
    if (documents_ > 0) info_.text += fmt::format(", {} documents", documents_);
    if (short_ > 0) info_.text += fmt::format(" ({} of them shorter than a row, left out)", short_);
    if (parts_.size() > 1) info_.text += fmt::format(" and {} more", parts_.size() - 1);
    if (!plan_.note.empty())
      info_.text += "; " + plan_.note;
    else if (plan_.hold)
      info_.text += ", in memory";
  }

  /// The per-channel factors repeated to a block that vectorises; a whole number of channels.
  void prepare_pattern() {
    const std::size_t channels = plan_.scale.size();
    if (channels == 0) return;  // tokens
    const std::size_t width = channels >= 64 ? channels : channels * (64 / channels);
    for (std::size_t i = 0; i < width; ++i) {
      scale_.push_back(plan_.scale[i % channels]);
      shift_.push_back(plan_.shift[i % channels]);
    }
    plain_ = plan_.inputs == Element::f32 && !plan_.channels_first &&
             std::ranges::all_of(plan_.scale, [](float v) { return v == 1; }) &&
             std::ranges::all_of(plan_.shift, [](float v) { return v == 0; });
    augments_ = info_.kind == DataKind::images && (plan_.crop_padding > 0 || plan_.flip);
  }

  void fill_inputs(const Job& job, std::size_t place, const std::byte* data) const {
    const View inputs = job.inputs, targets = job.targets;
    if (info_.kind == DataKind::tokens) {
      const std::int64_t n = length();
      auto* in = inputs.as<std::int32_t>() + std::int64_t(place) * n;
      visit(plan_.inputs, data, [&](const auto* tokens) {
        for (std::int64_t i = 0; i < n; ++i) in[i] = std::int32_t(tokens[i]);
      });
      if (plan_.parts[0].names.targets.empty()) fill_token_targets(targets, place, plan_.inputs, data);
      return;
    }
    const std::int64_t n = count(info_.input);
    visit(plan_.inputs, data, [&](const auto* x) {
      visit_float(inputs.dtype, [&]<class T>() {
        T* y = inputs.as<T>() + std::int64_t(place) * n;
        if (job.draws)
          augment(y, x, *job.draws, place);
        else
          normalise(y, x, n);
      });
    });
  }

  /// A piece of the padded image, perhaps mirrored; what the padding adds is zero as stored.
  template <class T, class X>
  void augment(T* y, const X* x, const RandomKey& draws, std::size_t place) const {
    const std::int64_t height = info_.input[0], width = info_.input[1], channels = info_.input[2], padding = plan_.crop_padding;
    const Random4 words = random_words({draws.seed, draws.step, draws.lane, hash_name("crop and flip")}, place);
    const auto within = std::uint64_t(2 * padding + 1);
    const std::int64_t down = std::int64_t(words.x % within) - padding, right = std::int64_t(words.y % within) - padding;
    const bool mirrored = plan_.flip && words.z >> 31;
    const std::int64_t pixel = plan_.channels_first ? 1 : channels, plane = plan_.channels_first ? height * width : 1;
    thread_local Scratch scratch;
    auto* line = reinterpret_cast<X*>(scratch.need(std::size_t(width * channels) * sizeof(X)));
    for (std::int64_t i = 0; i < height; ++i, y += width * channels) {
      const bool inside = i + down >= 0 && i + down < height;
      const X* from = x + (i + down) * width * pixel;
      for (std::int64_t j = 0; j < width; ++j) {
        const std::int64_t k = (mirrored ? width - 1 - j : j) + right;
        const bool there = inside && k >= 0 && k < width;
        for (std::int64_t c = 0; c < channels; ++c) line[j * channels + c] = there ? from[k * pixel + c * plane] : X(0);
      }
      scale_line(y, line, width * channels);
    }
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
    if (plain_ && std::is_same_v<T, X>)
      std::memcpy(static_cast<void*>(y), x, std::size_t(n) * sizeof(T));
    else
      scale_line(y, x, n);
  }

  /// Values of whole pixels or rows.
  template <class T, class X>
  void scale_line(T* y, const X* x, std::int64_t n) const {
    const float *scale = scale_.data(), *shift = shift_.data();
    const std::int64_t width = std::int64_t(scale_.size());
    for (std::int64_t begin = 0; begin < n; begin += width) {
      const std::int64_t m = std::min(width, n - begin);
#pragma omp simd
      for (std::int64_t i = 0; i < m; ++i) y[begin + i] = T(float(x[begin + i]) * scale[i] + shift[i]);
    }
  }

  /// A row of `data` (labels, or the tokens themselves) as targets.
  void fill_token_targets(View targets, std::size_t place, Element element, const std::byte* data) const {
    const std::int64_t n = length(), next = plan_.next;
    auto* out = targets.as<std::int32_t>() + std::int64_t(place) * n;
    visit(element, data, [&](const auto* values) {
      for (std::int64_t i = 0; i < n; ++i) out[i] = std::int32_t(values[i + next]);
    });
    if (!info_.ignores) return;
    const auto ignore = std::int32_t(plan_.ignore);
    for (std::int64_t i = 0; i < n; ++i) out[i] = out[i] == ignore ? ignored_target : out[i];
  }

  void fill_targets(View targets, std::size_t place, const std::byte* data) const {
    if (info_.kind == DataKind::tokens) return fill_token_targets(targets, place, plan_.targets, data);
    const std::int64_t n = count(info_.target);
    visit(plan_.targets, data, [&](const auto* t) {
      if (info_.target_dtype == DType::i32) {
        const auto value = std::int32_t(t[0]);
        targets.as<std::int32_t>()[place] = info_.ignores && value == plan_.ignore ? ignored_target : value;
      } else {
        for (std::int64_t i = 0; i < n; ++i) targets.as<float>()[std::int64_t(place) * n + i] = float(t[i]);
      }
    });
  }

  void mask_targets(View targets, std::size_t place, const std::byte* data) const {
    const std::int64_t n = length(), next = plan_.next;
    auto* out = targets.as<std::int32_t>() + std::int64_t(place) * n;
    visit(plan_.mask, data, [&](const auto* mask) {
      for (std::int64_t i = 0; i < n; ++i) out[i] = mask[i + next] != 0 ? out[i] : ignored_target;
    });
  }

  Plan plan_;
  std::shared_ptr<Engine> engine_;
  std::vector<Part> parts_;
  struct Span {
    std::int64_t first, row;  // this plan's first row of it; which of all rows that is
  };
  std::optional<Permutation> split_;  // rows, or
  std::vector<Span> spans_;           // chunks that neighbour each other, and
  std::vector<ChunkRun> split_runs_;  // what chunks() says of them
  std::int64_t first_ = 0;
  std::vector<float> scale_, shift_;
  bool augments_ = false, plain_ = false;
  std::int64_t documents_ = 0, short_ = 0;
};

}  // namespace

std::unique_ptr<Dataset> open_plan(const Plan& plan, Sources& sources) {
  return std::make_unique<Hdf5Dataset>(plan, sources);
}

std::shared_ptr<const hdf5::File> Sources::file(const std::string& path) {
  auto& file = files_[path];
  if (file) return file;
  auto opened = open_checked(path, checked_);
  return file = std::make_shared<const hdf5::File>(std::move(opened));
}

std::shared_ptr<const DataManifest> Sources::manifest(const std::string& path) {
  if (auto found = manifests_.find(path); found != manifests_.end()) return found->second;
  auto loaded = DataManifest::load(path);
  return manifests_[path] = loaded ? std::make_shared<const DataManifest>(std::move(*loaded)) : nullptr;
}

std::shared_ptr<Rows> Sources::rows(const std::string& path, const std::string& name, Element element, bool hold) {
  auto& rows = rows_[path + ":/" + name];
  if (!rows) rows = std::make_shared<Rows>(file(path), name, element, engine_, manifest(path));
  if (hold) rows->keep();
  return rows;
}

}  // namespace lockstep::io
