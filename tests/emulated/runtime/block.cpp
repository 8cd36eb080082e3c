#include "tests/emulated/runtime/block.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

#include "tests/emulated/runtime/fiber.h"
#include "tests/emulated/runtime/shared_memory.h"

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread dim3 blockDim;
__thread dim3 gridDim;

namespace emulated {
namespace {

/// One CUDA thread of the block.
struct Thread {
  enum class State : std::uint8_t { ready, at_barrier, in_exchange, ended } state = State::ready;
  bool begun = false;
  Fiber* fiber = nullptr;
  Here at = Here::current();
  Exchange* exchange = nullptr;
};

std::string place(const Here& at) {
  std::string file = at.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(at.line());
}

const char* operation_name(Operation operation) {
  constexpr const char* names[] = {"__syncwarp",       "__shfl_sync",   "__shfl_xor_sync", "__shfl_down_sync",
                                   "__shfl_up_sync", "__ballot_sync", "__any_sync",      "__all_sync"};
  return names[int(operation)];
}

bool same(const Here& a, const Here& b) {
  return a.line() == b.line() && (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

struct Warp {
  unsigned running = 0;  ///< lanes that have not ended
  int waiting = 0;       ///< in exchanges
};

/// A block that runs on this thread of the system. It is used again for the next one.
class Block {
 public:
  std::string run(const Launch& launch, Chance& chance);

  void wait_for_block(Here at) { wait(Thread::State::at_barrier, at); }
  void exchange(Exchange& e, Here at);
  int lane() const { return current_ % 32; }

 private:
  using State = Thread::State;
  void number_threads();
  void enter(int t);
  void wait(State, Here);
  void try_exchange(int t);
  std::string release_barrier();
  std::string who_waits() const;
  std::string name_of(int t) const;

  const Launch* launch_ = nullptr;
  std::function<void()> work_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> order_;
  std::vector<uint3> index_;  ///< of the threads, in a block of the size that follows
  dim3 indexed_{0, 0, 0};
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  int current_ = 0, ended_ = 0;
  std::string failure_;
};

// One for each thread of the system, which keeps it. A plain pointer is found without a call.
__thread Block* block __attribute__((tls_model("initial-exec")));

void Block::enter(int t) {
  Thread& thread = threads_[std::size_t(t)];
  if (!thread.begun) {
    if (idle_.empty()) idle_.push_back(fibers_.emplace_back(std::make_unique<Fiber>()).get());
    thread.fiber = idle_.back();
    idle_.pop_back();
    thread.fiber->begin(&work_);
    thread.begun = true;
  }
  current_ = t;
  threadIdx = index_[std::size_t(t)];
  thread.fiber->enter();
  if (thread.state != State::ended) return;
  idle_.push_back(thread.fiber);
  ++ended_;
  Warp& warp = warps_[std::size_t(t / 32)];
  warp.running &= ~(1u << t % 32);
  if (warp.waiting == 0) return;
  // Lanes that wait need not wait for this one any more.
  const int first = t / 32 * 32, end = std::min<int>(first + 32, int(threads_.size()));
  for (int other = first; other < end; ++other)
    if (threads_[std::size_t(other)].state == State::in_exchange) try_exchange(other);
}

void Block::wait(State state, Here at) {
  Thread& thread = threads_[std::size_t(current_)];
  thread.state = state;
  thread.at = at;
  thread.fiber->leave();
}

void Block::exchange(Exchange& e, Here at) {
  const unsigned self = 1u << lane();
  Thread& thread = threads_[std::size_t(current_)];
  if (!(e.mask & self)) {
    failure_ = place(at) + ": " + operation_name(e.operation) + " with a mask that leaves out the calling lane (" + name_of(current_) + ")";
    // For ever: a failed block is not entered again, and what its stacks hold is not destroyed. So no text may be left on one.
    thread.fiber->leave();
    std::abort();
  }
  thread.exchange = &e;
  thread.state = State::in_exchange;
  thread.at = at;
  ++warps_[std::size_t(current_ / 32)].waiting;
  try_exchange(current_);
  if (!failure_.empty() || thread.state == State::in_exchange) thread.fiber->leave();
}

/// Completes the exchange in which t takes part if all its lanes have come.
void Block::try_exchange(int t) {
  const Exchange& mine = *threads_[std::size_t(t)].exchange;
  const int first = t / 32 * 32;
  Warp& warp = warps_[std::size_t(t / 32)];
  if (warp.waiting < std::popcount(mine.mask & warp.running)) return;
  unsigned came = 0, votes = 0;
  Thread* lanes[32] = {};
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mine.mask >> lane & 1)) continue;
    const std::size_t other = std::size_t(first + lane);
    if (other >= threads_.size() || threads_[other].state == State::ended) continue;
    Thread& thread = threads_[other];
    if (thread.state != State::in_exchange || thread.exchange->mask != mine.mask ||
        thread.exchange->operation != mine.operation)
      return;
    lanes[lane] = &thread;
    came |= 1u << lane;
    votes |= unsigned(thread.exchange->vote) << lane;
  }
  std::uint64_t values[32] = {};
  for (int lane = 0; lane < 32; ++lane)
    if (lanes[lane]) values[lane] = lanes[lane]->exchange->value;
  for (int lane = 0; lane < 32; ++lane) {
    if (!lanes[lane]) continue;
    Exchange& e = *lanes[lane]->exchange;
    e.votes = votes;
    e.came = came;
    if (e.from != -1 && (e.from < 0 || e.from >= 32 || !(came >> e.from & 1))) {
      failure_ = place(lanes[lane]->at) + ": " + operation_name(e.operation) + " asks for the value of lane " + std::to_string(e.from) +
                 ", which takes no part (" + name_of(first + lane) + ")";
      return;
    }
    if (e.from != -1) e.value = values[e.from];
    lanes[lane]->state = State::ready;
    --warp.waiting;
  }
}

std::string Block::name_of(int t) const {
  const unsigned n = unsigned(t), x = blockDim.x, y = blockDim.y;
  auto three = [](unsigned a, unsigned b, unsigned c) {
    return "(" + std::to_string(a) + ", " + std::to_string(b) + ", " + std::to_string(c) + ")";
  };
  return "block " + three(blockIdx.x, blockIdx.y, blockIdx.z) + ", thread " + three(n % x, n / x % y, n / x / y);
}

std::string Block::who_waits() const {
  std::string text;
  const Thread* before = nullptr;
  int told = 0;
  for (std::size_t t = 0; t < threads_.size() && told < 4; ++t) {
    const Thread& thread = threads_[t];
    if (thread.state == State::ended || (before && before->state == thread.state && same(before->at, thread.at))) continue;
    text += "; " + name_of(int(t)) + " is at " + place(thread.at) + " in " +
            (thread.state == State::at_barrier ? "__syncthreads" : operation_name(thread.exchange->operation));
    before = &thread;
    ++told;
  }
  return text;
}

/// All that have not ended are at a barrier, or nothing can go on.
std::string Block::release_barrier() {
  const Thread* first = nullptr;
  for (Thread& thread : threads_) {
    if (thread.state == State::ended) continue;
    if (thread.state != State::at_barrier) return "some threads wait for others that do not come" + who_waits();
    if (!first) first = &thread;
    if (!same(thread.at, first->at)) return "threads of one block wait at different barriers" + who_waits();
  }
  for (Thread& thread : threads_)
    if (thread.state == State::at_barrier) thread.state = State::ready;
  return "";
}

void Block::number_threads() {
  const unsigned x = blockDim.x, y = blockDim.y, z = blockDim.z;
  if (indexed_.x == x && indexed_.y == y && indexed_.z == z) return;
  index_.clear();
  for (unsigned n = 0; n < x * y * z; ++n) index_.push_back({n % x, n / x % y, n / x / y});
  indexed_ = blockDim;
}

std::string Block::run(const Launch& launch, Chance& chance) {
  launch_ = &launch;
  const int size = int(launch.block.x * launch.block.y * launch.block.z);
  work_ = [this] {
    launch_->thread();
    threads_[std::size_t(current_)].state = State::ended;
  };
  number_threads();
  threads_.assign(std::size_t(size), {});
  warps_.assign(std::size_t(size + 31) / 32, {});
  for (int t = 0; t < size; ++t) warps_[std::size_t(t / 32)].running |= 1u << t % 32;
  idle_.clear();
  for (auto& fiber : fibers_) idle_.push_back(fiber.get());
  ended_ = 0;
  failure_.clear();
  chance.order(order_, size);
  while (ended_ < size) {
    bool moved = false;
    for (int t : order_) {
      if (threads_[std::size_t(t)].state != State::ready) continue;
      enter(t);
      if (!failure_.empty()) return failure_;
      moved = true;
    }
    if (moved) continue;
    if (std::string wrong = release_barrier(); !wrong.empty()) return wrong;
    chance.order(order_, size);
  }
  return "";
}

}  // namespace

std::uint64_t Chance::next() {  // SplitMix64
  std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

void Chance::order(std::vector<int>& numbers, int n) {
  numbers.resize(std::size_t(n));
  std::iota(numbers.begin(), numbers.end(), 0);
  const auto how = below(4);
  if (how == 1) std::reverse(numbers.begin(), numbers.end());
  if (how >= 2)
    for (std::size_t i = numbers.size(); i > 1; --i) std::swap(numbers[i - 1], numbers[below(i)]);
}

Chance& chance() {
  static Chance one = [] {
    const char* seed = std::getenv("CUDA_EMULATED_SEED");
    return Chance(seed ? std::strtoull(seed, nullptr, 10) : 1);
  }();
  return one;
}

std::string run(const Launch& launch) {
  thread_local std::unique_ptr<Block> kept;
  if (!kept) kept = std::make_unique<Block>();
  block = kept.get();
  Chance order(chance().next());
  gridDim = launch.grid;
  blockDim = launch.block;
  const SharedMemory shared(launch);
  const std::uint64_t x = launch.grid.x, y = launch.grid.y, blocks = x * y * launch.grid.z;
  const bool backwards = order.below(2);
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t b = backwards ? blocks - 1 - i : i;
    blockIdx = {unsigned(b % x), unsigned(b / x % y), unsigned(b / x / y)};
    shared.poison();
    std::string wrong = block->run(launch, order);
    if (wrong.empty() && shared.overstepped())
      wrong = "block " + std::to_string(b) + " wrote behind the " + std::to_string(launch.bytes) +
              " bytes of shared memory that it was given";
    if (!wrong.empty()) return std::string(launch.name) + ": " + wrong;
  }
  return "";
}

void wait_for_block(Here at) {
  block->wait_for_block(at);
}
void exchange(Exchange& e, Here at) {
  block->exchange(e, at);
}
int lane() {
  return block->lane();
}

}  // namespace emulated
