// Ranks on GPUs: collectives through the host and through NCCL, and data parallelism on them. Without a GPU the way through the
// host runs on CPU memory, so that all but the copies themselves is tested anywhere.
#include <gtest/gtest.h>

#include "kernels/memory.h"
#include "tests/parallel/net.h"

namespace lockstep::parallel {
namespace {

using test::Net;

enum class Way { host_staged_cpu, host_staged_gpu, nccl };
std::string name_of_way(Way way) {
  return way == Way::host_staged_cpu ? "HostStagedOnCpu" : way == Way::host_staged_gpu ? "HostStagedOnGpu" : "Nccl";
}

const std::vector<std::int64_t> sizes = {0, 1, 3, 128, 1001, 70001};
const std::vector<DType> types = {DType::f32, DType::bf16, DType::f16, DType::i32};

/// What rank r holds at element i of exchange k: known to everybody, wide in magnitude, so that the order of a sum shows.
float value_of(int k, int r, std::int64_t i, DType dtype) {
  auto word = random_word({std::uint64_t(k), 0, 0, std::uint32_t(r)}, std::uint64_t(i));
  if (dtype == DType::i32) return float(int(word % 20001) - 10000);
  float value = (to_uniform(word) - 0.5f) * float(1 << (word % 11));
  return test::rounded(dtype, value);
}
std::vector<float> values_of(int k, int r, std::int64_t size, DType dtype) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < size; ++i) values.push_back(value_of(k, r, i, dtype));
  return values;
}
/// The sum in the documented order: a stack of partial sums that merges like a binary counter, each rounded to the type.
float tree_sum(int k, int ranks, std::int64_t i, DType dtype) {
  std::vector<std::pair<float, int>> stack;
  auto merge = [&] {
    auto right = stack.back();
    stack.pop_back();
    float sum = stack.back().first + right.first;
    stack.back() = {test::rounded(dtype, sum), right.second + 1};
  };
  for (int r = 0; r < ranks; ++r) {
    stack.push_back({value_of(k, r, i, dtype), 0});
    while (stack.size() > 1 && stack[stack.size() - 2].second == stack.back().second) merge();
  }
  while (stack.size() > 1) merge();
  return stack[0].first;
}
std::vector<float> sums_of(int k, int ranks, std::int64_t size, DType dtype, std::int64_t first = 0) {
  std::vector<float> sums;
  for (std::int64_t i = 0; i < size; ++i) sums.push_back(tree_sum(k, ranks, first + i, dtype));
  return sums;
}

class DevicesTest : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    group = open_mpi_group();
    rank = group->rank(), ranks = group->size();
    if (GetParam() == Way::host_staged_cpu) {
      device = std::make_unique<Device>();
      comm = open_host_staged_communicator(device->queue(), open_mpi_communicator());
      return;
    }
    int gpus = Device::cuda_count();
    if (gpus == 0) GTEST_SKIP() << "no GPU is visible to this process";
    if (GetParam() == Way::nccl && gpus < group->node_size())
      GTEST_SKIP() << "NCCL wants a GPU for each rank, and " << group->node_size() << " ranks share " << gpus;
    device = std::make_unique<Device>(DeviceKind::cuda, group->node_rank() % gpus);
    comm = GetParam() == Way::nccl ? open_nccl_communicator(*group, queue())
                                   : open_host_staged_communicator(queue(), open_mpi_communicator());
  }
  const Queue& queue() { return device->queue(); }
  Tensor tensor(const std::vector<float>& values, DType dtype) {
    if (dtype == DType::i32) return test::make_indices(*device, {std::int64_t(values.size())}, {values.begin(), values.end()});
    return test::make_tensor(*device, {std::int64_t(values.size())}, values, dtype);
  }
  Tensor mine(int k, std::int64_t size, DType dtype) { return tensor(values_of(k, rank, size, dtype), dtype); }
  Tensor empty(std::int64_t size, DType dtype) { return tensor(std::vector<float>(std::size_t(size), -77.f), dtype); }
  /// NCCL adds in an order of its own unless told otherwise.
  void expect_sums(const std::vector<float>& got, const std::vector<float>& expected, DType dtype, bool exact = false) {
    if (exact || GetParam() != Way::nccl || dtype == DType::i32)
      EXPECT_EQ(got, expected);
    else
      EXPECT_LE(test::relative_norm(got, expected), is_half(dtype) ? 1e-2 : 1e-5);
  }

  std::unique_ptr<Group> group;
  std::unique_ptr<Device> device;
  std::unique_ptr<Communicator> comm;
  int rank = 0, ranks = 1;
};
INSTANTIATE_TEST_SUITE_P(Ways, DevicesTest, testing::Values(Way::host_staged_cpu, Way::host_staged_gpu, Way::nccl),
                         [](auto& info) { return name_of_way(info.param); });

TEST_P(DevicesTest, AllReduce) {
  int k = 0;
  for (auto how : {Reduction::exact, Reduction::fast})
    for (auto dtype : types)
      for (auto size : sizes) {
        Tensor t = mine(++k, size, dtype);
        auto ticket = comm->all_reduce(queue(), t.view(), how);
        comm->join(queue());
        expect_sums(download(queue(), t), sums_of(k, ranks, size, dtype), dtype, how == Reduction::exact);
        Timing timing = comm->timing(ticket);
        EXPECT_GT(timing.started, 0);
        EXPECT_GE(timing.finished, timing.started);
        EXPECT_GE(timing.worked, 0);
      }
}

TEST_P(DevicesTest, ReduceScatter) {
  int k = 100;
  for (auto dtype : types)
    for (auto size : sizes) {
      Tensor in = mine(++k, size * ranks, dtype), out = empty(size, dtype);
      auto expected = sums_of(k, ranks, size, dtype, size * rank);
      comm->reduce_scatter(queue(), out.view(), in.view());
      comm->join(queue());
      expect_sums(download(queue(), out), expected, dtype);
      EXPECT_EQ(download(queue(), in), values_of(k, rank, size * ranks, dtype)) << "the input must stay";
      View slice = in.view().slice(size * rank, size);
      comm->reduce_scatter(queue(), slice, in.view());
      comm->join(queue());
      expect_sums(download(queue(), slice), expected, dtype);
    }
}

TEST_P(DevicesTest, AllGatherAndAllToAll) {
  int k = 200;
  for (auto dtype : types)
    for (auto size : sizes) {
      Tensor in = mine(++k, size, dtype), out = empty(size * ranks, dtype), place = empty(size * ranks, dtype);
      std::vector<float> everyone, slices;
      for (int r = 0; r < ranks; ++r) {
        auto theirs = values_of(k, r, size, dtype), all = values_of(k + 100, r, size * ranks, dtype);
        everyone.insert(everyone.end(), theirs.begin(), theirs.end());
        slices.insert(slices.end(), all.begin() + size * rank, all.begin() + size * (rank + 1));
      }
      View own = place.view().slice(size * rank, size);
      if (size > 0) kernels::copy(queue(), own, in.view());  // not waited for
      comm->all_gather(queue(), out.view(), in.view());
      comm->all_gather(queue(), place.view(), own);
      Tensor all = mine(k + 100, size * ranks, dtype), swapped = empty(size * ranks, dtype);
      comm->all_to_all(queue(), swapped.view(), all.view());
      comm->join(queue());
      EXPECT_EQ(download(queue(), out), everyone);
      EXPECT_EQ(download(queue(), place), everyone);
      EXPECT_EQ(download(queue(), swapped), slices);
    }
}

// Parts of any sizes, one of them empty, with room between them that nobody may touch.
TEST_P(DevicesTest, PartsAreReducedAndGathered) {
  int k = 1000;
  for (auto how : {Reduction::exact, Reduction::fast})
    for (auto dtype : types)
      for (auto size : sizes) {
        std::vector<std::int64_t> begins, counts;
        std::int64_t total = 3;
        for (int r = 0; r < ranks; ++r) {
          begins.push_back(total);
          counts.push_back(r == 1 && ranks > 2 ? 0 : size + 7 * r);
          total += counts.back() + 2;
        }
        Tensor t = mine(++k, total, dtype);
        std::vector<View> parts;
        for (int r = 0; r < ranks; ++r) parts.push_back(t.view().slice(begins[std::size_t(r)], counts[std::size_t(r)]));
        comm->reduce_parts(queue(), parts, how);
        comm->join(queue());
        auto before = values_of(k, rank, total, dtype), now = download(queue(), t);
        auto part_of = [&](const std::vector<float>& all, int r) {
          auto at = all.begin() + begins[std::size_t(r)];
          return std::vector<float>(at, at + counts[std::size_t(r)]);
        };
        auto sums = [&](int r) { return sums_of(k, ranks, counts[std::size_t(r)], dtype, begins[std::size_t(r)]); };
        expect_sums(part_of(now, rank), sums(rank), dtype, how == Reduction::exact);
        for (int r = 0; r < ranks; ++r)  // may have become anything
          if (r != rank && counts[std::size_t(r)] > 0) kernels::fill(queue(), parts[std::size_t(r)], -77);
        comm->gather_parts(queue(), parts);
        comm->join(queue());
        now = download(queue(), t);
        for (int r = 0; r < ranks; ++r) expect_sums(part_of(now, r), sums(r), dtype, how == Reduction::exact);
        for (std::int64_t i = 0, r = 0; i < total; ++i) {
          if (r < ranks && i == begins[std::size_t(r)]) i += counts[std::size_t(r++)];
          EXPECT_EQ(now[std::size_t(i)], before[std::size_t(i)]) << "between parts";
        }
      }
}

TEST_P(DevicesTest, BroadcastAndMessages) {
  int k = 400;
  for (int root = 0; root < ranks; ++root)
    for (auto size : sizes) {
      Tensor t = mine(++k, size, DType::f32);
      comm->broadcast(queue(), t.view(), root);
      comm->join(queue());
      EXPECT_EQ(download(queue(), t), values_of(k, root, size, DType::f32));
    }
  if (ranks == 1 || GetParam() == Way::nccl) return;  // NCCL wants both directions in one group
  int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks;
  std::vector<Tensor> in, out;
  for (int m = 0; m < 6; ++m) {
    out.push_back(mine(500 + m, 5000 * (m % 3) + m, DType::f32));
    in.push_back(empty(5000 * (m % 3) + m, DType::f32));
    comm->send(queue(), out.back().view(), next);
    comm->receive(queue(), in.back().view(), previous);
  }
  comm->join(queue());
  for (int m = 0; m < 6; ++m)
    EXPECT_EQ(download(queue(), in[std::size_t(m)]), values_of(500 + m, previous, 5000 * (m % 3) + m, DType::f32));
}

// Pieces of communicator memory, written by the queue right before and read by it right after, many at once, again and again.
TEST_P(DevicesTest, CollectivesRunBehindTheQueuesWorkAndBeforeIt) {
  constexpr std::int64_t piece = 5003, pieces = 20;
  Memory memory = comm->allocate(piece * pieces * 4);
  View all{memory.get(), piece * pieces, DType::f32};
  for (float zero : download(queue(), all)) ASSERT_EQ(zero, 0);
  for (int round = 0; round < 4; ++round) {
    std::vector<Tensor> values;
    std::vector<std::int64_t> tickets;
    for (int p = 0; p < pieces; ++p) {
      values.push_back(mine(600 + p, piece, DType::f32));
      kernels::scale(queue(), all.slice(p * piece, piece), values.back().view(), 2);
      tickets.push_back(comm->all_reduce(queue(), all.slice(p * piece, piece), Reduction::exact));
      if ((p + round) % (rank + 2) == 0) comm->progress();
    }
    comm->join(queue());
    kernels::scale(queue(), all, all, 0.25f);
    auto got = download(queue(), all);
    for (int p = 0; p < pieces; ++p) {
      auto expected = sums_of(600 + p, ranks, piece, DType::f32);
      for (float& x : expected) x /= 2;
      EXPECT_EQ(std::vector<float>(got.begin() + p * piece, got.begin() + (p + 1) * piece), expected);
    }
  }
}

TEST_P(DevicesTest, MemoryThatIsGivenBackIsForgotten) {
  for (int round = 0; round < 4; ++round) {
    Memory memory = comm->allocate(40000);
    View view{memory.get(), 10000, DType::f32};
    kernels::copy(queue(), view, mine(700 + round, 10000, DType::f32).view());
    comm->all_reduce(queue(), view, Reduction::exact);
    comm->join(queue());
    EXPECT_EQ(download(queue(), view), sums_of(700 + round, ranks, 10000, DType::f32));
    memory.reset();
    Tensor own = mine(710 + round, 10000, DType::f32);
    comm->all_reduce(queue(), own.view(), Reduction::exact);
    comm->join(queue());
    EXPECT_EQ(download(queue(), own), sums_of(710 + round, ranks, 10000, DType::f32));
  }
}

TEST_P(DevicesTest, Split) {
  auto half = comm->split(rank % 2, -rank);
  Tensor a = mine(800, 1001, DType::i32), b = mine(801, 1001, DType::i32);
  half->all_reduce(queue(), a.view());  // both communicators at once
  comm->all_reduce(queue(), b.view());
  comm->join(queue());
  half->join(queue());
  float expected = 0;
  for (int r = rank % 2; r < ranks; r += 2) expected += value_of(800, r, 1000, DType::i32);
  EXPECT_EQ(download(queue(), a)[1000], expected);
  EXPECT_EQ(download(queue(), b)[1000], tree_sum(801, ranks, 1000, DType::i32));
  auto only_first = comm->split(rank == 0 ? 0 : -1, 0);
  EXPECT_EQ(bool(only_first), rank == 0);
}

TEST_P(DevicesTest, MistakesAreNamed) {
  Queue elsewhere;
  elsewhere.on_gpu = !queue().on_gpu;
  Tensor a = empty(8, DType::f32), b = empty(9, DType::f32);
  EXPECT_THROW(comm->all_gather(queue(), b.view(), a.view().slice(0, 7)), Error);
  EXPECT_THROW(comm->reduce_scatter(queue(), b.view(), a.view()), Error);
  EXPECT_THROW(comm->all_to_all(queue(), b.view(), a.view()), Error);
  EXPECT_THROW(comm->timing(1 << 20), Error);
  if (GetParam() == Way::host_staged_cpu) return;
  EXPECT_THROW(comm->all_reduce(elsewhere, a.view()), Error);
}

// ---- data parallelism on these ranks: one rank with all lanes on the same device is the reference

std::vector<float> gradients_of(Device& device, Communicator& communicator, Group& group, Net::Options model,
                                DataParallel::Options options) {
  Net net(device, model);
  DataParallel strategy(net.set, communicator, group, options);
  net.set.initialise(1);
  for (int step = 0; step < 2; ++step) test::run_step(net, strategy, options.lanes);
  return test::gradients(net);
}

TEST_P(DevicesTest, ExactGradientsAreThoseOfOneRankToTheBit) {
  auto solo = open_solo_communicator(device.get());
  auto alone = solo_group();
  for (Net::Options model : {Net::Options{.tied = true, .unused = true}, Net::Options{.tied = true, .dtype = DType::bf16}})
    for (int lanes : ranks == 3 ? std::vector{3, 6} : std::vector{4, 8})
      for (std::int64_t bucket : {std::int64_t(1), std::int64_t(10000), std::int64_t(1) << 30})
        for (bool overlap : {true, false}) {
          DataParallel::Options options{.lanes = lanes, .reduction = Reduction::exact, .overlap = overlap};
          options.gradient = model.dtype;
          options.buckets = {.head = bucket, .middle = bucket, .tail = bucket};
          EXPECT_EQ(gradients_of(*device, *comm, *group, model, options), gradients_of(*device, *solo, *alone, model, options))
              << lanes << " lanes, buckets of " << bucket;
        }
}

TEST_P(DevicesTest, GradientsAreThoseOfTheProcessorsTape) {
  Device cpu;
  Net::Options model{.tied = true, .unused = true};
  int lanes = 2 * ranks;
  auto expected = test::serial_gradients(cpu, model, 0, lanes, lanes);
  for (auto how : {Reduction::fast, Reduction::exact})
    EXPECT_LE(test::relative_norm(gradients_of(*device, *comm, *group, model, {.lanes = lanes, .reduction = how}), expected),
              1e-5);
}

// ---- a rank that never comes

/// Says that there are two ranks; the other one is nowhere.
class HalfGroup final : public Group {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  int node() const override { return 0; }
  int node_rank() const override { return 0; }
  int node_size() const override { return 2; }
  void barrier() override {}
  std::string broadcast(const std::string& bytes, int) override { return bytes; }
  std::vector<std::string> gather(const std::string& bytes) override { return {bytes, bytes}; }
  double sum(double value) override { return value; }
  bool all(bool value) override { return value; }
};

TEST(Nccl, ARankThatNeverComesIsAnErrorInTime) {
  auto group = open_mpi_group();
  if (Device::cuda_count() == 0) GTEST_SKIP() << "no GPU is visible to this process";
  if (group->size() > 1) GTEST_SKIP() << "one rank is enough";
  Device device(DeviceKind::cuda);
  HalfGroup half;
  try {
    open_nccl_communicator(half, device.queue(), {.meeting = 3});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::peer_lost);
    EXPECT_NE(std::string(error.what()).find("within 3 s"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace lockstep::parallel
