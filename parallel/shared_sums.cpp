#include "parallel/shared_sums.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "parallel/mpi_check.h"
#include "parallel/tree.h"

namespace lockstep::parallel {
namespace {

/// Bytes that are added at a time: small enough that a block's partial sums stay in the core's own cache.
constexpr std::int64_t block_bytes = 64 << 10;

}  // namespace

std::unique_ptr<SharedSums> SharedSums::open(MPI_Comm comm, Add add) {
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "counters in shared memory must not need a lock of one process");
  SharedMemory control = share_memory(comm, sizeof(Progress));
  return control ? std::unique_ptr<SharedSums>(new SharedSums(comm, std::move(control), std::move(add))) : nullptr;
}

SharedSums::SharedSums(MPI_Comm comm, SharedMemory control, Add add)
    : comm_(comm), control_(std::move(control)), add_(std::move(add)) {
  check_mpi(MPI_Comm_rank(comm, &rank_));
  check_mpi(MPI_Comm_size(comm, &size_));
  scratch_ = host_memory(std::size_t(levels_of_leaves(size_) * block_bytes));
}

Memory SharedSums::allocate(std::size_t bytes) {
  SharedMemory memory = share_memory(comm_, bytes);
  if (!memory) return nullptr;
  Memory mine = std::exchange(memory.mine, nullptr);
  segments_.push_back({mine, std::move(memory)});
  return mine;
}

SharedSums::Place SharedSums::find(View view) {
  auto* data = static_cast<std::byte*>(view.data);
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    auto& [owner, memory] = segments_[i];
    std::byte* begin = memory.all[std::size_t(rank_)];
    if (!owner.expired() && data >= begin && data + view.bytes() <= begin + memory.bytes)
      return {&segments_[i], i, std::size_t(data - begin)};
  }
  return {};
}

bool SharedSums::holds(View view) {
  return view.size > 0 && find(view).segment;
}

namespace {
std::uint64_t piece(std::uint64_t sum, std::size_t segment, std::size_t offset, View view) {
  std::uint64_t h = sum;
  for (std::uint64_t word : {std::uint64_t(segment), std::uint64_t(offset), std::uint64_t(view.size), std::uint64_t(view.dtype)})
    h = (h ^ word) * 0x9E3779B97F4A7C15u + (h >> 29);
  return h;
}
}  // namespace

std::uint64_t SharedSums::arrive(View view) {
  auto place = find(view);
  auto& mine = progress_of(rank_);
  ++sums_;
  mine.pieces[sums_ % 64].store(piece(sums_, place.index, place.offset, view), std::memory_order_relaxed);
  mine.arrived.store(sums_, std::memory_order_release);
  return sums_;
}

bool SharedSums::may_add(std::uint64_t sum) const {
  if (progress_of(rank_).added.load(std::memory_order_relaxed) != sum - 1) return false;  // others arrived while we looked
  for (int r = 0; r < size_; ++r)
    if (progress_of(r).arrived.load(std::memory_order_acquire) < sum) return false;
  return true;
}

bool SharedSums::all_added(std::uint64_t sum) const {
  for (int r = 0; r < size_; ++r)
    if (progress_of(r).added.load(std::memory_order_acquire) < sum) return false;
  return true;
}

void SharedSums::add(std::uint64_t sum, View view) {
  auto place = find(view);
  for (int r = 0; r < size_; ++r) {
    auto& theirs = progress_of(r);
    std::uint64_t means = theirs.pieces[sum % 64].load(std::memory_order_acquire);
    bool known = theirs.arrived.load(std::memory_order_relaxed) < sum + 63;  // else a later sum has taken its place
    require(Exit::diverged, !known || means == piece(sum, place.index, place.offset, view),
            "all_reduce: rank {} sums another piece of memory than rank {}: the ranks are not running the same step", r, rank_);
  }
  std::int64_t begin = view.size * rank_ / size_, end = view.size * (rank_ + 1) / size_,
               element = std::int64_t(size_of(view.dtype));
  std::vector<View> leaves(std::size_t(size_), View{});
  for (std::int64_t at = begin; at < end; at += block_bytes / element) {
    std::int64_t count = std::min(block_bytes / element, end - at);
    for (int r = 0; r < size_; ++r)
      leaves[std::size_t(r)] =
          View{place.segment->memory.all[std::size_t(r)] + place.offset, view.size, view.dtype}.slice(at, count);
    View mine = leaves[std::size_t(rank_)];
    int left_over = size_ - 1;
    for_each_merge(size_, [&](int left, int right) {
      View level{scratch_.get() + level_of_leaf(left) * block_bytes, count, view.dtype};
      View y = --left_over == 0 ? mine : level;
      add_(y, leaves[std::size_t(left)], leaves[std::size_t(right)]);
      leaves[std::size_t(left)] = y;
    });
    for (int r = 0; r < size_; ++r)
      if (r != rank_)
        std::memcpy(place.segment->memory.all[std::size_t(r)] + place.offset + at * element, mine.data,
                    std::size_t(count * element));
  }
  progress_of(rank_).added.store(sum, std::memory_order_release);
}

}  // namespace lockstep::parallel
