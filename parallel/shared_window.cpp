#include "parallel/shared_window.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "parallel/mpi_check.h"

namespace lockstep::parallel {

std::unique_ptr<SharedWindow> SharedWindow::open(MPI_Comm machine) {
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "counters in shared memory must not need a lock of one process");
  SharedMemory control = share_memory(machine, sizeof(Progress));
  return control ? std::unique_ptr<SharedWindow>(new SharedWindow(machine, std::move(control))) : nullptr;
}

SharedWindow::SharedWindow(MPI_Comm machine, SharedMemory control) : machine_(machine), control_(std::move(control)) {
  check_mpi(MPI_Comm_rank(machine, &rank_));
  check_mpi(MPI_Comm_size(machine, &size_));
}

Memory SharedWindow::allocate(std::size_t bytes) {
  SharedMemory memory = share_memory(machine_, bytes);
  if (!memory) return nullptr;
  Memory mine = std::exchange(memory.mine, nullptr);
  segments_.push_back({mine, std::move(memory)});
  return mine;
}

SharedWindow::Place SharedWindow::find(View view) {
  auto* data = static_cast<std::byte*>(view.data);
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    auto& [owner, memory] = segments_[i];
    std::byte* begin = memory.all[std::size_t(rank_)];
    if (!owner.expired() && data >= begin && data + view.bytes() <= begin + memory.bytes)
      return {&segments_[i], i, std::size_t(data - begin)};
  }
  return {};
}

bool SharedWindow::holds(View view) {
  return view.size > 0 && find(view).segment;
}

std::vector<View> SharedWindow::everyones(View view) {
  auto place = find(view);
  std::vector<View> all;
  all.reserve(std::size_t(size_));
  for (std::byte* begin : place.segment->memory.all) all.push_back({begin + place.offset, view.size, view.dtype});
  return all;
}

std::uint64_t SharedWindow::arrive(View view, int kind) {
  auto place = find(view);
  auto& mine = progress_of(rank_);
  std::uint64_t h = ++arrived_;
  for (std::uint64_t word : {std::uint64_t(place.index), std::uint64_t(place.offset), std::uint64_t(view.size),
                             std::uint64_t(view.dtype), std::uint64_t(kind)})
    h = (h ^ word) * 0x9E3779B97F4A7C15u + (h >> 29);
  mine.pieces[arrived_ % kept].store(h, std::memory_order_relaxed);
  mine.arrived.store(arrived_, std::memory_order_release);
  wake();
  return arrived_;
}

void SharedWindow::sleep_while(std::atomic<std::uint32_t>& sleeps) {
  static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));
  timespec most{0, 1'000'000};
  syscall(SYS_futex, &sleeps, FUTEX_WAIT, 1, &most, nullptr, 0);
}

void SharedWindow::wake() {
  std::atomic_thread_fence(std::memory_order_seq_cst);  // what was just said is seen before anybody is looked at
  for (int r = 0; r < size_; ++r) {
    auto& sleeps = progress_of(r).sleeps;
    if (r == rank_ || sleeps.load(std::memory_order_relaxed) == 0) continue;
    sleeps.store(0, std::memory_order_relaxed);
    syscall(SYS_futex, &sleeps, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  }
}

bool SharedWindow::may_work(std::uint64_t number) const {
  for (int r = 0; r < size_; ++r)
    if (progress_of(r).arrived.load(std::memory_order_acquire) < number) return false;
  return true;
}

void SharedWindow::check(std::uint64_t number) const {
  std::uint64_t mine = progress_of(rank_).pieces[number % kept].load(std::memory_order_relaxed);
  for (int r = 0; r < size_; ++r) {
    auto& theirs = progress_of(r);
    std::uint64_t means = theirs.pieces[number % kept].load(std::memory_order_acquire);
    bool known = theirs.arrived.load(std::memory_order_relaxed) < number + kept - 1;  // else a later one has taken its place
    require(Exit::diverged, !known || arrived_ >= number + kept - 1 || means == mine,
            "a collective on shared memory: rank {} of this machine means another piece than rank {}: the ranks are not running "
            "the same step",
            r, rank_);
  }
}

void SharedWindow::finish(std::uint64_t number) {
  auto& finished = progress_of(rank_).finished;
  std::uint64_t up_to = finished.load(std::memory_order_relaxed);
  if (number != up_to + 1) {
    early_.push_back(number);
    return;
  }
  ++up_to;
  while (std::erase(early_, up_to + 1) > 0) ++up_to;
  finished.store(up_to, std::memory_order_release);
  wake();
}

bool SharedWindow::all_finished(std::uint64_t number) const {
  for (int r = 0; r < size_; ++r)
    if (progress_of(r).finished.load(std::memory_order_acquire) < number) return false;
  return true;
}

}  // namespace lockstep::parallel
