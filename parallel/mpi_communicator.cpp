#include <algorithm>
#include <cstring>
#include <functional>
#include <list>
#include <thread>
#include <utility>

#include "kernels/memory.h"
#include "parallel/mpi_check.h"
#include "parallel/open_communicator.h"
#include "parallel/shared_sums.h"
#include "parallel/timings.h"
#include "parallel/tree.h"

namespace lockstep::parallel {
namespace {

/// An all_reduce of memory from allocate() between ranks of one machine goes through shared memory (SharedSums). All else are
/// collectives out of point-to-point messages. MPI's own non-blocking ones need many rounds (a ring: 2 (P - 1)), and a round ends
/// only when somebody asks; here an all_reduce has two rounds at any size: slices go straight to the rank that adds them, sums go
/// straight back. Every message carries the number of its collective, so that ranks may be at different rounds of several of
/// them. Sums are those of the exact tree for either Reduction.
class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, std::int64_t piece) : comm_(comm), piece_(piece) {
    if (size() > 1) shared_ = SharedSums::open(comm_, [this](View y, View a, View b) { add(y, a, b); });
  }

  int rank() const override { return comm_.rank; }
  int size() const override { return comm_.size; }
  const char* name() const override { return shared_ ? "mpi, shared memory" : "mpi"; }

  Ticket all_reduce(const Queue& after, View data, Reduction) override {
    Pending& p = begin("all_reduce", after);
    if (shared_ && shared_->holds(data)) {
      auto sum = shared_->arrive(data);
      p.until = [this, sum] { return shared_->may_add(sum); };
      p.next = [this, &p, sum, data] {
        shared_->add(sum, data);
        p.until = [this, sum] { return shared_->all_added(sum); };
      };
      return end(p);
    }
    View mine = slice_of(data, rank());
    scatter(p, data, mine.size);
    p.next = [this, &p, data, mine] {
      sum(p, mine, mine);
      gather(p, data, mine);
    };
    return end(p);
  }
  Ticket reduce_scatter(const Queue& after, View out, View in) override {
    require(in.size == out.size * size() && in.dtype == out.dtype,
            "reduce_scatter: {} {} elements into {} {} on each of {} ranks", in.size, name_of(in.dtype), out.size,
            name_of(out.dtype), size());
    Pending& p = begin("reduce_scatter", after);
    scatter(p, in, out.size);
    p.next = [this, &p, out, in] { sum(p, out, slice_of(in, rank())); };
    return end(p);
  }
  Ticket all_gather(const Queue& after, View out, View in) override {
    require(out.size == in.size * size() && in.dtype == out.dtype, "all_gather: {} {} elements of each of {} ranks into {} {}",
            in.size, name_of(in.dtype), size(), out.size, name_of(out.dtype));
    Pending& p = begin("all_gather", after);
    copy(slice_of(out, rank()), in);
    gather(p, out, slice_of(out, rank()));
    return end(p);
  }
  Ticket all_to_all(const Queue& after, View out, View in) override {
    require(out.size == in.size && in.dtype == out.dtype && in.size % size() == 0,
            "all_to_all: {} {} elements into {} {} among {} ranks", in.size, name_of(in.dtype), out.size, name_of(out.dtype),
            size());
    Pending& p = begin("all_to_all", after);
    copy(slice_of(out, rank()), slice_of(in, rank()));
    for_each_peer([&](int peer) { receive(p, slice_of(out, peer), peer, tag(p)); });
    for_each_peer([&](int peer) { send(p, slice_of(in, peer), peer, tag(p)); });
    return end(p);
  }
  Ticket broadcast(const Queue& after, View data, int root) override {
    Pending& p = begin("broadcast", after);
    for_each_piece(data, [&](void* at, int bytes) { check_mpi(MPI_Ibcast(at, bytes, MPI_BYTE, root, comm_, add_request(p))); });
    return end(p);
  }
  Ticket send(const Queue& after, View data, int to) override {
    Pending& p = begin("send", after, false);
    send(p, data, to, 0);
    return end(p);
  }
  Ticket receive(const Queue& after, View data, int from) override {
    Pending& p = begin("receive", after, false);
    receive(p, data, from, 0);
    return end(p);
  }

  void progress() override {
    if (pending_.empty()) return;
    double start = now();
    // One message at a time reaches this rank: the time goes to the collective that has waited longest.
    Ticket oldest = pending_.front().ticket;
    test();
    timings_[oldest].worked += now() - start;
  }
  void join(const Queue&) override {
    while (!pending_.empty())
      if (!test()) std::this_thread::yield();
  }
  Ticket mark(const Queue&) override { return timings_.open(); }
  Timing timing(Ticket ticket) override { return timings_[ticket]; }

  std::unique_ptr<Communicator> split(int color, int key) override {
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, color < 0 ? MPI_UNDEFINED : color, key, &part));
    return part == MPI_COMM_NULL ? nullptr : std::make_unique<MpiCommunicator>(part, piece_);
  }
  Memory allocate(std::size_t bytes) override {
    Memory memory = shared_ ? shared_->allocate(bytes) : nullptr;
    return memory ? memory : host_memory(bytes);
  }

 private:
  struct Scratch {
    Memory memory;
    std::size_t bytes = 0;
  };
  /// A collective on its way: when all its messages have arrived and `until` is true, `next` computes and may post more.
  struct Pending {
    Ticket ticket = 0;
    double begun = 0;
    int number = 0, round = 0, messages = 0;
    std::function<bool()> until = {};
    std::function<void()> next = {};
    Scratch scratch = {};
  };

  // ---- the life of a collective
  Pending& begin(const char* what, const Queue& after, bool collective = true) {
    require(Exit::usage, !after.on_gpu, "{}: MPI moves host memory only; ranks on GPUs talk through NCCL", what);
    Pending& p = pending_.emplace_back();
    p.ticket = timings_.open();
    p.begun = timings_[p.ticket].started;
    timings_[p.ticket].finished = 0;  // until it has
    if (collective) p.number = numbers_++ % 8192;
    return p;
  }
  Ticket end(Pending& p) {
    Ticket ticket = p.ticket, oldest = pending_.front().ticket;
    double begun = p.begun;
    advance(p);
    timings_[oldest].worked += now() - begun;
    return ticket;
  }
  /// Computes what has become possible; ends the collective when nothing is left. False when it has to wait on.
  bool advance(Pending& p) {
    bool moved = false;
    while (p.messages == 0 && (!p.until || p.until())) {
      moved = true;
      if (!p.next) {
        timings_[p.ticket].finished = now();
        if (p.scratch.memory) free_.push_back(std::move(p.scratch));
        std::erase_if(pending_, [&](auto& other) { return &other == &p; });
        break;
      }
      ++p.round;
      std::exchange(p.next, {})();
    }
    return moved;
  }
  /// Looks once; false when nothing has moved.
  bool test() {
    if (!requests_.empty()) receive_some();
    bool moved = false;
    for (auto p = pending_.begin(); p != pending_.end();) moved |= advance(*p++);
    return moved;
  }
  void receive_some() {
    int done = 0;
    indices_.resize(requests_.size());
    statuses_.resize(requests_.size());
    int status = MPI_Testsome(int(requests_.size()), requests_.data(), &done, indices_.data(), statuses_.data());
    if (status == MPI_ERR_IN_STATUS)
      for (int i = 0; i < done; ++i) check_mpi(statuses_[std::size_t(i)].MPI_ERROR);
    check_mpi(status);
    if (done <= 0) return;
    for (int i = 0; i < done; ++i) --owners_[std::size_t(indices_[std::size_t(i)])]->messages;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL) {
        requests_[kept] = requests_[i];
        owners_[kept++] = owners_[i];
      }
    requests_.resize(kept);
    owners_.resize(kept);
  }

  // ---- messages
  MPI_Request* add_request(Pending& p) {
    ++p.messages;
    owners_.push_back(&p);
    return &requests_.emplace_back(MPI_REQUEST_NULL);
  }
  template <class F>
  void for_each_piece(View data, F f) {
    for (std::int64_t at = 0, bytes = std::int64_t(data.bytes()); at < bytes; at += piece_)
      f(static_cast<char*>(data.data) + at, int(std::min(piece_, bytes - at)));
  }
  void send(Pending& p, View data, int to, int tag) {
    for_each_piece(data, [&](void* at, int bytes) { check_mpi(MPI_Isend(at, bytes, MPI_BYTE, to, tag, comm_, add_request(p))); });
  }
  void receive(Pending& p, View data, int from, int tag) {
    for_each_piece(data,
                   [&](void* at, int bytes) { check_mpi(MPI_Irecv(at, bytes, MPI_BYTE, from, tag, comm_, add_request(p))); });
  }
  /// 0 is for send() and receive(), whose order is enough.
  static int tag(const Pending& p) { return 1 + p.number * 2 + p.round; }
  /// All other ranks, beginning behind this one, so that not all talk to the same rank first.
  template <class F>
  void for_each_peer(F f) {
    for (int i = 1; i < size(); ++i) f((rank() + i) % size());
  }
  /// Slices differ by at most one element.
  View slice_of(View data, int r) const {
    std::int64_t begin = data.size * r / size(), end = data.size * (r + 1) / size();
    return data.slice(begin, end - begin);
  }
  static void copy(View to, View from) {
    if (to.data != from.data && from.size > 0) std::memcpy(to.data, from.data, from.bytes());
  }

  // ---- rounds
  /// Each rank's slice of `in` goes to that rank; what comes lands in scratch, in rank order without this rank.
  void scatter(Pending& p, View in, std::int64_t own) {
    require(in.dtype != DType::u8, "sums are defined on f32, bf16 and i32, not on u8");
    p.scratch = take(std::size_t(own) * size_of(in.dtype) * std::size_t(size() - 1));
    for_each_peer([&](int peer) { receive(p, scratch_of(p, peer, own, in.dtype), peer, tag(p)); });
    for_each_peer([&](int peer) { send(p, slice_of(in, peer), peer, tag(p)); });
  }
  /// out = own + what scatter() brought, in the order of the tree.
  void sum(Pending& p, View out, View own) {
    copy(out, own);
    std::vector<View> leaves;
    for (int r = 0; r < size(); ++r) leaves.push_back(r == rank() ? out : scratch_of(p, r, out.size, out.dtype));
    int left_over = size() - 1;
    for_each_merge(size(), [&](int left, int right) {
      View y = leaves[std::size_t(left)];
      add(--left_over == 0 ? out : y, y, leaves[std::size_t(right)]);
    });
  }
  void add(View y, View a, View b) {
    if (y.dtype != DType::i32) return kernels::add(queue_, y, a, b);
    if (y.data == b.data) std::swap(a, b);
    copy(y, a);
    for (std::int64_t at = 0; at < y.size; at += piece_) {
      int count = int(std::min(piece_, y.size - at));
      check_mpi(MPI_Reduce_local(b.slice(at, count).data, y.slice(at, count).data, count, MPI_INT32_T, MPI_SUM));
    }
  }
  void gather(Pending& p, View out, View mine) {
    for_each_peer([&](int peer) { receive(p, slice_of(out, peer), peer, tag(p)); });
    for_each_peer([&](int peer) { send(p, mine, peer, tag(p)); });
  }
  View scratch_of(const Pending& p, int r, std::int64_t size, DType dtype) const {
    return View{p.scratch.memory.get(), size * (this->size() - 1), dtype}.slice(size * (r < rank() ? r : r - 1), size);
  }
  Scratch take(std::size_t bytes) {
    if (bytes == 0) return {};
    auto found = std::ranges::find_if(free_, [&](auto& s) { return s.bytes >= bytes; });
    if (found == free_.end()) return {host_memory(bytes), bytes};
    Scratch scratch = std::move(*found);
    free_.erase(found);
    return scratch;
  }

  MpiHandle comm_;
  std::int64_t piece_;
  std::unique_ptr<SharedSums> shared_;
  Queue queue_;
  Timings timings_;
  int numbers_ = 0;
  std::list<Pending> pending_;
  std::vector<MPI_Request> requests_;
  std::vector<Pending*> owners_;  // of requests_
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
  std::vector<Scratch> free_;
};

}  // namespace

std::unique_ptr<Communicator> open_mpi_communicator(std::int64_t piece) {
  return std::make_unique<MpiCommunicator>(duplicate(MPI_COMM_WORLD), piece);
}
std::unique_ptr<Communicator> open_mpi_communicator() {
  return open_mpi_communicator(std::int64_t(1) << 30);
}

}  // namespace lockstep::parallel
