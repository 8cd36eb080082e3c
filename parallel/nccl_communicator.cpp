#include <cstring>

#include "kernels/memory.h"
#include "parallel/nccl_handle.h"
#include "parallel/tree.h"

namespace lockstep::parallel {
namespace {

ncclDataType_t type_of(DType d) {
  switch (d) {
    case DType::f32: return ncclFloat32;
    case DType::bf16: return ncclBfloat16;
    case DType::f16: return ncclFloat16;
    case DType::i32: return ncclInt32;
    case DType::u8: return ncclUint8;
  }
  throw Error("NCCL: unknown dtype");
}

/// Collectives in one stream of their own. Events order them behind the work that makes their data and before the work that reads
/// it; the host never waits. All of it can be captured in a CUDA graph.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<NcclHandle> comm, const NcclOptions& options) : comm_(std::move(comm)), options_(options) {
    comm_->call("asking for the ranks", [&](ncclComm_t comm) {
      ncclResult_t result = ncclCommUserRank(comm, &rank_);
      return result == ncclSuccess ? ncclCommCount(comm, &size_) : result;
    });
    queue_.stream = stream_;
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
      comm_->call("all_reduce", [&](ncclComm_t comm) {
        return ncclAllReduce(data.data, data.data, std::size_t(data.size), type_of(data.dtype), ncclSum, comm, queue_.stream);
      });
    return end(ticket);
  }
  Ticket reduce_scatter(const Queue& after, View out, View in) override {
    require(in.size == out.size * size_ && in.dtype == out.dtype, "reduce_scatter: {} elements into {} on each of {} ranks",
            in.size, out.size, size_);
    Ticket ticket = begin(after);
    comm_->call("reduce_scatter", [&](ncclComm_t comm) {
      return ncclReduceScatter(in.data, out.data, std::size_t(out.size), type_of(in.dtype), ncclSum, comm, queue_.stream);
    });
    return end(ticket);
  }
  Ticket all_gather(const Queue& after, View out, View in) override {
    require(out.size == in.size * size_ && in.dtype == out.dtype, "all_gather: {} elements of each of {} ranks into {}", in.size,
            size_, out.size);
    Ticket ticket = begin(after);
    gather("all_gather", out, in);
    return end(ticket);
  }
  Ticket all_to_all(const Queue& after, View out, View in) override {
    require(out.size == in.size && in.dtype == out.dtype && in.size % size_ == 0,
            "all_to_all: {} elements into {} among {} ranks", in.size, out.size, size_);
    Ticket ticket = begin(after);
    grouped("all_to_all", [&](Messages& messages) {
      for (int peer = 0; peer < size_; ++peer) {
        messages.send(slice_of(in, peer), peer);
        messages.receive(slice_of(out, peer), peer);
      }
    });
    return end(ticket);
  }
  Ticket broadcast(const Queue& after, View data, int root) override {
    Ticket ticket = begin(after);
    comm_->call("broadcast", [&](ncclComm_t comm) {
      return ncclBroadcast(data.data, data.data, std::size_t(data.size), type_of(data.dtype), root, comm, queue_.stream);
    });
    return end(ticket);
  }
  /// A reduction to each part's rank, all in one launch: half of what an all_reduce of them would move.
  Ticket reduce_parts(const Queue& after, std::span<const View> parts, Reduction reduction, const Seen&) override {
    check_parts("reduce_parts", parts);
    const bool exact = reduction == Reduction::exact && parts[0].dtype != DType::i32;
    Ticket ticket = begin(after);
    if (exact)
      exact_sum("reduce_parts", [&](int r) { return parts[std::size_t(r)]; });
    else
      grouped("reduce_parts", [&](Messages& messages) {
        for (int r = 0; r < size_; ++r) messages.reduce(parts[std::size_t(r)], r);
      });
    return end(ticket);
  }
  Ticket gather_parts(const Queue& after, std::span<const View> parts) override {
    check_parts("gather_parts", parts);
    Ticket ticket = begin(after);
    grouped("gather_parts", [&](Messages& messages) {
      for (int r = 0; r < size_; ++r) messages.broadcast(parts[std::size_t(r)], r);
    });
    return end(ticket);
  }
  Ticket send(const Queue& after, View data, int to) override {
    Ticket ticket = begin(after);
    grouped("send", [&](Messages& messages) { messages.send(data, to); });
    return end(ticket);
  }
  Ticket receive(const Queue& after, View data, int from) override {
    Ticket ticket = begin(after);
    grouped("receive", [&](Messages& messages) { messages.receive(data, from); });
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
    stamps_.mark(next_, queue.stream);
    return next_++;
  }
  Timing timing(Ticket ticket) override {
    require(ticket >= 0 && ticket < next_ && ticket >= next_ - timings_kept, "timing: collective {} is not among the latest {}",
            ticket, timings_kept);
    return stamps_.timing(ticket, queue_.stream);
  }

  std::string why_not_captured() const override { return ""; }
  /// The events of captured collectives are those of the replay before until this one comes to them: its end is watched instead.
  void replayed(const Queue& queue) override {
    check(cudaEventRecord(replayed_, queue.stream));
    comm_->expect(replayed_);
    comm_->poll();
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    ncclComm_t part = nullptr;
    auto handle = std::make_shared<NcclHandle>(options_, [&](ncclComm_t* made, ncclConfig_t* config) {
      comm_->call("split", [&](ncclComm_t comm) {
        return ncclCommSplit(comm, color < 0 ? NCCL_SPLIT_NOCOLOR : color, key, made, config);
      });
      for (double start = now(); color >= 0 && !*made && now() - start < options_.meeting;)
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      part = *made;
      return part ? ncclInProgress : ncclSuccess;
    });
    return part ? std::make_unique<NcclCommunicator>(std::move(handle), options_) : nullptr;
  }
  /// NCCL's own memory, registered as a symmetric window: collectives on it then run without copies and, over NVLink, in the
  /// switch. Where NCCL has no window for it (no NVLink between the ranks, say) it is registered plainly.
  Memory allocate(std::size_t bytes) override {
    if (bytes == 0) bytes = 1;
    void* data = nullptr;
    comm_->call("allocating memory", [&](ncclComm_t) { return ncclMemAlloc(&data, bytes); });
    ncclWindow_t window = nullptr;
    void* plain = nullptr;
    Memory memory(static_cast<std::byte*>(data), [](std::byte* p) { (void)ncclMemFree(p); });
    check(cudaMemsetAsync(data, 0, bytes, queue_.stream));
    check(cudaStreamSynchronize(queue_.stream));
    if (!options_.register_memory || size_ == 1) return memory;
    comm_->call("registering memory",
                [&](ncclComm_t comm) { return ncclCommWindowRegister(comm, data, bytes, &window, NCCL_WIN_COLL_SYMMETRIC); });
    if (!window) comm_->call("registering memory", [&](ncclComm_t comm) { return ncclCommRegister(comm, data, bytes, &plain); });
    // A communicator that has ended has forgotten its registrations by itself.
    return Memory(memory.get(), [memory, window, plain, weak = std::weak_ptr(comm_)](std::byte*) {
      try {
        if (auto comm = weak.lock())
          comm->call("giving memory back", [&](ncclComm_t comm) {
            return window ? ncclCommWindowDeregister(comm, window) : ncclCommDeregister(comm, plain);
          });
      } catch (const Error&) {  // something failed earlier and is reported by whoever asks next
      }
    });
  }

 private:
  Ticket begin(const Queue& after) {
    require(after.on_gpu, "NCCL moves GPU memory only; ranks on CPUs talk through MPI");
    check(cudaEventRecord(ready_, after.stream));
    check(cudaStreamWaitEvent(queue_.stream, ready_));
    stamps_.started(next_, queue_.stream);
    pending_ = true;
    return next_++;
  }
  Ticket end(Ticket ticket) {
    stamps_.finished(ticket, queue_.stream);
    comm_->expect(stamps_.end_of(ticket));
    return ticket;
  }

  void gather(const char* what, View out, View in) {
    comm_->call(what, [&](ncclComm_t comm) {
      return ncclAllGather(in.data, out.data, std::size_t(in.size), type_of(in.dtype), comm, queue_.stream);
    });
  }
  /// Messages of one group; remembers the first failure.
  struct Messages {
    ncclComm_t comm;
    cudaStream_t stream;
    ncclResult_t result;
    void note(ncclResult_t r) {
      if (result == ncclSuccess && r != ncclInProgress) result = r;
    }
    void send(View data, int to) { note(ncclSend(data.data, std::size_t(data.size), type_of(data.dtype), to, comm, stream)); }
    void reduce(View data, int root) {
      if (data.size == 0) return;
      note(ncclReduce(data.data, data.data, std::size_t(data.size), type_of(data.dtype), ncclSum, root, comm, stream));
    }
    void broadcast(View data, int root) {
      if (data.size == 0) return;
      note(ncclBroadcast(data.data, data.data, std::size_t(data.size), type_of(data.dtype), root, comm, stream));
    }
    void receive(View data, int from) {
      note(ncclRecv(data.data, std::size_t(data.size), type_of(data.dtype), from, comm, stream));
    }
  };
  template <class Body>
  void grouped(const char* what, Body body) {
    comm_->call(what, [&](ncclComm_t comm) {
      Messages messages{comm, queue_.stream, ncclGroupStart()};
      body(messages);
      ncclResult_t ended = ncclGroupEnd();
      return messages.result == ncclSuccess ? ended : messages.result;
    });
  }
  /// Slices differ by at most one element.
  View slice_of(View data, int r) const {
    std::int64_t begin = data.size * r / size_, end = data.size * (r + 1) / size_;
    return data.slice(begin, end - begin);
  }

  void check_parts(const char* op, std::span<const View> parts) const {
    require(int(parts.size()) == size_, "{}: {} parts for {} ranks", op, parts.size(), size_);
    for (View part : parts) require(part.dtype == parts[0].dtype, "{}: parts of several types", op);
  }

  /// part_of(rank_) = the sum of everybody's, in the order of the tree.
  template <class PartOf>
  void exact_sum(const char* what, PartOf part_of) {
    if (size_ == 1) return;
    View mine = part_of(rank_);
    View others{scratch(mine.bytes() * std::size_t(size_ - 1)), mine.size * (size_ - 1), mine.dtype};
    std::vector<View> leaves;
    for (int r = 0; r < size_; ++r)
      leaves.push_back(r == rank_ ? mine : others.slice(mine.size * (r < rank_ ? r : r - 1), mine.size));
    grouped(what, [&](Messages& messages) {
      for (int peer = 0; peer < size_; ++peer)
        if (peer != rank_) {
          messages.send(part_of(peer), peer);
          messages.receive(leaves[std::size_t(peer)], peer);
        }
    });
    int left_over = size_ - 1;
    for_each_merge(size_, [&](int left, int right) {
      View y = leaves[std::size_t(left)];
      kernels::add(queue_, --left_over == 0 ? mine : y, y, leaves[std::size_t(right)]);
    });
  }

  /// Slices go to the rank that adds them; sums go back.
  void exact_all_reduce(View data) {
    if (size_ == 1) return;
    View mine = slice_of(data, rank_);
    exact_sum("all_reduce", [&](int r) { return slice_of(data, r); });
    if (data.size % size_ == 0) return gather("all_reduce", data, mine);
    grouped("all_reduce", [&](Messages& messages) {
      for (int peer = 0; peer < size_; ++peer)
        if (peer != rank_) {
          messages.send(mine, peer);
          messages.receive(slice_of(data, peer), peer);
        }
    });
  }
  /// Memory for one collective at a time, which is all that runs in one stream. It grows in the first steps only.
  void* scratch(std::size_t bytes) {
    if (bytes > scratch_bytes_) {
      check(cudaStreamSynchronize(queue_.stream));
      void* old = std::exchange(scratch_, nullptr);
      scratch_bytes_ = 0;
      comm_->call("allocating memory", [&](ncclComm_t) {
        ncclResult_t result = old ? ncclMemFree(old) : ncclSuccess;
        return result == ncclSuccess ? ncclMemAlloc(&scratch_, bytes) : result;
      });
      scratch_bytes_ = bytes;
    }
    return scratch_;
  }

  Stream stream_;
  Queue queue_;
  Stamps stamps_;
  std::shared_ptr<NcclHandle> comm_;
  NcclOptions options_;
  int rank_ = 0, size_ = 1;
  Event ready_, done_, replayed_;
  Ticket next_ = 0;
  bool pending_ = false;
  void* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> open_nccl_communicator(Group& group, const Queue& queue, NcclOptions options) {
  require(queue.on_gpu, "open_nccl_communicator: the queue is not on a GPU");
  int version = 0;
  ncclUniqueId id = {};
  std::string error;
  if (ncclResult_t result = ncclGetVersion(&version); result != ncclSuccess) error = ncclGetErrorString(result);
  // 2.28.3 to 2.28.8 can crash when a communicator is made again; older ones have no symmetric windows.
  if (version < NCCL_VERSION(2, 28, 9))
    error =
        format_text("NCCL {}.{}.{} is too old: 2.28.9 or newer is needed", {version / 10000, version / 100 % 100, version % 100});
  if (group.rank() == 0 && error.empty())
    if (ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess)
      error = format_text("NCCL: rank 0 cannot open a meeting point: {}", {ncclGetErrorString(result)});
  for (const std::string& one : group.gather(error)) require(Exit::peer_lost, one.empty(), "{}", one);
  std::string bytes = group.broadcast(std::string(id.internal, sizeof id.internal));
  std::memcpy(id.internal, bytes.data(), sizeof id.internal);
  auto handle = std::make_shared<NcclHandle>(options, [&](ncclComm_t* made, ncclConfig_t* config) {
    return ncclCommInitRankConfig(made, group.size(), id, group.rank(), config);
  });
  return std::make_unique<NcclCommunicator>(std::move(handle), options);
}

}  // namespace lockstep::parallel
