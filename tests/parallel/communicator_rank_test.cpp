// Every collective on every type and awkward sizes, against what each rank can compute alone.
#include <gtest/gtest.h>
#include <mpi.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>

#include "kernels/base/random.h"
#include "parallel/open_communicator.h"
#include "tests/support/devices.h"

namespace lockstep::parallel {
namespace {

const Queue queue;
const std::vector<std::int64_t> sizes = {0, 1, 2, 3, 7, 128, 1001, 70001, 300000};
const std::vector<DType> types = {DType::f32, DType::bf16, DType::f16, DType::i32};

struct Buffer {
  Memory memory;
  View view;
  Buffer(std::int64_t size, DType dtype) : Buffer(size, dtype, host_memory(std::size_t(size) * 4)) {}
  Buffer(std::int64_t size, DType dtype, Memory where) : memory(std::move(where)), view{memory.get(), size, dtype} {}
  float at(std::int64_t i) const {
    switch (view.dtype) {
      case DType::f32: return view.as<float>()[i];
      case DType::bf16: return view.as<bf16>()[i];
      case DType::f16: return view.as<f16>()[i];
      default: return float(view.as<std::int32_t>()[i]);
    }
  }
  void set(std::int64_t i, float value) {
    switch (view.dtype) {
      case DType::f32: view.as<float>()[i] = value; break;
      case DType::bf16: view.as<bf16>()[i] = bf16(value); break;
      case DType::f16: view.as<f16>()[i] = f16(value); break;
      default: view.as<std::int32_t>()[i] = std::int32_t(value);
    }
  }
};

/// What rank r holds at element i of exchange number k: known to everybody. Wide in magnitude, so that the order of a sum shows.
float value_of(int k, int r, std::int64_t i, DType dtype) {
  auto word = random_word({std::uint64_t(k), 0, 0, std::uint32_t(r)}, std::uint64_t(i));
  if (dtype == DType::i32) return float(int(word % 20001) - 10000);
  return (to_uniform(word) - 0.5f) * float(1 << (word % 11));
}
void fill(Buffer& b, int k, int r) {
  for (std::int64_t i = 0; i < b.view.size; ++i) b.set(i, value_of(k, r, i, b.view.dtype));
}

/// The sum over ranks in the documented order: a stack of partial sums, merged like a binary counter, each rounded to the type.
float tree_sum(int k, int ranks, std::int64_t i, DType dtype) {
  auto round = [&](float x) { return test::rounded(dtype, x); };
  std::vector<std::pair<float, int>> stack;  // a sum and its height
  for (int r = 0; r < ranks; ++r) {
    stack.push_back({round(value_of(k, r, i, dtype)), 0});
    while (stack.size() > 1 && stack[stack.size() - 2].second == stack.back().second) {
      auto right = stack.back();
      stack.pop_back();
      stack.back() = {round(stack.back().first + right.first), right.second + 1};
    }
  }
  while (stack.size() > 1) {
    auto right = stack.back();
    stack.pop_back();
    stack.back().first = round(stack.back().first + right.first);
  }
  return stack[0].first;
}

void expect_tree(const Buffer& b, int k, int ranks, std::int64_t offset = 0) {
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < b.view.size; ++i) wrong += b.at(i) != tree_sum(k, ranks, offset + i, b.view.dtype);
  EXPECT_EQ(wrong, 0) << "of " << b.view.size << " " << name_of(b.view.dtype);
}

/// How the ranks are spread over machines, and whether slices are cut into messages that fit nothing evenly.
struct Spread {
  const char* name;
  std::vector<int> machine;  // of ranks 0 to 3; empty: where they are
  std::int64_t piece = std::int64_t(1) << 30;
};
const std::vector<Spread> spreads = {{"together", {}},         {"pieces", {}, 99996},   {"alone", {0, 1, 2, 3}},
                                     {"halves", {0, 0, 1, 1}}, {"turns", {0, 1, 0, 1}}, {"uneven", {0, 1, 1, 1}, 4444},
                                     {"inside", {0, 1, 1, 0}}};
void PrintTo(const Spread& s, std::ostream* out) {
  *out << s.name;
}

class CommunicatorTest : public testing::TestWithParam<Spread> {
 protected:
  static int world_rank() {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
  }
  std::unique_ptr<Communicator> comm = open_mpi_communicator(
      {.piece = GetParam().piece, .machine = GetParam().machine.empty() ? -1 : GetParam().machine[std::size_t(world_rank())]});
  int rank = comm->rank(), ranks = comm->size();
  /// In memory of this rank's own, or in memory that ranks share.
  Buffer buffer(bool shared, std::int64_t size, DType dtype) {
    return {size, dtype, shared ? comm->allocate(std::size_t(size) * 4) : host_memory(std::size_t(size) * 4)};
  }
};
INSTANTIATE_TEST_SUITE_P(Spreads, CommunicatorTest, testing::ValuesIn(spreads), [](auto& p) { return p.param.name; });

TEST_P(CommunicatorTest, AllReduceIsTheTreeSumToTheBit) {
  int k = 0;
  for (auto how : {Reduction::exact, Reduction::fast})
    for (auto dtype : types)
      for (auto size : sizes) {
        Buffer b = buffer(how == Reduction::exact, size, dtype);
        fill(b, ++k, rank);
        comm->all_reduce(queue, b.view, how);
        comm->join(queue);
        expect_tree(b, k, ranks);
      }
}

TEST_P(CommunicatorTest, ReduceScatterGivesEachRankItsSlice) {
  int k = 100;
  for (auto dtype : types)
    for (auto size : sizes) {
      Buffer in = buffer(k++ % 2, size * ranks, dtype), out(size, dtype), kept(size * ranks, dtype);
      fill(in, ++k, rank);
      fill(kept, k, rank);
      comm->reduce_scatter(queue, out.view, in.view);
      comm->join(queue);
      expect_tree(out, k, ranks, size * rank);
      EXPECT_EQ(std::memcmp(in.view.data, kept.view.data, in.view.bytes()), 0) << "the input must stay";
      comm->reduce_scatter(queue, in.view.slice(size * rank, size), in.view);  // in place
      comm->join(queue);
      EXPECT_EQ(std::memcmp(in.view.slice(size * rank, size).data, out.view.data, out.view.bytes()), 0);
    }
}

TEST_P(CommunicatorTest, AllGatherIsInRankOrder) {
  int k = 200;
  for (auto dtype : types)
    for (auto size : sizes) {
      Buffer in(size, dtype), out = buffer(k++ % 2, size * ranks, dtype), place = buffer(k % 2, size * ranks, dtype);
      fill(in, ++k, rank);
      comm->all_gather(queue, out.view, in.view);
      View mine = place.view.slice(size * rank, size);
      std::memcpy(mine.data, in.view.data, in.view.bytes());
      comm->all_gather(queue, place.view, mine);
      comm->join(queue);
      for (int r = 0; r < ranks; ++r) {
        Buffer theirs(size, dtype);
        fill(theirs, k, r);
        EXPECT_EQ(std::memcmp(out.view.slice(size * r, size).data, theirs.view.data, theirs.view.bytes()), 0);
      }
      EXPECT_EQ(std::memcmp(out.view.data, place.view.data, out.view.bytes()), 0);
    }
}

TEST_P(CommunicatorTest, AllToAllSwapsSlices) {
  int k = 300;
  for (auto dtype : types)
    for (auto size : sizes) {
      Buffer in(size * ranks, dtype), out(size * ranks, dtype);
      fill(in, ++k, rank);
      comm->all_to_all(queue, out.view, in.view);
      comm->join(queue);
      for (int r = 0; r < ranks; ++r) {
        Buffer theirs(size * ranks, dtype);
        fill(theirs, k, r);
        View expected = theirs.view.slice(size * rank, size), got = out.view.slice(size * r, size);
        EXPECT_EQ(std::memcmp(got.data, expected.data, got.bytes()), 0);
      }
    }
}

TEST_P(CommunicatorTest, BroadcastFromEveryRoot) {
  int k = 400;
  for (int root = 0; root < ranks; ++root)
    for (auto dtype : types)
      for (auto size : sizes) {
        Buffer b = buffer(k++ % 2, size, dtype), expected(size, dtype);
        ++k;
        fill(b, k, rank);
        fill(expected, k, root);
        comm->broadcast(queue, b.view, root);
        comm->join(queue);
        EXPECT_EQ(std::memcmp(b.view.data, expected.view.data, b.view.bytes()), 0);
      }
}

// Parts of any sizes, in any order of the ranks, between them what belongs to nobody.
TEST_P(CommunicatorTest, PartsAreReducedAndGathered) {
  int k = 450;
  for (bool shared : {true, false})
    for (auto dtype : types)
      for (std::int64_t size : {1, 7, 1001, 100000}) {
        std::vector<std::int64_t> begin(std::size_t(ranks), 0), length = begin;
        std::int64_t at = 5;
        for (int i = 0; i < ranks; ++i) {
          const auto r = std::size_t((i + 1) % ranks);
          begin[r] = at, length[r] = r == 1 ? 0 : size * std::int64_t(r + 1);  // rank 1 has nothing
          at += length[r] + 3;
        }
        Buffer b = buffer(shared, at, dtype);
        std::vector<View> parts;
        for (std::size_t r = 0; r < begin.size(); ++r) parts.push_back(b.view.slice(begin[r], length[r]));
        fill(b, ++k, rank);
        const View own = parts[std::size_t(rank)];
        Buffer mine(0, dtype);
        std::int64_t heard = 0;
        comm->reduce_parts(queue, parts, Reduction::fast, [&](std::int64_t from, std::int64_t to) {
          EXPECT_EQ(from, heard);
          mine.view = own.slice(from, to - from);
          expect_tree(mine, k, ranks, begin[std::size_t(rank)] + from);
          heard = to;
        });
        comm->join(queue);
        const auto& machine = GetParam().machine;
        const bool together =
            ranks > 1 && (machine.empty() || std::all_of(machine.begin(), machine.begin() + ranks, [&](int m) { return m == machine[0]; }));
        EXPECT_EQ(heard, shared && together ? own.size : 0);
        mine.view = own;
        expect_tree(mine, k, ranks, begin[std::size_t(rank)]);
        fill(b, ++k, rank);
        comm->gather_parts(queue, parts);
        comm->join(queue);
        Buffer expected(at, dtype), theirs(at, dtype);
        fill(expected, k, rank);
        for (std::size_t r = 0; r < begin.size(); ++r) {
          fill(theirs, k, int(r));
          View from = theirs.view.slice(begin[r], length[r]);
          std::memcpy(expected.view.slice(begin[r], 0).data, from.data, from.bytes());
        }
        EXPECT_EQ(std::memcmp(b.view.data, expected.view.data, b.view.bytes()), 0);
      }
}

TEST_P(CommunicatorTest, MessagesAroundTheRingArriveInOrder) {
  if (ranks == 1) return;
  int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks;
  std::vector<Buffer> out, in;
  for (int m = 0; m < 10; ++m) {
    out.emplace_back(50000 * (m % 3) + m, DType::f32);
    in.emplace_back(50000 * (m % 3) + m, DType::f32);
    fill(out.back(), 500 + m, rank);
    comm->send(queue, out.back().view, next);
    comm->receive(queue, in.back().view, previous);
  }
  comm->join(queue);
  for (int m = 0; m < 10; ++m) {
    Buffer expected(in[std::size_t(m)].view.size, DType::f32);
    fill(expected, 500 + m, previous);
    EXPECT_EQ(std::memcmp(in[std::size_t(m)].view.data, expected.view.data, expected.view.bytes()), 0);
  }
}

// Ranks progress at different moments and stand at different rounds of many collectives of several kinds.
TEST_P(CommunicatorTest, ManyInFlightAtOnce) {
  std::vector<Buffer> sums, gathered, parts;
  std::vector<Communicator::Ticket> tickets;
  for (int k = 0; k < 60; ++k) {
    sums.emplace_back(17 + 997 * (k % 7), k % 2 ? DType::f32 : DType::bf16);
    parts.emplace_back(100 + k, DType::f32);
    gathered.emplace_back((100 + k) * ranks, DType::f32);
    fill(sums.back(), 600 + k, rank);
    fill(parts.back(), 700 + k, rank);
    tickets.push_back(comm->all_reduce(queue, sums.back().view, Reduction::exact));
    if (ranks > 1 && k % 5 == 0) {
      if (rank == 0) comm->send(queue, parts.back().view, 1);
      if (rank == 1) comm->receive(queue, gathered.back().view.slice(0, 100 + k), 0);
    }
    if (k % 5) comm->all_gather(queue, gathered.back().view, parts.back().view);
    if (k % (rank + 2) == 0) comm->progress();
  }
  while (rank % 2 && comm->timing(tickets[0]).finished == 0) comm->progress();
  comm->join(queue);
  comm->progress();  // nothing pending
  for (int k = 0; k < 60; ++k) {
    expect_tree(sums[std::size_t(k)], 600 + k, ranks);
    for (int r = 0; r < ranks && k % 5; ++r)
      for (int i : {0, 99 + k}) EXPECT_EQ(gathered[std::size_t(k)].at((100 + k) * r + i), value_of(700 + k, r, i, DType::f32));
    auto t = comm->timing(tickets[std::size_t(k)]);
    EXPECT_GT(t.started, 0);
    EXPECT_GE(t.finished, t.started);
    EXPECT_GE(t.worked, 0);
  }
}

// Memory from allocate() is reduced where it lies; pieces of any size and place, many at once, between other collectives, again
// and again: each rank looks at what the others have done at moments of its own.
TEST_P(CommunicatorTest, SharedMemoryIsReducedInPlace) {
  EXPECT_STREQ(comm->name(), ranks > 1 ? "mpi, shared memory" : "mpi");
  constexpr std::int64_t room = 1 << 21;
  Memory memory = comm->allocate(room);
  EXPECT_EQ(std::count(memory.get(), memory.get() + room, std::byte(0)), room);
  Buffer other(777, DType::f32);
  for (int round = 0; round < 20; ++round) {
    std::vector<Buffer> pieces;
    std::int64_t at = 4 * round;
    for (int k = 0; k < 30; ++k) {
      auto dtype = types[std::size_t(k % 3)];
      std::int64_t size = k == 7 ? 70001 : (k * 211 + round) % 1500;
      pieces.emplace_back(0, dtype);
      pieces.back().view = {memory.get() + at, size, dtype};
      at += std::int64_t(pieces.back().view.bytes() + 7) / 4 * 4;
      ASSERT_LE(at, room);
      fill(pieces.back(), 900 + k, rank);
    }
    fill(other, 950, rank);
    for (int k = 0; k < 30; ++k) {
      comm->all_reduce(queue, pieces[std::size_t(k)].view, Reduction::exact);
      if (k == 15) comm->all_reduce(queue, other.view);
      if ((k + round) % (rank + 2) == 0) comm->progress();
    }
    comm->join(queue);
    for (int k = 0; k < 30; ++k) expect_tree(pieces[std::size_t(k)], 900 + k, ranks);
    expect_tree(other, 950, ranks);
  }
}

/// How many pieces of shared memory this process sees.
int shared_mappings() {
  std::ifstream maps("/proc/self/maps");
  int found = 0;
  for (std::string line; std::getline(maps, line);) found += line.find("memfd:lockstep") != std::string::npos;
  return found;
}

TEST_P(CommunicatorTest, SharedMemoryThatIsGivenBackIsForgotten) {
  const int before = shared_mappings();
  for (int round = 0; round < 5; ++round) {
    Memory memory = comm->allocate(40000);
    Buffer shared(0, DType::f32);
    shared.view = {memory.get(), 10000, DType::f32};
    fill(shared, 960 + round, rank);
    comm->all_reduce(queue, shared.view);
    comm->join(queue);
    expect_tree(shared, 960 + round, ranks);
    memory.reset();
    Buffer own(10000, DType::f32);  // may lie where the shared memory was
    fill(own, 970 + round, rank);
    comm->all_reduce(queue, own.view);
    comm->join(queue);
    expect_tree(own, 970 + round, ranks);
  }
  Memory common = comm->allocate_common(40000);
  common.reset();
  EXPECT_EQ(shared_mappings(), before);
}

TEST_P(CommunicatorTest, WithoutFreeSharedMemoryMessagesTakeOver) {
  if (ranks == 1) return;
  signal(SIGXFSZ, SIG_IGN);
  rlimit before{}, little{};
  getrlimit(RLIMIT_FSIZE, &before);
  little = {1 << 16, before.rlim_max};
  if (rank == 1) setrlimit(RLIMIT_FSIZE, &little);  // one rank cannot: none does
  Buffer b(70001, DType::f32, comm->allocate(70001 * 4));
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_STREQ(comm->name(), "mpi, no shared memory was free");
  fill(b, 40, rank);
  comm->all_reduce(queue, b.view);
  comm->join(queue);
  expect_tree(b, 40, ranks);
}

// The file that rank 0 could not make whole must not be mapped by the others: a page behind its end is a bus error.
TEST_P(CommunicatorTest, WithoutFreeMemoryNothingIsCommon) {
  if (ranks == 1) return;
  signal(SIGXFSZ, SIG_IGN);
  rlimit before{}, little{};
  getrlimit(RLIMIT_FSIZE, &before);
  little = {1 << 16, before.rlim_max};
  if (rank == 0) setrlimit(RLIMIT_FSIZE, &little);
  Memory common = comm->allocate_common(8 << 20);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_FALSE(common);
  Buffer b(1000, DType::f32);
  fill(b, 41, rank);
  comm->all_reduce(queue, b.view);
  comm->join(queue);
  expect_tree(b, 41, ranks);
}

TEST_P(CommunicatorTest, SumsOfDifferentPiecesAreRefused) {
  if (ranks == 1 || !GetParam().machine.empty() || open_mpi_group()->node_size() < ranks) return;  // machines exchange only sums
  Memory memory = comm->allocate(4096);
  bool refused = false;
  try {
    comm->all_reduce(queue, {memory.get() + (rank == 1 ? 512 : 0), 100, DType::f32});
    comm->join(queue);
  } catch (const Error& e) {
    refused = e.exit() == Exit::diverged && std::string(e.what()).find("another piece") != std::string::npos;
  }
  // Ranks that find out leave the sum unfinished; the others would wait for them, so all compare before adding.
  EXPECT_TRUE(refused);
}

TEST_P(CommunicatorTest, SplitMakesCommunicatorsOfTheirOwn) {
  // Odd and even ranks, in reverse order.
  auto half = comm->split(rank % 2, -rank);
  std::vector<int> members;
  for (int r = ranks - 1; r >= 0; --r)
    if (r % 2 == rank % 2) members.push_back(r);
  ASSERT_EQ(half->size(), int(members.size()));
  EXPECT_EQ(members[std::size_t(half->rank())], rank);
  Buffer a(1001, DType::i32), b(1001, DType::i32);
  fill(a, 800, rank);
  fill(b, 801, rank);
  half->all_reduce(queue, a.view);  // both communicators at once
  comm->all_reduce(queue, b.view);
  comm->join(queue);
  half->join(queue);
  float expected = 0;
  for (int r : members) expected += value_of(800, r, 1000, DType::i32);
  EXPECT_EQ(a.at(1000), expected);
  EXPECT_EQ(b.at(1000), tree_sum(801, ranks, 1000, DType::i32));
  auto only_first = comm->split(rank == 0 ? 0 : -1, 0);
  EXPECT_EQ(bool(only_first), rank == 0);
}

TEST_P(CommunicatorTest, MistakesAreNamed) {
  Queue gpu;
  gpu.on_gpu = true;
  Buffer b(8, DType::f32), bytes(8, DType::u8);
  auto message = [](auto&& f) {
    try {
      f();
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("nothing was thrown");
  };
  EXPECT_NE(message([&] { comm->all_reduce(gpu, b.view); }).find("host memory only"), std::string::npos);
  EXPECT_NE(message([&] { comm->all_gather(queue, b.view, bytes.view); }).find("all_gather"), std::string::npos);
  EXPECT_NE(message([&] { comm->reduce_scatter(queue, b.view, bytes.view); }).find("reduce_scatter"), std::string::npos);
  EXPECT_NE(message([&] { comm->timing(1 << 20); }).find("not among"), std::string::npos);
}

TEST(SoloCommunicator, DoesTheSameAsOneRankOfMpi) {
  auto solo = open_solo_communicator();
  EXPECT_EQ(solo->size(), 1);
  Buffer a(100, DType::f32), b(100, DType::f32);
  fill(a, 1, 0);
  solo->all_reduce(queue, a.view, Reduction::exact);
  solo->reduce_scatter(queue, b.view, a.view);
  expect_tree(b, 1, 1);
  fill(b, 2, 0);
  solo->all_gather(queue, a.view, b.view);
  expect_tree(a, 2, 1);
  fill(a, 3, 0);
  solo->all_to_all(queue, b.view, a.view);
  expect_tree(b, 3, 1);
  EXPECT_THROW(solo->send(queue, a.view, 1), Error);
  EXPECT_EQ(solo->split(0, 0)->size(), 1);
  EXPECT_NE(solo->allocate(1000), nullptr);
}

TEST(Group, AgreesOnBytesNumbersAndTruth) {
  auto group = open_mpi_group();
  int rank = group->rank(), size = group->size();
  group->barrier();
  for (int root = 0; root < size; ++root)
    for (std::size_t length : {std::size_t(0), std::size_t(1), std::size_t(100000)}) {
      std::string expected(length, char('a' + root));
      if (length > 2) expected[1] = '\0';
      EXPECT_EQ(group->broadcast(rank == root ? expected : "something else", root), expected);
    }
  auto all = group->gather(std::string(std::size_t(rank * 1000), char('a' + rank)));
  ASSERT_EQ(int(all.size()), size);
  for (int r = 0; r < size; ++r) EXPECT_EQ(all[std::size_t(r)], std::string(std::size_t(r * 1000), char('a' + r)));
  double expected = 0;
  for (int r = 0; r < size; ++r) expected += 0.1 * (r + 1) * (r % 2 ? 1e10 : 1);
  EXPECT_EQ(group->sum(0.1 * (rank + 1) * (rank % 2 ? 1e10 : 1)), expected);
  EXPECT_TRUE(group->all(true));
  EXPECT_EQ(group->all(rank != size - 1), false);
  if (std::getenv("LOCKSTEP_TEST_HOSTS")) return;  // else these tests run on one machine
  EXPECT_EQ(group->node(), 0);
  EXPECT_EQ(group->node_rank(), rank);
  EXPECT_EQ(group->node_size(), size);
}

}  // namespace
}  // namespace lockstep::parallel
