#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "parallel/machines.h"
#include "parallel/mpi_check.h"
#include "parallel/open_communicator.h"
#include "parallel/shared_window.h"
#include "parallel/timings.h"
#include "parallel/tree.h"

namespace lockstep::parallel {
namespace {

/// Collectives on memory from allocate() go through a window that the ranks of a machine share: an all_reduce adds there, and
/// between machines only sums travel (Machines). All else are collectives out of point-to-point messages. MPI's own non-blocking
/// ones need many rounds (a ring: 2 (P - 1)), and a round ends only when somebody asks; here an all_reduce has two rounds at any
/// size: slices go straight to the rank that adds them, sums go straight back. Every message carries the number of its
/// collective, so that ranks may be at different rounds of several of them. Sums are those of the exact tree for either
/// Reduction.
class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, const MpiOptions& options) : comm_(comm), options_(options) {
    if (size() == 1) return;
    machine_comm_.emplace(machine_of(comm_, options.machine));
    const MpiHandle& machine = *machine_comm_;
    std::vector<int> first(std::size_t(size()), rank());  // the first rank of everyone's machine
    check_mpi(MPI_Bcast(&first[std::size_t(rank())], 1, MPI_INT, 0, machine));
    check_mpi(MPI_Allgather(MPI_IN_PLACE, 0, MPI_INT, first.data(), 1, MPI_INT, comm_));
    machines_.emplace(first, rank());
    for (int c = 0; c < machines_->columns(); ++c)
      if (machines_->handler(machines_->mine(), c) == rank()) columns_.push_back(c);
    window_ = SharedWindow::open(machine);
    if (!agreed(window_ != nullptr)) window_.reset();
  }

  int rank() const override { return comm_.rank; }
  int size() const override { return comm_.size; }
  const char* name() const override {
    return !window_ ? "mpi" : refused_ ? "mpi, no shared memory was free" : "mpi, shared memory";
  }

  Ticket all_reduce(const Queue& after, View data, Reduction) override {
    Pending& p = begin("all_reduce", after);
    require(data.dtype != DType::u8, "all_reduce: sums are defined on f32, bf16, f16 and i32, not on u8");
    if (through_window(p, data, Work::all_reduce)) {
      p.next = [this, &p] {
        window_->check(p.number_in_window);
        machines_->count() == 1 ? add_on_machine(p) : add_between_machines(p);
      };
      return end(p);
    }
    p.data = data;
    scatter(p, [this, data](int r) { return part_of(data, r, size()); });
    p.next = [this, &p] {
      View slice = part_of(p.data, rank(), size());
      sum(p, slice, slice);
      gather(p, slice, [this, data = p.data](int r) { return part_of(data, r, size()); });
    };
    return end(p);
  }
  Ticket reduce_scatter(const Queue& after, View out, View in) override {
    require(in.size == out.size * size() && in.dtype == out.dtype && in.dtype != DType::u8,
            "reduce_scatter: {} {} elements into {} {} on each of {} ranks", in.size, name_of(in.dtype), out.size,
            name_of(out.dtype), size());
    Pending& p = begin("reduce_scatter", after);
    if (one_machine() && through_window(p, in, Work::reduce_scatter)) {
      p.next = [this, &p, out] {
        window_->check(p.number_in_window);
        auto leaves = window_->everyones(even_slice(p.data, rank()));
        kernels::Store store{0, out.data};
        kernels::merge_sums(leaves, machines_->local_merges(), {&store, 1});
        finish_in_window(p);
      };
      return end(p);
    }
    scatter(p, [this, in](int r) { return even_slice(in, r); });
    p.next = [this, &p, out, in] { sum(p, out, even_slice(in, rank())); };
    return end(p);
  }
  Ticket all_gather(const Queue& after, View out, View in) override {
    require(out.size == in.size * size() && out.dtype == in.dtype, "all_gather: {} {} elements of each of {} ranks into {} {}",
            in.size, name_of(in.dtype), size(), out.size, name_of(out.dtype));
    Pending& p = begin("all_gather", after);
    if (one_machine() && through_window(p, out, Work::all_gather)) {
      p.next = [this, &p, in] {
        window_->check(p.number_in_window);
        for (View to : window_->everyones(even_slice(p.data, rank()))) copy(to, in);
        finish_in_window(p);
      };
      return end(p);
    }
    View mine = even_slice(out, rank());
    copy(mine, in);
    gather(p, mine, [this, out](int r) { return even_slice(out, r); });
    return end(p);
  }
  Ticket all_to_all(const Queue& after, View out, View in) override {
    require(out.size == in.size && in.dtype == out.dtype && in.size % size() == 0,
            "all_to_all: {} {} elements into {} {} among {} ranks", in.size, name_of(in.dtype), out.size, name_of(out.dtype),
            size());
    Pending& p = begin("all_to_all", after);
    copy(even_slice(out, rank()), even_slice(in, rank()));
    for_each_peer([&](int peer) { receive(p, even_slice(out, peer), peer, tag(p)); });
    for_each_peer([&](int peer) { send(p, even_slice(in, peer), peer, tag(p)); });
    return end(p);
  }
  Ticket broadcast(const Queue& after, View data, int root) override {
    Pending& p = begin("broadcast", after);
    if (one_machine() && through_window(p, data, Work::broadcast)) {
      p.next = [this, &p, root] {
        window_->check(p.number_in_window);
        auto places = window_->everyones(part_of(p.data, rank(), size()));  // everybody copies a part of it to everybody
        for (View to : places) copy(to, places[std::size_t(root)]);
        finish_in_window(p);
      };
      return end(p);
    }
    for_each_piece(data, [&](void* at, int bytes) { check_mpi(MPI_Ibcast(at, bytes, MPI_BYTE, root, comm_, add_request(p))); });
    return end(p);
  }
  Ticket reduce_parts(const Queue& after, std::span<const View> parts, Reduction, const Seen& seen) override {
    Pending& p = begin("reduce_parts", after);
    View mine = parts_of("reduce_parts", parts);
    require(mine.dtype != DType::u8, "reduce_parts: sums are defined on f32, bf16, f16 and i32, not on u8");
    if (one_machine() && through_window(p, hull(parts), Work::reduce_parts)) {
      p.data = mine;
      p.next = [this, &p, seen] {
        window_->check(p.number_in_window);
        add_own_part(p.data, seen);
        finish_in_window(p);
      };
      return end(p);
    }
    p.data = mine;
    scatter(p, [parts](int r) { return parts[std::size_t(r)]; });
    p.next = [this, &p] { sum(p, p.data, p.data); };
    return end(p);
  }
  Ticket gather_parts(const Queue& after, std::span<const View> parts) override {
    Pending& p = begin("gather_parts", after);
    View mine = parts_of("gather_parts", parts);
    if (one_machine() && through_window(p, hull(parts), Work::gather_parts)) {
      p.parts.assign(parts.begin(), parts.end());
      p.next = [this, &p] {
        window_->check(p.number_in_window);
        // What is fetched comes faster than what is brought to another core, and lies where it is read next.
        for_each_peer([&](int r) {
          View part = p.parts[std::size_t(r)];
          if (part.size > 0) copy(part, window_->everyones(part)[std::size_t(r)]);
        });
        finish_in_window(p);
      };
      return end(p);
    }
    gather(p, mine, [parts](int r) { return parts[std::size_t(r)]; });
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
    if (!pending_.empty()) work(now(), [&] { test(); });
  }
  void join(const Queue&) override {
    for (int idle = 0; !pending_.empty();) {
      if (test())
        idle = 0;
      else if (++idle > patience && window_ && requests_.empty())
        window_->sleep([&] { return test(); });
      else if (idle > spins_)
        std::this_thread::yield();
    }
  }
  Ticket mark(const Queue&) override { return timings_.open(); }
  Timing timing(Ticket ticket) override { return timings_[ticket]; }

  std::unique_ptr<Communicator> split(int color, int key) override {
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, color < 0 ? MPI_UNDEFINED : color, key, &part));
    return part == MPI_COMM_NULL ? nullptr : std::make_unique<MpiCommunicator>(part, options_);
  }
  Memory allocate(std::size_t bytes) override {
    Memory memory = window_ ? window_->allocate(bytes) : nullptr;
    if (window_ && !agreed(memory != nullptr)) {
      memory.reset();
      refused_ = true;
    }
    return memory ? memory : host_memory(bytes);
  }
  Memory allocate_common(std::size_t bytes) override {
    return window_ && one_machine() ? share_block(*machine_comm_, bytes, Pages::now) : nullptr;
  }

 private:
  static constexpr int patience = 4096;  // looks before a waiting rank sleeps: waking up takes longer than most waits
  enum class Work : std::uint8_t { all_reduce, reduce_scatter, all_gather, broadcast, reduce_parts, gather_parts };
  struct Scratch {
    Memory memory;
    std::size_t bytes = 0;
  };
  /// A collective on its way: when all its messages have arrived and `until` is true, `next` computes and may post more.
  struct Pending {
    Ticket ticket = 0;
    double begun = 0;
    int number = 0, round = 0, messages = 0;
    std::uint64_t number_in_window = 0;
    View data = {};
    std::vector<View> parts = {};
    std::function<bool()> until = {};  // captures fit into the function itself: no memory is asked for
    std::function<void()> next = {};
    Scratch scratch = {};
  };

  /// The ranks of this machine; of them those with the same color, where machines are made up.
  MPI_Comm machine_of(const MpiHandle& comm, int color) {
    MPI_Comm machine = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, comm.rank, MPI_INFO_NULL, &machine));
    int ranks = 0;
    check_mpi(MPI_Comm_size(machine, &ranks));
    if (unsigned(ranks) > std::thread::hardware_concurrency()) spins_ = 0;  // somebody else needs the core
    if (color < 0) return machine;
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(machine, color, comm.rank, &part));
    check_mpi(MPI_Comm_free(&machine));
    return part;
  }
  bool agreed(bool mine) const {
    int value = mine, all = 0;
    check_mpi(MPI_Allreduce(&value, &all, 1, MPI_INT, MPI_LAND, comm_));
    return all != 0;
  }
  bool one_machine() const { return machines_ && machines_->count() == 1; }

  // ---- the life of a collective
  Pending& begin(const char* what, const Queue& after, bool collective = true) {
    require(Exit::usage, !after.on_gpu, "{}: MPI moves host memory only; ranks on GPUs talk through NCCL", what);
    Pending& p = pending_.emplace_back();
    p.ticket = timings_.open();
    p.begun = timings_[p.ticket].started;
    timings_[p.ticket].finished = 0;  // until it has
    if (collective) p.number = numbers_++ % 4096;
    return p;
  }
  Ticket end(Pending& p) {
    Ticket ticket = p.ticket;
    const double posted = now();
    timings_[ticket].worked += posted - p.begun;
    work(posted, [&] { advance(p); });
    return ticket;
  }
  /// The time from `begun`, just now, until f has run is work: of the collectives that it moves on, and for the rest, since one message at
  /// a time reaches this rank, of the one that has waited longest.
  template <class F>
  void work(double begun, F f) {
    Ticket oldest = pending_.front().ticket;
    dealt_ = 0;
    working_ = true;
    f();
    working_ = false;
    timings_[oldest].worked += now() - begun - dealt_;
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
      const double begun = working_ ? now() : 0;
      std::exchange(p.next, {})();
      if (!working_) continue;
      const double took = now() - begun;
      timings_[p.ticket].worked += took;
      dealt_ += took;
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
    for (std::int64_t at = 0, bytes = std::int64_t(data.bytes()); at < bytes; at += options_.piece)
      f(static_cast<char*>(data.data) + at, int(std::min(options_.piece, bytes - at)));
  }
  void send(Pending& p, View data, int to, int tag) {
    for_each_piece(data, [&](void* at, int bytes) { check_mpi(MPI_Isend(at, bytes, MPI_BYTE, to, tag, comm_, add_request(p))); });
  }
  void receive(Pending& p, View data, int from, int tag) {
    for_each_piece(data,
                   [&](void* at, int bytes) { check_mpi(MPI_Irecv(at, bytes, MPI_BYTE, from, tag, comm_, add_request(p))); });
  }
  /// 0 is for send() and receive(), whose order is enough.
  static int tag(const Pending& p) { return 1 + p.number * 4 + p.round; }
  /// All other ranks, beginning behind this one, so that not all talk to the same rank first.
  template <class F>
  void for_each_peer(F f) {
    for (int i = 1; i < size(); ++i) f((rank() + i) % size());
  }
  View parts_of(const char* what, std::span<const View> parts) const {
    require(int(parts.size()) == size(), "{}: {} parts for {} ranks", what, parts.size(), size());
    return parts[std::size_t(rank())];
  }
  /// From the first to the last element of all parts.
  static View hull(std::span<const View> parts) {
    auto begin = [](View v) { return static_cast<std::byte*>(v.data); };
    View first = parts[0], last = parts[0];
    for (View part : parts) {
      if (begin(part) < begin(first)) first = part;
      if (begin(part) + part.bytes() > begin(last) + last.bytes()) last = part;
    }
    const auto bytes = begin(last) + last.bytes() - begin(first);
    return {first.data, std::int64_t(bytes) / std::int64_t(size_of(first.dtype)), first.dtype};
  }
  View even_slice(View data, int r) const { return data.slice(data.size / size() * r, data.size / size()); }
  static void copy(View to, View from) {
    if (to.data != from.data && from.size > 0) std::memcpy(to.data, from.data, from.bytes());
  }

  // ---- rounds of messages between all ranks
  /// Each rank's slice goes to that rank; what comes lands in scratch, in rank order without this rank.
  template <class Slice>
  void scatter(Pending& p, Slice slice) {
    View own = slice(rank());
    p.scratch = take(own.bytes() * std::size_t(size() - 1));
    for_each_peer([&](int peer) { receive(p, scratch_of(p, peer, own), peer, tag(p)); });
    for_each_peer([&](int peer) { send(p, slice(peer), peer, tag(p)); });
  }
  /// out = own + what scatter() brought, in the order of the tree.
  void sum(Pending& p, View out, View own) {
    std::vector<View> leaves;
    for (int r = 0; r < size(); ++r) leaves.push_back(r == rank() ? own : scratch_of(p, r, own));
    kernels::Store store{0, out.data};
    kernels::merge_sums(leaves, all_merges(), {&store, 1});
  }
  template <class Slice>
  void gather(Pending& p, View mine, Slice slice) {
    for_each_peer([&](int peer) { receive(p, slice(peer), peer, tag(p)); });
    for_each_peer([&](int peer) { send(p, mine, peer, tag(p)); });
  }
  static View scratch_of(const Pending& p, int r, int rank, View own) {
    return {p.scratch.memory.get() + own.bytes() * std::size_t(r < rank ? r : r - 1), own.size, own.dtype};
  }
  View scratch_of(const Pending& p, int r, View own) const { return scratch_of(p, r, rank(), own); }
  const std::vector<kernels::Merge>& all_merges() {
    if (all_merges_.empty()) for_each_merge(size(), [&](int left, int right) { all_merges_.push_back({left, right}); });
    return all_merges_;
  }

  // ---- through shared memory
  /// Whether the collective goes through the window; then `next` runs when everybody has arrived.
  bool through_window(Pending& p, View data, Work work) {
    if (!window_ || !window_->holds(data)) return false;
    p.data = data;
    p.number_in_window = window_->arrive(data, int(work));
    p.until = [this, &p] { return window_->may_work(p.number_in_window); };
    return true;
  }
  void finish_in_window(Pending& p) {
    window_->finish(p.number_in_window);
    p.until = [this, &p] { return window_->all_finished(p.number_in_window); };
  }

  /// This rank's share of the sum, stored to every rank of the machine.
  void add_on_machine(Pending& p) {
    auto leaves = window_->everyones(p.data);
    const auto everyone = leaves;
    for_each_turn(p.data, [&](int part, int parts) {
      for (std::size_t r = 0; r < leaves.size(); ++r) leaves[r] = part_of(everyone[r], part, parts);
      store_to_all(leaves, leaves, machines_->local_merges(), 0);
    });
    finish_in_window(p);
  }
  /// This rank's share of the sum, stored here.
  void add_own_part(View part, const Seen& seen) {
    const std::int64_t near = std::int64_t(omp_get_max_threads()) * (256 << 10) / std::int64_t(size_of(part.dtype));
    const std::int64_t step = seen ? near : std::max<std::int64_t>(part.size, 1);
    for (std::int64_t begin = 0; begin < part.size; begin += step) {
      const View piece = part.slice(begin, std::min(step, part.size - begin));
      kernels::Store store{0, piece.data};
      kernels::merge_sums(window_->everyones(piece), machines_->local_merges(), {&store, 1});
      if (seen) seen(begin, begin + piece.size);
    }
  }
  /// Ranks of one machine take parts in turn, all from the end: what a rank wrote last is still in its cache.
  template <class F>
  void for_each_turn(View data, F f) {
    constexpr std::int64_t most = 64 << 10;  // bytes
    const int rounds = int((std::int64_t(data.bytes()) + size() * most - 1) / (size() * most));
    for (int round = rounds; round-- > 0;) f(round * size() + rank(), rounds * size());
  }
  void store_to_all(std::span<const View> leaves, std::span<const View> places, std::span<const kernels::Merge> merges, int sum) {
    stores_.clear();
    const auto own = std::size_t(window_->rank());  // whose memory is the nearest
    for (std::size_t r = 0; r < places.size(); ++r) stores_.push_back({sum, places[(own + r) % places.size()].data});
    kernels::merge_sums(leaves, merges, stores_);
  }

  /// The machine's own sums of this rank's columns go to the machines that add them up.
  void add_between_machines(Pending& p) {
    const int here = machines_->mine();
    std::size_t bytes = 0;
    for_each_piece_here(p, [&](int, int machine, View piece) {
      int sums = machines_->sums(here);
      if (machine == here)
        for (int m = 0; m < machines_->count(); ++m) sums += m == here ? 0 : machines_->sums(m);
      bytes += piece.bytes() * std::size_t(sums);
    });
    p.scratch = take(bytes);
    std::byte* at = p.scratch.memory.get();
    for_each_piece_here(p, [&](int column, int machine, View piece) {
      auto leaves = window_->everyones(piece);
      stores_.clear();
      std::byte* first = at + (machine == here ? sums_before(here) * piece.bytes() : 0);
      for (int sum : machines_->local_sums()) stores_.push_back({sum, first + std::size_t(stores_.size()) * piece.bytes()});
      kernels::merge_sums(leaves, machines_->local_merges(), stores_);
      for (int m = 0; m < machines_->count(); ++m) {
        if (machine != here && m != machine) continue;
        const int peer = machines_->handler(m, column);
        const int count = machines_->sums(machine == here ? m : here);
        for (int i = 0; i < count; ++i, at += piece.bytes()) {
          if (m == here) continue;
          View view{at, piece.size, piece.dtype};
          machine == here ? receive(p, view, peer, tag(p)) : send(p, view, peer, tag(p));
        }
      }
    });
    p.next = [this, &p] { merge_machines(p); };
  }
  /// All sums of this rank's pieces are here: the rest of the tree, for this machine's ranks and for the other machines.
  void merge_machines(Pending& p) {
    const int here = machines_->mine();
    std::byte* at = p.scratch.memory.get();
    for_each_piece_here(p, [&](int column, int machine, View piece) {
      if (machine != here) {
        at += piece.bytes() * std::size_t(machines_->sums(here));
        receive(p, piece, machines_->handler(machine, column), tag(p));
        return;
      }
      std::vector<View> leaves;
      for (int i = 0, all = int(sums_before(machines_->count())); i < all; ++i, at += piece.bytes())
        leaves.push_back({at, piece.size, piece.dtype});
      store_to_all(leaves, window_->everyones(piece), machines_->merges(), machines_->result());
      for (int m = 0; m < machines_->count(); ++m)
        if (m != here) send(p, piece, machines_->handler(m, column), tag(p));
    });
    p.next = [this, &p] {
      for_each_piece_here(p, [&](int, int machine, View piece) {
        if (machine == machines_->mine()) return;
        for (View to : window_->everyones(piece)) copy(to, piece);
      });
      finish_in_window(p);
    };
  }
  /// Sums of the machines before this one.
  std::size_t sums_before(int machine) const {
    std::size_t before = 0;
    for (int m = 0; m < machine; ++m) before += std::size_t(machines_->sums(m));
    return before;
  }
  template <class F>
  void for_each_piece_here(const Pending& p, F f) {
    for (int column : columns_)
      for (int machine = 0; machine < machines_->count(); ++machine)
        f(column, machine, machines_->piece(p.data, column, machine));
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
  std::optional<MpiHandle> machine_comm_;  // with more than one rank
  MpiOptions options_;
  std::optional<Machines> machines_;  // with more than one rank
  std::vector<int> columns_;          // that this rank handles
  int spins_ = 1024;                  // looks before a waiting rank lets others have its core
  std::unique_ptr<SharedWindow> window_;
  bool refused_ = false;  // allocate() found no shared memory once
  std::vector<kernels::Merge> all_merges_;
  std::vector<kernels::Store> stores_;
  Timings timings_;
  int numbers_ = 0;
  bool working_ = false;  // for collectives, instead of waiting for them in join()
  double dealt_ = 0;      // seconds of work() that are already counted
  std::list<Pending> pending_;
  std::vector<MPI_Request> requests_;
  std::vector<Pending*> owners_;  // of requests_
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
  std::vector<Scratch> free_;
};

}  // namespace

void prepare_mpi() {
  const std::string limit = std::to_string(mpi_message + 1024);  // the library's headers included
  for (const char* name : {"OMPI_MCA_btl_tcp_eager_limit", "OMPI_MCA_btl_tcp_rndv_eager_limit"}) setenv(name, limit.c_str(), 0);
}

std::unique_ptr<Communicator> open_mpi_communicator(MpiOptions options) {
  return std::make_unique<MpiCommunicator>(duplicate(MPI_COMM_WORLD), options);
}

}  // namespace lockstep::parallel
