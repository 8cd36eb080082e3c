#include "io/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace lockstep::io {
namespace {

/// Reads batch after batch on a thread of its own, at most `ahead` before they are taken.
class Prefetcher {
 public:
  /// What batch `index` holds, and what decides its random draws (training).
  struct Want {
    std::vector<std::int64_t> rows;
    std::optional<RandomKey> draws;
  };
  /// Fills it in; false: there are no more.
  using Plan = std::function<bool(std::int64_t index, Want& want)>;

  /// `uploads`: those to use, or null for its own where the device wants any.
  Prefetcher(const Dataset& dataset, Device& device, DType dtype, std::size_t ahead, std::shared_ptr<Uploads> uploads, Plan plan)
      : dataset_(dataset),
        dtype_(dataset.info().kind == DataKind::tokens ? DType::i32 : dtype),
        ahead_(ahead),
        plan_(std::move(plan)),
        buffers_({[](std::size_t bytes) { return static_cast<std::byte*>(std::aligned_alloc(256, bytes)); },
                  [](std::byte* data) { std::free(data); }}),
        uploads_(uploads || device.kind() == DeviceKind::cpu ? std::move(uploads)
                                                             : std::make_shared<Uploads>(device, "batches read ahead")),
        thread_([this] { run(); }) {}

  ~Prefetcher() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  std::optional<Batch> next() {
    HostBatch host;
    {
      std::unique_lock lock(mutex_);
      wait_for(lock, 1);
      if (ready_.empty()) {
        if (problem_) std::rethrow_exception(problem_);
        return {};
      }
      host = std::move(ready_.front());
      ready_.pop_front();
    }
    changed_.notify_all();
    return handed_out(std::move(host));
  }

  /// Targets that count in the next n batches; waits for them.
  double weight_of_next(std::size_t n) {
    std::unique_lock lock(mutex_);
    wait_for(lock, n);
    if (ready_.size() < n && problem_) std::rethrow_exception(problem_);
    double weight = 0;
    for (std::size_t i = 0; i < n; ++i) weight += ready_[i].weight;
    return weight;
  }

  double exposed_seconds() const { return exposed_; }

 private:
  struct HostBatch {
    Memory memory;                  // inputs, then targets
    Uploads::Slot* slot = nullptr;  // or there, on their way to a GPU
    View inputs, targets;
    std::int64_t rows = 0;
    double weight = 0;
  };

  /// Until n batches are there or there will be no more.
  void wait_for(std::unique_lock<std::mutex>& lock, std::size_t n) {
    if (ready_.size() >= n || ended_) return;
    const auto begin = std::chrono::steady_clock::now();
    changed_.wait(lock, [&] { return ready_.size() >= n || ended_; });
    exposed_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  void run() {
    std::deque<Want> planned;  // what comes next, told to the dataset before it is read
    std::int64_t index = 0;
    bool more = true;
    try {
      for (;;) {
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [&] { return stop_ || ready_.size() < ahead_; });
          if (stop_) return;
        }
        while (more && planned.size() <= ahead_) {
          Want next;
          more = plan_(index++, next);
          if (!more) break;
          dataset_.expect(next.rows);
          planned.push_back(std::move(next));
        }
        if (planned.empty()) break;
        HostBatch batch = read(planned.front());
        planned.pop_front();
        {
          std::lock_guard lock(mutex_);
          ready_.push_back(std::move(batch));
        }
        changed_.notify_all();
      }
    } catch (...) {  // carried to the next call of next()
      std::lock_guard lock(mutex_);
      problem_ = std::current_exception();
    }
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
  }

  HostBatch read(const Want& want) {
    const auto& info = dataset_.info();
    HostBatch batch;
    batch.rows = std::int64_t(want.rows.size());
    if (want.rows.empty()) return batch;
    const std::int64_t n = batch.rows * count(info.input), m = batch.rows * count(info.target);
    const std::size_t targets_at = (std::size_t(n) * size_of(dtype_) + 255) / 256 * 256;
    const std::size_t bytes = targets_at + std::size_t(m) * size_of(info.target_dtype);
    if (uploads_)
      batch.slot = &uploads_->begin(bytes);
    else
      batch.memory = buffers_.allocate(bytes);
    std::byte* data = uploads_ ? Uploads::host(*batch.slot) : batch.memory.get();
    batch.inputs = {data, n, dtype_};
    batch.targets = {data + targets_at, m, info.target_dtype};
    dataset_.read(want.rows, batch.inputs, batch.targets, want.draws ? &*want.draws : nullptr);
    batch.weight = m > 0 ? double(m) : double(batch.rows);
    if (info.ignores) {
      const auto* targets = batch.targets.as<std::int32_t>();
      batch.weight = double(m - std::count(targets, targets + m, ignored_target));
    }
    if (uploads_) uploads_->send(*batch.slot, bytes);
    return batch;
  }

  Batch handed_out(HostBatch host) {
    Batch batch;
    if (host.rows == 0) return batch;
    const std::byte* filled = host.slot ? Uploads::host(*host.slot) : host.memory.get();
    const Memory memory = host.slot ? uploads_->take(*host.slot) : host.memory;
    auto tensor = [&](View view, const Shape& row) {
      Shape shape = {host.rows};
      shape.insert(shape.end(), row.begin(), row.end());
      view.data = memory.get() + (static_cast<std::byte*>(view.data) - filled);
      return Tensor(std::move(shape), view, memory);
    };
    const auto& info = dataset_.info();
    batch.inputs = tensor(host.inputs, info.input);
    if (host.targets.size > 0) batch.targets = tensor(host.targets, info.target);
    batch.weight = host.weight;
    return batch;
  }

  const Dataset& dataset_;
  const DType dtype_;
  const std::size_t ahead_;
  const Plan plan_;
  Arena buffers_;                     // batches given back are filled again
  std::shared_ptr<Uploads> uploads_;  // in their place on a GPU

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<HostBatch> ready_;
  bool stop_ = false, ended_ = false;
  std::exception_ptr problem_;
  double exposed_ = 0;
  std::thread thread_;  // last: it starts when everything else is there
};

}  // namespace

// ---- training

struct Loader::Work {
  LoaderOptions options;
  Stream stream;
  std::int64_t taken = 0;  // lanes handed out
  std::optional<Prefetcher> prefetcher;
};

Loader::Loader(const Dataset& dataset, Device& device, LoaderOptions options) {
  require(Exit::usage,
          options.lane_count >= 1 && options.first_lane >= 0 && options.first_lane + options.lane_count <= options.lanes,
          "loader: lanes {} to {} of {}", options.first_lane, options.first_lane + options.lane_count, options.lanes);
  work_.reset(new Work{options,
                       Stream({.rows = dataset.rows(),
                               .lanes = options.lanes,
                               .rows_per_lane = options.rows_per_lane,
                               .seed = options.seed,
                               .shuffle = options.shuffle,
                               .tail = options.tail,
                               .window = options.window,
                               .chunks = options.shuffle == Shuffle::window ? dataset.chunks() : std::vector<ChunkRun>{},
                               .mixture = options.mixture}),
                       0,
                       {}});
  auto plan = [options, stream = work_->stream](std::int64_t index, Prefetcher::Want& want) {
    const std::int64_t step = options.start_step + index / options.lane_count;
    const int lane = options.first_lane + int(index % options.lane_count);
    stream.rows(step, lane, want.rows);
    want.draws = RandomKey{options.seed, std::uint64_t(step), std::uint32_t(lane), 0};
    return true;
  };
  const auto ahead = std::size_t(std::max(1, options.steps_ahead)) * std::size_t(options.lane_count);
  work_->prefetcher.emplace(dataset, device, options.dtype, ahead, nullptr, plan);
}

Loader::~Loader() = default;

Batch Loader::next_lane() {
  auto batch = work_->prefetcher->next();
  ++work_->taken;
  return std::move(*batch);
}
std::int64_t Loader::step() const {
  return work_->options.start_step + work_->taken / work_->options.lane_count;
}
double Loader::step_weight() {
  const auto lanes = work_->options.lane_count;
  require(work_->taken % lanes == 0, "loader: the weight of a step is known before its first lane is taken");
  return work_->prefetcher->weight_of_next(std::size_t(lanes));
}
double Loader::exposed_seconds() const {
  return work_->prefetcher->exposed_seconds();
}
const Stream& Loader::stream() const {
  return work_->stream;
}

// ---- evaluation

struct Pass::Work {
  std::int64_t first = 0, mine = 0, all = 0;
  std::optional<Prefetcher> prefetcher;
};

Pass::Pass(const Dataset& dataset, Device& device, PassOptions options) : work_(new Work) {
  require(Exit::usage, options.rows_per_batch >= 1, "evaluation: {} rows a batch", options.rows_per_batch);
  const std::int64_t rows = options.rows > 0 ? std::min(options.rows, dataset.rows()) : dataset.rows();
  const std::int64_t size = options.rows_per_batch, all = (rows + size - 1) / size;
  const std::int64_t each = all / options.ranks, rest = all % options.ranks;
  work_->first = options.rank * each + std::min<std::int64_t>(options.rank, rest);
  work_->mine = each + (options.rank < rest);
  work_->all = all;
  auto plan = [first = work_->first, mine = work_->mine, size, rows](std::int64_t index, Prefetcher::Want& want) {
    if (index >= mine) return false;
    auto& out = want.rows;
    const std::int64_t begin = (first + index) * size, end = std::min(rows, begin + size);
    out.resize(std::size_t(end - begin));
    for (std::int64_t i = begin; i < end; ++i) out[std::size_t(i - begin)] = i;
    return true;
  };
  work_->prefetcher.emplace(dataset, device, options.dtype, 2, options.uploads, plan);
}

Pass::~Pass() = default;

std::optional<Batch> Pass::next() {
  return work_->prefetcher->next();
}
std::int64_t Pass::first_batch() const {
  return work_->first;
}
std::int64_t Pass::batch_count() const {
  return work_->mine;
}
std::int64_t Pass::batches() const {
  return work_->all;
}

}  // namespace lockstep::io
