#include "parallel/bucket_sizes.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels/memory.h"

namespace lockstep::parallel {
namespace {

constexpr std::int64_t smallest = 16 << 10, largest = 32 << 20;
constexpr double budget = 0.4;  // seconds
constexpr int rounds = 4;       // the first makes connections and plans
/// Small ones go one after another, so that what a network takes at once before it holds back is soon used up.
constexpr std::int64_t at_least = 1 << 20;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double slowest(Group& group, double mine) {
  std::string bytes(sizeof mine, '\0');
  std::memcpy(bytes.data(), &mine, sizeof mine);
  double most = 0;
  for (const std::string& theirs : group.gather(bytes)) {
    double one;
    std::memcpy(&one, theirs.data(), sizeof one);
    most = std::max(most, one);
  }
  return most;
}

}  // namespace

std::vector<AllReduceTime> time_all_reduce(Communicator& communicator, Group& group, const Queue& queue, DType dtype,
                                           std::int64_t most) {
  const std::int64_t element = std::int64_t(size_of(dtype));
  most = std::clamp(most, smallest, largest);
  Memory memory = communicator.allocate(std::size_t(most));
  std::vector<AllReduceTime> times;
  double spent = 0, last = 0;
  for (std::int64_t bytes = smallest; bytes <= most && spent + 2 * last < budget; bytes *= 2) {
    const View data{memory.get(), bytes / element, dtype};
    const std::int64_t calls = std::max<std::int64_t>(1, at_least / bytes);
    double best = last = 0;
    for (int round = 0; round < rounds; ++round) {
      kernels::fill(queue, data, 0);
      kernels::synchronize(queue);
      group.barrier();
      const double began = now();
      for (std::int64_t call = 0; call < calls; ++call) {
        communicator.all_reduce(queue, data);
        communicator.join(queue);
      }
      kernels::synchronize(queue);
      const double took = slowest(group, now() - began);  // the same number on every rank: all go on alike
      best = round <= 1 ? took : std::min(best, took);
      last += took;
    }
    times.push_back({bytes, best / double(calls)});
    spent += last;
  }
  return times;
}

BucketOptions bucket_sizes(const std::vector<AllReduceTime>& times, std::int64_t all) {
  require(!times.empty(), "bucket_sizes: nothing was measured");
  auto rate = [](const AllReduceTime& t) { return double(t.bytes) / std::max(t.seconds, 1e-9); };
  const double best = rate(*std::ranges::max_element(times, {}, rate));
  auto reaches = [&](double share) {
    return std::ranges::find_if(times, [&](const AllReduceTime& t) { return rate(t) >= share * best; })->bytes;
  };
  const std::int64_t least = std::max<std::int64_t>(all / 64, 1), most = std::max<std::int64_t>(all / 8, 256 << 10);
  const std::int64_t middle = std::clamp(reaches(0.9), least, most), end = std::min(reaches(0.5), middle);
  return {.head = end, .middle = middle, .tail = end};
}

}  // namespace lockstep::parallel
