#include <algorithm>
#include <list>
#include <map>
#include <thread>

#include "parallel/open_communicator.h"
#include "parallel/staging.h"
#include "parallel/timings.h"

namespace lockstep::parallel {
namespace {

/// Every collective is fetched to the host, done there by another communicator, and brought back. The other one is called in the
/// order of the calls here, so that collectives match on all ranks whenever their copies end. Memory from allocate() has a mirror
/// in the other's memory, where ranks of one machine add in place; all else goes through page-locked memory.
class HostStagedCommunicator final : public Communicator {
 public:
  HostStagedCommunicator(std::unique_ptr<Communicator> host, std::unique_ptr<Staging> staging)
      : host_(std::move(host)), staging_(std::move(staging)), name_(std::string("host-staged, ") + host_->name()) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  const char* name() const override { return name_.c_str(); }

  Ticket all_reduce(const Queue& after, View data, Reduction how) override {
    return start(after, data, data, [&](Pending& p) {
      View at = on_host(p, data);
      p.post = [this, at, how] { return host_->all_reduce(queue_, at, how); };
      return std::pair{at, at};
    });
  }
  Ticket reduce_scatter(const Queue& after, View out, View in) override {
    require(in.size == out.size * size() && in.dtype == out.dtype, "reduce_scatter: {} elements into {} on each of {} ranks",
            in.size, out.size, size());
    return start(after, in, out, [&](Pending& p) {
      View from = on_host(p, in), to = piece_of(p, out, in, from);
      p.post = [this, from, to] { return host_->reduce_scatter(queue_, to, from); };
      return std::pair{from, to};
    });
  }
  Ticket all_gather(const Queue& after, View out, View in) override {
    require(out.size == in.size * size() && in.dtype == out.dtype, "all_gather: {} elements of each of {} ranks into {}", in.size,
            size(), out.size);
    return start(after, in, out, [&](Pending& p) {
      View to = on_host(p, out), from = piece_of(p, in, out, to);
      p.post = [this, from, to] { return host_->all_gather(queue_, to, from); };
      return std::pair{from, to};
    });
  }
  Ticket all_to_all(const Queue& after, View out, View in) override {
    require(out.size == in.size && in.dtype == out.dtype && in.size % size() == 0,
            "all_to_all: {} elements into {} among {} ranks", in.size, out.size, size());
    return start(after, in, out, [&](Pending& p) {
      View from = on_host(p, in), to = on_host(p, out);
      p.post = [this, from, to] { return host_->all_to_all(queue_, to, from); };
      return std::pair{from, to};
    });
  }
  Ticket broadcast(const Queue& after, View data, int root) override {
    View nothing = data.slice(0, 0);
    bool sends = rank() == root;
    return start(after, sends ? data : nothing, sends ? nothing : data, [&](Pending& p) {
      View at = on_host(p, data);
      p.post = [this, at, root] { return host_->broadcast(queue_, at, root); };
      return std::pair{at, at};
    });
  }
  Ticket send(const Queue& after, View data, int to) override {
    return start(after, data, data.slice(0, 0), [&](Pending& p) {
      View at = on_host(p, data);
      p.post = [this, at, to] { return host_->send(queue_, at, to); };
      return std::pair{at, at};
    });
  }
  Ticket receive(const Queue& after, View data, int from) override {
    return start(after, data.slice(0, 0), data, [&](Pending& p) {
      View at = on_host(p, data);
      p.post = [this, at, from] { return host_->receive(queue_, at, from); };
      return std::pair{at, at};
    });
  }

  void progress() override {
    if (pending_.empty()) return;
    double begun = now();
    Ticket oldest = pending_.front().ticket;
    advance();
    worked(oldest) += now() - begun;
  }
  void join(const Queue& queue) override {
    auto on_the_way = [](const Pending& p) { return p.stage != Stage::bringing; };
    while (std::ranges::any_of(pending_, on_the_way))
      if (!advance()) std::this_thread::yield();
    staging_->join(queue);
  }
  Ticket mark(const Queue& queue) override {
    worked(next_) = 0;
    staging_->mark(next_, queue);
    return next_++;
  }
  Timing timing(Ticket ticket) override {
    require(ticket >= 0 && ticket < next_ && ticket >= next_ - timings_kept, "timing: collective {} is not among the latest {}",
            ticket, timings_kept);
    Timing timing = staging_->timing(ticket);
    timing.worked = worked(ticket);
    return timing;
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    auto part = host_->split(color, key);
    return part ? std::make_unique<HostStagedCommunicator>(std::move(part), staging_->another()) : nullptr;
  }
  /// The mirror is made by the first collective on the memory: weights and moments have none.
  Memory allocate(std::size_t bytes) override {
    Memory memory = staging_->device(bytes);
    (*mirrors_)[memory.get()] = {bytes, nullptr};
    return Memory(memory.get(), [memory, mirrors = mirrors_](std::byte* p) { mirrors->erase(p); });
  }

 private:
  enum class Stage : std::uint8_t { fetching, talking, bringing };
  struct Pending {
    Ticket ticket = 0, talk = 0;
    Stage stage = Stage::fetching;
    std::function<Ticket()> post = {};  // calls the other communicator
    View result = {};
    const void* from = nullptr;
    std::vector<Memory> scratch = {};
  };
  struct Mirror {
    std::size_t bytes = 0;
    Memory host;
  };

  /// `plan` finds the host's places of what is fetched and what is brought, and sets `post`.
  template <class Plan>
  Ticket start(const Queue& after, View fetched, View brought, Plan plan) {
    double begun = now();
    Pending& p = pending_.emplace_back();
    p.ticket = next_++;
    worked(p.ticket) = 0;
    staging_->begin(p.ticket, after);
    auto [from, to] = plan(p);
    p.result = brought;
    p.from = to.data;
    staging_->fetch(p.ticket, from.data, fetched);
    Ticket ticket = p.ticket, oldest = pending_.front().ticket;
    advance();
    worked(oldest) += now() - begun;
    return ticket;
  }
  /// Looks once at everything that is on its way; false when nothing has moved.
  bool advance() {
    bool moved = false, in_order = true;
    host_->progress();
    for (auto p = pending_.begin(); p != pending_.end();) {
      if (p->stage == Stage::fetching && in_order && staging_->fetched(p->ticket)) {
        p->talk = p->post();
        p->stage = Stage::talking;
        moved = true;
      }
      if (p->stage == Stage::talking && host_->timing(p->talk).finished > 0) {
        staging_->bring(p->result, p->from);
        staging_->end(p->ticket);
        p->stage = Stage::bringing;
        moved = true;
      }
      in_order = in_order && p->stage != Stage::fetching;
      if (p->stage == Stage::bringing && staging_->ended(p->ticket))
        p = pending_.erase(p);
      else
        ++p;
    }
    return moved;
  }

  /// The host's place of a view: in the mirror of its memory, else in memory of this collective's own.
  View on_host(Pending& p, View data) {
    auto* at = static_cast<std::byte*>(data.data);
    auto after = mirrors_->upper_bound(at);
    if (after != mirrors_->begin()) {
      auto& [begin, mirror] = *std::prev(after);
      if (data.size > 0 && at + data.bytes() <= begin + mirror.bytes) {
        if (!mirror.host) mirror.host = staging_->lock(host_->allocate(mirror.bytes), mirror.bytes);
        return {mirror.host.get() + (at - begin), data.size, data.dtype};
      }
    }
    p.scratch.push_back(staging_->host(data.bytes()));
    return {p.scratch.back().get(), data.size, data.dtype};
  }
  /// The same for a piece of `whole`, which is at `host`, or for a view of its own.
  View piece_of(Pending& p, View piece, View whole, View host) {
    auto *at = static_cast<std::byte*>(piece.data), *begin = static_cast<std::byte*>(whole.data);
    if (at < begin || at + piece.bytes() > begin + whole.bytes()) return on_host(p, piece);
    return {static_cast<std::byte*>(host.data) + (at - begin), piece.size, piece.dtype};
  }
  double& worked(Ticket ticket) { return worked_[std::size_t(ticket % timings_kept)]; }

  std::unique_ptr<Communicator> host_;
  std::unique_ptr<Staging> staging_;
  std::string name_;
  Queue queue_;  // the host's
  std::list<Pending> pending_;
  std::shared_ptr<std::map<std::byte*, Mirror>> mirrors_ = std::make_shared<std::map<std::byte*, Mirror>>();  // by first byte
  Ticket next_ = 0;
  std::vector<double> worked_ = std::vector<double>(std::size_t(timings_kept));
};

}  // namespace

std::unique_ptr<Communicator> open_host_staged_communicator(const Queue& queue, std::unique_ptr<Communicator> host) {
  return std::make_unique<HostStagedCommunicator>(std::move(host), queue.on_gpu ? open_cuda_staging(queue) : open_cpu_staging());
}

}  // namespace lockstep::parallel
