#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <set>

#include "core/checksum.h"
#include "core/device.h"
#include "core/downloads.h"
#include "io/agree.h"
#include "io/checkpoint.h"
#include "io/checkpoint_files.h"
#include "io/checkpoint_layout.h"
#include "io/output.h"
#include "io/pages.h"
#include "io/pool.h"
#include "io/raw_file.h"
#include "kernels/memory.h"

namespace lockstep::io {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

constexpr std::int64_t ahead_bytes = 32 << 20;  // written before the disk is told to begin
constexpr std::int64_t block = Manifest{}.block_bytes;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<Manifest::Tensor> tensors_of(const std::vector<NamedView>& views) {
  std::vector<Manifest::Tensor> tensors;
  std::set<std::string> names;
  for (const auto& v : views) {
    require(names.insert(v.name).second, "checkpoint: two tensors are called '{}'", v.name);
    require(v.begin >= 0 && v.begin <= count(v.shape) && v.view.size <= count(v.shape) - v.begin,
            "checkpoint: '{}' {} has {} elements from {} on", v.name, to_text(v.shape), v.view.size, v.begin);
    tensors.push_back({v.name, v.shape, v.view.dtype});
  }
  return tensors;
}

/// Calls action(offset, bytes) for each block of a piece that has its own checksum.
void for_blocks(const View& piece, auto action) {
  const auto bytes = std::int64_t(piece.bytes());
  for (std::int64_t at = 0; at < bytes; at += block) action(at, std::size_t(std::min(block, bytes - at)));
}
std::string copy_and_sum(std::byte* to, const std::byte* from, std::size_t bytes) {
  constexpr std::size_t cached = 32 << 10;
  Checksum sum;
  for (std::size_t at = 0; at < bytes; at += cached) {
    const std::size_t n = std::min(cached, bytes - at);
    std::memcpy(to + at, from + at, n);
    sum.add(from + at, n);
  }
  return sum.text();
}

/// The order of a manifest: tensor after tensor.
void sort_pieces(Manifest& manifest) {
  std::ranges::sort(manifest.pieces, {}, [](const auto& p) { return std::pair(p.tensor, p.begin); });
}

/// Writes checkpoint.h5 and what `latest` will be: the last rank has the least to do at the end.
bool writes_view(const Group& group) {
  return group.rank() == group.size() - 1;
}

void make_folder(const std::string& path) {
  std::error_code problem;
  fs::create_directories(path, problem);
  if (problem) write_failed(path, 0, problem.value());
}

/// What each rank holds of tensors that are not whole everywhere. Collective.
Parts parts_of(const std::vector<Manifest::Tensor>& tensors, const std::vector<NamedView>& views, Group& group) {
  Json mine = Json::array();
  for (std::size_t i = 0; i < views.size(); ++i)
    if (views[i].view.size != count(tensors[i].shape)) mine.push_back({i, views[i].begin, views[i].view.size});
  std::vector<char> in_parts(tensors.size());
  const auto all = group.gather(mine.dump());
  for (const auto& text : all)
    for (const auto& part : Json::parse(text)) in_parts.at(part[0].get<std::size_t>()) = 1;
  // Whoever holds a whole tensor that is in parts elsewhere has its only part, or more than the others leave.
  mine = Json::array();
  for (std::size_t i = 0; i < views.size(); ++i)
    if (in_parts[i] && views[i].view.size > 0) mine.push_back({i, views[i].begin, views[i].view.size});
  Parts parts;
  for (const auto& text : group.gather(mine.dump())) {
    auto& held = parts.emplace_back();
    for (const auto& part : Json::parse(text)) held.push_back({part[0], part[1], part[2]});
  }
  check_parts(tensors, parts);
  return parts;
}

/// All but checksums and state, on rank 0: the files and pieces of all ranks, rank after rank.
Manifest plan_of(const std::vector<Manifest::Tensor>& tensors, const Parts& parts, const std::vector<std::string>& layouts) {
  Manifest plan;
  plan.tensors = tensors;
  for (std::size_t rank = 0; rank < layouts.size(); ++rank) {
    const Json layout = Json::parse(layouts[rank]);
    plan.files.push_back({rank_file_name(int(rank)), layout["bytes"], layout["rest_xxh3"]});
    const auto slices = slices_of(tensors, parts, int(rank));
    for (std::size_t i = 0; i < slices.size(); ++i)
      plan.pieces.push_back(
          {std::int64_t(slices[i].tensor), std::int64_t(rank), slices[i].begin, slices[i].size, layout["offsets"][i], {}});
  }
  return plan;
}

}  // namespace

struct CheckpointWriter::Parts {
  std::string folder;
  std::vector<NamedView> views;
  CheckpointOptions options;
  Queue queue;
  Group& group;

  std::vector<Slice> slices;
  FileLayout layout;
  Manifest plan;        // rank 0 and last; pieces rank after rank
  CheckpointView view;  // last rank
  std::string mark;     // of temporary names, the same on all ranks
  Memory image;         // asynchronous: this rank's file as it will be
  std::string image_sums;
  std::unique_ptr<Downloads> downloads;  // of a GPU, into the image

  enum class Phase : std::uint8_t {
    idle,
    writing,     ///< every rank's own file
    committing,  ///< rank 0: the view, the manifest, the name
  } phase = Phase::idle;
  std::int64_t committed = -1;  // rank 0: older ones may go
  Pool thread{1};
  std::future<std::string> job;  // a report, of this rank's part of the phase
  std::string temporary, state;
  std::int64_t step = 0;
  bool failed = false;  // the last one, and may have left something
  double begun = 0, copied = 0;
  std::optional<Outcome> outcome;  // not yet told

  Parts(std::string folder, std::vector<NamedView> views, CheckpointOptions options, const Queue& queue, Group& group,
        std::unique_ptr<Downloads> downloads)
      : folder(std::move(folder)),
        views(std::move(views)),
        options(options),
        queue(queue),
        group(group),
        downloads(std::move(downloads)) {}

  View view_of(const Slice& s) const {
    const auto& [name, shape, view, begin] = views[s.tensor];
    return view.slice(s.begin - begin, s.size);
  }

  void make_image() {
    const auto bytes = std::size_t(layout.bytes);
    if (downloads) {
      const auto pinned = host_source(queue);
      image = Memory(pinned.allocate(bytes), pinned.release);
      require(Exit::io, bool(image),
              "out of page-locked host memory for a checkpoint of {} MiB: use checkpoint.asynchronous = false", bytes >> 20);
    } else {
      image = untouched_memory(bytes);  // large pages: the disk is told of fewer
    }
    std::memset(image.get(), 0, std::size_t(layout.bytes));  // touched now and not by the first checkpoint's step
    for (const auto& [at, bytes] : layout.rest) std::memcpy(image.get() + at, bytes.data(), bytes.size());
  }
  /// Into the image. On the processor the checksums are made of what the copy has in the cache; a GPU copies by itself while it
  /// computes, and the thread waits for it and makes them.
  void copy_slices() {
    image_sums.clear();
    std::vector<Downloads::Copy> copies;
    for (std::size_t i = 0; i < slices.size(); ++i) {
      const View from = view_of(slices[i]);
      std::byte* const to = image.get() + layout.offsets[i];
      if (downloads)
        copies.push_back({{to, from.size, from.dtype}, from});
      else
        for_blocks(from, [&](std::int64_t at, std::size_t bytes) {
          image_sums += copy_and_sum(to + at, static_cast<const std::byte*>(from.data) + at, bytes);
        });
    }
    if (downloads) downloads->start(copies);
  }

  /// Writes this rank's files and returns the checksums of its blocks, one after another, and then those of the view. In the
  /// thread, when there is one: nothing of it is the step's.
  std::string write_files() {
    prune_older();
    make_temporary();
    RawFile file(temporary + "/" + rank_file_name(group.rank()), RawFile::Mode::create);
    file.reserve(layout.bytes);
    std::string sums = image ? write_image(file) : write_views(file);
    if (writes_view(group)) sums += write_view();
    file.sync();
    return sums;
  }
  void make_temporary() const {
    if (::mkdir(temporary.c_str(), 0777) == 0 || errno == EEXIST) return;  // who comes first
    if (errno != ENOENT) write_failed(temporary, 0, errno);
    make_folder(folder);  // somebody took it away
    if (::mkdir(temporary.c_str(), 0777) != 0 && errno != EEXIST) write_failed(temporary, 0, errno);
  }
  /// Rank 0: takes away what the last checkpoint made superfluous. While the next one is written, because then every rank's
  /// thread takes something from its cores, and what they do at the same time costs the ranks' common step once; or when somebody
  /// waits.
  void prune_older() {
    if (committed < 0) return;
    prune(folder, std::exchange(committed, -1), options.keep, options.keep_every);
    remove_leftovers(folder, {fs::path(temporary).filename(), "latest" + mark});
  }
  void make_view(std::size_t room) {
    Manifest ordered = plan;
    sort_pieces(ordered);
    view = view_file(ordered, room);
  }
  std::string write_view() {
    if (room_for(state) != view.room) make_view(room_for(state));
    const std::string shown = view_file_at(view, step, state);
    write_synced(temporary + "/" + checkpoint_view_name, shown);
    write_synced(next_latest(), fmt::format("step_{}\n", step));  // before the checkpoint shows: from there on no space is needed
    return fmt::format("{}{}", checksum(shown), shown.size());
  }
  /// Takes away what failed ones left. Collective.
  void clear() {
    agree(group, [&] {
      remove_leftovers(folder);
      return "";
    });
  }
  std::string next_latest() const { return folder + "/latest" + mark; }

  std::string write_image(RawFile& file) const {
    std::string sums = image_sums;
    if (downloads) {
      downloads->finish();
      for (std::size_t i = 0; i < slices.size(); ++i)
        for_blocks(view_of(slices[i]),
                   [&](std::int64_t at, std::size_t bytes) { sums += checksum(image.get() + layout.offsets[i] + at, bytes); });
    }
    file.write_directly(layout.bytes, image.get());
    return sums;
  }

  std::string write_views(RawFile& file) const {
    Memory staging;
    if (queue.on_gpu) staging = host_memory(std::size_t(block));
    std::int64_t ahead = 0;
    std::string sums;
    for (std::size_t i = 0; i < slices.size(); ++i) {
      const View all = view_of(slices[i]);
      const std::int64_t run = block / std::int64_t(size_of(all.dtype));
      for (std::int64_t first = 0; first < all.size; first += run) {
        View piece = all.slice(first, std::min(run, all.size - first));
        if (queue.on_gpu) {
          const View host{staging.get(), piece.size, piece.dtype};
          kernels::copy(queue, host, piece);
          kernels::synchronize(queue);
          piece = host;
        }
        sums += checksum(piece.data, piece.bytes());
        const std::int64_t at = layout.offsets[i] + first * std::int64_t(size_of(all.dtype));
        file.write(at, std::int64_t(piece.bytes()), piece.data);
        if (const std::int64_t end = at + std::int64_t(piece.bytes()); end - ahead >= ahead_bytes) {
          file.start_writing_out(ahead, end - ahead);
          ahead = end;
        }
      }
    }
    for (const auto& [at, bytes] : layout.rest) file.write(at, std::int64_t(bytes.size()), bytes.data());
    return sums;
  }

  /// Rank 0, when all files are on disk: everything that makes them a checkpoint. Returns its path.
  std::string commit(const std::vector<std::string>& reports) const {
    TemporaryFolder made{temporary};
    Manifest manifest = plan;
    manifest.step = step, manifest.state = state;
    std::string sums;
    for (const auto& told : reports) sums += result(told);
    std::size_t at = 0;
    for (auto& piece : manifest.pieces)
      for (std::int64_t i = 0; i < manifest.blocks_of(piece); ++i, at += 32) piece.xxh3.push_back(sums.substr(at, 32));
    sort_pieces(manifest);
    manifest.files.push_back({checkpoint_view_name, std::stoll(sums.substr(at + 32)), sums.substr(at, 32)});
    write_synced(temporary + "/" + checkpoint_manifest_name, manifest.to_json());  // last: a folder without it is incomplete
    sync_folder(temporary);
    const std::string path = step_path(folder, step), latest = folder + "/latest";
    publish(made, path);
    sync_folder(folder);
    if (::rename(next_latest().c_str(), latest.c_str()) != 0) write_failed(latest, 0, errno);
    sync_folder(folder);
    return path;
  }

  bool ready() const { return !job.valid() || job.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }
  void start(std::function<std::string()> work) {
    auto task = std::make_shared<std::packaged_task<std::string()>>([work = std::move(work)] { return report(work); });
    job = task->get_future();
    if (options.asynchronous)
      thread.later([task] { (*task)(); });
    else
      (*task)();
  }

  /// The next phase, when every rank's job is done. Collective.
  std::optional<Outcome> advance() {
    if (phase == Phase::writing) {
      auto reports = group.gather(job.get());
      for (const auto& told : reports)
        if (told[0] != '0') return end(told);
      phase = Phase::committing;
      if (group.rank() == 0) start([this, reports = std::move(reports)] { return commit(reports); });
      return {};
    }
    return end(group.broadcast(group.rank() == 0 ? job.get() : std::string{}));
  }
  Outcome end(const std::string& told) {
    phase = Phase::idle;
    Outcome ended;
    ended.step = step, ended.copied = copied, ended.written = now() - begun;
    try {
      ended.path = result(told);
      if (group.rank() == 0) committed = step;
    } catch (const Error& e) {
      ended.problem = e.what(), ended.exit = e.exit();
      failed = true;
    }
    return ended;
  }
};

CheckpointWriter::CheckpointWriter(std::string folder, std::vector<NamedView> views, CheckpointOptions options,
                                   const Queue& queue, Group& group, std::unique_ptr<Downloads> downloads)
    : parts_(new Parts(std::move(folder), std::move(views), options, queue, group, std::move(downloads))) {
  Parts& p = *parts_;
  std::vector<Manifest::Tensor> tensors;
  p.mark = agree(group, [&] {
    make_folder(p.folder);
    remove_leftovers(p.folder);
    return fmt::format(".tmp.{}", getpid());
  });
  settle(group, [&] { tensors = tensors_of(p.views); });
  const io::Parts parts = parts_of(tensors, p.views, group);
  settle(group, [&] {
    p.slices = slices_of(tensors, parts, group.rank());
    p.layout = lay_out(tensors, p.slices, p.folder + "/" + rank_file_name(group.rank()));
    if (p.options.asynchronous) p.make_image();
  });
  const auto all =
      group.gather(Json{{"bytes", p.layout.bytes}, {"rest_xxh3", p.layout.rest_xxh3}, {"offsets", p.layout.offsets}}.dump());
  settle(group, [&] {
    if (group.rank() != 0 && !writes_view(group)) return;
    p.plan = plan_of(tensors, parts, all);
    if (writes_view(group)) p.make_view(room_for(""));
  });
}

CheckpointWriter::~CheckpointWriter() {
  if (parts_->job.valid()) parts_->job.wait();
  parts_->prune_older();
}

bool CheckpointWriter::under_way() const {
  return parts_->phase != Parts::Phase::idle;
}

void CheckpointWriter::begin(std::int64_t step, const std::string& state) {
  Parts& p = *parts_;
  require(!under_way() && !p.outcome, "CheckpointWriter::begin: the outcome of step {} was not asked for", p.step);
  p.step = step, p.state = state, p.begun = now(), p.copied = 0;
  p.temporary = step_path(p.folder, step) + p.mark;
  if (std::exchange(p.failed, false)) p.clear();
  p.options.asynchronous ? p.copy_slices() : kernels::synchronize(p.queue);
  p.start([&p] { return p.write_files(); });
  p.phase = Parts::Phase::writing;
  p.copied = now() - p.begun;
  if (!p.options.asynchronous) p.outcome = wait();
}

void CheckpointWriter::hold_queue() {
  if (parts_->downloads) parts_->downloads->hold();
}

std::optional<CheckpointWriter::Outcome> CheckpointWriter::poll() {
  Parts& p = *parts_;
  if (p.outcome) return std::exchange(p.outcome, {});
  if (!under_way() || !p.group.all(p.ready())) return {};
  return p.advance();
}

std::optional<CheckpointWriter::Outcome> CheckpointWriter::wait() {
  Parts& p = *parts_;
  while (under_way()) {
    if (p.job.valid()) p.job.wait();
    if (auto ended = p.advance()) {
      p.prune_older();
      p.group.barrier();  // nobody begins the next one meanwhile: it would be taken away as a leftover
      return ended;
    }
  }
  return std::exchange(p.outcome, {});
}

std::string save_checkpoint(const std::string& folder, std::int64_t step, const std::vector<NamedView>& views,
                            const std::string& state, int keep, const Queue& queue, Group& group) {
  CheckpointWriter writer(folder, views, {.keep = keep}, queue, group);
  writer.begin(step, state);
  const auto ended = writer.wait();
  if (!ended->problem.empty()) throw Error(ended->problem, ended->exit);
  return ended->path;
}

}  // namespace lockstep::io
