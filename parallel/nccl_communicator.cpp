#include <cstring>

#include "kernels/memory.h"
#include "parallel/nccl_handle.h"
#include "parallel/open_communicator.h"
#include "parallel/tree.h"

namespace lockstep::parallel {
namespace {

ncclDataType_t type_of(DType d) {
  return d == DType::f32 ? ncclFloat32 : d == DType::bf16 ? ncclBfloat16 : d == DType::i32 ? ncclInt32 : ncclUint8;
}

/// A CUDA event; one that keeps time, or one that only orders streams.
class Event {
 public:
  explicit Event(unsigned flags) { check(cudaEventCreateWithFlags(&event_, flags)); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A stream that goes before all others, so that a collective starts as soon as its bucket is ready.
struct Stream {
  cudaStream_t stream = nullptr;
  Stream() {
    int least = 0, greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest));
  }
  ~Stream() { (void)cudaStreamDestroy(stream); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
};

/// Collectives in one stream of their own. Events order them behind the work that makes their data and before the work that reads
/// it; the host never waits. All of it can be captured in a CUDA graph.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<NcclHandle> comm, double deadline) : comm_(std::move(comm)), deadline_(deadline) {
    comm_->check(ncclCommUserRank(*comm_, &rank_), "asking for the rank");
    comm_->check(ncclCommCount(*comm_, &size_), "asking for the ranks");
    queue_.stream = stream_.stream;
    queue_.on_gpu = true;
  }
  ~NcclCommunicator() override {
    comm_.reset();  // before the memory that its collectives use
    if (scratch_) (void)ncclMemFree(scratch_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const char* name() const override { return "nccl"; }

  Ticket all_reduce(const Queue& after, View data, Reduction reduction) override {
    Ticket ticket = begin(after);
    // Sums of integers do not depend on their order.
    if (reduction == Reduction::exact && data.dtype != DType::i32)
      exact_all_reduce(data);
    else
      comm_->check(
          ncclAllReduce(data.data, data.data, std::size_t(data.size), type_of(data.dtype), ncclSum, *comm_, queue_.stream),
          "all_reduce");
    return end(ticket);
  }
  Ticket reduce_scatter(const Queue& after, View out, View in) override {
    require(in.size == out.size * size_ && in.dtype == out.dtype, "reduce_scatter: {} elements into {} on each of {} ranks",
            in.size, out.size, size_);
    Ticket ticket = begin(after);
    comm_->check(ncclReduceScatter(in.data, out.data, std::size_t(out.size), type_of(in.dtype), ncclSum, *comm_, queue_.stream),
                 "reduce_scatter");
    return end(ticket);
  }
  Ticket all_gather(const Queue& after, View out, View in) override {
    require(out.size == in.size * size_ && in.dtype == out.dtype, "all_gather: {} elements of each of {} ranks into {}", in.size,
            size_, out.size);
    Ticket ticket = begin(after);
    comm_->check(ncclAllGather(in.data, out.data, std::size_t(in.size), type_of(in.dtype), *comm_, queue_.stream), "all_gather");
    return end(ticket);
  }
  Ticket all_to_all(const Queue& after, View out, View in) override {
    require(out.size == in.size && in.dtype == out.dtype && in.size % size_ == 0,
            "all_to_all: {} elements into {} among {} ranks", in.size, out.size, size_);
    Ticket ticket = begin(after);
    grouped("all_to_all", [&] {
      for (int peer = 0; peer < size_; ++peer) {
        post_send(slice_of(in, peer), peer);
        post_receive(slice_of(out, peer), peer);
      }
    });
    return end(ticket);
  }
  Ticket broadcast(const Queue& after, View data, int root) override {
    Ticket ticket = begin(after);
    comm_->check(ncclBroadcast(data.data, data.data, std::size_t(data.size), type_of(data.dtype), root, *comm_, queue_.stream),
                 "broadcast");
    return end(ticket);
  }
  Ticket send(const Queue& after, View data, int to) override {
    Ticket ticket = begin(after);
    post_send(data, to);
    return end(ticket);
  }
  Ticket receive(const Queue& after, View data, int from) override {
    Ticket ticket = begin(after);
    post_receive(data, from);
    return end(ticket);
  }

  void progress() override {
    if (pending_) comm_->poll();
  }
  void join(const Queue& queue) override {
    comm_->poll();
    check(cudaEventRecord(done_, queue_.stream));
    check(cudaStreamWaitEvent(queue.stream, done_));
    pending_ = false;
  }
  Ticket mark(const Queue& queue) override {
    auto& stamp = next_stamp();
    record(stamp.started, queue.stream);
    stamp.single = true;
    return next_++;
  }
  Timing timing(Ticket ticket) override {
    require(ticket >= 0 && ticket < next_ && ticket >= next_ - timings_kept, "timing: collective {} is not among the latest {}",
            ticket, timings_kept);
    auto& stamp = *stamps_[std::size_t(ticket % timings_kept)];
    // Elapsed times come as floats: they are measured from a moment that is never far away.
    if (now() - reference_time_ > 10) {
      check(cudaEventRecord(reference_, queue_.stream));
      check(cudaEventSynchronize(reference_));
      reference_time_ = now();
    }
    auto at = [&](cudaEvent_t event) {
      float milliseconds = 0;
      check(cudaEventSynchronize(event));
      check(cudaEventElapsedTime(&milliseconds, reference_, event));
      return reference_time_ + double(milliseconds) * 1e-3;
    };
    double started = at(stamp.started);
    return {.started = started, .finished = stamp.single ? started : at(stamp.finished), .worked = 0};
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    ncclComm_t part = nullptr;
    auto handle = std::make_unique<NcclHandle>(deadline_, [&](ncclComm_t* made, ncclConfig_t* config) {
      ncclResult_t result = ncclCommSplit(*comm_, color < 0 ? NCCL_SPLIT_NOCOLOR : color, key, made, config);
      comm_->check(result, "split");
      for (double start = now(); color >= 0 && !*made && now() - start < deadline_;)
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      part = *made;
      return part ? ncclInProgress : ncclSuccess;
    });
    return part ? std::make_unique<NcclCommunicator>(std::move(handle), deadline_) : nullptr;
  }
  Memory allocate(std::size_t bytes) override {
    void* data = nullptr;
    comm_->check(ncclMemAlloc(&data, bytes ? bytes : 1), "allocating memory");
    Memory memory(static_cast<std::byte*>(data), [](std::byte* p) { (void)ncclMemFree(p); });
    check(cudaMemsetAsync(data, 0, bytes, queue_.stream));
    check(cudaStreamSynchronize(queue_.stream));
    return memory;
  }

 private:
  /// When a collective began and ended in the stream; a mark has one moment only.
  struct Stamp {
    Event started{cudaEventDefault}, finished{cudaEventDefault};
    bool single = false;
  };

  Stamp& next_stamp() {
    auto& stamp = stamps_[std::size_t(next_ % timings_kept)];
    if (!stamp) stamp = std::make_unique<Stamp>();
    return *stamp;
  }
  /// Inside a captured step a timed event must be recorded as an external one.
  static void record(cudaEvent_t event, cudaStream_t stream) {
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &capturing));
    bool captured = capturing == cudaStreamCaptureStatusActive;
    check(cudaEventRecordWithFlags(event, stream, captured ? cudaEventRecordExternal : cudaEventRecordDefault));
  }
  Ticket begin(const Queue& after) {
    require(after.on_gpu, "NCCL moves GPU memory only; ranks on CPUs talk through MPI");
    check(cudaEventRecord(ready_, after.stream));
    check(cudaStreamWaitEvent(queue_.stream, ready_));
    auto& stamp = next_stamp();
    stamp.single = false;
    record(stamp.started, queue_.stream);
    pending_ = true;
    return next_++;
  }
  Ticket end(Ticket ticket) {
    record(stamps_[std::size_t(ticket % timings_kept)]->finished, queue_.stream);
    return ticket;
  }

  template <class Body>
  void grouped(const char* what, Body body) {
    comm_->check(ncclGroupStart(), what);
    body();
    comm_->check(ncclGroupEnd(), what);
  }
  void post_send(View data, int to) {
    comm_->check(ncclSend(data.data, std::size_t(data.size), type_of(data.dtype), to, *comm_, queue_.stream), "send");
  }
  void post_receive(View data, int from) {
    comm_->check(ncclRecv(data.data, std::size_t(data.size), type_of(data.dtype), from, *comm_, queue_.stream), "receive");
  }
  /// Slices differ by at most one element.
  View slice_of(View data, int r) const {
    std::int64_t begin = data.size * r / size_, end = data.size * (r + 1) / size_;
    return data.slice(begin, end - begin);
  }

  /// Slices go to the rank that adds them in the order of the tree; sums go back.
  void exact_all_reduce(View data) {
    if (size_ == 1) return;
    View mine = slice_of(data, rank_);
    View others{scratch(mine.bytes() * std::size_t(size_ - 1)), mine.size * (size_ - 1), data.dtype};
    std::vector<View> leaves;
    for (int r = 0; r < size_; ++r)
      leaves.push_back(r == rank_ ? mine : others.slice(mine.size * (r < rank_ ? r : r - 1), mine.size));
    grouped("all_reduce", [&] {
      for (int peer = 0; peer < size_; ++peer)
        if (peer != rank_) {
          post_send(slice_of(data, peer), peer);
          post_receive(leaves[std::size_t(peer)], peer);
        }
    });
    int left_over = size_ - 1;
    for_each_merge(size_, [&](int left, int right) {
      View y = leaves[std::size_t(left)];
      kernels::add(queue_, --left_over == 0 ? mine : y, y, leaves[std::size_t(right)]);
    });
    if (data.size % size_ == 0)
      return comm_->check(ncclAllGather(mine.data, data.data, std::size_t(mine.size), type_of(data.dtype), *comm_, queue_.stream),
                          "all_reduce");
    grouped("all_reduce", [&] {
      for (int peer = 0; peer < size_; ++peer)
        if (peer != rank_) {
          post_send(mine, peer);
          post_receive(slice_of(data, peer), peer);
        }
    });
  }
  /// Memory for one collective at a time, which is all that runs in one stream. It grows in the first steps only.
  void* scratch(std::size_t bytes) {
    if (bytes > scratch_bytes_) {
      check(cudaStreamSynchronize(queue_.stream));
      if (scratch_) comm_->check(ncclMemFree(std::exchange(scratch_, nullptr)), "giving memory back");
      scratch_bytes_ = 0;
      comm_->check(ncclMemAlloc(&scratch_, bytes), "allocating memory");
      scratch_bytes_ = bytes;
    }
    return scratch_;
  }

  Stream stream_;
  Queue queue_;
  std::unique_ptr<NcclHandle> comm_;
  double deadline_;
  int rank_ = 0, size_ = 1;
  Event ready_{cudaEventDisableTiming}, done_{cudaEventDisableTiming}, reference_{cudaEventDefault};
  double reference_time_ = -1e9;
  std::vector<std::unique_ptr<Stamp>> stamps_ = std::vector<std::unique_ptr<Stamp>>(std::size_t(timings_kept));
  Ticket next_ = 0;
  bool pending_ = false;
  void* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> open_nccl_communicator(Group& group, const Queue& queue, double deadline) {
  require(queue.on_gpu, "open_nccl_communicator: the queue is not on a GPU");
  ncclUniqueId id = {};
  std::string error;
  if (group.rank() == 0)
    if (ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess) error = ncclGetErrorString(result);
  error = group.broadcast(error);
  require(Exit::peer_lost, error.empty(), "NCCL: rank 0 cannot open a meeting point: {}", error);
  std::string bytes = group.broadcast(std::string(id.internal, sizeof id.internal));
  std::memcpy(id.internal, bytes.data(), sizeof id.internal);
  auto handle = std::make_unique<NcclHandle>(deadline, [&](ncclComm_t* made, ncclConfig_t* config) {
    return ncclCommInitRankConfig(made, group.size(), id, group.rank(), config);
  });
  return std::make_unique<NcclCommunicator>(std::move(handle), deadline);
}

}  // namespace lockstep::parallel
